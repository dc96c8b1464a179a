//! Custom resources. Which there are is the user's choice and what they look
//! like is the host's, so they have caches of their own beside those of the
//! fixed kinds: made when their definition is served on both sides, and made
//! anew when it becomes another. With none chosen nothing of this runs.

mod definition;
mod objects;
mod shown;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use coracle_config::mapping::{self, Mapping};
use coracle_config::model::custom;
use coracle_config::{Config, CustomName, marks};
use coracle_machinery::object;
use coracle_translate::{CustomKind, Patches, Translator, VirtualName};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use self::shown::remove_unshown;
use crate::api::{ApiError, Narrow, Resource};
use crate::cache::{Cache, Change, Kept, Watched};
use crate::engine::Syncer;
use crate::queue::{Of, Outcome};

/// One of the custom resources, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Objects that flow to the host.
    ToHost(usize),
    /// Objects of the host that are shown inside, by their names there.
    FromHost(usize),
}

/// All of them.
pub(crate) struct Customs {
    to_host: Vec<Custom>,
    from_host: Vec<Custom>,
}

/// One custom resource.
struct Custom {
    name: CustomName,
    namespaced: bool,
    patches: Patches,
    /// What is shown of it; none where it flows to the host.
    mappings: Vec<Mapping>,
    definitions: Definitions,
    served: RwLock<Option<Arc<Served>>>,
}

/// What each side has for its definition.
struct Definitions {
    inside: Cache,
    host: Cache,
    changed: Notify,
}

/// A custom resource that is served on both sides.
struct Served {
    flow: Flow,
    inside: Cache,
    /// Of the host namespace, or by mapping.
    host: Vec<Cache>,
    /// All caches are complete: what is missing is absent.
    ready: AtomicBool,
    /// Objects whose host object went while they were there: their UIDs. Never
    /// more than there are objects inside.
    deleted: Mutex<HashMap<VirtualName, String>>,
}

/// What flows, by the definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    kind: CustomKind,
    /// Whether the status is a subresource inside.
    status_inside: bool,
    /// The UID of the host's definition.
    definition: String,
}

fn resource(kind: &CustomKind) -> Resource<'_> {
    Resource {
        api_version: &kind.api_version,
        plural: &kind.plural,
        kind: &kind.kind,
    }
}

impl Customs {
    pub(crate) fn new(config: &Config, host_namespace: &str) -> Self {
        let to_host = custom::to_host(&config.sync.to_host.custom_resources);
        let to_host = to_host
            .into_iter()
            .map(|(name, choice)| Custom::new(name, Patches::to_host(&choice.patches)));
        let from_host = custom::from_host(&config.sync.from_host.custom_resources);
        let from_host = from_host.into_iter().map(|(name, choice)| Custom {
            namespaced: choice.scope == custom::NAMESPACED,
            mappings: mapping::custom_from_host(choice, host_namespace),
            ..Custom::new(name, Patches::from_host(&choice.patches))
        });
        Self {
            to_host: to_host.collect(),
            from_host: from_host.collect(),
        }
    }

    fn get(&self, key: Key) -> &Custom {
        match key {
            Key::ToHost(index) => &self.to_host[index],
            Key::FromHost(index) => &self.from_host[index],
        }
    }

    fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        let to_host = (0..self.to_host.len()).map(Key::ToHost);
        to_host.chain((0..self.from_host.len()).map(Key::FromHost))
    }

    /// True while it is not known which ConfigMaps and Secrets custom objects
    /// refer to.
    pub(crate) fn may_refer(&self) -> bool {
        let open = |custom: &Custom| custom.served().is_none_or(|served| !served.is_ready());
        self.to_host
            .iter()
            .any(|custom| custom.patches.refer() && open(custom))
    }

    /// The host object of that kind at a place, and that which it stands for, if
    /// it flows.
    pub(crate) fn pair(
        &self,
        t: &Translator,
        api_version: &str,
        kind: &str,
        place: &VirtualName,
    ) -> Option<(Arc<Value>, Arc<Value>)> {
        self.to_host.iter().find_map(|custom| {
            let served = custom.served()?;
            let flows = &served.flow.kind;
            if flows.api_version != api_version || flows.kind != kind {
                return None;
            }
            let host = served.host.first()?.get(place)?;
            let inside = served.inside.get(&t.ours(kind, &host)?)?;
            Some((host, inside))
        })
    }

    /// The object inside.
    pub(crate) fn inside(&self, key: Key, name: &VirtualName) -> Option<Arc<Value>> {
        self.get(key).served()?.inside.get(name)
    }
}

impl Custom {
    /// One that flows to the host.
    fn new(name: CustomName, patches: Patches) -> Self {
        Self {
            name,
            namespaced: true,
            patches,
            mappings: Vec::new(),
            definitions: Definitions {
                inside: Cache::new(),
                host: Cache::new(),
                changed: Notify::new(),
            },
            served: RwLock::default(),
        }
    }

    fn served(&self) -> Option<Arc<Served>> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served.clone()
    }

    fn set_served(&self, served: Option<Arc<Served>>) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

impl Served {
    fn new(flow: Flow, sources: usize) -> Self {
        Self {
            flow,
            inside: Cache::new(),
            host: std::iter::repeat_with(Cache::new).take(sources).collect(),
            ready: AtomicBool::new(false),
            deleted: Mutex::default(),
        }
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    fn resource(&self) -> Resource<'_> {
        resource(&self.flow.kind)
    }

