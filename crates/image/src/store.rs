//! Images on disk: blobs by digest, and names that point at manifests.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::build::hex_digest;
use crate::reference::{is_registry, is_repository, is_tag};
use crate::{Image, ImageError, MEDIA_INDEX, MEDIA_MANIFEST, Reference};

/// The largest manifest or index that is read, in bytes; registries commonly
/// refuse larger ones too.
const MAX_MANIFEST: u64 = 4 << 20;

/// The most blobs that one archive may hold: far above real images, far below
/// what would fill a directory.
const MAX_BLOBS: usize = 10_000;

/// Images in a directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

/// A manifest or index found by name or digest.
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Its bytes.
    pub content: Vec<u8>,
    /// `sha256:<hex>`.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
}

impl ImageStore {
    /// Opens (and makes) a store.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let store = Self { root: root.into() };
        for part in ["blobs/sha256", "refs", "incoming"] {
            let path = store.root.join(part);
            fs::create_dir_all(&path).map_err(ImageError::io(&path))?;
        }
        Ok(store)
    }

    /// Stores a built image under a name.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn put(&self, name: &Reference, image: &Image) -> Result<(), ImageError> {
        for (digest, blob) in image.blobs() {
            self.write_blob("blob", &digest, blob, &mut Vec::new())?;
        }
        self.tag(name, &image.manifest().1)
    }

    /// Loads an OCI layout tarball; `name` overrides the name it carries.
    /// Returns the names that were stored.
    ///
    /// # Errors
    /// If the archive is not an OCI layout, is damaged, or carries no name and
    /// none was given. Nothing of it is kept then.
    pub fn load(
        &self,
        archive: &Path,
        name: Option<&Reference>,
    ) -> Result<Vec<Reference>, ImageError> {
        let file = File::open(archive).map_err(ImageError::io(archive))?;
        let mut added = Vec::new();
        let result = self.load_blobs(archive, file, name, &mut added);
        if result.is_err() {
            for blob in added {
                // What stays is garbage, but does no harm.
                let _ = fs::remove_file(blob);
            }
        }
        result
    }

    /// As `load`; `added` are the files that were not there before.
    fn load_blobs(
        &self,
        archive: &Path,
        file: File,
        name: Option<&Reference>,
        added: &mut Vec<PathBuf>,
    ) -> Result<Vec<Reference>, ImageError> {
        let index = self.unpack(archive, file, added)?;
        let index: Value =
            serde_json::from_slice(&index).map_err(|e| ImageError::Format(e.to_string()))?;
        let manifests = index
            .get("manifests")
            .and_then(Value::as_array)
            .filter(|list| !list.is_empty())
            .ok_or_else(|| ImageError::Format("index.json lists no manifest".into()))?;
        let mut named = Vec::new();
        for manifest in manifests {
            let digest = manifest
                .get("digest")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !self.blob_path(digest).is_some_and(|path| path.exists()) {
                return Err(ImageError::Format(format!(
                    "manifest {digest:?} is not in it"
                )));
            }
            let reference = match name {
                Some(name) => name.clone(),
                None => annotated_name(manifest)?,
            };
            named.push((reference, digest));
        }
        for (reference, digest) in &named {
            self.tag(reference, digest)?;
        }
        Ok(named.into_iter().map(|(reference, _)| reference).collect())
    }

    /// The manifest that a tag or digest names, if it is here.
    pub fn manifest(
        &self,
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Option<StoredManifest> {
        let digest = if reference.starts_with("sha256:") {
            reference.to_owned()
        } else {
            fs::read_to_string(self.tag_path(registry, repository, reference)?).ok()?
        };
        let file = File::open(self.blob_path(&digest)?).ok()?;
        let mut content = Vec::new();
        file.take(MAX_MANIFEST).read_to_end(&mut content).ok()?;
        let value: Value = serde_json::from_slice(&content).ok()?;
        let media_type = match value.get("mediaType").and_then(Value::as_str) {
            Some(media_type) => media_type.to_owned(),
            None if value.get("manifests").is_some() => MEDIA_INDEX.to_owned(),
            None => MEDIA_MANIFEST.to_owned(),
        };
        Some(StoredManifest {
            content,
            digest,
            media_type,
        })
    }

    /// Where a blob is kept; `None` if the digest is malformed.
    pub fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let well_formed =
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| self.root.join("blobs/sha256").join(hex))
    }

    fn tag_path(&self, registry: &str, repository: &str, tag: &str) -> Option<PathBuf> {
        (is_registry(registry) && is_repository(repository) && is_tag(tag)).then(|| {
            self.root
                .join("refs")
                .join(registry)
                .join(repository)
                .join("_tags")
                .join(tag)
        })
    }

    fn tag(&self, name: &Reference, digest: &str) -> Result<(), ImageError> {
        let path = self
            .tag_path(&name.registry, &name.repository, &name.tag)
            .ok_or_else(|| ImageError::Name {
                name: name.to_string(),
                why: "malformed",
            })?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ImageError::io(parent))?;
        }
        let incoming = self.incoming();
        fs::write(&incoming, digest).map_err(ImageError::io(&incoming))?;
        fs::rename(&incoming, &path).map_err(ImageError::io(&path))
    }

    /// Copies a stream to the place of its digest, which must be `digest`.
    /// The file is among `added` if it was not there before.
    fn write_blob(
        &self,
        what: &str,
        digest: &str,
        from: impl Read,
        added: &mut Vec<PathBuf>,
    ) -> Result<(), ImageError> {
        let path = self
            .blob_path(digest)
            .ok_or_else(|| ImageError::Digest(digest.to_owned()))?;
        let incoming = self.incoming();
        let written = copy_hashed(what, from, &incoming).and_then(|found| {
            if found != digest {
                return Err(ImageError::Digest(digest.to_owned()));
            }
            if !path.exists() {
                added.push(path.clone());
            }
            fs::rename(&incoming, &path).map_err(ImageError::io(&path))
        });
        if written.is_err() {
            let _ = fs::remove_file(&incoming);
        }
        written
    }

    /// A fresh name for a file that is not complete yet.
    fn incoming(&self) -> PathBuf {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.root
            .join("incoming")
            .join(format!("{}-{number}", std::process::id()))
    }

    /// Stores the blobs of an archive and returns its `index.json`.
    fn unpack(
        &self,
        path: &Path,
        file: File,
        added: &mut Vec<PathBuf>,
    ) -> Result<Vec<u8>, ImageError> {
        let format = |e: io::Error| ImageError::Format(format!("{}: {e}", path.display()));
        let mut index = None;
        let mut count = 0;
        for entry in tar::Archive::new(file).entries().map_err(format)? {
            let mut entry = entry.map_err(format)?;
            let name = entry.path().map_err(format)?.display().to_string();
            let name = name.trim_start_matches("./");
            if name == "index.json" {
                let mut text = Vec::new();
                (&mut entry)
                    .take(MAX_MANIFEST)
                    .read_to_end(&mut text)
                    .map_err(format)?;
                index = Some(text);
            } else if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|h| !h.is_empty()) {
                count += 1;
                if count > MAX_BLOBS {
                    return Err(ImageError::Format(format!("more than {MAX_BLOBS} blobs")));
                }
                self.write_blob(name, &format!("sha256:{hex}"), entry, added)?;
            }
        }
        index.ok_or_else(|| {
            ImageError::Format(
                "it has no index.json (an OCI layout tarball is needed, as `docker save` of \
                 Docker 25 or later and `podman save --format oci-archive` write)"
                    .into(),
            )
        })
    }
}

