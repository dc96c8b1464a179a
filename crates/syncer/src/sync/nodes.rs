//! Nodes: one inside for each host node in use, gone when it is no longer, and
//! always the one that carries the control plane.

use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::object;
use coracle_translate::VirtualName;
use coracle_translate::node::{
    FakeNode, ShownAddresses, fake_node, is_marked_lost, node_changes, real_node, show_images,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{delete_inside, set_status, usage};
use crate::api::{ApiError, Delete};
use crate::engine::Syncer;
use crate::kinds::{Kind, other};
use crate::queue::Outcome;

/// How often the lease of a node is renewed. The usual ten seconds would be
/// one durable write after another for nothing; a node counts as lost after
/// forty.
const HEARTBEAT: Duration = Duration::from_secs(20);
const LEASE_SECONDS: u64 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";

pub(crate) async fn reconcile(syncer: &Syncer, name: &str) -> Result<Outcome, ApiError> {
    let key = VirtualName::new("", name);
    let inside = syncer.inside.get(Kind::Node, &key);
    let host = syncer.host.get(Kind::Node, &key);
    let real = syncer.translator.config.sync.from_host.nodes.enabled;
    let shown = if real {
        host.as_deref().is_some_and(|host| chosen(syncer, host))
            && (selects_all(syncer) || in_use(syncer, name))
    } else {
        in_use(syncer, name)
    };
    match inside {
        None if shown => {
            if let Some(wanted) = wanted(syncer, name, host.as_deref()) {
                create(syncer, &wanted).await?;
            }
        }
        Some(inside) if !shown && syncer.translator.is_imported(&inside) => {
            delete_inside(syncer, Kind::Node, &inside, None).await?;
            let lease = (LEASE_NAMESPACE, name, Delete::default());
            syncer
                .inside
                .cluster
                .delete(other::LEASES, lease.0, lease.1, &lease.2)
                .await?;
        }
        Some(inside) if shown => update(syncer, &inside, name, host.as_deref()).await?,
        _ => {}
    }
    Ok(Outcome::Done)
}

/// Creates the node inside unless it is there: a pod is about to be bound to
/// it.
pub(crate) async fn ensure(syncer: &Syncer, name: &str) -> Result<(), ApiError> {
    let key = VirtualName::new("", name);
    if syncer.inside.get(Kind::Node, &key).is_some() {
        return Ok(());
    }
    let host = syncer.host.get(Kind::Node, &key);
    match wanted(syncer, name, host.as_deref()) {
        Some(wanted) => create(syncer, &wanted).await,
        None => Ok(()),
    }
}

/// True if a pod is on the node. Those of a DaemonSet do not count: they are
/// there because the node is.
fn in_use(syncer: &Syncer, name: &str) -> bool {
    let on_it = |pod: &Value| object::text(pod, "/spec/nodeName") == name;
    let inside = |pod: &Value| on_it(pod) && !is_of_daemon_set(pod);
    let ours = |pod: &Value| {
        on_it(pod)
            && syncer.translator.ours("Pod", pod).is_some_and(|name| {
                let inside = syncer.inside.get(Kind::Pod, &name);
                !inside.is_some_and(|pod| is_of_daemon_set(&pod))
            })
    };
    name == syncer.own_node
        || syncer
            .inside
            .cache(Kind::Pod)
            .is_some_and(|pods| pods.any(inside))
        || syncer
            .host
            .cache(Kind::Pod)
            .is_some_and(|pods| pods.any(ours))
}

fn is_of_daemon_set(pod: &Value) -> bool {
    object::items(pod, "/metadata/ownerReferences")
        .iter()
        .any(|owner| {
            owner.get("controller") == Some(&Value::Bool(true))
                && object::text(owner, "/kind") == "DaemonSet"
        })
}

/// True if the host marked a pod of ours on that node as lost.
fn is_lost(syncer: &Syncer, name: &str) -> bool {
    let lost = |pod: &Value| object::text(pod, "/spec/nodeName") == name && is_marked_lost(pod);
    syncer
        .host
        .cache(Kind::Pod)
        .is_some_and(|pods| pods.any(lost))
}

fn selects_all(syncer: &Syncer) -> bool {
    let selector = &syncer.translator.config.sync.from_host.nodes.selector;
    selector.all || !selector.labels.is_empty()
}

fn chosen(syncer: &Syncer, host: &Value) -> bool {
    let selector = &syncer.translator.config.sync.from_host.nodes.selector;
    selector
        .labels
        .iter()
        .all(|(key, value)| object::label(host, key) == Some(value.as_str()))
}

fn wanted(syncer: &Syncer, name: &str, host: Option<&Value>) -> Option<Value> {
    if syncer.translator.config.sync.from_host.nodes.enabled {
        let host = host?;
        let proxied = &syncer.translator.config.networking.advanced.proxy_kubelets;
        let addresses = ShownAddresses {
            syncer: proxied.by_ip.then_some(syncer.pod_ip.as_str()),
            name_only: proxied.by_hostname,
        };
        let mut node = real_node(host, addresses, syncer.kubelet_port);
        let nodes = &syncer.translator.config.sync.from_host.nodes;
        if !nodes.clear_image_status {
            show_images(&mut node, host);
        }
        usage::apply(syncer, &mut node);
        return Some(node);
    }
    Some(fake_node(&FakeNode {
        name: name.to_owned(),
        address: syncer.pod_ip.clone(),
        kubelet_port: syncer.kubelet_port,
        version: syncer.host_version.clone(),
        architecture: architecture().to_owned(),
        alive: !is_lost(syncer, name),
        now: now_seconds(),
    }))
}

/// The machine's architecture in Kubernetes' words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The present time as Kubernetes writes it.
pub(crate) fn now_seconds() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

async fn create(syncer: &Syncer, wanted: &Value) -> Result<(), ApiError> {
    let created = match syncer
        .inside
        .cluster
        .create(Kind::Node.resource(), wanted)
        .await
    {
        Ok(created) => created,
        Err(error) if error.is_already_exists() => return Ok(()),
        Err(error) => return Err(error),
    };
    untaint(syncer, &created).await?;
    if created.pointer("/status/conditions") != wanted.pointer("/status/conditions") {
        set_status(syncer, Kind::Node, &created, wanted["status"].clone()).await?;
    }
    beat(syncer, object::name(wanted), object::uid(&created)).await
}

/// Admission taints every new node until its kubelet reports; this one is
/// known to be ready, and in a virtual cluster there may be no controller to
/// take the taint away.
async fn untaint(syncer: &Syncer, created: &Value) -> Result<(), ApiError> {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let taints = object::items(created, "/spec/taints");
    let kept: Vec<&Value> = taints
        .iter()
        .filter(|t| object::text(t, "/key") != NOT_READY)
        .collect();
    if kept.len() == taints.len() {
        return Ok(());
    }
    let patch = json!({"spec": {"taints": kept}});
    let name = object::name(created);
    syncer
        .inside
        .cluster
        .patch(Kind::Node.resource(), "", name, "", &patch)
        .await?;
    Ok(())
}

/// Mends what depends on this run of the syncer, and follows a real node.
async fn update(
    syncer: &Syncer,
    inside: &Value,
    name: &str,
    host: Option<&Value>,
) -> Result<(), ApiError> {
    if !syncer.translator.is_imported(inside) {
        return Ok(());
    }
    let Some(wanted) = wanted(syncer, name, host) else {
        return Ok(());
    };
    if let Some(host) = host {
        let back = syncer
            .translator
            .config
            .sync
            .from_host
            .nodes
            .sync_back_changes;
        let changes = node_changes(host, inside, &wanted, back);
        let resource = Kind::Node.resource();
        if let Some(patch) = changes.host {
            let cluster = &syncer.host.cluster;
            cluster.patch(resource, "", name, "", &patch).await?;
        }
        if let Some(updated) = changes.inside {
            // The status is looked at when this change comes back.
            syncer.inside.cluster.update(resource, "", &updated).await?;
            return Ok(());
        }
    }
    let mut status = inside.get("status").cloned().unwrap_or_else(|| json!({}));
    let fields: &[&str] = if host.is_some() {
        &[
            "capacity",
            "allocatable",
            "conditions",
            "addresses",
            "daemonEndpoints",
            "nodeInfo",
        ]
    } else {
        &["addresses", "daemonEndpoints", "nodeInfo"]
    };
    for field in fields {
        status[*field] = wanted["status"][*field].clone();
    }
    // The times in conditions are new each time; only a change counts.
    if readiness(&status) != readiness(&wanted["status"]) {
        status["conditions"] = wanted["status"]["conditions"].clone();
    }
    if inside.get("status") != Some(&status) {
        set_status(syncer, Kind::Node, inside, status).await?;
    }
    Ok(())
}

fn readiness(status: &Value) -> &str {
    object::items(status, "/conditions")
        .iter()
        .find(|c| object::text(c, "/type") == "Ready")
        .map_or("", |c| object::text(c, "/status"))
}

/// Renews the lease of every node that we show.
pub(crate) async fn heartbeats(syncer: Arc<Syncer>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        let nodes = match syncer.inside.cache(Kind::Node) {
            Some(cache) => cache.select(|_, node| syncer.translator.is_imported(node)),
            None => Vec::new(),
        };
        for node in nodes {
            if let Err(error) = beat(&syncer, object::name(&node), object::uid(&node)).await {
                debug!(node = object::name(&node), %error, "cannot renew the lease");
            }
        }
    }
}

async fn beat(syncer: &Syncer, name: &str, uid: &str) -> Result<(), ApiError> {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string();
    let patch = json!({"spec": {"renewTime": now}});
    let cluster = &syncer.inside.cluster;
    match cluster
        .patch(other::LEASES, LEASE_NAMESPACE, name, "", &patch)
        .await
    {
        Ok(_) => return Ok(()),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "namespace": LEASE_NAMESPACE,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}],
        },
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    });
    match cluster.create(other::LEASES, &lease).await {
        // The namespace is made by the control plane in its first moments.
        Err(error) if !error.is_already_exists() && !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
