//! The syncer's frame: caches of both sides feed the work queue, workers
//! reconcile one key at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::node::is_marked_lost;
use coracle_translate::{
    DataKind, Patches, Reference, Translator, VirtualName, is_controller_made_slice, references,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::{ApiError, Cluster, Narrow};
use crate::cache::{Cache, Change};
use crate::kinds::Kind;
use crate::queue::{Key, Of, Outcome, Queue};
use crate::sync;
use crate::{Error, SyncerConfig, kubelet};

/// Reconciliations at once. Each is a handful of requests; more would only
/// wait on the same two servers.
const WORKERS: usize = 32;

/// Pause while the host or the virtual API server cannot be reached at start.
const START_PAUSE: Duration = Duration::from_millis(200);

/// How long requests under way may take once the syncer is to stop. What is
/// cut off is found and finished by the next run.
const DRAIN: Duration = Duration::from_secs(5);

/// Caches by kind; `None` where a kind is not watched on that side.
pub(crate) struct Side {
    pub(crate) cluster: Cluster,
    caches: [Option<Cache>; Kind::COUNT],
}

impl Side {
    fn new(cluster: Cluster, kinds: &[Kind]) -> Self {
        let mut caches = [const { None }; Kind::COUNT];
        for kind in kinds {
            caches[*kind as usize] = Some(Cache::new());
        }
        Self { cluster, caches }
    }

    pub(crate) fn cache(&self, kind: Kind) -> Option<&Cache> {
        self.caches[kind as usize].as_ref()
    }

    pub(crate) fn get(&self, kind: Kind, name: &VirtualName) -> Option<Arc<Value>> {
        self.cache(kind)?.get(name)
    }
}

/// Which objects refer to which data objects, both ways.
#[derive(Default)]
struct References {
    from: HashMap<(Of, VirtualName), BTreeSet<Reference>>,
    to: HashMap<Reference, HashSet<(Of, VirtualName)>>,
}

/// Everything that reconciliations share.
pub(crate) struct Syncer {
    pub(crate) translator: Translator,
    pub(crate) inside: Side,
    pub(crate) host: Side,
    pub(crate) queue: Queue,
    pub(crate) pod_ip: String,
    pub(crate) kubelet_port: u16,
    /// The address of the virtual cluster's own host Service.
    pub(crate) own_service: Value,
    /// The node that the control plane runs on, once it is known.
    pub(crate) own_node: String,
    /// The host's version, as nodes show it.
    pub(crate) host_version: String,
    references: Mutex<References>,
    pub(crate) tokens: sync::tokens::Tokens,
    /// The pods of the whole host, if a scheduler inside has to know them.
    pub(crate) others: Option<Cache>,
    /// Host objects that mappings name.
    pub(crate) sources: sync::sources::Sources,
    /// Custom resources.
    pub(crate) customs: sync::custom::Customs,
}

pub(crate) async fn run(config: SyncerConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let listener = kubelet::bind(&config.kubelet).await?;
    let kubelet_port = config.kubelet.advertised_port(&listener);
    let mut translator = Translator::new(
        &config.vc_name,
        &config.host_namespace,
        Arc::new(config.config.clone()),
    );
    translator.image.clone_from(&config.image);
    let host_cluster = Cluster::new(config.host_client.clone());
    let started = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        started = start(&config, translator, host_cluster, kubelet_port) => started,
    };
    let syncer = Arc::new(started);
    info!(
        virtual_cluster = config.vc_name,
        namespace = config.host_namespace,
        "syncing"
    );

    let mut tasks = JoinSet::new();
    tasks.spawn(kubelet::serve(
        listener,
        kubelet::Pods::new(syncer.clone(), config.host_tunnel_client.clone()),
        shutdown.clone(),
    ));
    spawn_caches(&syncer, &mut tasks, &shutdown);
    sync::sources::spawn(&syncer, &mut tasks, &shutdown);
    sync::custom::spawn(&syncer, &mut tasks, &shutdown);
    tasks.spawn(sync::events::run(syncer.clone(), shutdown.clone()));
    tasks.spawn(sync::imports::sweep(syncer.clone(), shutdown.clone()));
    tasks.spawn(sync::selection::once_known(
        syncer.clone(),
        shutdown.clone(),
    ));
    tasks.spawn(sync::usage::watch(syncer.clone(), shutdown.clone()));
    tasks.spawn(sync::nodes::heartbeats(syncer.clone(), shutdown.clone()));
    tasks.spawn(sync::publish::run(
        syncer.clone(),
        config.published,
        shutdown.clone(),
    ));
    // Work ends for good once the virtual cluster itself is being deleted.
    let working = shutdown.child_token();
    tasks.spawn(sync::owner::watch(syncer.clone(), working.clone()));
    tasks.spawn(work(syncer.clone(), working));
    shutdown.cancelled().await;
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        debug!("gave up waiting for requests under way");
    }
    Ok(())
}

