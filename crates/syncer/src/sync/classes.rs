//! Classes of the tenant's on the host.

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::Value;

use super::{create_class_on_host, delete_on_host, events};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let inside = syncer
        .inside
        .get(kind, name)
        .filter(|class| !object::is_terminating(class) && t.is_tenants_class(class));
    let host = on_host(syncer, kind, &name.name);
    let Some(inside) = inside else {
        if let Some(host) = host {
            delete_on_host(syncer, kind, &host, None).await?;
        }
        return Ok(Outcome::Done);
    };
    if let Some(why) = t.class_obstacle(&inside) {
        events::warn(syncer, &inside, "SyncWarning", &why).await;
        return Ok(Outcome::Done);
    }
    let resource = kind.resource();
    let desired = t.class_to_host(resource.api_version, resource.kind, &inside);
    let desired = t.patched_kind(resource.kind, &inside, desired)?;
    let host = match host {
        Some(host) => host,
        None => match create_class_on_host(syncer, kind, name, &desired).await? {
            Some(present) => present.into(),
            None => return Ok(Outcome::Done),
        },
    };
    if let Some(updated) = t.class_update(&host, &desired) {
        match syncer.host.cluster.update(resource, "", &updated).await {
            // Most fields cannot be changed: it is made anew once it is gone.
            Err(error) if error.is_users_concern() => {
                delete_on_host(syncer, kind, &host, None).await?;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(Outcome::Done)
}

/// The host's counterpart of something of the tenant's that lies in no
/// namespace, if it is ours.
pub(crate) fn on_host(syncer: &Syncer, kind: Kind, name: &str) -> Option<std::sync::Arc<Value>> {
    let t = &syncer.translator;
    let place = VirtualName::new("", t.class_name(name));
    let host = syncer.host.get(kind, &place)?;
    let ours = t.our_class(kind.resource().kind, &host);
    ours.is_some_and(|ours| ours.name == name).then_some(host)
}

/// Brings the priority class of a pod to the host, which would not take the pod
/// without it.
pub(crate) async fn ensure_priority(syncer: &Syncer, pod: &Value) -> Result<(), ApiError> {
    let kind = Kind::PriorityClass;
    let class = object::text(pod, "/spec/priorityClassName");
    let mapped = syncer
        .translator
        .config
        .sync
        .to_host
        .priority_classes
        .enabled;
    if !mapped || class.is_empty() || on_host(syncer, kind, class).is_some() {
        return Ok(());
    }
    reconcile(syncer, kind, &VirtualName::new("", class))
        .await
        .map(drop)
}
