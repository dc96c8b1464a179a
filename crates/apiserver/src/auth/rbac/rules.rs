//! One rule of a role: what it matches, and how it is written.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::access::Attributes;

/// A rule of a Role or ClusterRole. The texts are shared between all rules of
/// an index, as most of them occur hundreds of times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// `get`, `list`, ... or `*`.
    pub verbs: Box<[Arc<str>]>,
    /// API groups, or `*`.
    pub groups: Box<[Arc<str>]>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Box<[Arc<str>]>,
    /// Names that the rule is limited to; empty for all.
    pub names: Box<[Arc<str>]>,
    /// Paths outside the resource tree; a trailing `*` matches any rest.
    pub urls: Box<[Arc<str>]>,
}

impl PolicyRule {
    /// Reads the rule of a stored role; `intern` shares equal texts.
    pub fn from_value(rule: &Value, intern: &mut impl FnMut(&str) -> Arc<str>) -> Self {
        let mut texts = |key: &str| -> Box<[Arc<str>]> {
            rule.get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(&mut *intern)
                .collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            urls: texts("nonResourceURLs"),
        }
    }

    /// A rule that allows everything within the resource tree, and one for
    /// every path outside it.
    pub fn everything() -> [Self; 2] {
        let any = || -> Box<[Arc<str>]> { Box::new([Arc::from("*")]) };
        let resources = Self {
            verbs: any(),
            groups: any(),
            resources: any(),
            ..Self::default()
        };
        let urls = Self {
            verbs: any(),
            urls: any(),
            ..Self::default()
        };
        [resources, urls]
    }

    /// True if the rule grants the request.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if a.resource.is_empty() {
            return self.matches_url(&a.path);
        }
        has(&self.groups, &a.group)
            && self.matches_resource(&a.resource, &a.subresource)
            && (self.names.is_empty() || self.names.iter().any(|n| **n == *a.name))
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|held| {
            if &**held == "*" {
                return true;
            }
            match held.split_once('/') {
                None => subresource.is_empty() && **held == *resource,
                Some((r, s)) => {
                    !subresource.is_empty() && s == subresource && (r == resource || r == "*")
                }
            }
        })
    }

    fn matches_url(&self, path: &str) -> bool {
        self.urls.iter().any(|held| url_covers(held, path))
    }

    /// True if this rule alone grants all of `part`, which has at most one
    /// verb, group, resource, name and URL.
    pub(super) fn covers(&self, part: &SimpleRule<'_>) -> bool {
        if !has(&self.verbs, part.verb) {
            return false;
        }
        match part.subject {
            SimpleSubject::Url(url) => self.urls.iter().any(|held| url_covers(held, url)),
            SimpleSubject::Resource {
                group,
                resource,
                name,
            } => {
                let (main, sub) = resource.split_once('/').unwrap_or((resource, ""));
                has(&self.groups, group)
                    && (self.resources.iter().any(|held| **held == *resource)
                        || self.matches_resource(main, sub))
                    && (self.names.is_empty()
                        || name.is_some_and(|name| self.names.iter().any(|n| **n == *name)))
            }
        }
    }

    /// As in the `rules` of a role.
    pub fn to_value(&self) -> Value {
        let list = |texts: &[Arc<str>]| -> Vec<Value> {
            texts.iter().map(|t| Value::String(t.to_string())).collect()
        };
        let mut rule = json!({"verbs": list(&self.verbs)});
        for (key, texts) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !texts.is_empty() {
                rule[key] = Value::Array(list(texts));
            }
        }
        rule
    }
}

/// A rule of one verb on one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SimpleRule<'a> {
    pub(super) verb: &'a str,
    pub(super) subject: SimpleSubject<'a>,
}

/// What a [`SimpleRule`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SimpleSubject<'a> {
    Resource {
        group: &'a str,
        resource: &'a str,
        name: Option<&'a str>,
    },
    Url(&'a str),
}

impl SimpleSubject<'_> {
    /// The compact form that refusals use, with the verbs given.
    pub(super) fn describe(&self, verbs: &[&str]) -> String {
        let mut text = String::from("{");
        match self {
            Self::Resource {
                group,
                resource,
                name,
            } => {
                let _ = write!(text, "APIGroups:[{group:?}], Resources:[{resource:?}]");
                if let Some(name) = name {
                    let _ = write!(text, ", ResourceNames:[{name:?}]");
                }
            }
            Self::Url(url) => {
                let _ = write!(text, "NonResourceURLs:[{url:?}]");
            }
        }
        let verbs: Vec<String> = verbs.iter().map(|v| format!("{v:?}")).collect();
        let _ = write!(text, ", Verbs:[{}]}}", verbs.join(" "));
        text
    }
}

fn has(held: &[Arc<str>], wanted: &str) -> bool {
    held.iter().any(|h| &**h == "*" || **h == *wanted)
}

fn url_covers(held: &str, wanted: &str) -> bool {
    held == "*"
        || held == wanted
        || held
            .strip_suffix('*')
            .is_some_and(|prefix| wanted.starts_with(prefix.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(value: Value) -> PolicyRule {
        PolicyRule::from_value(&value, &mut |t| Arc::from(t))
    }

    fn ask(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_resources_as_upstream_does() {
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]});
        let named =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]});
        let cases = [
            (&pods, ask("get", "", "pods", "x"), true),
            (&pods, ask("list", "", "pods", ""), false),
            (&pods, ask("get", "apps", "pods", "x"), false),
            (&pods, ask("get", "", "pods/log", "x"), false),
            (&pods, ask("get", "", "pods/scale", "x"), true),
            (&pods, ask("get", "", "scale", "x"), false),
            (
                &named,
                ask("delete", "apps", "deployments/scale", "a"),
                true,
            ),
            (&named, ask("delete", "apps", "deployments", "b"), false),
            (&named, ask("list", "", "pods", ""), false),
        ];
        for (held, wanted, allowed) in cases {
            assert_eq!(
                rule(held.clone()).allows(&wanted),
                allowed,
                "{held} {wanted:?}"
            );
        }
    }

    #[test]
    fn urls_match_exactly_or_by_prefix() {
        let held = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/version", "/api/*"]}));
        for (path, allowed) in [
            ("/version", true),
            ("/version/", false),
            ("/api/", true),
            ("/api/v1/x", true),
            ("/api", false),
            ("/apis", false),
        ] {
            let wanted = Attributes {
                verb: "get".into(),
                path: path.into(),
                ..Attributes::default()
            };
            assert_eq!(held.allows(&wanted), allowed, "{path}");
        }
        // A resource rule never grants a path, nor the other way round.
        assert!(!held.allows(&ask("get", "", "pods", "")));
    }

    #[test]
    fn a_rule_survives_being_written() {
        let value = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        assert_eq!(rule(value.clone()).to_value(), value);
    }
}
