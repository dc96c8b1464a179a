//! Discovery documents, plain and aggregated, made from any list of kinds.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::GroupVersionKind;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::auth::bootstrap::version_priority;
use crate::kind::{Kind, Scope, Subresource, Verb};

/// The priority of a group of custom resources, as upstream registers them.
pub(crate) const CUSTOM_GROUP_PRIORITY: u32 = 1_000;
/// The priority of any of its versions.
pub(crate) const CUSTOM_VERSION_PRIORITY: u32 = 100;

/// A group and version that another server serves.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The group's place among groups: the greatest comes first.
    pub group_priority: u32,
    /// The version's place among those of the group.
    pub version_priority: u32,
    /// Its resources, as aggregated discovery has them.
    pub resources: Vec<Value>,
    /// Whether the server told of these when it was last asked.
    pub fresh: bool,
    /// The hash of its OpenAPI document, if it has one.
    pub openapi: Option<String>,
}

/// A form of discovery, chosen by the `Accept` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One document per level: `/api`, `/apis`, `/apis/G`, `/apis/G/V`.
    Plain,
    /// `apidiscovery.k8s.io/v2`: everything in one document.
    AggregatedV2,
    /// `apidiscovery.k8s.io/v2beta1`, the same with another version.
    AggregatedV2Beta1,
}

impl Form {
    /// The first form that the `Accept` header names and we have: plain if it
    /// names none.
    pub fn negotiate(accept: &str) -> Self {
        for part in accept.split(',') {
            let mut pieces = part.split(';').map(str::trim);
            let media = pieces.next().unwrap_or_default();
            let mut version = "";
            let mut kind = "";
            for piece in pieces {
                match piece.split_once('=') {
                    Some(("v", v)) => version = v,
                    Some(("as", k)) => kind = k,
                    _ => {}
                }
            }
            match (media, kind, version) {
                ("application/json", "APIGroupDiscoveryList", "v2") => return Self::AggregatedV2,
                ("application/json", "APIGroupDiscoveryList", "v2beta1") => {
                    return Self::AggregatedV2Beta1;
                }
                ("application/json" | "application/*" | "*/*", "", _) => return Self::Plain,
                _ => {}
            }
        }
        Self::Plain
    }

    /// The content type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "application/json",
            Self::AggregatedV2 => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            Self::AggregatedV2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }
}

/// The answer to `GET /api`. `address` is `host:port` as clients reach it.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": address},
        ],
    })
}

/// The answer to `GET /`: the paths that there are.
pub fn paths(kinds: &[Arc<Kind>], elsewhere: &[&Elsewhere]) -> Value {
    const OTHERS: &[&str] = &[
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    let mut paths: BTreeSet<String> = OTHERS.iter().map(|p| (*p).to_owned()).collect();
    for kind in kinds {
        let (group, version) = (&kind.gvk.group, &kind.gvk.version);
        if group.is_empty() {
            paths.insert(format!("/api/{version}"));
        } else {
            paths.insert(format!("/apis/{group}"));
            paths.insert(format!("/apis/{group}/{version}"));
        }
    }
    for Elsewhere { group, version, .. } in elsewhere {
        paths.insert(format!("/apis/{group}"));
        paths.insert(format!("/apis/{group}/{version}"));
    }
    json!({"paths": paths})
}

/// The answer to `GET /apis`.
pub fn group_list(kinds: &[Arc<Kind>], elsewhere: &[&Elsewhere]) -> Value {
    let groups: Vec<Value> = groups(kinds, elsewhere)
        .iter()
        .filter(|g| !g.name.is_empty())
        .map(|g| api_group(g))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// The answer to `GET /apis/G`, or `None` if there is no such group.
pub fn group(kinds: &[Arc<Kind>], elsewhere: &[&Elsewhere], name: &str) -> Option<Value> {
    let groups = groups(kinds, elsewhere);
    let found = groups.iter().find(|g| g.name == name && !name.is_empty())?;
    let mut body = api_group(found);
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    Some(body)
}

/// The answer to `GET /apis/G/V` (`/api/v1` with the empty group), or `None`
/// if that version is not served.
pub fn resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let mut members: Vec<&Arc<Kind>> = kinds
        .iter()
        .filter(|k| k.gvk.group == group && k.gvk.version == version)
        .collect();
    let group_version = members.first()?.gvk.api_version();
    members.sort_by(|a, b| a.plural.cmp(&b.plural));
    let resources: Vec<Value> = members.iter().flat_map(|k| resources_of(k)).collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": resources,
    }))
}

