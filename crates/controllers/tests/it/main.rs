//! The controllers and the scheduler against a real API server in the same
//! process, with a toy node that runs whatever it is given.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

mod certificates;
mod garbage;
mod nodes;
mod tenancy;
mod volumes;
mod workloads;
