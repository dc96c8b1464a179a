//! Node health: silence makes a node's conditions unknown, conditions become
//! taints, and taints evict pods that do not tolerate them.

mod evict;
mod health;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::api::{Api, Delete};
use crate::context::{Context, Task, until};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::core::{Node, NodeLease};
use crate::objects::pod::{Pod, node_index};
use crate::objects::{Condition, Kind, condition, time};
use crate::queue::{Key, Next, Queue};

use health::{silent_conditions, taints};

const COMPONENT: &str = "node-controller";

/// When each node was last heard, by this machine's clock: the clocks of nodes
/// are not trusted.
type Beats = Mutex<HashMap<String, tokio::time::Instant>>;

/// Registers the controller of node health and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let nodes = context.store::<Node>();
    let leases = context.store::<NodeLease>();
    let pods = context.store::<Pod>();
    let beats: Arc<Beats> = Arc::default();
    {
        let (queue, beats) = (queue.clone(), beats.clone());
        nodes.subscribe(move |change| {
            let node = change.latest();
            let name = node.metadata.name.as_str();
            if change.new.is_none() {
                beats
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(name);
                return;
            }
            let heard = change
                .old
                .is_none_or(|old| health::last_heartbeat(old) != health::last_heartbeat(node));
            if heard {
                beat(&beats, name);
            }
            queue.add(Key::new("", name));
        });
    }
    {
        let beats = beats.clone();
        leases.subscribe(move |change| {
            let renewed = change.new.filter(|new| {
                change
                    .old
                    .is_none_or(|old| old.spec.renew_time != new.spec.renew_time)
            });
            if let Some(lease) = renewed {
                beat(&beats, &lease.metadata.name);
            }
        });
    }
    let controller = Arc::new(Health {
        context: context.clone(),
        nodes,
        pods,
        beats,
        grace: context.options.node_monitor_grace,
    });
    context.work("node-lifecycle", 4, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

fn beat(beats: &Beats, node: &str) {
    beats
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node.to_owned(), tokio::time::Instant::now());
}

struct Health {
    context: Context,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    beats: Arc<Beats>,
    grace: Duration,
}

impl Health {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(node) = self.nodes.by_key(&key) else {
            return Ok(Next::Wait);
        };
        let heard = {
            let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
            beats.get(&key.name).copied()
        };
        let silence = heard.map_or(Duration::ZERO, |heard| heard.elapsed());
        let silent = silence >= self.grace;
        let now = Timestamp::now();
        if silent {
            self.mark_silent(&node, now).await?;
        }
        let wanted = taints(&node, silent, now);
        if let Some(wanted) = wanted {
            let meta = &node.metadata;
            let patch = json!({
                "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                "spec": {"taints": wanted},
            });
            found(
                self.context
                    .api
                    .patch(Node::RESOURCE, "", &meta.name, "", &patch)
                    .await,
            )?;
        }
        if silent || !health::is_ready(&node) {
            self.mark_pods(&node, now).await?;
        }
        // The next beat pushes this further out: no look is wasted on nodes
        // that are heard, but for one in each period of grace.
        Ok(Next::After(if silent {
            self.grace
        } else {
            self.grace - silence
        }))
    }

    /// Turns the conditions of a silent node to `Unknown`.
    async fn mark_silent(&self, node: &Node, now: Timestamp) -> Result<(), Error> {
        let conditions = silent_conditions(node, now);
        if conditions.is_empty() {
            return Ok(());
        }
        let meta = &node.metadata;
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": conditions}});
        let api = &self.context.api;
        let patched = api
            .patch_strategic(Node::RESOURCE, "", &meta.name, "status", &patch)
            .await;
        found(patched)?;
        let message = format!("Node {} status is now: NodeNotReady", meta.name);
        let about = (Node::RESOURCE, meta);
        self.context
            .events
            .record(COMPONENT, about, Severity::Normal, "NodeNotReady", message);
        Ok(())
    }

    /// Pods of a node that is not ready are not ready either: endpoints rely
    /// on it, and nobody on the node can say so.
    async fn mark_pods(&self, node: &Node, now: Timestamp) -> Result<(), Error> {
        for pod in self.pods.indexed(&node_index(&node.metadata.name)) {
            let meta = &pod.metadata;
            if !pod.is_ready() {
                continue;
            }
            let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [{
                "type": "Ready", "status": "False", "reason": "NodeNotReady",
                "lastTransitionTime": time(now),
            }]}});
            let api = &self.context.api;
            let (namespace, name) = (&meta.namespace, &meta.name);
            found(
                api.patch_strategic(Pod::RESOURCE, namespace, name, "status", &patch)
                    .await,
            )?;
            let about = (Pod::RESOURCE, meta);
            let events = &self.context.events;
            let message = "Node is not ready".to_owned();
            events.record(COMPONENT, about, Severity::Warning, "NodeNotReady", message);
        }
        Ok(())
    }
}

