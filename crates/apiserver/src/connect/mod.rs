//! Subresources that take the connection over: exec, attach, port-forward and
//! log of pods go to the pod's node; proxy goes to pods, services and nodes.
//!
//! Upgraded connections are passed on as bytes. Nothing here reads a frame of
//! SPDY or WebSocket, so whatever kubectl and the node agree on works.

mod backend;
mod kubelet;
mod proxy;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::hooks::Connector;
use crate::server::Builder;

pub use kubelet::KubeletConnector;
pub use proxy::{NodeProxy, PodProxy, ServiceProxy};
pub(crate) use proxy::{proxyable, ready_endpoint};

/// Adds all of these connectors. `kubelet_tls` carries the certificate that
/// nodes know the API server by.
#[must_use]
pub fn register(builder: Builder, kubelet_tls: Arc<ClientConfig>) -> Builder {
    let kubelet: Arc<dyn Connector> = Arc::new(KubeletConnector::new(kubelet_tls.clone()));
    let mut builder = builder;
    for subresource in ["exec", "attach", "portforward", "log"] {
        builder = builder.connector("", "pods", subresource, kubelet.clone());
    }
    builder
        .connector("", "pods", "proxy", Arc::new(PodProxy))
        .connector("", "services", "proxy", Arc::new(ServiceProxy))
        .connector("", "nodes", "proxy", Arc::new(NodeProxy::new(kubelet_tls)))
}