    /// Brings the status of an object inside in line with what is to be shown.
    async fn show_status(
        &self,
        syncer: &Syncer,
        shown: &Value,
        inside: &Value,
    ) -> Result<(), ApiError> {
        let Some(status) = syncer.translator.custom_status_back(shown, inside) else {
            return Ok(());
        };
        let sub = if self.flow.status_inside {
            "status"
        } else {
            ""
        };
        super::set_status_in(syncer, self.resource(), sub, inside, status).await
    }

    fn watched(&self) -> Watched<'_> {
        Watched {
            resource: self.resource(),
            kept: Kept::Whole,
        }
    }

    fn host_object(&self, t: &Translator, name: &VirtualName) -> Option<Arc<Value>> {
        let kind = &self.flow.kind.kind;
        let place = VirtualName::new(t.host_namespace.as_str(), t.host_name(kind, name));
        let object = self.host.first()?.get(&place)?;
        (t.ours(kind, &object).as_ref() == Some(name)).then_some(object)
    }

    /// Remembers that the host object went, if that of the object that is
    /// there inside.
    fn note_deletion(&self, name: &VirtualName, host: &Value) {
        let uid = object::annotation(host, marks::OBJECT_UID).unwrap_or_default();
        if self
            .inside
            .get(name)
            .is_some_and(|o| object::uid(&o) == uid)
        {
            let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
            deleted.insert(name.clone(), uid.to_owned());
        }
    }

    /// True once if the host object of this incarnation went.
    fn take_deletion(&self, name: &VirtualName, inside: Option<&Value>) -> bool {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = deleted.remove(name);
        noted.is_some_and(|uid| inside.is_some_and(|inside| object::uid(inside) == uid))
    }
}

/// Starts what follows the definitions.
pub(crate) fn spawn(syncer: &Arc<Syncer>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    for key in syncer.customs.keys() {
        tasks.spawn(definition::follow(syncer.clone(), key, stop.clone()));
    }
}

/// Starts the caches of a custom resource that is served.
fn start(
    syncer: &Arc<Syncer>,
    key: Key,
    flow: Flow,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let custom = syncer.customs.get(key);
    let served = Arc::new(Served::new(flow, custom.mappings.len().max(1)));
    syncer.forget_references(Of::Custom(key));
    custom.set_served(Some(served.clone()));
    let watching = (syncer.clone(), served.clone(), stop.clone());
    tasks.spawn(async move {
        let (syncer, served, stop) = watching;
        let tell = |change: Change| {
            let Some(object) = change.object() else {
                return;
            };
            let name = VirtualName::of(object);
            let patches = &syncer.customs.get(key).patches;
            if patches.refer() {
                let new = change.new.as_deref();
                let new = new.map(|object| patches.references(object));
                syncer.update_references(Of::Custom(key), &name, new.unwrap_or_default());
            }
            syncer.queue.push(Of::Custom(key), name);
        };
        let cluster = syncer.inside.cluster.clone();
        let labels = match key {
            Key::ToHost(_) => String::new(),
            Key::FromHost(_) => format!("{}=host", marks::IMPORTED),
        };
        let narrow = Narrow {
            labels,
            ..Narrow::default()
        };
        served
            .inside
            .run(served.watched(), cluster, narrow, stop, tell)
            .await;
    });
    for index in 0..served.host.len() {
        let watching = (syncer.clone(), served.clone(), stop.clone());
        tasks.spawn(async move {
            let (syncer, served, stop) = watching;
            let custom = syncer.customs.get(key);
            let mapping = custom.mappings.get(index);
            let tell = |change: Change| {
                let Some(object) = change.object() else {
                    return;
                };
                let Some(name) = name_inside(&syncer, &served, mapping, object) else {
                    return;
                };
                if mapping.is_none() && change.new.is_none() {
                    served.note_deletion(&name, object);
                }
                syncer.queue.push(Of::Custom(key), name);
            };
            let narrow = mapping.map_or_else(|| syncer.ours_only(), shown::narrow);
            let cluster = syncer.host.cluster.clone();
            served.host[index]
                .run(served.watched(), cluster, narrow, stop, tell)
                .await;
        });
    }
    let (syncer, stop) = (syncer.clone(), stop.clone());
    tasks.spawn(async move {
        let both = async {
            served.inside.synced().await;
            for cache in &served.host {
                cache.synced().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = both => {}
        }
        served.ready.store(true, Ordering::Release);
        for name in served.inside.names() {
            syncer.queue.push(Of::Custom(key), name);
        }
        let custom = syncer.customs.get(key);
        for (index, cache) in served.host.iter().enumerate() {
            for object in cache.select(|_, _| true) {
                let mapping = custom.mappings.get(index);
                if let Some(name) = name_inside(&syncer, &served, mapping, &object) {
                    syncer.queue.push(Of::Custom(key), name);
                }
            }
        }
        if custom.patches.refer() {
            syncer.push_data();
        }
    });
}

/// The object inside that a host object belongs to.
fn name_inside(
    syncer: &Syncer,
    served: &Served,
    mapping: Option<&Mapping>,
    host: &Value,
) -> Option<VirtualName> {
    match mapping {
        None => syncer.translator.ours(&served.flow.kind.kind, host),
        Some(mapping) => {
            let name = mapping.forth(object::name(host))?;
            Some(VirtualName::new(mapping.to_namespace.as_str(), name))
        }
    }
}

pub(crate) async fn reconcile(
    syncer: &Syncer,
    key: Key,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let custom = syncer.customs.get(key);
    let Some(served) = custom.served() else {
        return Ok(Outcome::Done);
    };
    // All are looked at once it is.
    if served.is_ready() {
        match key {
            Key::ToHost(_) => objects::reconcile(syncer, custom, &served, name).await?,
            Key::FromHost(_) => shown::reconcile(syncer, custom, &served, name).await?,
        }
    }
    Ok(Outcome::Done)
}
