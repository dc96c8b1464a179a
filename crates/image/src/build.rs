//! Building an image and writing it as an OCI tarball.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{ImageError, MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST, Reference};

/// What an image does when it is run.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that users may replace.
    pub cmd: Vec<String>,
    /// `NAME=value` pairs.
    pub env: Vec<String>,
    /// User and group, `uid:gid`; empty for root.
    pub user: String,
    /// A signal name for a graceful stop; empty for SIGTERM.
    pub stop_signal: String,
}

/// Where a layer's files come from.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A whole directory becomes the root.
    Directory(PathBuf),
    /// One executable file at a path of the image, and a `/tmp` to write to.
    Executable {
        /// The file on this machine.
        source: PathBuf,
        /// Its path in the image, without the leading slash.
        target: &'static str,
    },
}

/// A built image: its blobs, by digest.
pub struct Image {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Image {
    /// Builds an image of one layer. The same input gives the same digests.
    ///
    /// # Errors
    /// If the layer's files cannot be read.
    pub fn build(spec: &ImageSpec, layer: &Layer) -> Result<Self, ImageError> {
        let layer = layer_tar(layer)?;
        let layer_digest = digest(&layer);
        let mut settings = json!({"Entrypoint": spec.entrypoint, "Cmd": spec.cmd, "Env": spec.env});
        for (key, value) in [("User", &spec.user), ("StopSignal", &spec.stop_signal)] {
            if !value.is_empty() {
                settings[key] = json!(value);
            }
        }
        let config = to_bytes(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }));
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": descriptor(MEDIA_CONFIG, &config),
            "layers": [descriptor(MEDIA_LAYER, &layer)],
        }));
        Ok(Self {
            manifest,
            config,
            layer,
        })
    }

    /// The manifest and its digest.
    pub fn manifest(&self) -> (&[u8], String) {
        (&self.manifest, digest(&self.manifest))
    }

    /// All blobs, the manifest last.
    pub fn blobs(&self) -> impl Iterator<Item = (String, &[u8])> {
        [&self.layer, &self.config, &self.manifest]
            .into_iter()
            .map(|blob| (digest(blob), blob.as_slice()))
    }

    /// Writes the image as an OCI layout tarball, which `coracle host
    /// load-image`, containerd and podman read.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn write_tar(&self, name: &Reference, out: impl Write) -> io::Result<()> {
        let mut entry = descriptor(MEDIA_MANIFEST, &self.manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": name.to_string(),
            "org.opencontainers.image.ref.name": name.tag,
        });
        let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": [entry]});
        let mut archive = tar::Builder::new(out);
        append(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        append(&mut archive, "index.json", &to_bytes(&index))?;
        for (digest, blob) in self.blobs() {
            append(
                &mut archive,
                &format!("blobs/{}", digest.replace(':', "/")),
                blob,
            )?;
        }
        archive.into_inner()?.flush()
    }
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex_digest(&Sha256::digest(bytes))
}

pub(crate) fn hex_digest(hash: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in hash {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, data: &[u8]) -> io::Result<()> {
    let mut header = header(0o644, data.len() as u64);
    archive.append_data(&mut header, path, data)
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    // No times and no owners: equal content has equal digests.
    header.set_mtime(0);
    header
}

fn layer_tar(layer: &Layer) -> Result<Vec<u8>, ImageError> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.mode(tar::HeaderMode::Deterministic);
    archive.follow_symlinks(false);
    match layer {
        Layer::Directory(root) => {
            archive
                .append_dir_all(".", root)
                .map_err(ImageError::io(root))?;
        }
        Layer::Executable { source, target } => {
            append_executable(&mut archive, source, target).map_err(ImageError::io(source))?;
        }
    }
    archive.into_inner().map_err(ImageError::io("layer"))
}

fn append_executable(
    archive: &mut tar::Builder<Vec<u8>>,
    source: &Path,
    target: &str,
) -> io::Result<()> {
    let mut content = Vec::new();
    File::open(source)?.read_to_end(&mut content)?;
    let mut tmp = header(0o1777, 0);
    tmp.set_entry_type(tar::EntryType::Directory);
    archive.append_data(&mut tmp, "tmp/", io::empty())?;
    let mut file = header(0o755, content.len() as u64);
    archive.append_data(&mut file, target, content.as_slice())
}