/// Learns what everything else depends on; waits for the host to answer.
async fn start(
    config: &SyncerConfig,
    mut translator: Translator,
    host: Cluster,
    kubelet_port: u16,
) -> Syncer {
    let namespace = config.host_namespace.as_str();
    let service_name = coracle_config::names::service(&config.vc_name);
    let own_service = wait_for(
        &host,
        Kind::Service,
        namespace,
        &service_name,
        "/spec/clusterIP",
    )
    .await;
    translator.owner = Some(json!({
        "apiVersion": "v1", "kind": "Service",
        "name": service_name, "uid": object::uid(&own_service),
    }));
    let pod_name = coracle_config::names::pod(&config.vc_name);
    let own_pod = wait_for(&host, Kind::Pod, namespace, &pod_name, "/spec/nodeName").await;
    let own_node = object::text(&own_pod, "/spec/nodeName").to_owned();
    let host_version = match host.get_path("/version").await {
        Ok(version) => object::text(&version, "/gitVersion").to_owned(),
        Err(error) => {
            debug!(%error, "the host does not tell its version");
            String::new()
        }
    };
    let to_host = Kind::to_host(&config.config);
    let imported = Kind::imported(&config.config);
    let mut inside = to_host.clone();
    inside.extend([Kind::Node, Kind::Namespace]);
    inside.extend(to_host.contains(&Kind::Claim).then_some(Kind::Volume));
    inside.extend(imported.iter().filter(|kind| **kind != Kind::Node));
    let on_host = [to_host, imported].concat();
    let sources = sync::sources::Sources::new(&config.config, &config.host_namespace);
    inside.extend(
        [Kind::ConfigMap, Kind::Secret]
            .iter()
            .filter(|kind| sources.has(**kind)),
    );
    Syncer {
        translator,
        inside: Side::new(Cluster::new(config.virtual_client.clone()), &inside),
        host: Side::new(host, &on_host),
        queue: Queue::default(),
        pod_ip: config.pod_ip.to_string(),
        kubelet_port,
        own_service,
        own_node,
        host_version,
        references: Mutex::default(),
        tokens: sync::tokens::Tokens::default(),
        others: sync::usage::counts(&config.config).then(Cache::new),
        sources,
        customs: sync::custom::Customs::new(&config.config, &config.host_namespace),
    }
}

/// Asks until the object is there and has a text at `pointer`.
async fn wait_for(host: &Cluster, kind: Kind, namespace: &str, name: &str, pointer: &str) -> Value {
    let mut told = false;
    loop {
        match host.get(kind.resource(), namespace, name).await {
            Ok(Some(found)) if !object::text(&found, pointer).is_empty() => return found,
            Ok(_) if !told => warn!(?kind, name, "waiting for the host object"),
            Err(error) if !told => warn!(?kind, name, %error, "waiting for the host object"),
            _ => {}
        }
        told = true;
        tokio::time::sleep(START_PAUSE).await;
    }
}

