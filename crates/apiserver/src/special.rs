//! Subresources with rules of their own.

use coracle_machinery::ApiError;
use http::Response;

use crate::body::Body;
use crate::dispatch::{Call, not_allowed};

/// Answers a request to a subresource other than `status`.
///
/// # Errors
/// Those of the subresource.
pub(crate) async fn answer(call: &Call<'_>, _body: Body) -> Result<Response<Body>, ApiError> {
    let _ = call;
    Err(not_allowed())
}
