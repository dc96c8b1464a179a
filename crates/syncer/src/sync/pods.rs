//! Pods.

use std::sync::Arc;
use std::time::Duration;

use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::{PodContext, VirtualName};
use serde_json::{Value, json};
use tracing::info;

use super::{
    classes, create_on_host, data, delete_inside, delete_on_host, events, nodes, selection,
    set_status, tokens,
};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

/// How soon a pod is looked at again that waits for the address of DNS.
const DNS_PAUSE: Duration = Duration::from_millis(20);

/// How soon a pod is looked at again whose namespace is so new that it has no
/// certificates of the cluster yet.
const ROOT_CA_PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    let inside = syncer.inside.get(Kind::Pod, name);
    let host = syncer.host_object(Kind::Pod, name);
    match (inside, host) {
        (None, None) => Ok(Outcome::Done),
        (None, Some(host)) => {
            if !object::is_terminating(&host) {
                info!(pod = object::name(&host), "removing: it is gone inside");
                delete_on_host(syncer, Kind::Pod, &host, None).await?;
            }
            Ok(Outcome::Done)
        }
        (Some(inside), None) => only_inside(syncer, name, &inside).await,
        (Some(inside), Some(host)) => both(syncer, &inside, &host).await,
    }
}

async fn only_inside(
    syncer: &Syncer,
    name: &VirtualName,
    inside: &Value,
) -> Result<Outcome, ApiError> {
    if object::is_terminating(inside) || has_run(inside) {
        // The cache may lag behind a pod just created: the host itself has the
        // last word before anything is removed.
        let host_name = syncer.translator.host_name("Pod", name);
        let namespace = syncer.translator.host_namespace.as_str();
        let present = syncer
            .host
            .cluster
            .get(Kind::Pod.resource(), namespace, &host_name)
            .await?;
        let ours = present.filter(|p| syncer.translator.ours("Pod", p).as_ref() == Some(name));
        if ours.is_none() {
            delete_inside(syncer, Kind::Pod, inside, Some(0)).await?;
        }
        return Ok(Outcome::Done);
    }
    let config = &syncer.translator.config;
    let scheduled_inside = config.control_plane.advanced.virtual_scheduler.enabled;
    if scheduled_inside && object::text(inside, "/spec/nodeName").is_empty() {
        return Ok(Outcome::Done);
    }
    create(syncer, name, inside).await
}

/// True if the pod was on a node already: it is not started a second time.
fn has_run(pod: &Value) -> bool {
    let started = !object::text(pod, "/status/startTime").is_empty()
        || !object::text(pod, "/status/hostIP").is_empty();
    started && !object::text(pod, "/spec/nodeName").is_empty()
}

async fn create(syncer: &Syncer, name: &VirtualName, inside: &Value) -> Result<Outcome, ApiError> {
    let Some(environment) = Environment::of(syncer, &name.namespace) else {
        return Ok(Outcome::Again(DNS_PAUSE));
    };
    let t = &syncer.translator;
    let translated = t.pod_to_host(inside, &environment.context(syncer));
    if data::lacks_root_ca(syncer, inside) {
        return Ok(Outcome::Again(ROOT_CA_PAUSE));
    }
    if let Some(found) = syncer.translator.pod_violations(inside) {
        events::warn(syncer, inside, "SyncError", &found).await;
        return Ok(Outcome::Done);
    }
    if let Some(why) = selection::obstacle(syncer, Kind::Pod, inside) {
        selection::tell(syncer, Kind::Pod, inside, &why).await;
        return Ok(Outcome::Done);
    }
    classes::ensure_priority(syncer, inside).await?;
    // First what it needs, or its kubelet would look for it in vain and say so.
    tokio::try_join!(
        data::ensure(syncer, inside),
        tokens::ensure(syncer, inside, &translated.tokens),
    )?;
    let pod = t.patched_kind("Pod", inside, translated.pod)?;
    create_on_host(syncer, Kind::Pod, name, &pod).await?;
    for warning in syncer.translator.pod_warnings(inside) {
        events::warn(syncer, inside, "SyncWarning", &warning).await;
    }
    Ok(Outcome::Done)
}

async fn both(syncer: &Syncer, inside: &Value, host: &Value) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    if t.is_stale(host, inside) {
        if !object::is_terminating(host) {
            delete_on_host(syncer, Kind::Pod, host, None).await?;
        }
        // Its end brings the key back.
        return Ok(Outcome::Done);
    }
    match (object::is_terminating(inside), object::is_terminating(host)) {
        (true, false) => {
            delete_on_host(syncer, Kind::Pod, host, grace(inside)).await?;
        }
        (false, true) => {
            delete_inside(syncer, Kind::Pod, inside, grace(host)).await?;
        }
        _ => {}
    }
    bind(syncer, inside, host).await?;
    if let Some(status) = t.pod_status_to_virtual(host, inside) {
        set_status(syncer, Kind::Pod, inside, status).await?;
    }
    if object::is_terminating(inside) || object::is_terminating(host) {
        return Ok(Outcome::Done);
    }
    update(syncer, inside, host).await
}

