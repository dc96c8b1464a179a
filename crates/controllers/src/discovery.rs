//! Which resources the API server serves, custom ones included.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::api::{Api, Resource};
use crate::error::Error;

/// Most groups and most resources of a group that are read: a tenant may
/// define any number, and every one of them costs a watch.
const MAX_GROUPS: usize = 1000;
const MAX_RESOURCES: usize = 1000;

/// A served resource and what can be done with it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub resource: Resource,
    pub verbs: Vec<String>,
}

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|other| other == verb)
    }
}

/// Everything that is served, each resource at its preferred version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    pub resources: Vec<Served>,
    /// Groups that could not be read, each with the reason.
    pub failures: Vec<String>,
    by_kind: HashMap<(String, String), usize>,
}

impl Catalogue {
    /// The resource of a kind; its version may be another one than asked for,
    /// which makes no difference to metadata.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let found = self.by_kind.get(&(group.to_owned(), kind.to_owned()))?;
        Some(&self.resources[*found].resource)
    }

    fn add(&mut self, served: Served) {
        let resource = &served.resource;
        let key = (resource.group.to_string(), resource.kind.to_string());
        self.by_kind.entry(key).or_insert(self.resources.len());
        self.resources.push(served);
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Group {
    name: String,
    versions: Vec<Version>,
    preferred_version: Version,
}

#[derive(Clone, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resources {
    resources: Vec<Listed>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Listed {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// Asks the API server. A group that fails is noted and left out.
pub(crate) async fn discover(api: &Api) -> Result<Catalogue, Error> {
    let mut catalogue = Catalogue::default();
    read_version(api, "", "v1", &mut catalogue).await;
    let groups: Groups = decode("/apis", api.get_path("/apis".to_owned()).await?)?;
    for group in groups.groups.into_iter().take(MAX_GROUPS) {
        // Resources that only another version serves are found there.
        let preferred = group.preferred_version.version;
        let others = group
            .versions
            .into_iter()
            .map(|it| it.version)
            .filter(|other| *other != preferred);
        let others: Vec<String> = others.collect();
        for version in std::iter::once(&preferred).chain(&others) {
            read_version(api, &group.name, version, &mut catalogue).await;
        }
    }
    Ok(catalogue)
}

async fn read_version(api: &Api, group: &str, version: &str, catalogue: &mut Catalogue) {
    let path = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let listed = api
        .get_path(path.clone())
        .await
        .and_then(|value| decode::<Resources>(&path, value));
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => {
            catalogue
                .failures
                .push(format!("{group}/{version}: {}", error.message()));
            return;
        }
    };
    for entry in listed.resources.into_iter().take(MAX_RESOURCES) {
        let known = catalogue.resources.iter().any(|served| {
            served.resource.group == group && served.resource.plural == entry.name.as_str()
        });
        if known || entry.name.contains('/') {
            continue;
        }
        catalogue.add(Served {
            resource: Resource {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                kind: entry.kind.into(),
                plural: entry.name.into(),
                namespaced: entry.namespaced,
            },
            verbs: entry.verbs,
        });
    }
}

fn decode<T: serde::de::DeserializeOwned>(path: &str, value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|source| Error::Decode {
        what: path.to_owned(),
        source,
    })
}
