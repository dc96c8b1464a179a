//! The pipeline over an in-memory store, through in-process clients.

#[cfg(test)]
mod support;

#[cfg(test)]
mod aggregation;
#[cfg(test)]
mod basics;
#[cfg(test)]
mod builtin;
#[cfg(test)]
mod completion;
#[cfg(test)]
mod conversion;
mod custom;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod listener;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod patches;
#[cfg(test)]
mod policies;
#[cfg(test)]
mod special;
#[cfg(test)]
mod watches;
#[cfg(test)]
mod webhooks;
