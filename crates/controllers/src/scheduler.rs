//! The scheduler: finds a node for each pod that asks for one.

mod affinity;
mod cluster;
mod filter;
mod needs;
mod preempt;
mod score;
mod spread;
mod verdict;
mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::api::{Api, Delete};
use crate::context::{Context, Task};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::core::{Namespace, Node};
use crate::objects::pod::Pod;
use crate::objects::storage::{Claim, StorageClass, Volume};
use crate::objects::{Kind, condition, time};
use crate::queue::{Key, Next, Queue};

use cluster::Cluster;
use verdict::Unplaced;

/// Bindings under way at once. Decisions are made one at a time.
const WORKERS: usize = 32;
/// Pauses of a pod that found no node, once something changed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// A pod that waits is looked at again after this time even if nothing that is
/// known to matter changed.
const LOOK_ANYWAY: Duration = Duration::from_secs(300);

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Pods with this `spec.schedulerName` are placed; others are only counted.
    pub scheduler_name: String,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
        }
    }
}

struct Scheduler {
    api: Api,
    context: Context,
    name: String,
    pods: Arc<Store<Pod>>,
    namespaces: Arc<Store<Namespace>>,
    volumes: volumes::Volumes,
    cluster: Arc<Mutex<Cluster>>,
    waiting: Arc<Waiting>,
}

/// Pods that found no node, and how often they tried; zero for those whose
/// volumes are being made.
#[derive(Default)]
struct Waiting {
    pods: Mutex<HashMap<Key, u32>>,
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u32>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed: every waiting pod tries again, after a pause that
    /// grows with its attempts; none for one that waits for its volumes.
    fn wake(&self, queue: &Queue) {
        for (key, attempts) in self.lock().iter() {
            let pause = match attempts.checked_sub(1) {
                Some(failures) => FIRST_PAUSE * 2u32.pow(failures.min(4)),
                None => Duration::ZERO,
            };
            queue.add_after(key.clone(), pause.min(MAX_PAUSE));
        }
    }
}

/// Registers the scheduler and returns its work.
pub(crate) fn start(context: &Context, options: SchedulerOptions) -> Task {
    let queue = Queue::new();
    let pods = context.store::<Pod>();
    let cluster: Arc<Mutex<Cluster>> = Arc::default();
    let waiting: Arc<Waiting> = Arc::default();
    let volumes = volumes::Volumes {
        claims: context.store::<Claim>(),
        volumes: context.store::<Volume>(),
        classes: context.store::<StorageClass>(),
    };
    watch_pods(&pods, &options.scheduler_name, &cluster, &waiting, &queue);
    watch_nodes(&context.store::<Node>(), &cluster, &waiting, &queue);
    for_each_change(&volumes.claims, &waiting, &queue);
    for_each_change(&volumes.volumes, &waiting, &queue);
    for_each_change(&volumes.classes, &waiting, &queue);
    let scheduler = Arc::new(Scheduler {
        api: context.api.clone(),
        context: context.clone(),
        name: options.scheduler_name,
        pods,
        namespaces: context.store::<Namespace>(),
        volumes,
        cluster,
        waiting,
    });
    context.work("scheduler", WORKERS, queue, move |key| {
        let scheduler = scheduler.clone();
        async move { scheduler.schedule(key).await }
    })
}

fn for_each_change<T: Kind>(store: &Store<T>, waiting: &Arc<Waiting>, queue: &Arc<Queue>) {
    let (waiting, queue) = (waiting.clone(), queue.clone());
    store.subscribe(move |_| waiting.wake(&queue));
}

fn watch_pods(
    pods: &Store<Pod>,
    scheduler: &str,
    cluster: &Arc<Mutex<Cluster>>,
    waiting: &Arc<Waiting>,
    queue: &Arc<Queue>,
) {
    let (cluster, waiting, queue) = (cluster.clone(), waiting.clone(), queue.clone());
    let scheduler = scheduler.to_owned();
    pods.subscribe(move |change| {
        let uses_node = |pod: &&Arc<Pod>| !pod.spec.node_name.is_empty() && !pod.is_finished();
        let (before, after) = (change.old.filter(uses_node), change.new.filter(uses_node));
        {
            let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
            match after {
                Some(pod) => cluster.add_pod(pod.clone()),
                None => {
                    let latest = change.latest();
                    // A pod that is being bound keeps its place until the
                    // watch shows it bound, gone or finished.
                    let over = change.new.is_none() || latest.is_finished();
                    if before.is_some() || over {
                        cluster.remove_pod(&latest.metadata.uid);
                    }
                }
            }
        }
        // A place became free, or a pod came that others want to be near.
        if before.is_some() != after.is_some() {
            waiting.wake(&queue);
        }
        match change.new {
            None => {
                waiting.lock().remove(&change.latest().metadata.key());
            }
            Some(pod) if is_ours(pod, &scheduler) => {
                let key = pod.metadata.key();
                let retry = change.old.is_none_or(|old| {
                    old.spec.scheduling_gates.len() != pod.spec.scheduling_gates.len()
                        || old.metadata.labels != pod.metadata.labels
                });
                if retry {
                    queue.add(key);
                }
            }
            Some(_) => {}
        }
    });
}

