//! The node agent against a real kernel and a real container runtime, in a
//! sandbox that leaves nothing behind.

// A step that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod containers;
mod rules;
mod support;
