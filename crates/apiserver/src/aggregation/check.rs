//! Whether the server behind an APIService can be used, and what it serves.

use std::collections::HashMap;
use std::time::Duration;

use coracle_machinery::object::{self, items, text};
use coracle_machinery::{ApiError, GroupResource, Reason};
use http::header::ACCEPT;
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::forward::identify;
use super::{Aggregation, Remote};
use crate::access::UserInfo;
use crate::body::Body;
use crate::callout::Endpoint;
use crate::objects::Objects;

/// How long a server may take to tell what it serves, as upstream.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of such a document: thousands of resources.
const MAX_DOCUMENT: usize = 1 << 20;
/// Resources, with their subresources, that are read of one group and version,
/// as many as the controllers read.
const MAX_RESOURCES: usize = 1000;

/// What the condition `Available` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    /// Usable.
    pub(super) fn passed() -> Self {
        Self {
            status: "True",
            reason: "Passed",
            message: "all checks passed".to_owned(),
        }
    }

    /// Served by this server itself.
    pub(super) fn local() -> Self {
        Self {
            status: "True",
            reason: "Local",
            message: "Local APIServices are always available".to_owned(),
        }
    }

    /// Not usable.
    pub(super) fn down(reason: &'static str, message: String) -> Self {
        Self {
            status: "False",
            reason,
            message,
        }
    }

    fn unknown(reason: &'static str, message: String) -> Self {
        Self {
            status: "Unknown",
            reason,
            message,
        }
    }
}

/// What stands behind a service, as far as objects tell: a text that changes
/// when its endpoints do.
///
/// # Errors
/// The verdict on a service that has nothing behind it.
pub(super) async fn locate(objects: &dyn Objects, endpoint: &Endpoint) -> Result<String, Verdict> {
    let Endpoint::Service {
        namespace,
        name,
        port,
        ..
    } = endpoint
    else {
        return Ok(endpoint.authority());
    };
    let place = format!("service/{name} in \"{namespace}\"");
    let cannot = |error: ApiError| format!("{place} cannot be checked due to: {}", error.message);
    let services = GroupResource::new("", "services");
    let service = match objects.get(&services, namespace, name).await {
        Ok(Some(service)) => service,
        Ok(None) => {
            let message = format!("{place} is not present");
            return Err(Verdict::down("ServiceNotFound", message));
        }
        Err(error) => return Err(Verdict::unknown("ServiceAccessError", cannot(error))),
    };
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    let slices = match objects.list(&slices, namespace).await {
        Ok(slices) => slices,
        Err(error) => return Err(Verdict::unknown("EndpointsAccessError", cannot(error))),
    };
    let ours: Vec<_> = slices
        .iter()
        .filter(|s| object::label(s, "kubernetes.io/service-name") == Some(name))
        .collect();
    let behind: Vec<String> = ours
        .iter()
        .map(|s| format!("{}{}", s["endpoints"], s["ports"]))
        .collect();
    let behind = format!("{}{}", service["spec"]["ports"], behind.concat());
    if !matches!(text(&service, "/spec/type"), "ClusterIP" | "") {
        return Ok(behind);
    }
    let ports = items(&service, "/spec/ports");
    let Some(found) = ports.iter().find(|p| p["port"] == *port) else {
        let message = format!("{place} is not listening on port {port}");
        return Err(Verdict::down("ServicePortError", message));
    };
    if ours.is_empty() {
        let message = format!("cannot find endpointslices for {place}");
        return Err(Verdict::down("EndpointsNotFound", message));
    }
    let port_name = text(found, "/name");
    let ready = ours.iter().any(|slice| {
        let mut endpoints = items(slice, "/endpoints").iter();
        let mut ports = items(slice, "/ports").iter();
        endpoints.any(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false)))
            && ports.any(|p| text(p, "/name") == port_name && p["port"].is_u64())
    });
    if !ready {
        let message =
            format!("endpointslices for {place} have no addresses with port name \"{port_name}\"");
        return Err(Verdict::down("MissingEndpoints", message));
    }
    Ok(behind)
}

/// What a server says of one group and version.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Its resources, as aggregated discovery has them.
    pub resources: Vec<Value>,
    /// The hash of its OpenAPI document, if it has one.
    pub openapi: Option<String>,
}

impl Aggregation {
    /// Asks the server behind an APIService what it serves.
    ///
    /// # Errors
    /// The verdict on one that does not answer as it should.
    pub(super) async fn ask(&self, remote: &Remote) -> Result<Told, Verdict> {
        let (group, version) = (&remote.listed.group, &remote.listed.version);
        let path = format!("/apis/{group}/{version}");
        let url = format!("https://{}{path}", remote.endpoint.authority());
        let failed = |why: String| {
            let message = format!("failing or missing response from {url}: {why}");
            Verdict::down("FailedDiscoveryCheck", message)
        };
        let (status, document) = self.read(remote, &path).await.map_err(|e| {
            let why = e.map_or_else(|| "context deadline exceeded".to_owned(), |e| e.message);
            failed(format!("Get \"{url}\": {why}"))
        })?;
        // What it says instead is not passed on: whoever chose the address is
        // not to read there.
        if !(status.is_success() || status.is_redirection()) {
            return Err(failed(format!(
                "bad status from {url}: {}",
                status.as_u16()
            )));
        }
        let openapi = match self.read(remote, "/openapi/v3").await {
            Ok((StatusCode::OK, index)) => openapi_hash(&index, group, version),
            _ => None,
        };
        Ok(Told {
            resources: aggregated(&document),
            openapi,
        })
    }