fn watch_nodes(
    nodes: &Store<Node>,
    cluster: &Arc<Mutex<Cluster>>,
    waiting: &Arc<Waiting>,
    queue: &Arc<Queue>,
) {
    let (cluster, waiting, queue) = (cluster.clone(), waiting.clone(), queue.clone());
    nodes.subscribe(move |change| {
        let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        match change.new {
            Some(node) => cluster.set_node(node.clone()),
            None => cluster.remove_node(&change.latest().metadata.name),
        }
        drop(cluster);
        let matters = match (change.old, change.new) {
            (Some(old), Some(new)) => {
                old.spec.unschedulable != new.spec.unschedulable
                    || old.spec.taints != new.spec.taints
                    || old.metadata.labels != new.metadata.labels
                    || old.status.allocatable != new.status.allocatable
            }
            (_, new) => new.is_some(),
        };
        if matters {
            waiting.wake(&queue);
        }
    });
}

fn is_ours(pod: &Pod, scheduler: &str) -> bool {
    let name = pod.spec.scheduler_name.as_str();
    let name = if name.is_empty() {
        "default-scheduler"
    } else {
        name
    };
    pod.spec.node_name.is_empty() && pod.is_active() && name == scheduler
}

/// A decision about one pod.
enum Decision {
    /// It has a place already; the cache does not show it yet.
    Placed,
    Place(String),
    /// The pod's volumes are being made for this node; it is placed after.
    Prepare(String, Vec<Key>),
    Refuse(Unplaced, Option<preempt::Nomination>),
}

impl Scheduler {
    async fn schedule(&self, key: Key) -> Result<Next, Error> {
        let Some(pod) = self
            .pods
            .by_key(&key)
            .filter(|pod| is_ours(pod, &self.name))
        else {
            self.waiting.lock().remove(&key);
            return Ok(Next::Wait);
        };
        if !pod.spec.scheduling_gates.is_empty() {
            self.waiting.lock().remove(&key);
            return Ok(Next::Wait);
        }
        match self.decide(&pod) {
            Decision::Placed => Ok(Next::Wait),
            Decision::Place(node) => self.bind(&key, &pod, &node).await,
            Decision::Prepare(node, claims) => {
                for claim in claims {
                    let patch = json!({"metadata": {"annotations": {
                        "volume.kubernetes.io/selected-node": node,
                    }}});
                    let (namespace, name) = (&claim.namespace, &claim.name);
                    found(
                        self.api
                            .patch(Claim::RESOURCE, namespace, name, "", &patch)
                            .await,
                    )?;
                }
                // The claim's binding wakes the pod.
                self.waiting.lock().insert(key, 0);
                Ok(Next::After(LOOK_ANYWAY))
            }
            Decision::Refuse(unplaced, nomination) => {
                *self.waiting.lock().entry(key).or_insert(0) += 1;
                self.refuse(&pod, &unplaced, nomination).await?;
                Ok(Next::After(LOOK_ANYWAY))
            }
        }
    }