/// The aggregated answer to `GET /api` (`core`) or `GET /apis`.
pub fn aggregated(kinds: &[Arc<Kind>], elsewhere: &[&Elsewhere], form: Form, core: bool) -> Value {
    let version = match form {
        Form::AggregatedV2Beta1 => "v2beta1",
        Form::AggregatedV2 | Form::Plain => "v2",
    };
    let items: Vec<Value> = groups(kinds, elsewhere)
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(aggregated_group)
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

/// The strong validator of a discovery document, quotes included.
pub fn etag(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    let hex: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}

/// One group with its versions, the preferred one first.
struct Group<'a> {
    name: &'a str,
    priority: u32,
    versions: Vec<Version<'a>>,
}

struct Version<'a> {
    name: &'a str,
    priority: u32,
    kinds: Vec<&'a Arc<Kind>>,
    elsewhere: Option<&'a Elsewhere>,
}

/// Groups in upstream's order of priority. What another server serves is not
/// shown twice.
fn groups<'a>(kinds: &'a [Arc<Kind>], elsewhere: &[&'a Elsewhere]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for other in elsewhere {
        let group = group_of(&mut groups, &other.group, other.group_priority);
        group.versions.push(Version {
            name: &other.version,
            priority: other.version_priority,
            kinds: Vec::new(),
            elsewhere: Some(other),
        });
    }
    for kind in kinds {
        let (name, version) = (kind.gvk.group.as_ref(), kind.gvk.version.as_ref());
        let group = group_of(&mut groups, name, group_priority(name));
        match group.versions.iter_mut().find(|v| v.name == version) {
            Some(version) => version.kinds.push(kind),
            None => group.versions.push(Version {
                name: version,
                priority: version_priority(name, version).unwrap_or(CUSTOM_VERSION_PRIORITY),
                kinds: vec![kind],
                elsewhere: None,
            }),
        }
    }
    groups.sort_by_key(|g| (Reverse(g.priority), g.name));
    for group in &mut groups {
        group.versions.sort_by(|a, b| {
            let by_priority = b.priority.cmp(&a.priority);
            by_priority.then_with(|| compare_versions(b.name, a.name))
        });
        for version in &mut group.versions {
            version.kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
    }
    groups
}

/// The group of that name, made if it is not there, which has at least that
/// priority.
fn group_of<'a, 'g>(
    groups: &'g mut Vec<Group<'a>>,
    name: &'a str,
    priority: u32,
) -> &'g mut Group<'a> {
    let at = match groups.iter().position(|g| g.name == name) {
        Some(at) => at,
        None => {
            groups.push(Group {
                name,
                priority,
                versions: Vec::new(),
            });
            groups.len() - 1
        }
    };
    let group = &mut groups[at];
    group.priority = group.priority.max(priority);
    group
}

/// Group priorities as upstream registers its own groups with the
/// aggregator; groups of custom resources come last.
fn group_priority(group: &str) -> u32 {
    match group {
        "" => 18_000,
        "apiregistration.k8s.io" => 17_900,
        "apps" => 17_800,
        "events.k8s.io" => 17_750,
        "authentication.k8s.io" => 17_700,
        "authorization.k8s.io" => 17_600,
        "autoscaling" => 17_500,
        "batch" => 17_400,
        "certificates.k8s.io" => 17_300,
        "networking.k8s.io" => 17_200,
        "policy" => 17_100,
        "rbac.authorization.k8s.io" => 17_000,
        "storage.k8s.io" => 16_800,
        "admissionregistration.k8s.io" | "apiextensions.k8s.io" => 16_700,
        "scheduling.k8s.io" => 16_600,
        "coordination.k8s.io" => 16_500,
        "node.k8s.io" => 16_300,
        "discovery.k8s.io" => 16_200,
        "resource.k8s.io" => 16_150,
        "flowcontrol.apiserver.k8s.io" => 16_100,
        _ => CUSTOM_GROUP_PRIORITY,
    }
}

