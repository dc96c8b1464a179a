//! Objects that appear on both sides under names of the user's choice.

use crate::model::{Config, CustomFromHost, Imports, Texts, custom};

/// What one mapping of the configuration says, for objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The namespace that they come from.
    pub from_namespace: String,
    /// The namespace that they appear in.
    pub to_namespace: String,
    /// The one object's name here and there; `None` for all objects of the
    /// namespace, under their own names.
    pub names: Option<(String, String)>,
}

impl Mapping {
    /// The name that an object appears under, if the mapping is about it.
    pub fn forth(&self, name: &str) -> Option<String> {
        match &self.names {
            Some((from, to)) => (from == name).then(|| to.clone()),
            None => Some(name.to_owned()),
        }
    }

    /// The name of the object that appears under this one, likewise.
    pub fn back(&self, name: &str) -> Option<String> {
        match &self.names {
            Some((from, to)) => (to == name).then(|| from.clone()),
            None => Some(name.to_owned()),
        }
    }

    fn one(from: (&str, &str), to: (&str, &str)) -> Self {
        Self {
            from_namespace: from.0.to_owned(),
            to_namespace: to.0.to_owned(),
            names: Some((from.1.to_owned(), to.1.to_owned())),
        }
    }
}

/// The services of the host that appear inside. A bare name means the virtual
/// cluster's own host namespace.
pub fn services_from_host(config: &Config, host_namespace: &str) -> Vec<Mapping> {
    let mappings = &config.networking.replicate_services.from_host;
    mappings
        .iter()
        .map(|mapping| {
            let from = pair(&mapping.from).unwrap_or((host_namespace, &mapping.from));
            Mapping::one(from, pair(&mapping.to).unwrap_or(("", &mapping.to)))
        })
        .collect()
}

/// The services inside that appear in the virtual cluster's host namespace
/// under names of the user's choice.
pub fn services_to_host(config: &Config, host_namespace: &str) -> Vec<Mapping> {
    let mappings = &config.networking.replicate_services.to_host;
    mappings
        .iter()
        .map(|mapping| {
            let from = pair(&mapping.from).unwrap_or(("", &mapping.from));
            Mapping::one(from, (host_namespace, &mapping.to))
        })
        .collect()
}

/// The ConfigMaps of the host that appear inside.
pub fn config_maps_from_host(config: &Config, host_namespace: &str) -> Vec<Mapping> {
    imports(&config.sync.from_host.config_maps, host_namespace)
}

/// The Secrets of the host that appear inside.
pub fn secrets_from_host(config: &Config, host_namespace: &str) -> Vec<Mapping> {
    imports(&config.sync.from_host.secrets, host_namespace)
}

/// The objects of a custom resource of the host that appear inside: by mappings
/// of names, or all that lie in no namespace.
pub fn custom_from_host(choice: &CustomFromHost, host_namespace: &str) -> Vec<Mapping> {
    if choice.scope == custom::NAMESPACED {
        return by_name(&choice.mappings.by_name, host_namespace);
    }
    vec![Mapping {
        names: None,
        ..Mapping::one(("", ""), ("", ""))
    }]
}

fn imports(imports: &Imports, host_namespace: &str) -> Vec<Mapping> {
    if !imports.enabled {
        return Vec::new();
    }
    by_name(&imports.mappings.by_name, host_namespace)
}

/// `namespace/name: namespace/name` for one object, `namespace/*` on both sides
/// for all. Without a namespace on the left, the own one is meant; an empty key
/// is all of it.
fn by_name(mappings: &Texts, host_namespace: &str) -> Vec<Mapping> {
    mappings
        .iter()
        .filter_map(|(from, to)| {
            let (namespace, name) = match from.as_str() {
                "" => ("", "*"),
                from => pair(from)?,
            };
            let namespace = if namespace.is_empty() {
                host_namespace
            } else {
                namespace
            };
            let to = match pair(to) {
                // All of the own namespace: the name of the other will do.
                None if from.is_empty() => (to.as_str(), "*"),
                to => to?,
            };
            let mut mapping = Mapping::one((namespace, name), to);
            if name == "*" {
                mapping.names = None;
            }
            Some(mapping)
        })
        .collect()
}

/// The two halves of `namespace/name`; the namespace may be empty.
pub(crate) fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('/')
        .filter(|(_, name)| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_by_name() {
        let texts = [
            ("", "all"),
            ("/one", "x/uno"),
            ("ns/*", "y/*"),
            ("ns/two", "z/two"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()));
        let found = by_name(&texts.into(), "demo");
        let shown: Vec<_> = found
            .iter()
            .map(|m| {
                let names = m.names.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
                (m.from_namespace.as_str(), m.to_namespace.as_str(), names)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("demo", "all", None),
                ("demo", "x", Some(("one", "uno"))),
                ("ns", "y", None),
                ("ns", "z", Some(("two", "two"))),
            ]
        );
        assert_eq!(found[1].forth("one").as_deref(), Some("uno"));
        assert_eq!(found[1].back("uno").as_deref(), Some("one"));
        assert_eq!(found[1].back("one"), None);
        assert_eq!(found[0].back("any").as_deref(), Some("any"));
    }
}
