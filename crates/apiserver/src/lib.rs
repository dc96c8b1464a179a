//! The Kubernetes HTTP API over a store, as a tower service.
//!
//! It knows nothing of virtual clusters, of nodes' insides or of container
//! runtimes. Module map and life of a request: ARCHITECTURE.md.

pub mod access;
pub mod auth;
pub mod discovery;
pub mod kind;
pub mod kinds;
pub mod objects;
