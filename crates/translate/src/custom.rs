//! Custom resources: their definitions inside, their objects on the host.

use coracle_config::{CustomName, marks};
use coracle_machinery::object;
use serde_json::{Map, Value, json};

use crate::json::{copy_key, list, same, set, text};
use crate::mapped::shown_as;
use crate::metadata::{applied, merge_metadata, same_applied};
use crate::names::{Translator, VirtualName};

/// The approval without which no definition may lie in a group of Kubernetes'.
const APPROVAL: &str = "api-approved.kubernetes.io";

/// The history of an object elsewhere.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Fields of an object that are not its content.
const FRAME: &[&str] = &["apiVersion", "kind", "metadata", "status"];

/// What a definition says about the objects that flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomKind {
    /// `cert-manager.io/v1`.
    pub api_version: String,
    /// Plural name.
    pub plural: String,
    /// Kind.
    pub kind: String,
    /// Whether they lie in namespaces.
    pub namespaced: bool,
    /// Whether their status is written apart from the rest.
    pub status: bool,
}

impl CustomKind {
    /// That of a definition, at the chosen version or at that which is stored.
    /// `None` unless the version is there and served.
    pub fn of(definition: &Value, name: &CustomName) -> Option<Self> {
        let spec = definition.get("spec")?;
        let version = list(spec, "versions")
            .iter()
            .find(|version| match &name.version {
                Some(wanted) => text(version, "name") == wanted,
                None => version["storage"] == true,
            })
            .filter(|version| version["served"] == true)?;
        Some(Self {
            api_version: format!("{}/{}", text(spec, "group"), text(version, "name")),
            plural: object::text(spec, "/names/plural").to_owned(),
            kind: object::text(spec, "/names/kind").to_owned(),
            namespaced: text(spec, "scope") == "Namespaced",
            status: version
                .pointer("/subresources/status")
                .is_some_and(Value::is_object),
        })
    }

    /// The API group.
    pub fn group(&self) -> &str {
        self.api_version
            .rsplit_once('/')
            .map_or("", |(group, _)| group)
    }

    fn version(&self) -> &str {
        self.api_version
            .rsplit_once('/')
            .map_or("", |(_, version)| version)
    }
}

/// True for a definition whose objects are served and that is to stay.
pub fn established(definition: &Value) -> bool {
    let holds =
        |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
    !object::is_terminating(definition)
        && object::items(definition, "/status/conditions")
            .iter()
            .any(holds)
}

/// The definition as it is made inside: with the version that flows and no
/// other, so that nothing asks for the host's conversion webhook.
pub fn definition_inside(host: &Value, kind: &CustomKind) -> Value {
    let from = &host["spec"];
    let mut spec = json!({"conversion": {"strategy": "None"}});
    for key in ["group", "scope", "names", "preserveUnknownFields"] {
        copy_key(from, &mut spec, key);
    }
    let mut versions: Vec<Value> = list(from, "versions").to_vec();
    versions.retain(|version| text(version, "name") == kind.version());
    for version in &mut versions {
        set(version, "served", true);
        set(version, "storage", true);
    }
    set(&mut spec, "versions", versions);
    let name = object::name(host);
    let mut annotations = json!({marks::SHOWN_AS: shown_as(&VirtualName::new("", name))});
    if let Some(approval) = object::annotation(host, APPROVAL) {
        annotations[APPROVAL] = approval.into();
    }
    let inside = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name, "labels": {marks::IMPORTED: "host"}, "annotations": annotations,
        },
        "spec": spec,
    });
    applied(inside, |inside| inside["spec"].clone())
}

/// The definition inside, brought up to date, or `None` if it is. Versions that
/// something may still be stored in stay.
pub fn definition_update(inside: &Value, wanted: &Value) -> Option<Value> {
    if same_applied(inside, wanted) {
        return None;
    }
    let mut updated = inside.clone();
    let mut versions = list(&wanted["spec"], "versions").to_vec();
    let stored = object::items(inside, "/status/storedVersions");
    for version in list(&inside["spec"], "versions") {
        let name = text(version, "name");
        let again = versions.iter().any(|wanted| text(wanted, "name") == name);
        if !again && stored.iter().any(|stored| stored == name) {
            let mut kept = version.clone();
            set(&mut kept, "storage", false);
            versions.push(kept);
        }
    }
    set(&mut updated["spec"], "versions", versions);
    copy_key(&wanted["spec"], &mut updated["spec"], "names");
    let annotations = object::child_map(&mut updated["metadata"], "annotations");
    for (key, value) in object::string_map(wanted, "/metadata/annotations") {
        annotations.insert(key.to_owned(), value.into());
    }
    Some(updated)
}

impl Translator {
    /// The host object of a custom one: all of it but its status.
    pub fn custom_to_host(&self, kind: &CustomKind, inside: &Value) -> Value {
        let mut host = self.shell(&kind.api_version, &kind.kind, inside);
        for field in content(inside) {
            copy_key(inside, &mut host, field);
        }
        applied(host, Value::clone)
    }

