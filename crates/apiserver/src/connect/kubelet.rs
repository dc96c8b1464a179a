//! exec, attach, port-forward and log, at the kubelet of the pod's node.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, object};
use http::{Method, Request, Response};
use rustls::ClientConfig;
use serde_json::Value;

use super::backend::Backend;
use super::reach::Reach;
use super::websocket::WebSocket;
use crate::body::Body;
use crate::hooks::{Connector, RequestContext};
use crate::query::Query;

/// The annotation that names the container for requests that name none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Query parameters of the log subresource that the kubelet knows by the same
/// names.
const LOG_PARAMETERS: &[&str] = &[
    "follow",
    "previous",
    "timestamps",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "limitBytes",
    "stream",
];

/// Passes requests on to the kubelet of a pod's node.
pub struct KubeletConnector {
    /// The certificate that nodes know the API server by.
    pub tls: Arc<ClientConfig>,
    /// Where nodes may be.
    pub reach: Arc<Reach>,
}

#[async_trait]
impl Connector for KubeletConnector {
    async fn connect(
        &self,
        context: &RequestContext,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let info = &context.info;
        let pods = GroupResource::new("", "pods");
        let pod = context
            .objects
            .get(&pods, &info.namespace, &info.name)
            .await?
            .ok_or_else(|| ApiError::not_found(&pods, &info.name))?;
        let path = kubelet_path(&info.subresource, &pod, &context.query)?;
        let node = object::text(&pod, "/spec/nodeName");
        let log = info.subresource == "log";
        // Of logs the kubelet knows no streams but plain ones.
        let socket = if log {
            WebSocket::take(&mut request)?
        } else {
            None
        };
        if node.is_empty() && log {
            // Nothing has run yet, so there is nothing to tell.
            return Ok(Response::new(Body::empty()));
        }
        if node.is_empty() {
            return Err(ApiError::bad_request(format!(
                "pod {} does not have a host assigned",
                info.name
            )));
        }
        // Upstream's kubelets take streams by POST and GET, logs by GET.
        if log {
            *request.method_mut() = Method::GET;
        }
        let backend = node_backend(context, node, &self.tls, &self.reach).await?;
        let answer = backend.forward(request, &path).await?;
        Ok(match socket {
            Some(socket) => socket.carry(answer),
            None => answer,
        })
    }
}

/// The kubelet of a node.
pub(super) async fn node_backend(
    context: &RequestContext,
    node: &str,
    tls: &Arc<ClientConfig>,
    reach: &Reach,
) -> Result<Backend, ApiError> {
    let nodes = GroupResource::new("", "nodes");
    let found = context
        .objects
        .get(&nodes, "", node)
        .await?
        .ok_or_else(|| ApiError::not_found(&nodes, node))?;
    let place = match reach.only_kubelet() {
        Some(only) => only,
        None => told(&found, node, reach)?,
    };
    Ok(Backend {
        address: place.ip(),
        port: place.port(),
        tls: Some(tls.clone()),
        name: None,
    })
}

/// Where a Node tells that its kubelet is.
fn told(node: &Value, name: &str, reach: &Reach) -> Result<SocketAddr, ApiError> {
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| ApiError::internal(format!("node {name} names no kubelet port")))?;
    let address = ["InternalIP", "ExternalIP"]
        .iter()
        .find_map(|kind| {
            object::items(node, "/status/addresses")
                .iter()
                .find(|a| a.get("type").is_some_and(|t| t == kind))
                .and_then(|a| a.get("address")?.as_str())
        })
        .ok_or_else(|| ApiError::internal(format!("node {name} has no address")))?;
    Ok(SocketAddr::new(reach.address(address)?, port))
}

