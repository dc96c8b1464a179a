//! Names of images: `nginx`, `docker.io/library/nginx:1`, `r.example:5000/a/b@sha256:...`.

use std::fmt;

use crate::ImageError;

/// The registry of names that carry none, as container tools have it.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that carry none.
const DEFAULT_TAG: &str = "latest";
/// The longest name taken, as the distribution specification has it.
const MAX_NAME: usize = 255;

/// A complete image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Host (and port) of the registry.
    pub registry: String,
    /// Path within the registry.
    pub repository: String,
    /// Tag.
    pub tag: String,
}

impl Reference {
    /// Reads a name, completing it as container tools do.
    ///
    /// # Errors
    /// If a part is empty or has characters that names may not have, or the
    /// name is a digest reference, which names content and not an image.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fail = |why| ImageError::Name {
            name: text.to_owned(),
            why,
        };
        if text.contains('@') {
            return Err(fail("give a name with a tag, not a digest"));
        }
        let (registry, rest) = match text.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (DEFAULT_REGISTRY, text),
        };
        let (path, tag) = rest.rsplit_once(':').unwrap_or((rest, DEFAULT_TAG));
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let reference = Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.to_owned(),
        };
        if !is_repository(&reference.repository) || reference.repository.len() > MAX_NAME {
            return Err(fail(
                "the repository must be lower-case letters, digits and . _ - /",
            ));
        }
        if !is_tag(&reference.tag) {
            return Err(fail("the tag must be letters, digits and . _ -"));
        }
        if !is_registry(registry) {
            return Err(fail("the registry must be a host name"));
        }
        Ok(reference)
    }
}

/// True for a host name that is also safe as a file name.
pub(crate) fn is_registry(host: &str) -> bool {
    host.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b))
        && host
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
        && !host.contains("..")
}

/// True for a repository path that is also safe as a relative file path.
pub(crate) fn is_repository(path: &str) -> bool {
    path.split('/').all(|part| {
        part.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
            && part
                .as_bytes()
                .first()
                .is_some_and(u8::is_ascii_alphanumeric)
    })
}

/// True for a tag that is also safe as a file name.
pub(crate) fn is_tag(tag: &str) -> bool {
    tag.len() <= 128
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && tag
            .as_bytes()
            .first()
            .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.2", "docker.io/library/nginx:1.2"),
            ("a/b", "docker.io/a/b:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("r.example:5000/a/b:c", "r.example:5000/a/b:c"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full);
        }
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        for text in [
            "",
            "../x",
            "a/../b",
            "a:../b",
            "A",
            "a@sha256:00",
            "r.x/",
            "a b",
            "/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
