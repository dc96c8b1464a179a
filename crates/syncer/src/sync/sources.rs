//! Host objects that the user's mappings name: each mapping has its own watch,
//! of one object or of a namespace, with rights for just that.

use std::sync::Arc;

use coracle_config::Config;
use coracle_config::mapping::{self, Mapping};
use coracle_translate::VirtualName;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::Narrow;
use crate::cache::Cache;
use crate::engine::Syncer;
use crate::kinds::Kind;

/// One mapping and what the host has for it.
pub(crate) struct Source {
    kind: Kind,
    mapping: Mapping,
    cache: Cache,
}

/// All of them.
pub(crate) struct Sources {
    all: Vec<Source>,
}

/// What the host has for an object inside.
pub(crate) enum Found {
    /// No mapping leads to that name.
    Unmapped,
    /// It is not known yet.
    Unknown,
    /// Nothing.
    Absent,
    /// This.
    Object(Arc<Value>),
}

impl Sources {
    pub(crate) fn new(config: &Config, host_namespace: &str) -> Self {
        let mut all = Vec::new();
        let mut add = |kind, mappings: Vec<Mapping>| {
            all.extend(mappings.into_iter().map(|mapping| Source {
                kind,
                mapping,
                cache: Cache::new(),
            }));
        };
        let services = mapping::services_from_host(config, host_namespace);
        add(Kind::Service, services.clone());
        add(Kind::Endpoints, services);
        let maps = mapping::config_maps_from_host(config, host_namespace);
        add(Kind::ConfigMap, maps);
        let secrets = mapping::secrets_from_host(config, host_namespace);
        add(Kind::Secret, secrets);
        Self { all }
    }

    /// True if objects of this kind come from the host.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.all.iter().any(|source| source.kind == kind)
    }

    /// True if a mapping leads to that name inside.
    pub(crate) fn leads_to(&self, kind: Kind, inside: &VirtualName) -> bool {
        !matches!(self.find(kind, inside), Found::Unmapped)
    }

    /// What the host has for that name inside. Where several mappings lead
    /// there, the first that has something counts.
    pub(crate) fn find(&self, kind: Kind, inside: &VirtualName) -> Found {
        let mut found = Found::Unmapped;
        for source in &self.all {
            if source.kind != kind || source.mapping.to_namespace != inside.namespace {
                continue;
            }
            let Some(name) = source.mapping.back(&inside.name) else {
                continue;
            };
            let place = VirtualName::new(source.mapping.from_namespace.as_str(), name);
            match source.cache.get(&place) {
                Some(object) => return Found::Object(object),
                None if !source.cache.is_synced() => found = Found::Unknown,
                None if matches!(found, Found::Unmapped) => found = Found::Absent,
                None => {}
            }
        }
        found
    }
}

impl Source {
    fn narrow(&self) -> Narrow {
        let name = self.mapping.names.as_ref().map(|(from, _)| from.clone());
        Narrow {
            namespace: self.mapping.from_namespace.clone(),
            labels: String::new(),
            name: name.unwrap_or_default(),
        }
    }

    fn inside(&self, host: &Value) -> Option<VirtualName> {
        let name = self.mapping.forth(coracle_machinery::object::name(host))?;
        Some(VirtualName::new(self.mapping.to_namespace.as_str(), name))
    }
}

/// The key of the work queue by which an object of this kind is shown inside.
pub(crate) fn key(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::Service | Kind::Endpoints => Some(Kind::Replica),
        Kind::ConfigMap => Some(Kind::ShownConfigMap),
        Kind::Secret => Some(Kind::ShownSecret),
        _ => None,
    }
}

/// Starts the watches.
pub(crate) fn spawn(syncer: &Arc<Syncer>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    for index in 0..syncer.sources.all.len() {
        let (watching, stop_watching) = (syncer.clone(), stop.clone());
        tasks.spawn(async move {
            let syncer = watching;
            let source = &syncer.sources.all[index];
            let cluster = syncer.host.cluster.clone();
            let tell = |change: crate::cache::Change| {
                let name = change.object().and_then(|host| source.inside(host));
                if let (Some(name), Some(key)) = (name, key(source.kind)) {
                    syncer.queue.push(key, name);
                }
            };
            source
                .cache
                .run(
                    source.kind.watched(),
                    cluster,
                    source.narrow(),
                    stop_watching,
                    tell,
                )
                .await;
        });
        // What is inside and no longer on the host shows once this is known.
        let (syncer, stop) = (syncer.clone(), stop.clone());
        tasks.spawn(async move {
            let source = &syncer.sources.all[index];
            tokio::select! {
                () = stop.cancelled() => {}
                () = source.cache.synced() => syncer.push_shown(source.kind),
            }
        });
    }
}
