//! The controllers and the scheduler against a real API server in the same
//! process, with a toy node that runs whatever it is given.

mod support;

mod garbage;
mod nodes;
mod tenancy;
mod workloads;
