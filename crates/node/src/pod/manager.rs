//! All pods of the node: hands each its worker, wakes workers when the
//! runtime has news, and removes what belongs to no pod.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::worker::{PodUpdate, Shared, Worker};
use super::{admission, info};
use crate::cri::LABEL_POD_UID;

/// How often the runtime is listed when it sends events, and when it does not.
const LIST_WITH_EVENTS: Duration = Duration::from_secs(10);
const LIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// Listings after an event, each so long after the one before: containerd
/// sends the event before its own list shows the change.
const LISTS_AFTER_EVENT: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(300),
    Duration::from_millis(1200),
];
/// How often logs are looked at for rotation.
const ROTATION: Duration = Duration::from_secs(60);

/// What the index holds of a pod.
#[derive(Debug, Clone)]
pub struct IndexedPod {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its addresses.
    pub ips: Vec<String>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Address on the node; `None` for all.
    pub host_ip: Option<String>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Port on the node.
    pub port: u16,
    /// The pod's address.
    pub pod_ip: String,
    /// Port of the container.
    pub pod_port: u16,
}

/// The node's pods by uid.
#[derive(Default)]
pub struct PodIndex {
    pods: RwLock<HashMap<String, IndexedPod>>,
    /// Told when a pod's addresses change.
    pub addresses_changed: Notify,
}

impl PodIndex {
    fn set(&self, pod: Arc<Pod>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        match pods.entry(info::uid(&pod).to_owned()) {
            Entry::Occupied(mut entry) => entry.get_mut().pod = pod,
            Entry::Vacant(entry) => {
                entry.insert(IndexedPod {
                    pod,
                    ips: Vec::new(),
                });
            }
        }
    }

    /// Notes a pod's addresses.
    pub fn set_ips(&self, uid: &str, ips: Vec<String>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = pods.get_mut(uid)
            && entry.ips != ips
        {
            entry.ips = ips;
            self.addresses_changed.notify_one();
        }
    }

    fn remove(&self, uid: &str) {
        self.pods
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
        self.addresses_changed.notify_one();
    }

    /// The pod with this name. Of several, the one that is not being deleted.
    pub fn find(&self, namespace: &str, name: &str) -> Option<IndexedPod> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.values()
            .filter(|p| info::namespace(&p.pod) == namespace && info::name(&p.pod) == name)
            .min_by_key(|p| p.pod.metadata.deletion_timestamp.is_some())
            .cloned()
    }

    /// All pods.
    pub fn all(&self) -> Vec<IndexedPod> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.values().cloned().collect()
    }

    /// Ports of the node that lead to pods, in order.
    pub fn host_ports(&self) -> Vec<HostPort> {
        let mut result = Vec::new();
        for entry in self.all() {
            let spec = info::spec(&entry.pod);
            let Some(ip) = entry.ips.first().filter(|_| !spec.host_network()) else {
                continue;
            };
            for container in spec.containers().iter().chain(spec.init_containers()) {
                for port in container.ports.iter().flatten() {
                    let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
                    let (Some(host), Some(inner)) =
                        (port.host_port.and_then(number), number(port.container_port))
                    else {
                        continue;
                    };
                    let host_ip = port.host_ip.clone();
                    result.push(HostPort {
                        host_ip: host_ip.filter(|h| !h.is_empty() && h != "0.0.0.0"),
                        protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                        port: host,
                        pod_ip: ip.clone(),
                        pod_port: inner,
                    });
                }
            }
        }
        result.sort();
        result
    }
}

struct Handle {
    updates: watch::Sender<PodUpdate>,
    changed: Arc<Notify>,
}

/// Runs all pods of the node until shutdown.
pub struct Manager {
    shared: Arc<Shared>,
    handles: HashMap<String, Handle>,
    workers: JoinSet<String>,
    /// Uids listed since the watch began anew.
    listed: HashSet<String>,
    /// Whether the pods have been listed once: only then is it known which
    /// sandboxes are orphans.
    synced: bool,
    /// What each pod's sandboxes and containers looked like last.
    prints: HashMap<String, u64>,
    shutdown: CancellationToken,
}

