//! Paths of requests, and how Ingresses match them. Pure.
//!
//! A path is matched as its reader will understand it: decoded, without empty
//! and dotted elements. What is passed on is what came.

use k8s_openapi::api::networking::v1::HTTPIngressPath;

/// A pattern of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    /// Without a slash at its end, unless the pattern is exact.
    path: String,
    exact: bool,
}

impl Pattern {
    /// The pattern of a rule. What is left to the implementation is a prefix.
    pub fn new(rule: &HTTPIngressPath) -> Self {
        let path = rule.path.as_deref().unwrap_or("/");
        let exact = rule.path_type == "Exact";
        let path = if exact {
            path
        } else {
            path.trim_end_matches('/')
        };
        Self {
            path: path.to_owned(),
            exact,
        }
    }

    /// True if it matches a path, which [`normal`] has made.
    pub fn matches(&self, path: &str) -> bool {
        if self.exact {
            return path == self.path;
        }
        // Element by element: `/foo` is no prefix of `/foobar`.
        match path.strip_prefix(&self.path) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// By this, the better of two patterns that match comes last: the longer
    /// one, and of two as long as each other the exact one.
    pub fn rank(&self) -> (usize, bool) {
        (self.path.len(), self.exact)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.path.is_empty() {
            "/"
        } else {
            &self.path
        };
        let kind = if self.exact { "Exact" } else { "Prefix" };
        write!(f, "{path} ({kind})")
    }
}

/// The path that is meant by what stands in a request; `None` if it leads out
/// of the root, or cannot be read.
pub fn normal(raw: &str) -> Option<String> {
    let decoded = decode(raw)?;
    if !decoded.starts_with('/') {
        return None;
    }
    let mut elements: Vec<&str> = Vec::new();
    let mut directory = true;
    for element in decoded.split('/') {
        directory = matches!(element, "" | "." | "..");
        match element {
            "" | "." => {}
            ".." => {
                elements.pop()?;
            }
            element => elements.push(element),
        }
    }
    let mut path = String::from("/");
    path.push_str(&elements.join("/"));
    if directory && path.len() > 1 {
        path.push('/');
    }
    Some(path)
}

/// Percent-decoded once, as servers do it.
fn decode(raw: &str) -> Option<String> {
    if !raw.contains('%') {
        return Some(raw.to_owned());
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    if bytes.contains(&0) {
        return None;
    }
    // Other bytes than text match nothing but prefixes before them.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str, kind: &str) -> Pattern {
        Pattern::new(&HTTPIngressPath {
            path: Some(path.to_owned()),
            path_type: kind.to_owned(),
            ..HTTPIngressPath::default()
        })
    }

    /// The table of the Ingress documentation, and what it leaves out.
    #[test]
    fn patterns_match_as_documented() {
        for (kind, path, request, matches) in [
            ("Prefix", "/", "/any/path", true),
            ("Exact", "/foo", "/foo", true),
            ("Exact", "/foo", "/bar", false),
            ("Exact", "/foo", "/foo/", false),
            ("Exact", "/foo/", "/foo", false),
            ("Prefix", "/foo", "/foo", true),
            ("Prefix", "/foo", "/foo/", true),
            ("Prefix", "/foo/", "/foo", true),
            ("Prefix", "/foo/", "/foo/", true),
            ("Prefix", "/aaa/bb", "/aaa/bbb", false),
            ("Prefix", "/aaa/bbb", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb/", "/aaa/bbb", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbb/", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbb/ccc", true),
            ("Prefix", "/aaa/bbb", "/aaa/bbbxyz", false),
            ("Prefix", "/foo", "/FOO", false),
            ("ImplementationSpecific", "/foo", "/foo/bar", true),
        ] {
            assert_eq!(
                pattern(path, kind).matches(request),
                matches,
                "{kind} {path} {request}"
            );
        }
        assert!(pattern("/aaa/bbb", "Prefix").rank() > pattern("/aaa", "Prefix").rank());
        assert!(pattern("/foo", "Exact").rank() > pattern("/foo", "Prefix").rank());
    }

    #[test]
    fn paths_are_matched_as_they_are_meant() {
        for (raw, meant) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a/b/", Some("/a/b/")),
            ("//a///b", Some("/a/b")),
            ("/a/./b/.", Some("/a/b/")),
            ("/public/../admin", Some("/admin")),
            ("/public/%2e%2e/admin", Some("/admin")),
            ("/%61dmin", Some("/admin")),
            ("/a%2Fb", Some("/a/b")),
            ("/a%252e", Some("/a%2e")),
            ("/..", None),
            ("/a/../..", None),
            ("/%00", None),
            ("/%", None),
            ("/%+1", None),
            ("/%zz", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(normal(raw).as_deref(), meant, "{raw}");
        }
    }
}
