//! The forms of names, label keys and label values, after
//! `k8s.io/apimachinery/pkg/util/validation`. Each check returns the reasons
//! for a refusal, none if the text is good.

use rand::{Rng, RngExt};

/// Longest DNS label, in characters.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in characters.
pub const SUBDOMAIN_MAX: usize = 253;
/// Characters that `generateName` appends.
const RANDOM_SUFFIX: usize = 5;
/// Longest base that a suffix is appended to.
const GENERATE_BASE_MAX: usize = LABEL_MAX - RANDOM_SUFFIX;
/// No vowels and no look-alikes, so that no words come about.
const RANDOM_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What form `metadata.name` of a kind must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// A lowercase RFC 1123 subdomain: most kinds.
    Subdomain,
    /// A lowercase RFC 1123 label: namespaces and others.
    Label,
    /// An RFC 1035 label: services before relaxed names.
    Rfc1035Label,
    /// Whatever is one segment of a path: RBAC kinds, custom names.
    PathSegment,
}

impl NameRule {
    /// Reasons against `name`. With `prefix` it is a `generateName`, which may
    /// end with a dash.
    pub fn errors(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = match name.strip_suffix('-') {
            Some(rest) if prefix && !rest.is_empty() => {
                masked = format!("{rest}a");
                masked.as_str()
            }
            _ => name,
        };
        match self {
            Self::Subdomain => dns1123_subdomain_errors(name),
            Self::Label => dns1123_label_errors(name),
            Self::Rfc1035Label => dns1035_label_errors(name),
            Self::PathSegment => path_segment_errors(name, prefix),
        }
    }
}

/// Makes a name of a `generateName`: the base, cut to 58 bytes, and five
/// random characters.
pub fn generate_name(base: &str, rng: &mut impl Rng) -> String {
    let mut end = base.len().min(GENERATE_BASE_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    for _ in 0..RANDOM_SUFFIX {
        let index = rng.random_range(0..RANDOM_ALPHABET.len());
        name.push(char::from(RANDOM_ALPHABET[index]));
    }
    name
}

fn is_alnum(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// True if the text is not empty, consists of what `inner` allows, and begins
/// and ends as `first` and `last` allow.
fn has_form(
    text: &str,
    first: fn(u8) -> bool,
    inner: fn(u8) -> bool,
    last: fn(u8) -> bool,
) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => first(*only) && last(*only),
        [head, middle @ .., tail] => {
            first(*head) && middle.iter().all(|b| inner(*b)) && last(*tail)
        }
    }
}

fn is_dns1123_label(text: &str) -> bool {
    has_form(
        text,
        is_lower_alnum,
        |b| is_lower_alnum(b) || b == b'-',
        is_lower_alnum,
    )
}

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| max_length_text(most))
}

/// The words for a text that is too long.
pub fn max_length_text(most: usize) -> String {
    format!("must be no more than {most} bytes")
}

/// A lowercase RFC 1123 label.
pub fn dns1123_label_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::from_iter(too_long(text, LABEL_MAX));
    if !is_dns1123_label(text) {
        errors.push(if dns1123_subdomain_errors(text).is_empty() {
            // It is a subdomain but no label: it contains dots.
            "must not contain dots".to_owned()
        } else {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
             '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
             '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned()
        });
    }
    errors
}

