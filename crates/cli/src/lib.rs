//! The user's commands; the only crate that prints.
