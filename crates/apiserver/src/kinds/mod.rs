//! The built-in kinds: for each one a row of facts, its rules and the columns
//! that `kubectl get` shows.

mod builder;
mod columns;
mod conversion;
mod custom;
mod jsonpath;
mod rows;
mod rules;

pub use custom::custom;
pub use rules::validate_ephemeral_containers;

use crate::kind::Kind;

/// Every built-in kind in every served version, grouped by API group.
pub fn builtin() -> Vec<Kind> {
    rows::all()
}

#[cfg(test)]
mod tests;
