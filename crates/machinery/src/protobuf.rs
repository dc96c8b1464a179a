//! Bodies in the media type `application/vnd.kubernetes.protobuf`, which
//! clients written in Go prefer for built-in kinds.
//!
//! Objects are JSON here: a body is read to the value that the same client
//! would have sent as JSON. Go writes every field that is no pointer, also an
//! empty one, so the rule is that of Go's `encoding/json` for the field's tag:
//! an empty text, number, boolean or list is left out if the tag says
//! `omitempty` and the field is no pointer, and stays otherwise. Structures
//! stay even if empty; what would be `null` (a time that is zero, a raw value
//! that is absent) is left out.

mod decode;
mod table;
mod wire;

pub use decode::decode_request;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What each body starts with.
const MAGIC: &[u8] = b"k8s\0";
