//! Custom resources. Which there are is the user's choice and what they look
//! like is the host's, so they have caches of their own beside those of the
//! fixed kinds: made when their definition is served on both sides, and made
//! anew when it becomes another. With none chosen nothing of this runs.

mod definition;
mod objects;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use coracle_config::model::custom;
use coracle_config::{Config, CustomName};
use coracle_machinery::object;
use coracle_translate::{CustomKind, Patches, Translator, VirtualName};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, Narrow, Resource};
use crate::cache::{Cache, Change, Kept, Watched};
use crate::engine::Syncer;
use crate::queue::{Of, Outcome};

/// One of the custom resources, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Objects that flow to the host.
    ToHost(usize),
}

/// All of them.
pub(crate) struct Customs {
    to_host: Vec<Custom>,
}

/// One custom resource.
struct Custom {
    name: CustomName,
    patches: Patches,
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
    host: Cache,
    /// Both caches are complete: what is missing is absent.
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
    pub(crate) fn new(config: &Config) -> Self {
        let to_host = custom::to_host(&config.sync.to_host.custom_resources);
        let to_host = to_host.into_iter().map(|(name, choice)| Custom {
            name,
            patches: Patches::to_host(&choice.patches),
            definitions: Definitions {
                inside: Cache::new(),
                host: Cache::new(),
                changed: Notify::new(),
            },
            served: RwLock::default(),
        });
        Self {
            to_host: to_host.collect(),
        }
    }

    fn get(&self, key: Key) -> &Custom {
        let Key::ToHost(index) = key;
        &self.to_host[index]
    }

    /// True while it is not known which ConfigMaps and Secrets custom objects
    /// refer to.
    pub(crate) fn may_refer(&self) -> bool {
        let open = |custom: &Custom| custom.served().is_none_or(|served| !served.is_ready());
        self.to_host
            .iter()
            .any(|custom| custom.patches.refer() && open(custom))
    }

    /// The object inside.
    pub(crate) fn inside(&self, key: Key, name: &VirtualName) -> Option<Arc<Value>> {
        self.get(key).served()?.inside.get(name)
    }
}

impl Custom {
    fn served(&self) -> Option<Arc<Served>> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served.clone()
    }

    fn set_served(&self, served: Option<Arc<Served>>) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

impl Served {
    fn new(flow: Flow) -> Self {
        Self {
            flow,
            inside: Cache::new(),
            host: Cache::new(),
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

    fn watched(&self) -> Watched<'_> {
        Watched {
            resource: self.resource(),
            kept: Kept::Whole,
        }
    }

    fn host_object(&self, t: &Translator, name: &VirtualName) -> Option<Arc<Value>> {
        let kind = &self.flow.kind.kind;
        let place = VirtualName::new(t.host_namespace.as_str(), t.host_name(kind, name));
        let object = self.host.get(&place)?;
        (t.ours(kind, &object).as_ref() == Some(name)).then_some(object)
    }

    /// Remembers that the host object went, if that of the object that is
    /// there inside.
    fn note_deletion(&self, name: &VirtualName, host: &Value) {
        let uid = object::annotation(host, coracle_config::marks::OBJECT_UID).unwrap_or_default();
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
    for index in 0..syncer.customs.to_host.len() {
        let key = Key::ToHost(index);
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
    let served = Arc::new(Served::new(flow));
    syncer.forget_references(Of::Custom(key));
    syncer.customs.get(key).set_served(Some(served.clone()));
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
        served
            .inside
            .run(served.watched(), cluster, Narrow::default(), stop, tell)
            .await;
    });
    let watching = (syncer.clone(), served.clone(), stop.clone());
    tasks.spawn(async move {
        let (syncer, served, stop) = watching;
        let tell = |change: Change| {
            let Some(object) = change.object() else {
                return;
            };
            let kind = &served.flow.kind.kind;
            if let Some(name) = syncer.translator.ours(kind, object) {
                if change.new.is_none() {
                    served.note_deletion(&name, object);
                }
                syncer.queue.push(Of::Custom(key), name);
            }
        };
        let cluster = syncer.host.cluster.clone();
        served
            .host
            .run(served.watched(), cluster, syncer.ours_only(), stop, tell)
            .await;
    });
    let (syncer, stop) = (syncer.clone(), stop.clone());
    tasks.spawn(async move {
        let both = async {
            served.inside.synced().await;
            served.host.synced().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = both => {}
        }
        served.ready.store(true, Ordering::Release);
        let kind = &served.flow.kind.kind;
        let of_host = served.host.select(|_, _| true);
        let of_host = of_host
            .iter()
            .filter_map(|o| syncer.translator.ours(kind, o));
        for name in served.inside.names().into_iter().chain(of_host) {
            syncer.queue.push(Of::Custom(key), name);
        }
        if syncer.customs.get(key).patches.refer() {
            syncer.push_data();
        }
    });
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
        objects::reconcile(syncer, custom, &served, name).await?;
    }
    Ok(Outcome::Done)
}
