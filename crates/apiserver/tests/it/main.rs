//! The pipeline over an in-memory store, through in-process clients.

#[cfg(test)]
mod support;

#[cfg(test)]
mod basics;
#[cfg(test)]
mod builtin;