fn spawn_caches(syncer: &Arc<Syncer>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    for index in ALL {
        let kind = *index;
        for inside in [true, false] {
            let side = if inside { &syncer.inside } else { &syncer.host };
            if side.cache(kind).is_none() {
                continue;
            }
            let (syncer, stop) = (syncer.clone(), stop.clone());
            tasks.spawn(async move {
                let side = if inside { &syncer.inside } else { &syncer.host };
                let narrow = if kind == Kind::Volume && !syncer.flows_as_class(kind) {
                    Narrow {
                        labels: format!("{}=host", marks::IMPORTED),
                        ..Narrow::default()
                    }
                } else if !inside
                    && let Some(chosen) = sync::selection::selector(&syncer.translator.config, kind)
                {
                    Narrow {
                        labels: chosen.to_string(),
                        ..Narrow::default()
                    }
                } else if !inside && syncer.flows_as_class(kind) {
                    Narrow {
                        labels: syncer.translator.class_selector(),
                        ..Narrow::default()
                    }
                } else if inside || kind.is_cluster_scoped() {
                    Narrow::default()
                } else {
                    syncer.ours_only()
                };
                let Some(cache) = side.cache(kind) else {
                    return;
                };
                let tell = |change: Change| {
                    if inside {
                        syncer.inside_changed(kind, &change);
                    } else {
                        syncer.host_changed(kind, &change);
                    }
                };
                cache
                    .run(kind.watched(), side.cluster.clone(), narrow, stop, tell)
                    .await;
            });
        }
    }
}

const ALL: &[Kind] = &[
    Kind::Namespace,
    Kind::Volume,
    Kind::Node,
    Kind::IngressClass,
    Kind::StorageClass,
    Kind::RuntimeClass,
    Kind::PriorityClass,
    Kind::ServiceAccount,
    Kind::Service,
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::Claim,
    Kind::Endpoints,
    Kind::EndpointSlice,
    Kind::Ingress,
    Kind::NetworkPolicy,
    Kind::DisruptionBudget,
];

