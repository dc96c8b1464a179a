//! The syncer between two API servers in this process.

mod clusters;
mod kubelet;
mod objects;
mod pods;