fn grace(pod: &Value) -> Option<i64> {
    pod.pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
}

/// Tells the virtual cluster which node the host chose.
async fn bind(syncer: &Syncer, inside: &Value, host: &Value) -> Result<(), ApiError> {
    let node = object::text(host, "/spec/nodeName");
    if node.is_empty() || !object::text(inside, "/spec/nodeName").is_empty() {
        return Ok(());
    }
    nodes::ensure(syncer, node).await?;
    let (namespace, name) = (object::namespace(inside), object::name(inside));
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": object::uid(inside)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let bound = syncer
        .inside
        .cluster
        .post(Kind::Pod.resource(), namespace, name, "binding", &binding)
        .await;
    match bound {
        // Bound already (the cache lags), or gone.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Brings changes made inside to the host.
async fn update(syncer: &Syncer, inside: &Value, host: &Value) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let cluster = &syncer.host.cluster;
    let resource = Kind::Pod.resource();
    let Some(environment) = Environment::of(syncer, object::namespace(inside)) else {
        return Ok(Outcome::Again(DNS_PAUSE));
    };
    let context = environment.context(syncer);
    let translated = t.pod_to_host(inside, &context);
    tokens::ensure(syncer, inside, &translated.tokens).await?;
    let mut host = std::borrow::Cow::Borrowed(host);
    let pod = t.patched_kind("Pod", inside, translated.pod)?;
    if let Some(updated) = t.pod_update(&host, &pod) {
        host = std::borrow::Cow::Owned(cluster.update(resource, "", &updated).await?);
    }
    // Its own containers were looked at when it was created, and stay.
    if let Some(found) = t.pod_violations(inside) {
        events::warn(syncer, inside, "SyncError", &found).await;
    } else if let Some(updated) = t.ephemeral_update(&host, inside, &context) {
        host = std::borrow::Cow::Owned(
            cluster
                .update(resource, "ephemeralcontainers", &updated)
                .await?,
        );
    }
    if let Some(updated) = t.resize_update(&host, inside) {
        host = std::borrow::Cow::Owned(cluster.update(resource, "resize", &updated).await?);
        if let Some(noted) = t.resize_record(&host, inside) {
            host = std::borrow::Cow::Owned(cluster.update(resource, "", &noted).await?);
        }
    }
    if let Some(updated) = t.gate_conditions_to_host(&host, inside) {
        cluster.update(resource, "status", &updated).await?;
    }
    Ok(Outcome::Done)
}

/// What translation takes from the caches.
struct Environment {
    namespace: Option<Arc<Value>>,
    services: Vec<Arc<Value>>,
    dns_ip: Option<String>,
}

impl Environment {
    /// `None` while the address of DNS is not known.
    fn of(syncer: &Syncer, namespace: &str) -> Option<Self> {
        let config = &syncer.translator.config;
        let dns_ip = if config.control_plane.coredns.enabled {
            Some(dns_ip(syncer)?)
        } else {
            None
        };
        let mut services = match syncer.inside.cache(Kind::Service) {
            Some(cache) => cache.select(|name, _| name.namespace == namespace),
            None => Vec::new(),
        };
        services.sort_by(|a, b| object::name(a).cmp(object::name(b)));
        Some(Self {
            namespace: syncer
                .inside
                .get(Kind::Namespace, &VirtualName::new("", namespace)),
            services,
            dns_ip,
        })
    }

    fn context<'a>(&'a self, syncer: &'a Syncer) -> PodContext<'a> {
        PodContext {
            namespace: self.namespace.as_deref(),
            services: &self.services,
            kubernetes_ip: object::text(&syncer.own_service, "/spec/clusterIP"),
            dns_ip: self.dns_ip.as_deref(),
        }
    }
}

fn dns_ip(syncer: &Syncer) -> Option<String> {
    let service =
        syncer.host_object(Kind::Service, &VirtualName::new("kube-system", "kube-dns"))?;
    let ip = object::text(&service, "/spec/clusterIP");
    (!ip.is_empty()).then(|| ip.to_owned())
}

/// The UID of the virtual pod that a host pod stands for.
pub(crate) fn virtual_uid(host: &Value) -> &str {
    object::annotation(host, marks::OBJECT_UID).unwrap_or_default()
}
