//! Where a `clientConfig` points to, and the address of that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::object::text;
use http::Uri;
use serde_json::Value;

use crate::connect::{Reach, ready_endpoint};
use crate::objects::Objects;

/// The service, or the host of a URL, that a call goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A service of this cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// `NAME.NAMESPACE.svc`, what its certificate has to say.
        host: String,
        /// The port of the service.
        port: u16,
    },
    /// Any host.
    Host {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
}

impl Endpoint {
    /// Reads `service` or `url` of a `clientConfig`; the endpoint, and the
    /// path that starts with `/`.
    ///
    /// # Errors
    /// Why that cannot be called.
    pub fn of(config: &Value) -> Result<(Self, String), String> {
        let service = &config["service"];
        if service.is_object() {
            let (namespace, name) = (text(service, "/namespace"), text(service, "/name"));
            let endpoint = Self::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                host: format!("{name}.{namespace}.svc"),
                port: service["port"]
                    .as_u64()
                    .and_then(|p| u16::try_from(p).ok())
                    .unwrap_or(443),
            };
            let path = text(service, "/path");
            let slash = if path.starts_with('/') { "" } else { "/" };
            return Ok((endpoint, format!("{slash}{path}")));
        }
        let url: Uri = text(config, "/url")
            .parse()
            .map_err(|error| format!("the URL cannot be read: {error}"))?;
        if url.scheme_str() != Some("https") {
            return Err("'https' is the only allowed URL scheme".to_owned());
        }
        let endpoint = Self::Host {
            host: url.host().unwrap_or_default().to_owned(),
            port: url.port_u16().unwrap_or(443),
        };
        let path = url.path_and_query().map_or("/", |p| p.as_str());
        Ok((endpoint, path.to_owned()))
    }

    /// The name that the certificate has to be for.
    pub fn server_name(&self) -> &str {
        let (Self::Service { host, .. } | Self::Host { host, .. }) = self;
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Host and port, as in a URL.
    pub fn authority(&self) -> String {
        let (Self::Service { host, port, .. } | Self::Host { host, port }) = self;
        format!("{host}:{port}")
    }
}

/// Finds addresses.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Where to connect to.
    ///
    /// # Errors
    /// Why there is nothing to connect to.
    async fn resolve(&self, endpoint: &Endpoint) -> Result<SocketAddr, String>;
}

/// The network of the cluster: services by their ready endpoints, without a
/// service proxy on the way, and nothing that is out of reach.
pub struct ClusterNetwork {
    objects: Arc<dyn Objects>,
    reach: Arc<Reach>,
}

impl ClusterNetwork {
    /// Services are looked up among these objects.
    pub fn new(objects: Arc<dyn Objects>, reach: Arc<Reach>) -> Self {
        Self { objects, reach }
    }
}

#[async_trait]
impl Resolve for ClusterNetwork {
    async fn resolve(&self, endpoint: &Endpoint) -> Result<SocketAddr, String> {
        match endpoint {
            Endpoint::Service {
                namespace,
                name,
                port,
                ..
            } => {
                let port = port.to_string();
                let found = ready_endpoint(&*self.objects, namespace, name, &port).await;
                let (address, port) = found.map_err(|e| e.message)?;
                let allowed = self.reach.address(&address).map_err(|e| e.message)?;
                Ok(SocketAddr::new(allowed, port))
            }
            Endpoint::Host { host, port } => {
                let address: Result<IpAddr, _> = endpoint.server_name().parse();
                let address = match address {
                    Ok(address) => address,
                    Err(_) => look_up(host).await?,
                };
                let allowed = self.reach.url_address(address).map_err(|e| e.message)?;
                Ok(SocketAddr::new(allowed, *port))
            }
        }
    }
}

async fn look_up(host: &str) -> Result<IpAddr, String> {
    let unknown = || format!("lookup {host}: no such host");
    let found = tokio::net::lookup_host((host, 0)).await;
    let mut found = found.map_err(|_| unknown())?;
    found.next().map(|a| a.ip()).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn client_configs_name_a_service_or_a_url() {
        let service =
            json!({"service": {"namespace": "n", "name": "s", "path": "p?x=1", "port": 8443}});
        let (endpoint, path) = Endpoint::of(&service).unwrap();
        assert_eq!(endpoint.server_name(), "s.n.svc");
        assert_eq!(endpoint.authority(), "s.n.svc:8443");
        assert_eq!(path, "/p?x=1");
        let (endpoint, path) =
            Endpoint::of(&json!({"url": "https://[2001:db8::1]:444/a"})).unwrap();
        assert_eq!(endpoint.server_name(), "2001:db8::1");
        assert_eq!(endpoint.authority(), "[2001:db8::1]:444");
        assert_eq!(path, "/a");
        for bad in ["http://x/", "", "/x"] {
            assert!(Endpoint::of(&json!({"url": bad})).is_err(), "{bad}");
        }
    }
}