    /// Decides, and takes the place at once so that the next decision counts it.
    fn decide(&self, pod: &Arc<Pod>) -> Decision {
        let namespaces = |name: &str| self.namespaces.get("", name);
        let volumes = match self.volumes.of_pod(pod) {
            Ok(volumes) => volumes,
            Err(reason) => return Decision::Refuse(Unplaced::whole(reason), None),
        };
        let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        // A decision made a moment ago may not be in the cache yet.
        if cluster.has_place(&pod.metadata.uid) {
            return Decision::Placed;
        }
        let outcome = filter::feasible(pod, &cluster, &volumes, &namespaces);
        match outcome {
            Ok(nodes) => {
                let node = volumes
                    .selected_node()
                    .filter(|selected| nodes.iter().any(|node| node == selected))
                    .map_or_else(
                        || score::best(pod, &cluster, &nodes, &namespaces),
                        str::to_owned,
                    );
                if !volumes.to_prepare.is_empty() {
                    let claims = volumes.to_select(&node);
                    return Decision::Prepare(node, claims);
                }
                cluster.assume(pod.clone(), &node);
                Decision::Place(node)
            }
            Err(unplaced) => {
                let nomination = preempt::nominate(pod, &cluster, &volumes, &namespaces, &unplaced);
                Decision::Refuse(unplaced, nomination)
            }
        }
    }

    async fn bind(&self, key: &Key, pod: &Pod, node: &str) -> Result<Next, Error> {
        let meta = &pod.metadata;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound = self
            .api
            .post(
                Pod::RESOURCE,
                &meta.namespace,
                &meta.name,
                "binding",
                &binding,
            )
            .await;
        match bound {
            Ok(_) => {
                self.waiting.lock().remove(key);
                let message = format!(
                    "Successfully assigned {}/{} to {node}",
                    meta.namespace, meta.name
                );
                self.record(pod, Severity::Normal, "Scheduled", message);
                Ok(Next::Wait)
            }
            Err(error) => {
                let mut cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
                cluster.forget(&meta.uid);
                drop(cluster);
                // Gone, or bound by somebody else: the watch will tell.
                if error.is_not_found() || error.is_conflict() {
                    return Ok(Next::After(FIRST_PAUSE));
                }
                let message = format!("binding rejected: {}", error.message());
                self.record(pod, Severity::Warning, "FailedScheduling", message);
                Err(error)
            }
        }
    }

    /// Tells why a pod waits, and makes room for it if it is important enough.
    async fn refuse(
        &self,
        pod: &Pod,
        unplaced: &Unplaced,
        nomination: Option<preempt::Nomination>,
    ) -> Result<(), Error> {
        let meta = &pod.metadata;
        let message = unplaced.message(nomination.is_some());
        self.record(pod, Severity::Warning, "FailedScheduling", message.clone());
        let known = condition(&pod.status.conditions, "PodScheduled");
        let told = known.is_some_and(|it| it.status == "False" && it.message == message);
        let mut status = json!({});
        if !told {
            let since = known
                .filter(|it| it.status == "False")
                .and_then(|it| it.last_transition_time)
                .unwrap_or_else(Timestamp::now);
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": message, "lastTransitionTime": time(since),
            }]);
        }
        if let Some(nomination) = &nomination
            && pod.status.nominated_node_name != nomination.node
        {
            status["nominatedNodeName"] = nomination.node.as_str().into();
        }
        if status.as_object().is_some_and(|status| !status.is_empty()) {
            let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
            let (namespace, name) = (&meta.namespace, &meta.name);
            let patched =
                self.api
                    .patch_strategic(Pod::RESOURCE, namespace, name, "status", &patch);
            found(patched.await)?;
        }
        for victim in nomination.into_iter().flat_map(|it| it.victims) {
            self.evict(pod, &victim).await?;
        }
        Ok(())
    }

    async fn evict(&self, preemptor: &Pod, victim: &Pod) -> Result<(), Error> {
        let meta = &victim.metadata;
        if meta.is_deleting() {
            return Ok(());
        }
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", self.name),
            "lastTransitionTime": time(Timestamp::now()),
        });
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}});
        let (namespace, name) = (&meta.namespace, &meta.name);
        found(
            self.api
                .patch_strategic(Pod::RESOURCE, namespace, name, "status", &patch)
                .await,
        )?;
        let options = Delete::exactly(&meta.uid);
        found(
            self.api
                .delete(Pod::RESOURCE, namespace, name, &options)
                .await,
        )?;
        let message = format!(
            "Preempted by pod {} on node {}",
            preemptor.metadata.uid, victim.spec.node_name
        );
        self.record(victim, Severity::Normal, "Preempted", message);
        Ok(())
    }

    fn record(&self, pod: &Pod, severity: Severity, reason: &'static str, message: String) {
        let about = (Pod::RESOURCE, &pod.metadata);
        self.context
            .events
            .record("default-scheduler", about, severity, reason, message);
    }
}

#[cfg(test)]
mod tests;
