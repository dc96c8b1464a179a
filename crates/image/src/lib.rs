//! OCI images: building them from files, writing and reading OCI tarballs,
//! and a content store on disk that a registry can serve from.
//!
//! Knows nothing of Kubernetes, of HTTP or of container runtimes, and needs
//! few enough dependencies that the repository's own tasks can use it.

mod build;
mod reference;
mod store;

pub use build::{Image, ImageSpec, Layer};
pub use reference::Reference;
pub use store::{ImageStore, StoredManifest};

use std::io;

/// Media type of an image index.
pub const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image manifest.
pub const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image configuration.
pub const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer. Layers stay uncompressed: they never
/// travel further than the loopback interface.
pub const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Why an image could not be built, read or stored.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// What was being read or written.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The archive is not an OCI image layout.
    #[error("not an OCI image archive: {0}")]
    Format(String),
    /// A blob's content does not match its digest.
    #[error("blob {0} is damaged: its content has another digest")]
    Digest(String),
    /// The image's name is missing or malformed.
    #[error("image name {name:?}: {why}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl ImageError {
    fn io(path: impl AsRef<std::path::Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().display().to_string();
        move |source| Self::Io { path, source }
    }
}
