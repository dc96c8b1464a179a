//! API aggregation: groups and versions that another server serves behind this
//! one. An APIService names its service; requests are identified and authorised
//! here and passed on with the caller's name, vouched for by a certificate that
//! such servers know from `kube-system/extension-apiserver-authentication`.

mod check;
mod forward;
mod keeper;

use std::sync::{Arc, RwLock};

use coracle_machinery::object::text;
use coracle_pki::tls::Identity;
use coracle_pki::{unverified_client_config, unverified_client_config_for};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::auth::bootstrap::version_priority;
use crate::callout::{Endpoint, Resolve, read_bundle};
use crate::discovery::Elsewhere;
use crate::sync::{read, write};

pub use keeper::Aggregator;

/// APIServices that name a service and are served: each costs a request from
/// time to time and a discovery document. Those beyond are unavailable.
pub const MAX_SERVICES: usize = 100;
/// Requests under way to one APIService, watches included, so that one that
/// hangs takes no connections from the others.
const MAX_REQUESTS: usize = 400;

/// Which groups and versions are served elsewhere: written by the
/// [`Aggregator`], read by every request.
pub struct Aggregation {
    resolve: Arc<dyn Resolve>,
    /// What other servers know this one by.
    identity: Option<Identity>,
    table: RwLock<Arc<Vec<Arc<Remote>>>>,
}

/// One group and version with the service that serves it.
pub(crate) struct Remote {
    /// What discovery tells of it.
    pub listed: Elsewhere,
    endpoint: Endpoint,
    tls: Result<Arc<ClientConfig>, String>,
    available: bool,
    requests: Arc<Semaphore>,
}

impl Aggregation {
    /// Nothing elsewhere yet. `identity` is the certificate of this server
    /// towards others.
    pub fn new(resolve: Arc<dyn Resolve>, identity: Option<Identity>) -> Self {
        Self {
            resolve,
            identity,
            table: RwLock::default(),
        }
    }

    /// All that is served elsewhere.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<Remote>>> {
        Arc::clone(&read(&self.table))
    }

    /// Who else serves a path: that of a group and version, of what lies below,
    /// or of its OpenAPI document.
    pub(crate) fn remote(&self, path: &str) -> Option<Arc<Remote>> {
        let table = read(&self.table);
        if table.is_empty() {
            return None;
        }
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let mut first = parts.next()?;
        if first == "openapi" && parts.next() == Some("v3") {
            first = parts.next()?;
        }
        if first != "apis" {
            return None;
        }
        let (group, version) = (parts.next()?, parts.next()?);
        let mut all = table.iter();
        all.find(|r| r.listed.group == group && r.listed.version == version)
            .cloned()
    }

    fn set(&self, table: Vec<Arc<Remote>>) {
        *write(&self.table) = Arc::new(table);
    }

    /// The TLS settings towards the service of an APIService.
    fn tls(&self, spec: &Value) -> Result<Arc<ClientConfig>, String> {
        let config = if spec["insecureSkipTLSVerify"] == true {
            match &self.identity {
                Some(identity) => unverified_client_config_for(identity),
                None => unverified_client_config(),
            }
        } else {
            let pem = read_bundle(text(spec, "/caBundle")).map_err(|e| e.to_string())?;
            match &self.identity {
                Some(identity) => coracle_pki::tls::client_config_for(&pem, identity),
                None => coracle_pki::tls::client_config(&pem, None),
            }
        };
        config.map_err(|error| error.to_string())
    }
}

/// True if an APIService is for another server to serve. What this server has
/// built in stays its own: its parts rely on it.
fn is_remote(spec: &Value) -> bool {
    spec["service"].is_object() && !is_builtin(text(spec, "/group"), text(spec, "/version"))
}

fn is_builtin(group: &str, version: &str) -> bool {
    group.is_empty()
        || group == "apiregistration.k8s.io"
        || version_priority(group, version).is_some()
}