/// Compares versions as Kubernetes does: `v2` over `v1` over `v1beta2` over
/// `v1alpha1` over anything else, which goes by the alphabet, reversed.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse_version(a), parse_version(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// Stability (2 stable, 1 beta, 0 alpha), major, minor.
fn parse_version(text: &str) -> Option<(u8, u32, u32)> {
    let rest = text.strip_prefix('v')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let major = number(&rest[..digits])?;
    let tail = &rest[digits..];
    if tail.is_empty() {
        return Some((2, major, 0));
    }
    if let Some(minor) = tail.strip_prefix("beta") {
        return Some((1, major, number(minor)?));
    }
    Some((0, major, number(tail.strip_prefix("alpha")?)?))
}

fn number(text: &str) -> Option<u32> {
    if text.starts_with(['+', '-']) || text.starts_with('0') {
        return None;
    }
    text.parse().ok()
}

fn api_group(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|v| json!({"groupVersion": format!("{}/{}", group.name, v.name), "version": v.name}))
        .collect();
    json!({
        "name": group.name,
        "preferredVersion": versions.first(),
        "versions": versions,
    })
}

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|v| Value::from(v.as_str())).collect()
}

fn names(names: &[std::borrow::Cow<'static, str>]) -> Value {
    names.iter().map(|n| Value::from(n.as_ref())).collect()
}

fn resources_of(kind: &Kind) -> Vec<Value> {
    let namespaced = kind.scope == Scope::Namespaced;
    let mut main = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": namespaced,
        "kind": kind.gvk.kind,
        "verbs": verbs(kind.verbs),
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = names(&kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = names(&kind.categories);
    }
    if kind.verbs.contains(&Verb::Get) && kind.verbs.contains(&Verb::Create) {
        main["storageVersionHash"] = storage_version_hash(kind.stored_gvk()).into();
    }
    let mut resources = vec![main];
    let mut subresources: Vec<&Subresource> = kind.subresources.iter().collect();
    subresources.sort_by_key(|s| s.name);
    for sub in subresources {
        let body = sub.kind.as_ref().unwrap_or(&kind.gvk);
        let mut entry = json!({
            "name": format!("{}/{}", kind.plural, sub.name),
            "singularName": "",
            "namespaced": namespaced,
            "kind": body.kind,
            "verbs": verbs(sub.verbs),
        });
        if body.group_version() != kind.gvk.group_version() {
            entry["group"] = body.group.as_ref().into();
            entry["version"] = body.version.as_ref().into();
        }
        resources.push(entry);
    }
    resources
}

/// A short name of the stored form, by which clients notice migrations.
fn storage_version_hash(gvk: &GroupVersionKind) -> String {
    let text = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
    STANDARD.encode(&Sha256::digest(text.as_bytes())[..8])
}

fn aggregated_group(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let (resources, fresh) = match version.elsewhere {
                Some(other) => (other.resources.clone(), other.fresh),
                None => {
                    let kinds = version.kinds.iter();
                    (kinds.map(|k| aggregated_resource(k)).collect(), true)
                }
            };
            json!({
                "version": version.name,
                "resources": resources,
                "freshness": if fresh { "Current" } else { "Stale" },
            })
        })
        .collect();
    let mut metadata = Map::new();
    if !group.name.is_empty() {
        metadata.insert("name".into(), group.name.into());
    }
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &Kind) -> Value {
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response_kind(kind, None),
        "scope": match kind.scope {
            Scope::Namespaced => "Namespaced",
            Scope::Cluster => "Cluster",
        },
        "singularResource": kind.singular,
        "verbs": verbs(kind.verbs),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = names(&kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = names(&kind.categories);
    }
    let mut subresources: Vec<&Subresource> = kind.subresources.iter().collect();
    subresources.sort_by_key(|s| s.name);
    if !subresources.is_empty() {
        entry["subresources"] = subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": response_kind(kind, sub.kind.as_ref()),
                    "verbs": verbs(sub.verbs),
                })
            })
            .collect();
    }
    entry
}