    /// The host object, brought up to date, or `None` if it is.
    pub fn custom_update(&self, host: &Value, desired: &Value) -> Option<Value> {
        if same_applied(host, desired) {
            return None;
        }
        let mut updated = host.clone();
        merge_metadata(&mut updated, desired);
        let fields: Vec<&str> = content(host).chain(content(desired)).collect();
        for field in fields {
            copy_key(desired, &mut updated, field);
        }
        Some(updated)
    }

    /// A custom object of the host as it is shown inside under a name.
    pub fn custom_shown(&self, kind: &CustomKind, name: &VirtualName, host: &Value) -> Value {
        let texts = |field: &str| -> Map<String, Value> {
            object::string_map(host, &format!("/metadata/{field}"))
                .filter(|(key, _)| !marks::is_mark(key) && *key != LAST_APPLIED)
                .map(|(key, value)| (key.to_owned(), value.into()))
                .collect()
        };
        let (mut labels, mut annotations) = (texts("labels"), texts("annotations"));
        labels.insert(marks::IMPORTED.into(), "host".into());
        annotations.insert(marks::SHOWN_AS.into(), shown_as(name).into());
        let mut inside = json!({
            "apiVersion": kind.api_version, "kind": kind.kind,
            "metadata": {"name": name.name, "labels": labels, "annotations": annotations},
        });
        if !name.namespace.is_empty() {
            inside["metadata"]["namespace"] = name.namespace.as_str().into();
        }
        for field in content(host).chain(["status"]) {
            copy_key(host, &mut inside, field);
        }
        applied(inside, Value::clone)
    }

    /// The object inside, brought up to date but for its status, or `None` if it
    /// is.
    pub fn custom_shown_update(&self, inside: &Value, shown: &Value) -> Option<Value> {
        let mut updated = inside.clone();
        merge_metadata(&mut updated, shown);
        let fields: Vec<&str> = content(inside).chain(content(shown)).collect();
        for field in fields {
            copy_key(shown, &mut updated, field);
        }
        (updated != *inside).then_some(updated)
    }

    /// The status that a custom object inside is to get, or `None` if it has it.
    pub fn custom_status_back(&self, host: &Value, inside: &Value) -> Option<Value> {
        let (there, here) = (host.get("status"), inside.get("status"));
        (!same(there, here)).then(|| there.cloned().unwrap_or_else(|| json!({})))
    }
}

fn content(object: &Value) -> impl Iterator<Item = &str> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .map(|(field, _)| field.as_str())
        .filter(|field| !FRAME.contains(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({
            "metadata": {"name": "boats.sea.example.com", "uid": "u", "labels": {"app": "x"},
                "annotations": {"cert-manager.io/inject-ca-from": "a/b", APPROVAL: "yes"}},
            "spec": {
                "group": "sea.example.com", "scope": "Namespaced",
                "names": {"plural": "boats", "kind": "Boat"},
                "conversion": {"strategy": "Webhook", "webhook": {}},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}},
                    {"name": "v2", "served": true, "storage": false},
                    {"name": "v0", "served": false, "storage": false},
                ],
            },
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        })
    }

    fn kind(name: &str) -> Option<CustomKind> {
        CustomKind::of(&definition(), &CustomName::parse(name).unwrap())
    }

    #[test]
    fn the_version_that_flows_is_the_chosen_or_the_stored_one() {
        let stored = kind("boats.sea.example.com").unwrap();
        assert_eq!(stored.api_version, "sea.example.com/v1");
        assert!(stored.namespaced && stored.status);
        let chosen = kind("boats.sea.example.com/v2").unwrap();
        assert!(!chosen.status);
        for absent in ["boats.sea.example.com/v0", "boats.sea.example.com/v3"] {
            assert_eq!(kind(absent), None);
        }
    }

    #[test]
    fn a_definition_comes_without_webhook_and_other_versions() {
        let inside = definition_inside(&definition(), &kind("boats.sea.example.com").unwrap());
        assert_eq!(inside["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(inside["spec"]["versions"].as_array().unwrap().len(), 1);
        assert_eq!(inside["metadata"]["annotations"][APPROVAL], "yes");
        assert_eq!(
            object::annotation(&inside, "cert-manager.io/inject-ca-from"),
            None
        );
        assert!(established(&definition()) && !established(&inside));
        assert_eq!(definition_update(&inside, &inside), None);
    }

    #[test]
    fn another_version_keeps_what_is_stored_in_the_first() {
        let mut inside = definition_inside(&definition(), &kind("boats.sea.example.com").unwrap());
        inside["status"] = json!({"storedVersions": ["v1"]});
        let wanted = definition_inside(&definition(), &kind("boats.sea.example.com/v2").unwrap());
        let updated = definition_update(&inside, &wanted).unwrap();
        let versions = updated["spec"]["versions"].as_array().unwrap();
        let shown: Vec<_> = versions
            .iter()
            .map(|v| (text(v, "name"), v["storage"] == true))
            .collect();
        assert_eq!(shown, [("v2", true), ("v1", false)]);
        assert_eq!(definition_update(&updated, &wanted), None);
    }
}