/// Registers the controller that evicts pods by taints and returns its work.
pub(crate) fn start_eviction(context: &Context) -> Task {
    let queue = Queue::new();
    let nodes = context.store::<Node>();
    let pods = context.store::<Pod>();
    {
        let (queue, nodes) = (queue.clone(), nodes.clone());
        pods.subscribe(move |change| {
            let Some(pod) = change.new else { return };
            if change.old.is_some_and(|old| {
                old.spec.node_name == pod.spec.node_name
                    && old.spec.tolerations == pod.spec.tolerations
            }) {
                return;
            }
            let tainted = nodes
                .get("", &pod.spec.node_name)
                .is_some_and(|node| node.spec.taints.iter().any(|it| it.effect == "NoExecute"));
            if tainted {
                queue.add(pod.metadata.key());
            }
        });
    }
    {
        let (queue, pods) = (queue.clone(), pods.clone());
        nodes.subscribe(move |change| {
            let Some(node) = change.new else { return };
            let before = change.old.map_or(&[] as &[_], |old| &old.spec.taints);
            if before == node.spec.taints {
                return;
            }
            for pod in pods.indexed(&node_index(&node.metadata.name)) {
                queue.add(pod.metadata.key());
            }
        });
    }
    let (api, events) = (context.api.clone(), context.events.clone());
    context.work("taint-eviction-controller", 8, queue, move |key| {
        let (api, events) = (api.clone(), events.clone());
        let (nodes, pods) = (nodes.clone(), pods.clone());
        async move {
            let Some(pod) = pods.by_key(&key) else {
                return Ok(Next::Wait);
            };
            let Some(node) = nodes.get("", &pod.spec.node_name) else {
                return Ok(Next::Wait);
            };
            if pod.metadata.is_deleting() {
                return Ok(Next::Wait);
            }
            let now = Timestamp::now();
            let Some(at) = evict::due(&pod.spec.tolerations, &node.spec.taints, now) else {
                return Ok(Next::Wait);
            };
            if at > now {
                return Ok(Next::After(until(at, now)));
            }
            let message = format!("Marking for deletion Pod {key}");
            let about = (Pod::RESOURCE, &pod.metadata);
            let component = "taint-eviction-controller";
            events.record(
                component,
                about,
                Severity::Normal,
                "TaintManagerEviction",
                message,
            );
            delete(&api, &pod, now).await.map(|()| Next::Wait)
        }
    })
}

async fn delete(api: &Api, pod: &Pod, now: Timestamp) -> Result<(), Error> {
    let meta = &pod.metadata;
    let told =
        condition(&pod.status.conditions, "DisruptionTarget").is_some_and(Condition::is_true);
    if !told {
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": time(now),
        }]}});
        let (namespace, name) = (&meta.namespace, &meta.name);
        found(
            api.patch_strategic(Pod::RESOURCE, namespace, name, "status", &patch)
                .await,
        )?;
    }
    let options = Delete::exactly(&meta.uid);
    found(
        api.delete(Pod::RESOURCE, &meta.namespace, &meta.name, &options)
            .await,
    )
    .map(drop)
}
