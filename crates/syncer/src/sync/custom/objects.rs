//! Custom objects of the virtual cluster on the host: all but the status goes
//! there, the status comes back. Who removes one on either side removes both.

use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::{VirtualName, established};
use serde_json::{Value, json};

use super::{Custom, Served};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::kinds::other::DEFINITIONS;
use crate::sync::{create_unless_taken, delete};

pub(super) async fn reconcile(
    syncer: &Syncer,
    custom: &Custom,
    served: &Served,
    name: &VirtualName,
) -> Result<(), ApiError> {
    let t = &syncer.translator;
    let (resource, kind) = (served.resource(), &served.flow.kind);
    let inside = served
        .inside
        .get(name)
        .filter(|o| !object::is_terminating(o) && !t.is_shown(o));
    let host = served.host_object(t, name);
    let went = served.take_deletion(name, inside.as_deref());
    let Some(inside) = inside else {
        if let Some(host) = host.filter(|host| !object::is_terminating(host)) {
            delete(&syncer.host.cluster, resource, &host, None).await?;
        }
        return Ok(());
    };
    let Some(host) = host else {
        if went && is_gone(syncer, served, name).await? {
            return delete(&syncer.inside.cluster, resource, &inside, None).await;
        }
        let desired = t.patched(&custom.patches, &inside, t.custom_to_host(kind, &inside))?;
        let ours = |host: &Value| t.ours(&kind.kind, host).as_ref() == Some(name);
        create_unless_taken(syncer, resource, &desired, ours).await?;
        return Ok(());
    };
    let uid = object::uid(&inside);
    if object::is_terminating(&host) {
        // An earlier incarnation makes room; this one, somebody removes there.
        let same = object::annotation(&host, marks::OBJECT_UID) == Some(uid);
        if same && is_going_alone(syncer, served).await? {
            delete(&syncer.inside.cluster, resource, &inside, None).await?;
        }
        return Ok(());
    }
    if object::annotation(&host, marks::OBJECT_UID) != Some(uid) {
        return delete(&syncer.host.cluster, resource, &host, None).await;
    }
    let desired = t.patched(&custom.patches, &inside, t.custom_to_host(kind, &inside))?;
    if let Some(updated) = t.custom_update(&host, &desired) {
        syncer.host.cluster.update(resource, "", &updated).await?;
    }
    let status = json!({"status": host.get("status")});
    let shown = t.patched_back(&custom.patches, &host, &inside, status)?;
    served.show_status(syncer, &shown, &inside).await
}

/// True if the host object is gone by itself: not only out of the watch, whose
/// selector somebody may have taken a label away from, and not along with all
/// others.
async fn is_gone(syncer: &Syncer, served: &Served, name: &VirtualName) -> Result<bool, ApiError> {
    let t = &syncer.translator;
    let host_name = t.host_name(&served.flow.kind.kind, name);
    let cluster = &syncer.host.cluster;
    let present = cluster
        .get(served.resource(), &t.host_namespace, &host_name)
        .await?;
    Ok(present.is_none() && is_going_alone(syncer, served).await?)
}

/// True unless the definition goes, or the whole virtual cluster: the objects
/// inside are the tenant's, and outlive those.
async fn is_going_alone(syncer: &Syncer, served: &Served) -> Result<bool, ApiError> {
    let cluster = &syncer.host.cluster;
    let name = format!("{}.{}", served.flow.kind.plural, served.flow.kind.group());
    let definition = cluster.get(DEFINITIONS, "", &name).await?;
    let stays =
        definition.is_some_and(|d| established(&d) && object::uid(&d) == served.flow.definition);
    let own = object::name(&syncer.own_service);
    let namespace = &syncer.translator.host_namespace;
    let owner = cluster
        .get(Kind::Service.resource(), namespace, own)
        .await?;
    Ok(stays && owner.is_some_and(|owner| !object::is_terminating(&owner)))
}
