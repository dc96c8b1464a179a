//! Keeps the index in step with the cluster.

use std::collections::HashSet;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use crate::index::{Endpoint, Index, Key, Port, Service, Slice};

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Follows namespaces, services and slices; never returns.
pub async fn follow(client: Client, index: Arc<RwLock<Index>>) {
    tokio::join!(
        follow_kind::<core::Namespace>(
            client.clone(),
            &index,
            Index::set_namespace,
            Index::keep_namespaces,
            |_| ()
        ),
        follow_kind::<core::Service>(
            client.clone(),
            &index,
            Index::set_service,
            Index::keep_services,
            service
        ),
        follow_kind::<EndpointSlice>(client, &index, Index::set_slice, Index::keep_slices, slice),
    );
}

trait Kind: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    /// What the index keeps of it.
    type Entry;
}

impl Kind for core::Namespace {
    type Entry = ();
}

impl Kind for core::Service {
    type Entry = Service;
}

impl Kind for EndpointSlice {
    type Entry = Slice;
}

async fn follow_kind<K: Kind>(
    client: Client,
    index: &RwLock<Index>,
    set: fn(&mut Index, Key, Option<K::Entry>),
    keep: fn(&mut Index, &HashSet<Key>),
    read: fn(&K) -> K::Entry,
) {
    let api: Api<K> = Api::all(client);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    // A fresh list replaces what is known only once it is complete: names do
    // not vanish while the API server restarts.
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(key(&object));
                set(&mut write(index), key(&object), Some(read(&object)));
            }
            Ok(watcher::Event::InitDone) => {
                keep(&mut write(index), &listed);
                listed = HashSet::new();
            }
            Ok(watcher::Event::Apply(object)) => {
                set(&mut write(index), key(&object), Some(read(&object)));
            }
            Ok(watcher::Event::Delete(object)) => set(&mut write(index), key(&object), None),
            Err(error) => tracing::debug!(%error, "a watch ended; starting again"),
        }
    }
}

/// The index stays whole if a writer panics: every change is a single step.
fn write(index: &RwLock<Index>) -> std::sync::RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}

fn key<K: Kind>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn service(object: &core::Service) -> Service {
    let Some(spec) = &object.spec else {
        return Service::default();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        return Service {
            external_name: Some(target.trim_end_matches('.').to_ascii_lowercase()),
            ..Service::default()
        };
    }
    let listed = spec.cluster_ips.clone().unwrap_or_default();
    let single = spec.cluster_ip.clone();
    let mut addresses: Vec<IpAddr> = listed
        .into_iter()
        .chain(single)
        .filter_map(|text| text.parse().ok())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port).ok()?,
        })
    });
    Service {
        addresses,
        external_name: None,
        ports: ports.collect(),
    }
}

fn slice(object: &EndpointSlice) -> Slice {
    let ports = object.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()),
            number: u16::try_from(port.port?).ok()?,
        })
    });
    let ready = object.endpoints.iter().flatten().filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|c| c.ready)
            .unwrap_or(true)
    });
    let endpoints = ready.flat_map(|endpoint| {
        endpoint.addresses.iter().filter_map(|address| {
            Some(Endpoint {
                address: address.parse().ok()?,
                hostname: endpoint.hostname.clone().filter(|name| !name.is_empty()),
            })
        })
    });
    Slice {
        service: object
            .labels()
            .get(SERVICE_NAME)
            .cloned()
            .unwrap_or_default(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    }
}

fn protocol(text: Option<&str>) -> String {
    text.unwrap_or("TCP").to_ascii_lowercase()
}