fn kubelet_path(subresource: &str, pod: &Value, query: &Query) -> Result<String, ApiError> {
    let place = format!("{}/{}", object::namespace(pod), object::name(pod));
    if subresource == "portforward" {
        let mut out = Vec::new();
        for port in query.all("ports").flat_map(|ports| ports.split(',')) {
            port.parse::<u16>().map_err(|_| {
                ApiError::bad_request(format!("unable to parse \"{port}\" as a port"))
            })?;
            out.push(("port", port));
        }
        return Ok(with_query(&format!("/portForward/{place}"), &out));
    }
    let container = container(pod, query)?;
    if subresource == "log" {
        let parameters: Vec<(&str, &str)> = LOG_PARAMETERS
            .iter()
            .filter_map(|name| Some((*name, query.get(name)?)))
            .collect();
        return Ok(with_query(
            &format!("/containerLogs/{place}/{container}"),
            &parameters,
        ));
    }
    let mut parameters = Vec::new();
    for (ours, theirs, by_default) in [
        ("stdin", "input", false),
        ("stdout", "output", true),
        ("stderr", "error", true),
        ("tty", "tty", false),
    ] {
        if query.optional_flag(ours).unwrap_or(by_default) {
            parameters.push((theirs, "1"));
        }
    }
    if subresource == "exec" {
        let command: Vec<&str> = query.all("command").collect();
        if command.is_empty() {
            return Err(ApiError::bad_request(
                "you must specify at least 1 command for the container",
            ));
        }
        parameters.extend(command.into_iter().map(|word| ("command", word)));
    }
    Ok(with_query(
        &format!("/{subresource}/{place}/{container}"),
        &parameters,
    ))
}

/// The container that a request means, with upstream's errors.
fn container(pod: &Value, query: &Query) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        object::items(pod, &format!("/spec/{list}"))
            .iter()
            .map(|c| object::text(c, "/name").to_owned())
            .collect()
    };
    let (main, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let name = object::name(pod);
    if let Some(wanted) = query.get("container") {
        let known = main
            .iter()
            .chain(&init)
            .chain(&ephemeral)
            .any(|c| c == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )))
        };
    }
    if let Some(chosen) = object::annotation(pod, DEFAULT_CONTAINER)
        && main.iter().any(|c| c == chosen)
    {
        return Ok(chosen.to_owned());
    }
    match main.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {name}"
        ))),
        several => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(
                    " or one of the init containers: [{}]",
                    init.join(" ")
                ));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (index, (name, value)) in parameters.iter().enumerate() {
        out.push(if index == 0 { '?' } else { '&' });
        out.push_str(name);
        out.push('=');
        percent_encode(value, &mut out);
    }
    out
}

fn percent_encode(text: &str, out: &mut String) {
    encode(text, b"-._~", out);
}

/// Encodes one segment of a path.
pub(crate) fn percent_encode_path(segment: &str, out: &mut String) {
    encode(segment, b"-._~!$&'()*+,;=:@", out);
}

fn encode(text: &str, plain: &[u8], out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(subresource: &str, pod: &Value, query: &str) -> Result<String, String> {
        kubelet_path(subresource, pod, &Query::parse(query).unwrap()).map_err(|e| e.message)
    }

    #[test]
    fn requests_become_those_of_the_kubelet() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c"}]}});
        for (subresource, query, expected) in [
            (
                "exec",
                "command=sh&command=-c&command=echo%20%26&stdin=true&tty=true&stdout=true&stderr=false",
                "/exec/n/p/c?input=1&output=1&tty=1&command=sh&command=-c&command=echo%20%26",
            ),
            ("attach", "container=c", "/attach/n/p/c?output=1&error=1"),
            (
                "portforward",
                "ports=80&ports=81",
                "/portForward/n/p?port=80&port=81",
            ),
            ("portforward", "", "/portForward/n/p"),
            (
                "log",
                "follow=true&tailLines=3&container=c&x=y",
                "/containerLogs/n/p/c?follow=true&tailLines=3",
            ),
        ] {
            assert_eq!(path(subresource, &pod, query).unwrap(), expected);
        }
        assert!(
            path("exec", &pod, "container=x&command=a")
                .unwrap_err()
                .contains("not valid")
        );
        assert!(path("exec", &pod, "").is_err());
        assert!(path("portforward", &pod, "ports=a%2F..").is_err());
    }

    #[test]
    fn several_containers_need_a_choice() {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(
            path("log", &pod, "").unwrap_err(),
            "a container name must be specified for pod p, choose one of: [a b] \
             or one of the init containers: [i]"
        );
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(path("log", &pod, "").unwrap(), "/containerLogs/n/p/b");
    }
}
