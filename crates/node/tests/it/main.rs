//! The node agent against a real kernel and a real container runtime, in a
//! sandbox that leaves nothing behind.

// A step that fails is a test that fails.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod containers;
mod policy_cost;
mod rules;
mod support;