    /// A document, or null if it is no JSON; `None` as the error if time is up.
    async fn read(
        &self,
        remote: &Remote,
        path: &str,
    ) -> Result<(StatusCode, Value), Option<ApiError>> {
        let read = async {
            let mut request = Request::new(Body::empty());
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(ACCEPT, json);
            let user = UserInfo {
                groups: vec!["system:masters".to_owned()],
                ..UserInfo::system_masters("system:kube-aggregator")
            };
            identify(&user, request.headers_mut())?;
            let backend = self.backend(remote).await?;
            let (head, body) = backend.forward(request, path).await?.into_parts();
            let bytes = body
                .read(MAX_DOCUMENT)
                .await
                .map_err(|error| ApiError::new(Reason::ServiceUnavailable, error.message))?;
            Ok((
                head.status,
                crate::decode::value(&bytes).unwrap_or_default(),
            ))
        };
        match tokio::time::timeout(TIMEOUT, read).await {
            Ok(read) => read.map_err(Some),
            Err(_) => Err(None),
        }
    }
}

/// The resources of an `APIResourceList` as aggregated discovery has them.
fn aggregated(list: &Value) -> Vec<Value> {
    let listed = items(list, "/resources").iter().take(MAX_RESOURCES);
    let mut resources = Vec::new();
    let mut below: HashMap<&str, Vec<Value>> = HashMap::new();
    for entry in listed.filter(|entry| entry["name"].is_string()) {
        let name = text(entry, "/name");
        let Some((parent, name)) = name.split_once('/') else {
            resources.push(entry);
            continue;
        };
        below.entry(parent).or_default().push(json!({
            "subresource": name,
            "responseKind": response_kind(entry),
            "verbs": texts(entry, "/verbs"),
        }));
    }
    resources
        .into_iter()
        .map(|entry| {
            let name = text(entry, "/name");
            let scope = if entry["namespaced"] == true {
                "Namespaced"
            } else {
                "Cluster"
            };
            let mut out = json!({
                "resource": name,
                "responseKind": response_kind(entry),
                "scope": scope,
                "singularResource": text(entry, "/singularName"),
                "verbs": texts(entry, "/verbs"),
            });
            for key in ["shortNames", "categories"] {
                let names = texts(entry, &format!("/{key}"));
                if !names.is_empty() {
                    out[key] = names.into();
                }
            }
            if let Some(below) = below.remove(name) {
                out["subresources"] = below.into();
            }
            out
        })
        .collect()
}

fn response_kind(entry: &Value) -> Value {
    let fields = ["group", "version", "kind"];
    let fields = fields.map(|key| (key.to_owned(), entry[key].as_str().unwrap_or("").into()));
    Value::Object(Map::from_iter(fields))
}

fn texts(entry: &Value, pointer: &str) -> Vec<String> {
    let all = items(entry, pointer).iter().filter_map(Value::as_str);
    all.map(str::to_owned).collect()
}

/// The hash that an index of OpenAPI documents has for a group and version.
fn openapi_hash(index: &Value, group: &str, version: &str) -> Option<String> {
    let url = index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"].as_str()?;
    let hash = url.split_once("hash=").map_or("", |(_, hash)| hash);
    let hash = hash.chars().take(128).filter(char::is_ascii_alphanumeric);
    Some(hash.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lists_become_aggregated_ones() {
        let list = json!({"resources": [
            {"name": "nodes", "singularName": "node", "namespaced": false, "kind": "NodeMetrics",
             "verbs": ["get", "list"]},
            {"name": "nodes/status", "kind": "Other", "group": "g", "version": "v", "verbs": ["get"]},
            {"name": "pods", "namespaced": true, "kind": "PodMetrics", "shortNames": ["po"]},
            {"name": 5}, "nonsense",
        ]});
        let made = aggregated(&list);
        assert_eq!(
            made[0],
            json!({
                "resource": "nodes", "scope": "Cluster", "singularResource": "node",
                "responseKind": {"group": "", "version": "", "kind": "NodeMetrics"},
                "verbs": ["get", "list"],
                "subresources": [{
                    "subresource": "status", "verbs": ["get"],
                    "responseKind": {"group": "g", "version": "v", "kind": "Other"},
                }],
            })
        );
        assert_eq!(made[1]["scope"], "Namespaced");
        assert_eq!(made[1]["shortNames"], json!(["po"]));
        assert_eq!(made.len(), 2);
        assert!(aggregated(&Value::Null).is_empty());
    }

    #[test]
    fn hashes_of_documents_are_plain_words() {
        let index = |url: &str| json!({"paths": {"apis/g/v1": {"serverRelativeURL": url}}});
        let hash = |url: &str| openapi_hash(&index(url), "g", "v1").unwrap();
        assert_eq!(hash("/openapi/v3/apis/g/v1?hash=AB12"), "AB12");
        assert_eq!(hash("https://elsewhere/?hash=A%0d\"B"), "A0dB");
        assert_eq!(openapi_hash(&index("/x"), "other", "v1"), None);
    }
}