/// Takes keys once everything is known; before that, what is missing on one
/// side could be taken for deleted.
async fn work(syncer: Arc<Syncer>, stop: CancellationToken) {
    let synced = async {
        for kind in ALL {
            for (side, on_host) in [(&syncer.inside, false), (&syncer.host, true)] {
                // What is shown of the whole host may be forbidden: then that
                // alone is missing.
                let optional = on_host && kind.is_cluster_scoped();
                if let Some(cache) = side.cache(*kind).filter(|_| !optional) {
                    cache.synced().await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = synced => {}
    }
    syncer
        .queue
        .push(Kind::Service, VirtualName::new("default", "kubernetes"));
    syncer
        .queue
        .push(Kind::Service, VirtualName::new("kube-system", "kube-dns"));
    syncer
        .queue
        .push(Kind::Node, VirtualName::new("", syncer.own_node.as_str()));
    let workers = Arc::new(Semaphore::new(WORKERS));
    let mut running = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = workers.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let key = tokio::select! {
            () = stop.cancelled() => break,
            key = syncer.queue.next() => key,
        };
        while running.try_join_next().is_some() {}
        let syncer = syncer.clone();
        running.spawn(async move {
            let outcome = syncer.reconcile(&key).await;
            syncer.queue.finish(key, outcome);
            drop(permit);
        });
    }
    // What is under way ends by itself: every request has a time limit.
    while running.join_next().await.is_some() {}
}

impl Syncer {
    pub(crate) fn ours_only(&self) -> Narrow {
        Narrow {
            namespace: self.translator.host_namespace.clone(),
            labels: format!("{}={}", marks::MANAGED_BY, self.translator.vc),
            name: String::new(),
        }
    }

    /// True for a kind that lies in no namespace and of which the tenant's go to
    /// the host.
    fn flows_as_class(&self, kind: Kind) -> bool {
        let to_host = &self.translator.config.sync.to_host;
        match kind {
            Kind::PriorityClass => to_host.priority_classes.enabled,
            Kind::StorageClass => to_host.storage_classes.enabled,
            Kind::Volume => to_host.persistent_volumes.enabled,
            _ => false,
        }
    }

    async fn reconcile(&self, key: &Key) -> Outcome {
        let result = match key.of {
            Of::Kind(kind) => self.reconcile_kind(kind, &key.name).await,
            Of::Custom(custom) => sync::custom::reconcile(self, custom, &key.name).await,
        };
        match result {
            Ok(outcome) => outcome,
            Err(error) if error.is_conflict() => {
                debug!(?key, %error, "changed meanwhile");
                Outcome::Failed
            }
            Err(error) => {
                warn!(?key, %error, "cannot reconcile");
                let object = match key.of {
                    Of::Kind(kind) => self.inside.get(kind, &key.name),
                    Of::Custom(custom) => self.customs.inside(custom, &key.name),
                };
                if let Some(object) = object.filter(|_| error.is_users_concern()) {
                    sync::events::warn(self, &object, "SyncError", &error.to_string()).await;
                }
                Outcome::Failed
            }
        }
    }

    async fn reconcile_kind(&self, kind: Kind, name: &VirtualName) -> Result<Outcome, ApiError> {
        match kind {
            Kind::Pod => sync::pods::reconcile(self, name).await,
            Kind::Service => sync::services::reconcile(self, name).await,
            Kind::Endpoints | Kind::EndpointSlice => {
                sync::endpoints::reconcile(self, kind, name).await
            }
            Kind::ConfigMap => sync::data::reconcile(self, DataKind::ConfigMap, name).await,
            Kind::Secret => sync::data::reconcile(self, DataKind::Secret, name).await,
            Kind::Claim => sync::claims::reconcile(self, name).await,
            Kind::Ingress | Kind::NetworkPolicy | Kind::DisruptionBudget | Kind::ServiceAccount => {
                sync::plain::reconcile(self, kind, name).await
            }
            Kind::Volume => sync::volumes::reconcile(self, &name.name).await,
            kind if self.flows_as_class(kind) => sync::classes::reconcile(self, kind, name).await,
            Kind::IngressClass | Kind::StorageClass | Kind::RuntimeClass | Kind::PriorityClass => {
                sync::imports::reconcile(self, kind, name).await
            }
            Kind::Node => sync::nodes::reconcile(self, &name.name).await,
            Kind::Tokens => sync::tokens::reconcile(self, name).await,
            Kind::Alias => sync::aliases::reconcile(self, &name.name).await,
            Kind::Replica => sync::replicas::reconcile(self, name).await,
            Kind::ShownConfigMap => sync::shown::reconcile(self, DataKind::ConfigMap, name).await,
            Kind::ShownSecret => sync::shown::reconcile(self, DataKind::Secret, name).await,
            Kind::Namespace => Ok(Outcome::Done),
        }
    }

    /// The host object of a virtual one from the cache, if it is ours.
    pub(crate) fn host_object(&self, kind: Kind, name: &VirtualName) -> Option<Arc<Value>> {
        let host_name = self.translator.host_name(kind.resource().kind, name);
        let place = VirtualName::new(self.translator.host_namespace.as_str(), host_name);
        let object = self.host.get(kind, &place)?;
        (self.translator.ours(kind.resource().kind, &object).as_ref() == Some(name))
            .then_some(object)
    }

    /// A change inside.
    fn inside_changed(&self, kind: Kind, change: &Change) {
        let Some(object) = change.object() else {
            return;
        };
        let name = VirtualName::of(object);
        if self.may_refer(kind) {
            let new = change.new.as_deref();
            let new = new.map(|object| self.references_of(kind, object));
            self.update_references(kind.into(), &name, new.unwrap_or_default());
        }
        match kind {
            Kind::Namespace => {
                let labels = |o: &Option<Arc<Value>>| {
                    o.as_ref()
                        .and_then(|o| o.pointer("/metadata/labels").cloned())
                };
                if change.old.is_some()
                    && change.new.is_some()
                    && labels(&change.old) != labels(&change.new)
                {
                    self.push_all(Kind::Pod, Some(&name.name));
                }
                return;
            }
            Kind::Claim if change.new.is_none() => {
                let volume = object::text(object, "/spec/volumeName");
                self.queue.push(Kind::Volume, VirtualName::new("", volume));
            }
            Kind::Volume if change.new.is_none() => {
                self.queue.push(Kind::Claim, sync::claims::claim_of(object));
            }
            // Some claim may wait for it.
            Kind::Volume if !self.translator.is_imported(object) => self.push_unbound_claims(),
            Kind::Service => {
                for host_name in sync::aliases::of(self, &name) {
                    self.queue
                        .push(Kind::Alias, VirtualName::new("", host_name));
                }
                // Whether these flow depends on the Service's selector.
                self.queue.push(Kind::Endpoints, name.clone());
                for slice in self.slices_of(&name) {
                    self.queue.push(Kind::EndpointSlice, slice);
                }
            }
            _ => {}
        }
        if kind == Kind::Pod {
            self.node_may_have_changed(change);
            if change.new.is_none() {
                self.queue.push(Kind::Tokens, name.clone());
            }
        }
        if let Some(key) = sync::sources::key(kind)
            && (self.translator.is_shown(object) || self.sources.leads_to(kind, &name))
        {
            self.queue.push(key, name.clone());
        }
        self.queue.push(kind, name);
    }

    /// Has what is shown of the host's objects of this kind looked at.
    pub(crate) fn push_shown(&self, kind: Kind) {
        let (Some(key), Some(cache)) = (sync::sources::key(kind), self.inside.cache(kind)) else {
            return;
        };
        for object in cache.select(|_, object| self.translator.is_shown(object)) {
            self.queue.push(key, VirtualName::of(&object));
        }
    }

    /// A change on the host.
    fn host_changed(&self, kind: Kind, change: &Change) {
        let Some(object) = change.object() else {
            return;
        };
        if self.flows_as_class(kind) {
            if let Some(name) = self.translator.our_class(kind.resource().kind, object) {
                self.queue.push(kind, name);
            }
            return;
        }
        if kind.is_cluster_scoped() {
            self.queue.push(kind, VirtualName::of(object));
            let came_or_went = change.old.is_none() || change.new.is_none();
            if came_or_went && sync::selection::selector(&self.translator.config, kind).is_some() {
                for user in sync::selection::users(kind) {
                    self.push_all(*user, None);
                }
            }
            return;
        }
        if kind == Kind::Secret
            && let Some(pod) = self.tokens.note(&self.translator, change)
        {
            self.queue.push(Kind::Tokens, pod);
            return;
        }
        if kind == Kind::Service && self.translator.alias_of(object).is_some() {
            let name = object::name(object);
            self.queue.push(Kind::Alias, VirtualName::new("", name));
            return;
        }
        let Some(name) = self.translator.ours(kind.resource().kind, object) else {
            return;
        };
        if kind == Kind::Pod {
            self.node_may_have_changed(change);
            if change.new.is_none() {
                self.queue.push(Kind::Tokens, name.clone());
            }
        }
        self.queue.push(kind, name);
    }

    fn slices_of(&self, service: &VirtualName) -> Vec<VirtualName> {
        let Some(cache) = self.inside.cache(Kind::EndpointSlice) else {
            return Vec::new();
        };
        let slices = cache.select(|name, slice| {
            name.namespace == service.namespace
                && self.translator.slice_service(slice) == Some(service.name.as_str())
                && !is_controller_made_slice(slice)
        });
        slices.iter().map(|slice| VirtualName::of(slice)).collect()
    }

    /// Has the host's copies of ConfigMaps and Secrets looked at.
    pub(crate) fn push_data(&self) {
        for kind in [Kind::ConfigMap, Kind::Secret] {
            let Some(cache) = self.host.cache(kind) else {
                continue;
            };
            for host in cache.select(|_, _| true) {
                if let Some(name) = self.translator.ours(kind.resource().kind, &host) {
                    self.queue.push(kind, name);
                }
            }
        }
    }

    /// Has all objects of a kind looked at, or those of one namespace.
    pub(crate) fn push_all(&self, kind: Kind, namespace: Option<&str>) {
        if let Some(cache) = self.inside.cache(kind) {
            for name in cache.names() {
                if namespace.is_none_or(|namespace| name.namespace == namespace) {
                    self.queue.push(kind, name);
                }
            }
        }
    }

    fn push_unbound_claims(&self) {
        let unbound = |claim: &Value| object::text(claim, "/status/phase") != "Bound";
        let cache = self.inside.cache(Kind::Claim);
        for claim in cache
            .map(|c| c.select(|_, claim| unbound(claim)))
            .unwrap_or_default()
        {
            self.queue.push(Kind::Claim, VirtualName::of(&claim));
        }
    }

    /// A pod came to a node or left one.
    fn node_may_have_changed(&self, change: &Change) {
        let node = |o: &Option<Arc<Value>>| {
            o.as_ref()
                .map(|o| object::text(o, "/spec/nodeName").to_owned())
                .unwrap_or_default()
        };
        let lost = |o: &Option<Arc<Value>>| o.as_deref().is_some_and(is_marked_lost);
        let (old, new) = (node(&change.old), node(&change.new));
        if old != new || lost(&change.old) != lost(&change.new) {
            for node in [old, new] {
                if !node.is_empty() {
                    self.queue.push(Kind::Node, VirtualName::new("", node));
                }
            }
        }
    }

    fn may_refer(&self, kind: Kind) -> bool {
        let patches = self.translator.patches.to_host(kind.resource().kind);
        matches!(kind, Kind::Pod | Kind::Ingress) || patches.is_some_and(Patches::refer)
    }

    /// The ConfigMaps and Secrets that an object refers to, by itself or by the
    /// patches of its kind.
    pub(crate) fn references_of(&self, kind: Kind, object: &Value) -> BTreeSet<Reference> {
        let mut all = match kind {
            Kind::Pod | Kind::Ingress => references(object),
            _ => BTreeSet::new(),
        };
        if let Some(patches) = self.translator.patches.to_host(kind.resource().kind) {
            all.extend(patches.references(object));
        }
        all
    }

    /// Forgets what all objects of a custom resource refer to.
    pub(crate) fn forget_references(&self, of: Of) {
        let mut table = self
            .references
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.from.retain(|(source, _), _| *source != of);
        for sources in table.to.values_mut() {
            sources.retain(|(source, _)| *source != of);
        }
        table.to.retain(|_, sources| !sources.is_empty());
    }

    /// Notes what an object refers to from now on.
    pub(crate) fn update_references(&self, of: Of, name: &VirtualName, new: BTreeSet<Reference>) {
        let source = (of, name.clone());
        let mut table = self
            .references
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = if new.is_empty() {
            table.from.remove(&source).unwrap_or_default()
        } else {
            table
                .from
                .insert(source.clone(), new.clone())
                .unwrap_or_default()
        };
        let mut changed = Vec::new();
        for gone in old.difference(&new) {
            if let Some(sources) = table.to.get_mut(gone) {
                sources.remove(&source);
                if sources.is_empty() {
                    table.to.remove(gone);
                    changed.push(gone.clone());
                }
            }
        }
        for added in new.difference(&old) {
            if table
                .to
                .entry(added.clone())
                .or_default()
                .insert(source.clone())
            {
                changed.push(added.clone());
            }
        }
        drop(table);
        for reference in changed {
            let kind = match reference.kind {
                DataKind::ConfigMap => Kind::ConfigMap,
                DataKind::Secret => Kind::Secret,
            };
            self.queue
                .push(kind, VirtualName::new(reference.namespace, reference.name));
        }
    }

    /// True if something that flows to the host refers to the data object.
    pub(crate) fn is_referenced(&self, reference: &Reference) -> bool {
        let table = self
            .references
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.to.contains_key(reference)
    }
}
