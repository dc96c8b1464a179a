//! What the tests with real containers stand on.

pub mod fake_api;
pub mod sandbox;
