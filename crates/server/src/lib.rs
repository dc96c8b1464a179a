//! Composition root: from configuration to running roles, their readiness and
//! the order in which they stop. Nothing here prints.

pub mod control_plane;
pub mod host;
pub mod hosts_file;
pub mod ingress;
pub mod node;
pub mod pki_dir;
pub mod syncer;

mod api;
mod clients;
mod error;
mod renewal;
mod signing;

pub use error::Error;