impl Manager {
    /// A manager that has seen nothing yet.
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self {
            shared,
            handles: HashMap::new(),
            workers: JoinSet::new(),
            listed: HashSet::new(),
            synced: false,
            prints: HashMap::new(),
            shutdown,
        }
    }

    /// Works until shutdown; pods stay as they are.
    pub async fn run(mut self) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let selector = format!("spec.nodeName={}", self.shared.facts.node_name);
        let config = watcher::Config::default().fields(&selector);
        let stream = watcher(api, config).default_backoff();
        futures::pin_mut!(stream);
        let news = Arc::new(Notify::new());
        let _events = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(follow_events(
            self.shared.cri.clone(),
            Arc::clone(&news),
        )));
        let mut rotation = tokio::time::interval(ROTATION);
        rotation.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(event)) => self.handle(event),
                    Some(Err(error)) => tracing::warn!(%error, "pod watch interrupted"),
                    None => return,
                },
                () = news.notified() => self.relist().await,
                Some(done) = self.workers.join_next() => self.worker_done(done),
                _ = rotation.tick() => {
                    let shared = Arc::clone(&self.shared);
                    tokio::spawn(async move {
                        super::logfiles::rotate_all(&shared.cri, &shared.sandbox.log_dir).await;
                    });
                }
                () = shutdown.cancelled() => break,
            }
        }
        while self.workers.join_next().await.is_some() {}
    }

    fn handle(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(pod) => {
                self.listed.insert(info::uid(&pod).to_owned());
                self.update(pod, false);
            }
            watcher::Event::Apply(pod) => self.update(pod, false),
            watcher::Event::Delete(pod) => self.update(pod, true),
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                for (uid, handle) in &self.handles {
                    if !listed.contains(uid) {
                        handle.updates.send_modify(|update| update.gone = true);
                    }
                }
                let first = !std::mem::replace(&mut self.synced, true);
                if first {
                    self.start_orphan_removal();
                }
            }
        }
    }

    fn update(&mut self, pod: Pod, gone: bool) {
        let uid = info::uid(&pod).to_owned();
        // A uid becomes a directory name.
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return;
        }
        let pod = Arc::new(pod);
        if let Some(handle) = self.handles.get(&uid) {
            if !gone {
                self.shared.index.set(Arc::clone(&pod));
            }
            handle.updates.send_replace(PodUpdate { pod, gone });
            return;
        }
        if gone {
            return;
        }
        let others: Vec<Arc<Pod>> = self
            .shared
            .index
            .all()
            .into_iter()
            .map(|other| other.pod)
            .collect();
        let limit = self.shared.config.max_pods as usize;
        let rejected = admission::refusal(&pod, &others, &self.shared.facts, limit);
        self.shared.index.set(Arc::clone(&pod));
        let (updates, receiver) = watch::channel(PodUpdate { pod, gone });
        let changed = Arc::new(Notify::new());
        let worker = Worker::new(
            Arc::clone(&self.shared),
            receiver,
            Arc::clone(&changed),
            rejected,
        );
        let shutdown = self.shutdown.clone();
        let key = uid.clone();
        self.workers.spawn(async move {
            worker.run(shutdown).await;
            key
        });
        self.handles.insert(uid, Handle { updates, changed });
    }

    fn worker_done(&mut self, done: Result<String, tokio::task::JoinError>) {
        match done {
            Ok(uid) => {
                self.handles.remove(&uid);
                self.shared.index.remove(&uid);
                self.prints.remove(&uid);
            }
            Err(error) => tracing::error!(%error, "a pod's worker broke"),
        }
    }

    /// Lists the runtime and wakes the workers of pods that look different.
    async fn relist(&mut self) {
        let listed = tokio::try_join!(
            self.shared.cri.list_sandboxes(None),
            self.shared.cri.list_containers(None)
        );
        let (sandboxes, containers) = match listed {
            Ok(lists) => lists,
            Err(error) => {
                tracing::debug!(%error, "runtime not listed");
                return;
            }
        };
        let mut parts: BTreeMap<String, Vec<(String, i32)>> = BTreeMap::new();
        let uid_of = |labels: &HashMap<String, String>| labels.get(LABEL_POD_UID).cloned();
        for sandbox in sandboxes {
            if let Some(uid) = uid_of(&sandbox.labels) {
                parts
                    .entry(uid)
                    .or_default()
                    .push((sandbox.id, sandbox.state));
            }
        }
        for container in containers {
            if let Some(uid) = uid_of(&container.labels) {
                parts
                    .entry(uid)
                    .or_default()
                    .push((container.id, container.state));
            }
        }
        let mut prints = HashMap::with_capacity(parts.len());
        for (uid, mut list) in parts {
            list.sort();
            prints.insert(uid, fingerprint(&list));
        }
        for (uid, handle) in &self.handles {
            if prints.get(uid) != self.prints.get(uid) {
                handle.changed.notify_one();
            }
        }
        self.prints = prints;
    }

    /// Removes sandboxes and directories that belong to no pod.
    fn start_orphan_removal(&self) {
        let known: HashSet<String> = self.handles.keys().cloned().collect();
        let shared = Arc::clone(&self.shared);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            let work = remove_orphans(&shared, &known);
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

fn fingerprint(parts: &[(String, i32)]) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

async fn remove_orphans(shared: &Shared, known: &HashSet<String>) {
    /// Pause before the runtime is asked again when it is away.
    const PAUSE: Duration = Duration::from_secs(5);
    let sandboxes = loop {
        match shared.cri.list_sandboxes(None).await {
            Ok(list) => break list,
            Err(error) => {
                tracing::debug!(%error, "orphans not listed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    for sandbox in sandboxes {
        let uid = sandbox.labels.get(LABEL_POD_UID);
        let Some(uid) = uid.filter(|uid| !known.contains(*uid)) else {
            continue;
        };
        tracing::info!(sandbox = %sandbox.id, pod = %uid, "removing the sandbox of a pod that is gone");
        let removed = async {
            shared.cri.stop_sandbox(&sandbox.id).await?;
            shared.cri.remove_sandbox(&sandbox.id).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "orphaned sandbox not removed");
        }
        super::kill::remove_cgroups(&shared.sandbox.cgroup_parent, uid).await;
    }
    let is_known = |uid: &str| {
        known.contains(uid) || shared.index.all().iter().any(|p| info::uid(&p.pod) == uid)
    };
    for uid in shared.volumes.pods_on_disk() {
        if !is_known(&uid)
            && let Err(error) = shared.volumes.tear_down(&uid).await
        {
            tracing::warn!(pod = %uid, %error, "orphaned volumes not removed");
        }
    }
    // Its logs go last, so they may be all that is left of a pod, or nearly so.
    for (uid, directory) in super::logfiles::of_others(&shared.sandbox.log_dir, is_known) {
        super::kill::remove_cgroups(&shared.sandbox.cgroup_parent, &uid).await;
        if let Err(error) = tokio::fs::remove_dir_all(&directory).await {
            tracing::warn!(directory = %directory.display(), %error, "orphaned logs not removed");
        }
    }
}

/// Tells `news` when the runtime may have changed: on its events, and from
/// time to time.
async fn follow_events(cri: crate::cri::Cri, news: Arc<Notify>) {
    loop {
        if let Ok(mut events) = cri.task_events().await {
            // What happened before the subscription is seen now.
            news.notify_one();
            // How many of the listings after the last event are done.
            let mut listed = LISTS_AFTER_EVENT.len();
            let mut next = Instant::now() + LIST_WITH_EVENTS;
            loop {
                match tokio::time::timeout_at(next, events.message()).await {
                    Ok(Ok(Some(event))) if event.is_end_of_exec() => {}
                    Ok(Ok(Some(_))) => {
                        listed = 0;
                        next = next.min(Instant::now() + LISTS_AFTER_EVENT[0]);
                    }
                    Ok(Ok(None) | Err(_)) => break,
                    Err(_) => {
                        news.notify_one();
                        listed = listed.saturating_add(1);
                        let pause = LISTS_AFTER_EVENT.get(listed).copied();
                        next = Instant::now() + pause.unwrap_or(LIST_WITH_EVENTS);
                    }
                }
            }
        }
        news.notify_one();
        tokio::time::sleep(LIST_WITHOUT_EVENTS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn host_ports_need_an_address() {
        let index = PodIndex::default();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"},
                {"containerPort": 81}]}]}
        }))
        .unwrap();
        index.set(Arc::new(pod));
        assert!(index.host_ports().is_empty());
        index.set_ips("u", vec!["10.1.0.2".into()]);
        let ports = index.host_ports();
        assert_eq!(ports.len(), 2);
        assert!(
            ports
                .iter()
                .any(|p| p.port == 8080 && p.host_ip.is_none() && p.pod_port == 80)
        );
        assert!(
            ports
                .iter()
                .any(|p| p.protocol == "udp" && p.host_ip.as_deref() == Some("10.0.0.1"))
        );
        assert!(index.find("ns", "p").is_some() && index.find("ns", "q").is_none());
    }
}