/// A lowercase RFC 1123 subdomain.
pub fn dns1123_subdomain_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::from_iter(too_long(text, SUBDOMAIN_MAX));
    if !text.split('.').all(is_dns1123_label) {
        errors.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// A subdomain whose first label may be `*`.
pub fn wildcard_subdomain_errors(text: &str) -> Vec<String> {
    match text.strip_prefix("*.") {
        Some(rest) if text.len() <= SUBDOMAIN_MAX && dns1123_subdomain_errors(rest).is_empty() => {
            Vec::new()
        }
        _ => vec![
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character (e.g. '*.example.com', regex used for validation \
             is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        ],
    }
}

/// An RFC 1035 label: as an RFC 1123 label, but beginning with a letter.
pub fn dns1035_label_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::from_iter(too_long(text, LABEL_MAX));
    let good = has_form(
        text,
        |b| b.is_ascii_lowercase(),
        |b| is_lower_alnum(b) || b == b'-',
        is_lower_alnum,
    );
    if !good {
        errors.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character (e.g. \
             'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

/// A port's name in a Service or container (IANA_SVC_NAME).
pub fn port_name_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(max_length_text(15));
    }
    if !text.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        errors
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A name that is one segment of a URL path.
pub fn path_segment_errors(text: &str, prefix: bool) -> Vec<String> {
    let mut errors = Vec::new();
    if !prefix && matches!(text, "." | "..") {
        errors.push(format!("may not be '{text}'"));
    }
    for forbidden in ['/', '%'] {
        if text.contains(forbidden) {
            errors.push(format!("may not contain '{forbidden}'"));
        }
    }
    errors
}

fn is_qualified_part(text: &str) -> bool {
    has_form(
        text,
        is_alnum,
        |b| is_alnum(b) || matches!(b, b'-' | b'_' | b'.'),
        is_alnum,
    )
}

const QUALIFIED_PART: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                              start and end with an alphanumeric character (e.g. 'MyName',  or \
                              'my.name',  or '123-abc', regex used for validation is \
                              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// A label or annotation key, a finalizer or resource name: a name with an
/// optional DNS subdomain before a slash.
pub fn qualified_name_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return vec![format!(
                "a qualified name {QUALIFIED_PART} with an optional DNS subdomain prefix and \
                 '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                let reasons = dns1123_subdomain_errors(prefix);
                errors.extend(reasons.iter().map(|r| format!("prefix part {r}")));
            }
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_length_text(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {QUALIFIED_PART}"));
    }
    errors
}

/// A label's value.
pub fn label_value_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::from_iter(too_long(text, LABEL_MAX));
    if !text.is_empty() && !is_qualified_part(text) {
        errors.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  \
             or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

/// A key of a ConfigMap's or Secret's data.
pub fn config_map_key_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::from_iter(too_long(text, SUBDOMAIN_MAX));
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|b| is_alnum(b) || matches!(b, b'-' | b'_' | b'.'));
    if !good {
        errors.push(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')"
                .to_owned(),
        );
    }
    if text == "." || text == ".." {
        errors.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

/// The name of an environment variable: any printable ASCII but `=`.
pub fn env_var_name_errors(text: &str) -> Vec<String> {
    if !text.is_empty()
        && text
            .bytes()
            .all(|b| (b' '..=b'~').contains(&b) && b != b'=')
    {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '=' (regex used for validation is '^[ -<>-~]+$')"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A generator that counts: enough to see which bytes are drawn.
    struct Counter(u64);

    impl rand::TryRng for Counter {
        type Error = std::convert::Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(u32::try_from(self.try_next_u64()? >> 32).unwrap())
        }

        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Ok(self.0)
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            bytes.fill(7);
            Ok(())
        }
    }

    #[test]
    fn names_are_generated_within_bounds() {
        let mut rng = Counter(3);
        let name = generate_name("web-", &mut rng);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(name[4..].bytes().all(|b| RANDOM_ALPHABET.contains(&b)));
        assert_eq!(generate_name(&"x".repeat(80), &mut rng).len(), 63);
        assert_eq!(generate_name(&"é".repeat(40), &mut rng).len(), 63);
        assert_ne!(generate_name("a", &mut rng), generate_name("a", &mut rng));
    }

    #[test]
    fn rules_accept_and_refuse() {
        use NameRule::{Label, PathSegment, Rfc1035Label, Subdomain};
        for (rule, name, good) in [
            (Subdomain, "a.b-c.1", true),
            (Subdomain, "a..b", false),
            (Subdomain, "A", false),
            (Subdomain, "", false),
            (Subdomain, "a_b", false),
            (Label, "1a", true),
            (Label, "a.b", false),
            (Label, "-a", false),
            (Rfc1035Label, "a1", true),
            (Rfc1035Label, "1a", false),
            (PathSegment, "system:node", true),
            (PathSegment, "a/b", false),
            (PathSegment, "..", false),
        ] {
            assert_eq!(rule.errors(name, false).is_empty(), good, "{rule:?} {name}");
        }
        assert!(Label.errors("web-", true).is_empty());
        assert!(!Label.errors("-", true).is_empty());
        assert!(!Label.errors(&"a".repeat(64), false).is_empty());
        assert!(!Subdomain.errors(&"a.".repeat(127), false).is_empty());
    }

    #[test]
    fn keys_and_values() {
        for (key, good) in [
            ("app", true),
            ("a.b/c_D", true),
            ("/c", false),
            ("a/", false),
            ("a/b/c", false),
            ("A/b", false),
            ("_a", false),
        ] {
            assert_eq!(qualified_name_errors(key).is_empty(), good, "{key}");
        }
        assert_eq!(
            qualified_name_errors("/c"),
            ["prefix part must be non-empty"]
        );
        assert!(label_value_errors("").is_empty());
        assert!(!label_value_errors("a b").is_empty());
        assert!(port_name_errors("http-1").is_empty());
        assert_eq!(port_name_errors("1").len(), 1);
        assert!(config_map_key_errors("..data").len() == 1);
        assert!(config_map_key_errors("a.Yml_").is_empty());
        assert!(wildcard_subdomain_errors("*.a.b").is_empty());
        assert!(!wildcard_subdomain_errors("a.*.b").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            for rule in [NameRule::Subdomain, NameRule::Label, NameRule::Rfc1035Label, NameRule::PathSegment] {
                let _ = rule.errors(&text, true);
            }
            let _ = (qualified_name_errors(&text), label_value_errors(&text), generate_name(&text, &mut Counter(1)));
        }
    }
}
