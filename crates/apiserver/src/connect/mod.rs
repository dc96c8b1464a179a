//! Subresources that take the connection over: exec, attach, port-forward and
//! log of pods go to the pod's node; proxy goes to pods, services and nodes.
//!
//! Upgraded connections are passed on as bytes. Nothing here reads a frame of
//! SPDY or WebSocket, so whatever kubectl and the node agree on works. Logs
//! alone are written into frames here, for who asks over WebSocket.

mod backend;
mod kubelet;
mod links;
mod proxy;
mod reach;
mod websocket;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::hooks::Connector;
use crate::server::Builder;

pub(crate) use backend::Backend;
pub use kubelet::KubeletConnector;
pub(crate) use kubelet::percent_encode_path;
pub(crate) use proxy::ready_endpoint;
pub use proxy::{NodeProxy, PodProxy, ServiceProxy};
pub use reach::Reach;

/// Adds all of these connectors. `tls` carries the certificate that nodes know
/// the API server by.
#[must_use]
pub fn register(builder: Builder, tls: Arc<ClientConfig>, reach: Arc<Reach>) -> Builder {
    let kubelet: Arc<dyn Connector> = Arc::new(KubeletConnector {
        tls: tls.clone(),
        reach: reach.clone(),
    });
    let mut builder = builder;
    for subresource in ["exec", "attach", "portforward", "log"] {
        builder = builder.connector("", "pods", subresource, kubelet.clone());
    }
    let pods = PodProxy {
        reach: reach.clone(),
    };
    let services = ServiceProxy {
        reach: reach.clone(),
    };
    builder
        .connector("", "pods", "proxy", Arc::new(pods))
        .connector("", "services", "proxy", Arc::new(services))
        .connector("", "nodes", "proxy", Arc::new(NodeProxy { tls, reach }))
}
