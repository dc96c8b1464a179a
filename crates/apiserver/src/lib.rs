//! The Kubernetes HTTP API over a store, as a tower service.
//!
//! It knows nothing of virtual clusters, of nodes' insides or of container
//! runtimes. Module map and life of a request: ARCHITECTURE.md.

pub mod access;
pub mod admission;
pub mod aggregation;
pub mod auth;
pub mod body;
pub mod builtin;
pub mod callout;
pub mod codec;
mod completion;
pub mod connect;
pub mod convert;
pub mod custom_kinds;
mod decode;
pub mod discovery;
mod dispatch;
pub mod documents;
mod health;
pub mod hooks;
pub mod hub;
pub mod kind;
pub mod kinds;
pub mod list;
pub mod listener;
pub mod metrics;
pub mod negotiate;
pub mod objects;
mod objects_impl;
pub mod openapi;
mod patch;
mod pipeline;
pub mod protobuf;
pub mod query;
pub mod registry;
pub mod request;
pub mod select;
pub mod server;
pub mod shape;
mod special;
pub mod storage;
mod sync;
pub mod watching;
pub mod write;

pub use body::Body;
pub use server::{ApiServer, Builder, Limits};
