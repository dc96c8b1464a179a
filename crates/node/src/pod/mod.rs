//! Pods on this node: one worker per pod drives its sandbox and containers
//! towards the pod's specification and reports what it sees.

pub mod admission;
pub mod backoff;
pub mod container;
pub mod images;
pub mod info;
pub mod kill;
pub mod logfiles;
pub mod manager;
pub mod runtime;
pub mod sandbox;
pub mod start;
pub mod status;
#[cfg(test)]
mod status_tests;
pub mod sync;
pub mod worker;