/// Group and version are left empty where they are those of the parent.
fn response_kind(kind: &Kind, body: Option<&GroupVersionKind>) -> Value {
    let body = body.unwrap_or(&kind.gvk);
    if body.group_version() == kind.gvk.group_version() {
        json!({"group": "", "version": "", "kind": body.kind})
    } else {
        json!({"group": body.group, "version": body.version, "kind": body.kind})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Arc<Kind>> {
        crate::kinds::builtin().into_iter().map(Arc::new).collect()
    }

    #[test]
    fn aggregated_documents_equal_the_reference_clusters() {
        let Some(dir) = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|dir| dir.join("shared/kubernetes"))
            .find(|dir| dir.is_dir())
        else {
            return;
        };
        for (file, core) in [("discovery-api.json", true), ("discovery-apis.json", false)] {
            let bytes = std::fs::read(dir.join(file)).unwrap();
            let expected: Value = serde_json::from_slice(&bytes).unwrap();
            let ours = aggregated(&kinds(), &[], Form::AggregatedV2, core);
            let order = |v: &Value| -> Vec<String> {
                let items = v["items"].as_array().unwrap();
                items
                    .iter()
                    .map(|g| g["metadata"]["name"].to_string())
                    .collect()
            };
            if core {
                assert_eq!(ours, expected);
            } else {
                assert_eq!(
                    ours["items"].as_array().unwrap().len(),
                    expected["items"].as_array().unwrap().len()
                );
                for group in expected["items"].as_array().unwrap() {
                    assert!(ours["items"].as_array().unwrap().contains(group), "{group}");
                }
                assert_eq!(order(&ours)[..12], order(&expected)[..12]);
            }
        }
    }

    #[test]
    fn plain_documents_name_groups_and_resources() {
        let kinds = kinds();
        let list = resource_list(&kinds, "", "v1").unwrap();
        let pods = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == "pods")
            .unwrap();
        assert_eq!(pods["storageVersionHash"], "xPOwRZ+Yhw8=");
        assert_eq!(pods["shortNames"], json!(["po"]));
        assert!(resource_list(&kinds, "apps", "v2").is_none());
        let group = group(&kinds, &[], "autoscaling").unwrap();
        assert_eq!(group["preferredVersion"]["version"], "v2");
        assert_eq!(
            group_list(&kinds, &[])["groups"][0]["name"],
            "apiregistration.k8s.io"
        );
    }

    #[test]
    fn groups_of_other_servers_stand_among_ours() {
        let kinds = kinds();
        let other = |group: &str, version: &str, priorities: (u32, u32), fresh| Elsewhere {
            group: group.into(),
            version: version.into(),
            group_priority: priorities.0,
            version_priority: priorities.1,
            resources: vec![json!({"resource": "things"})],
            fresh,
            openapi: None,
        };
        let metrics = other("metrics.k8s.io", "v1beta1", (100, 100), true);
        let (old, new) = (
            other("apps", "v1beta1", (10, 10), false),
            other("apps", "v2", (10, 1000), true),
        );
        let all = [&metrics, &old, &new];
        let list = group_list(&kinds, &all);
        let last = list["groups"].as_array().unwrap().last().unwrap();
        assert_eq!(last["name"], "metrics.k8s.io");
        assert_eq!(
            last["preferredVersion"]["groupVersion"],
            "metrics.k8s.io/v1beta1"
        );
        let apps = group(&kinds, &all, "apps").unwrap();
        let versions = apps["versions"].as_array().unwrap().iter();
        let versions: Vec<&Value> = versions.map(|v| &v["version"]).collect();
        assert_eq!(versions, ["v2", "v1", "v1beta1"]);
        let document = aggregated(&kinds, &all, Form::AggregatedV2, false);
        let items = document["items"].as_array().unwrap();
        let apps = items
            .iter()
            .find(|g| g["metadata"]["name"] == "apps")
            .unwrap();
        assert_eq!(apps["versions"][0]["resources"][0]["resource"], "things");
        assert_eq!(apps["versions"][1]["freshness"], "Current");
        assert_eq!(apps["versions"][2]["freshness"], "Stale");
        let all = paths(&kinds, &all);
        let all = all["paths"].as_array().unwrap();
        assert!(all.contains(&json!("/apis/metrics.k8s.io/v1beta1")));
    }

    #[test]
    fn accept_header_chooses_the_form() {
        for (accept, form) in [
            ("", Form::Plain),
            ("*/*", Form::Plain),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Form::AggregatedV2,
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                Form::AggregatedV2Beta1,
            ),
            (
                "application/vnd.kubernetes.protobuf, application/json",
                Form::Plain,
            ),
        ] {
            assert_eq!(Form::negotiate(accept), form, "{accept}");
        }
    }

    #[test]
    fn versions_sort_as_upstream() {
        let mut versions = [
            "v1alpha1", "foo1", "v1", "v11beta2", "v10", "v2", "v3beta1", "foo10",
        ];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v11beta2", "v3beta1", "v1alpha1", "foo1", "foo10"
            ]
        );
    }
}
