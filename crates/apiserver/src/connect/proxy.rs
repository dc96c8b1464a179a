//! The proxy subresource of pods, services and nodes.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, Reason, object};
use coracle_pki::unverified_client_config;
use http::{Request, Response};
use rustls::ClientConfig;
use serde_json::Value;

use super::backend::Backend;
use super::kubelet::node_backend;
use super::links::Shown;
use super::reach::Reach;
use crate::body::Body;
use crate::hooks::{Connector, RequestContext};
use crate::objects::Objects;

/// `pods/[SCHEME:]NAME[:PORT]/proxy`.
pub struct PodProxy {
    /// Where pods may be.
    pub reach: Arc<Reach>,
}

/// `services/[SCHEME:]NAME[:PORT]/proxy`.
pub struct ServiceProxy {
    /// Where endpoints may be.
    pub reach: Arc<Reach>,
}

/// `nodes/NAME/proxy`.
pub struct NodeProxy {
    /// The certificate that nodes know the API server by.
    pub tls: Arc<ClientConfig>,
    /// Where nodes may be.
    pub reach: Arc<Reach>,
}

/// `[SCHEME:]NAME[:PORT]`, as names before `/proxy` are written.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    secure: bool,
    name: &'a str,
    port: &'a str,
}

impl Target<'_> {
    /// TLS, if the scheme asks for it: nobody vouches for what pods show.
    fn tls(&self) -> Result<Option<Arc<ClientConfig>>, ApiError> {
        let config = self.secure.then(unverified_client_config).transpose();
        config.map_err(ApiError::internal)
    }
}

fn target(text: &str) -> Result<Target<'_>, ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match *parts.as_slice() {
        [name] => ("", name, ""),
        [name, port] => ("", name, port),
        [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
        _ => {
            return Err(ApiError::bad_request(format!(
                "invalid service request \"{text}\""
            )));
        }
    };
    Ok(Target {
        secure: scheme == "https",
        name,
        port,
    })
}

#[async_trait]
impl Connector for PodProxy {
    async fn connect(
        &self,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let target = target(&context.info.name)?;
        let pods = GroupResource::new("", "pods");
        let pod = context
            .objects
            .get(&pods, &context.info.namespace, target.name)
            .await?
            .ok_or_else(|| ApiError::not_found(&pods, target.name))?;
        let port = if target.port.is_empty() {
            first_container_port(&pod)
        } else {
            target
                .port
                .parse()
                .map_err(|_| ApiError::bad_request(format!("invalid port \"{}\"", target.port)))?
        };
        let address = self.reach.address(object::text(&pod, "/status/podIP"))?;
        let backend = Backend {
            address,
            port,
            tls: target.tls()?,
            name: None,
        };
        show(context, request, &backend).await
    }
}

#[async_trait]
impl Connector for ServiceProxy {
    async fn connect(
        &self,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let target = target(&context.info.name)?;
        let namespace = &context.info.namespace;
        let (address, port) =
            ready_endpoint(&*context.objects, namespace, target.name, target.port).await?;
        let address = self.reach.address(&address)?;
        let backend = Backend {
            address,
            port,
            tls: target.tls()?,
            name: None,
        };
        show(context, request, &backend).await
    }
}

#[async_trait]
impl Connector for NodeProxy {
    async fn connect(
        &self,
        context: &RequestContext,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let target = target(&context.info.name)?;
        let backend = node_backend(context, target.name, &self.tls, &self.reach).await?;
        show(context, request, &backend).await
    }
}

/// Passes a request on; pages among the answers lead back here.
async fn show(
    context: &RequestContext,
    mut request: Request<Body>,
    backend: &Backend,
) -> Result<Response<Body>, ApiError> {
    let path = rest(context, &request);
    let shown = Shown::new(request.method(), request.uri().path(), &path);
    shown.announce(request.headers_mut(), &path);
    let answer = backend.forward(request, &path).await?;
    Ok(shown.answer(answer, &backend.authority()).await)
}

/// The path behind `/proxy`, still encoded as the client sent it, and the
/// query.
fn rest(context: &RequestContext, request: &Request<Body>) -> String {
    let mut path = String::from("/");
    for (index, part) in context.info.tail.split('/').enumerate() {
        if index > 0 {
            path.push('/');
        }
        super::kubelet::percent_encode_path(part, &mut path);
    }
    if let Some(query) = request.uri().query() {
        path.push('?');
        path.push_str(query);
    }
    path
}

fn first_container_port(pod: &Value) -> u16 {
    object::items(pod, "/spec/containers")
        .iter()
        .flat_map(|container| object::items(container, "/ports"))
        .find_map(|port| u16::try_from(port.get("containerPort")?.as_u64()?).ok())
        .unwrap_or(80)
}

/// The address and port of a ready endpoint of a service, as its slice tells
/// them: whether it may be connected to is not judged here. `port` is the name or number of a port of
/// the service, empty for its only one.
///
/// # Errors
/// If there is no such service, or nothing ready behind it.
pub(crate) async fn ready_endpoint(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    port: &str,
) -> Result<(String, u16), ApiError> {
    let services = GroupResource::new("", "services");
    let service = objects
        .get(&services, namespace, name)
        .await?
        .ok_or_else(|| ApiError::not_found(&services, name))?;
    let port_name = service_port(&service, name, port)?;
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    let slices = objects.list(&slices, namespace).await?;
    let ours = slices
        .iter()
        .filter(|s| object::label(s, "kubernetes.io/service-name") == Some(name));
    for slice in ours {
        let port = object::items(slice, "/ports")
            .iter()
            .find(|p| object::text(p, "/name") == port_name)
            .and_then(|p| u16::try_from(p.get("port")?.as_u64()?).ok());
        let ready = object::items(slice, "/endpoints")
            .iter()
            .find(|e| e.pointer("/conditions/ready") != Some(&Value::Bool(false)))
            .and_then(|e| e.pointer("/addresses/0")?.as_str());
        if let (Some(port), Some(address)) = (port, ready) {
            return Ok((address.to_owned(), port));
        }
    }
    Err(ApiError::new(
        Reason::ServiceUnavailable,
        format!("no endpoints available for service \"{name}\""),
    ))
}

/// The name of the service's port that a request means.
fn service_port(service: &Value, name: &str, wanted: &str) -> Result<String, ApiError> {
    let ports = object::items(service, "/spec/ports");
    let found = match wanted {
        "" if ports.len() == 1 => ports.first(),
        "" => None,
        wanted => ports.iter().find(|port| {
            object::text(port, "/name") == wanted
                || wanted
                    .parse()
                    .is_ok_and(|w: u64| port.get("port").and_then(Value::as_u64) == Some(w))
        }),
    };
    found
        .map(|port| object::text(port, "/name").to_owned())
        .ok_or_else(|| {
            ApiError::new(
                Reason::ServiceUnavailable,
                format!("no service port \"{wanted}\" found for service \"{name}\""),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_name_and_port() {
        for (text, secure, name, port) in [
            ("a", false, "a", ""),
            ("a:80", false, "a", "80"),
            ("http:a:web", false, "a", "web"),
            ("https:a:443", true, "a", "443"),
            ("https:a:", true, "a", ""),
            (":a:1", false, "a", "1"),
            ("http:a", false, "http", "a"),
        ] {
            let target = target(text).unwrap();
            assert_eq!(target, Target { secure, name, port });
            assert_eq!(target.tls().unwrap().is_some(), secure);
        }
        for bad in ["a:b:c:d", "ftp:a:1"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