/// Copies a stream to a file and returns the digest of what was copied.
fn copy_hashed(what: &str, mut from: impl Read, to: &Path) -> Result<String, ImageError> {
    let mut file = File::create(to).map_err(ImageError::io(to))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = from.read(&mut buffer).map_err(ImageError::io(what))?;
        if count == 0 {
            return Ok(hex_digest(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
        file.write_all(&buffer[..count])
            .map_err(ImageError::io(to))?;
    }
}

fn annotated_name(manifest: &Value) -> Result<Reference, ImageError> {
    let annotation = |key: &str| {
        manifest
            .get("annotations")
            .and_then(|a| a.get(key))
            .and_then(Value::as_str)
    };
    let name = annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|n| n.contains('/')));
    match name {
        Some(name) => Reference::parse(name),
        None => Err(ImageError::Name {
            name: String::new(),
            why: "the archive carries none; give one",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageSpec, Layer};

    fn image(directory: &Path) -> Image {
        let source = directory.join("program");
        fs::write(&source, b"#!").unwrap();
        let spec = ImageSpec {
            entrypoint: vec!["/program".into()],
            ..ImageSpec::default()
        };
        Image::build(
            &spec,
            &Layer::Executable {
                source,
                target: "program",
            },
        )
        .unwrap()
    }

    #[test]
    fn an_archive_is_loaded_and_found_by_tag_and_digest() {
        let directory = tempfile::tempdir().unwrap();
        let image = image(directory.path());
        let name = Reference::parse("docker.io/local/x:1").unwrap();
        let archive = directory.path().join("x.tar");
        image
            .write_tar(&name, File::create(&archive).unwrap())
            .unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        assert_eq!(store.load(&archive, None).unwrap(), [name]);
        let found = store.manifest("docker.io", "local/x", "1").unwrap();
        assert_eq!(found.media_type, MEDIA_MANIFEST);
        assert!(
            store
                .manifest("docker.io", "local/x", &found.digest)
                .is_some()
        );
        assert!(store.manifest("docker.io", "local/x", "2").is_none());
        for (digest, blob) in image.blobs() {
            assert_eq!(fs::read(store.blob_path(&digest).unwrap()).unwrap(), blob);
        }
        assert_eq!(
            fs::read_dir(directory.path().join("images/incoming"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn damaged_and_foreign_archives_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        let archive = directory.path().join("x.tar");
        let mut out = tar::Builder::new(File::create(&archive).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        let wrong = format!("blobs/sha256/{}", "0".repeat(64));
        out.append_data(&mut header, wrong, &b"abc"[..]).unwrap();
        out.into_inner().unwrap();
        assert!(matches!(
            store.load(&archive, None),
            Err(ImageError::Digest(_))
        ));
        fs::write(&archive, b"").unwrap();
        assert!(matches!(
            store.load(&archive, None),
            Err(ImageError::Format(_))
        ));
        assert!(store.load(&directory.path().join("absent"), None).is_err());
        let whole = File::create(&archive).unwrap();
        let name = Reference::parse("docker.io/local/x:1").unwrap();
        image(directory.path()).write_tar(&name, whole).unwrap();
        let length = fs::metadata(&archive).unwrap().len();
        for cut in [length / 4, length / 2, length * 3 / 4] {
            let file = fs::OpenOptions::new().write(true).open(&archive).unwrap();
            file.set_len(cut).unwrap();
            assert!(store.load(&archive, None).is_err(), "{cut} of {length}");
        }
        for part in ["blobs/sha256", "incoming", "refs"] {
            let path = directory.path().join("images").join(part);
            assert_eq!(fs::read_dir(path).unwrap().count(), 0, "{part}");
        }
    }

    #[test]
    fn paths_cannot_leave_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        assert!(store.manifest("..", "a", "b").is_none());
        assert!(store.manifest("docker.io", "../../a", "b").is_none());
        assert!(store.manifest("docker.io", "a", "../b").is_none());
        assert!(store.blob_path("sha256:../../x").is_none());
    }
}
