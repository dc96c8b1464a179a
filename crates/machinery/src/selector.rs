//! Label and field selectors, after `k8s.io/apimachinery/pkg/{labels,fields}`.

mod field;
mod label;

pub use field::{FieldOperator, FieldRequirement, FieldSelector};
pub use label::{LabelOperator, LabelRequirement, LabelSelector, Labels};

use crate::error::ApiError;

/// The longest selector text that is read, in bytes. A URL is limited to about
/// a megabyte by the server; no honest selector comes near this.
pub const MAX_SELECTOR_BYTES: usize = 64 * 1024;

/// Why a selector could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl From<SelectorError> for ApiError {
    fn from(error: SelectorError) -> Self {
        ApiError::bad_request(error.0)
    }
}

fn check_length(text: &str) -> Result<(), SelectorError> {
    if text.len() > MAX_SELECTOR_BYTES {
        return Err(SelectorError(format!(
            "selector of {} bytes is over the limit of {MAX_SELECTOR_BYTES}",
            text.len()
        )));
    }
    Ok(())
}
