//! What pods of others take of the host's nodes: a scheduler inside has to
//! leave it alone, and sees pods of its own cluster only.

use std::sync::Arc;

use coracle_config::{Config, marks};
use coracle_machinery::object;
use coracle_machinery::resources::{Amounts, add, amounts, of_pod};
use coracle_translate::VirtualName;
use coracle_translate::usage::leave;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::Narrow;
use crate::cache::{Change, Kept, Watched};
use crate::engine::Syncer;
use crate::kinds::Kind;

/// True if there is a scheduler inside for the host's nodes.
pub(crate) fn counts(config: &Config) -> bool {
    config.sync.from_host.nodes.enabled && config.control_plane.advanced.virtual_scheduler.enabled
}

/// What is kept of a host pod: little, for there may be many.
pub(crate) fn slim(pod: &mut Value) {
    let ended = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
    let needs = if ended {
        Value::Null
    } else {
        let (requests, _) = of_pod(pod);
        let texts = requests
            .into_iter()
            .map(|(name, amount)| (name, amount.to_string().into()));
        Value::Object(texts.collect())
    };
    *pod = json!({
        "metadata": {
            "namespace": object::namespace(pod), "name": object::name(pod),
            "labels": {marks::MANAGED_BY: object::label(pod, marks::MANAGED_BY)},
        },
        "spec": {"nodeName": object::text(pod, "/spec/nodeName")},
        "needs": needs,
    });
}

/// Watches the pods of the whole host until stopped.
pub(crate) async fn watch(syncer: Arc<Syncer>, stop: CancellationToken) {
    let Some(cache) = &syncer.others else {
        return;
    };
    let watched = Watched {
        resource: Kind::Pod.resource(),
        kept: Kept::Needs,
    };
    let tell = |change: Change| {
        if change.old != change.new {
            for pod in [&change.old, &change.new].into_iter().flatten() {
                let node = object::text(pod, "/spec/nodeName");
                if !node.is_empty() && !is_ours(&syncer, pod) {
                    syncer.queue.push(Kind::Node, VirtualName::new("", node));
                }
            }
        }
    };
    let host = syncer.host.cluster.clone();
    cache
        .run(watched, host, Narrow::default(), stop, tell)
        .await;
}

/// Takes from what a node offers what others have of it.
pub(crate) fn apply(syncer: &Syncer, node: &mut Value) {
    let Some(cache) = &syncer.others else {
        return;
    };
    let name = object::name(node).to_owned();
    let on_it = |pod: &Value| {
        object::text(pod, "/spec/nodeName") == name
            && pod["needs"].is_object()
            && !is_ours(syncer, pod)
    };
    let others = cache.select(|_, pod| on_it(pod));
    let mut needs = Amounts::new();
    for pod in &others {
        add(&mut needs, &amounts(pod.get("needs")));
    }
    leave(
        node,
        i64::try_from(others.len()).unwrap_or(i64::MAX),
        &needs,
    );
}

/// True for the counterpart of a pod inside, which the scheduler there sees.
fn is_ours(syncer: &Syncer, pod: &Value) -> bool {
    let t = &syncer.translator;
    object::namespace(pod) == t.host_namespace
        && object::label(pod, marks::MANAGED_BY) == Some(t.vc.as_str())
}
