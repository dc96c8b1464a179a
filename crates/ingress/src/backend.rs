//! Services and their endpoints as places to send requests to. Pure.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use coracle_machinery::addresses::is_off_limits;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::IngressServiceBackend;
use tokio::sync::Semaphore;

use crate::table::Backend;

/// Most requests that one service may have under way: one whose pods hang must
/// not take all places from the others.
const MAX_UNDER_WAY: usize = 512;
/// Most endpoints of one service port that are used.
const MAX_ENDPOINTS: usize = 5000;

/// Services and slices by their names.
pub struct Services<'o> {
    services: HashMap<(&'o str, &'o str), &'o Service>,
    slices: HashMap<(&'o str, &'o str), Vec<&'o EndpointSlice>>,
    made: HashMap<String, Arc<Backend>>,
    places: &'o mut Places,
}

/// The places of each service port, which outlive a table.
#[derive(Default)]
pub struct Places(HashMap<String, Arc<Semaphore>>);

impl<'o> Services<'o> {
    /// An index of these objects.
    pub fn new(
        services: &'o [Arc<Service>],
        slices: &'o [Arc<EndpointSlice>],
        places: &'o mut Places,
    ) -> Self {
        let name = |meta: &'o kube::core::ObjectMeta| {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            (namespace, meta.name.as_deref().unwrap_or_default())
        };
        let mut by_service: HashMap<_, Vec<_>> = HashMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|l| l.get("kubernetes.io/service-name")) {
                let (namespace, _) = name(&slice.metadata);
                let place: (&str, &str) = (namespace, service);
                by_service.entry(place).or_default().push(&**slice);
            }
        }
        Self {
            services: services.iter().map(|s| (name(&s.metadata), &**s)).collect(),
            slices: by_service,
            made: HashMap::new(),
            places,
        }
    }

    /// The place that a backend of an Ingress names. One that does not exist
    /// has no endpoints; why, is told besides.
    pub fn backend(
        &mut self,
        namespace: &str,
        named: &IngressServiceBackend,
    ) -> (Arc<Backend>, Option<String>) {
        let (endpoints, trouble) = match self.endpoints(namespace, named) {
            Ok(endpoints) => (endpoints, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let port = named.port.as_ref();
        let number = port.and_then(|p| p.number).unwrap_or(0);
        let port = port.and_then(|p| p.name.as_deref()).unwrap_or_default();
        let key = format!("{namespace}/{}:{port}:{number}", named.name);
        let places = &mut self.places.0;
        let made = self.made.entry(key.clone()).or_insert_with(|| {
            let places = places.entry(key);
            Arc::new(Backend {
                endpoints,
                turn: AtomicUsize::new(rand::random_range(0..MAX_ENDPOINTS)),
                places: places
                    .or_insert_with(|| Arc::new(Semaphore::new(MAX_UNDER_WAY)))
                    .clone(),
            })
        });
        (made.clone(), trouble)
    }

    /// Forgets the places of services that no Ingress names any more.
    pub fn finish(self) {
        let Self { made, places, .. } = self;
        places.0.retain(|key, _| made.contains_key(key));
    }

    fn endpoints(
        &self,
        namespace: &str,
        named: &IngressServiceBackend,
    ) -> Result<Vec<SocketAddr>, String> {
        let name = named.name.as_str();
        let Some(service) = self.services.get(&(namespace, name)) else {
            return Err(format!("there is no service {name}"));
        };
        let spec = service.spec.as_ref();
        if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            // It would lead wherever its owner wants, from here.
            return Err(format!(
                "service {name} is only a name for something outside"
            ));
        }
        let port = named.port.as_ref();
        let (wanted_name, wanted) = (
            port.and_then(|p| p.name.as_deref()),
            port.and_then(|p| p.number),
        );
        let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
        let found = ports.iter().find(|p| match wanted_name {
            Some(name) => p.name.as_deref() == Some(name),
            None => Some(p.port) == wanted,
        });
        let Some(found) = found else {
            let number = wanted.unwrap_or(0).to_string();
            let wanted = wanted_name.unwrap_or(&number);
            return Err(format!("service {name} has no port {wanted}"));
        };
        if !matches!(found.protocol.as_deref(), None | Some("TCP")) {
            return Err(format!(
                "port {} of service {name} is not of TCP",
                found.port
            ));
        }
        let slices = self.slices.get(&(namespace, name));
        Ok(ready(
            slices.map(Vec::as_slice).unwrap_or_default(),
            found.name.as_deref().unwrap_or_default(),
        ))
    }
}

/// Endpoints of a port: the ready ones, or if there are none those that still
/// serve while they end.
fn ready(slices: &[&EndpointSlice], port_name: &str) -> Vec<SocketAddr> {
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|s| s.address_type != "FQDN") {
        let number = slice.ports.iter().flatten().find_map(|p| {
            let same = p.name.as_deref().unwrap_or_default() == port_name;
            let tcp = matches!(p.protocol.as_deref(), None | Some("TCP"));
            p.port.filter(|_| same && tcp)
        });
        let Some(port) = number.and_then(|n| u16::try_from(n).ok()) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            // The API refuses such endpoints; from here they would lead to this pod.
            let Some(ip) = address.filter(|ip| !is_off_limits(*ip)) else {
                continue;
            };
            let conditions = endpoint.conditions.as_ref();
            let is_ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let is_serving = conditions.and_then(|c| c.serving).unwrap_or(is_ready);
            let address = SocketAddr::new(ip, port);
            if is_ready {
                ready.insert(address);
            } else if is_serving {
                serving.insert(address);
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().take(MAX_ENDPOINTS).collect()
}
