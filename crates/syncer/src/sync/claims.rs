//! Volume claims, and the volumes that appear inside for them.

use std::sync::Arc;

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::Value;

use super::volumes::{self, Choice};
use super::{create_on_host, delete_inside, delete_on_host, events, selection, set_status};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    let kind = Kind::Claim;
    let inside = syncer.inside.get(kind, name);
    let inside = inside.map(|claim| on_shown_node(syncer, claim));
    let host = syncer.host_object(kind, name);
    match (inside, host) {
        (None, None) => {}
        (None, Some(host)) => {
            if !object::is_terminating(&host) {
                delete_on_host(syncer, kind, &host, None).await?;
            }
        }
        (Some(inside), None) => {
            if let Some(why) = selection::obstacle(syncer, kind, &inside) {
                selection::tell(syncer, kind, &inside, &why).await;
            } else if !object::is_terminating(&inside) {
                create(syncer, name, &inside).await?;
            }
        }
        (Some(inside), Some(host)) => both(syncer, &inside, &host).await?,
    }
    Ok(Outcome::Done)
}

async fn create(syncer: &Syncer, name: &VirtualName, inside: &Value) -> Result<(), ApiError> {
    let (t, kind) = (&syncer.translator, Kind::Claim);
    let choice = volumes::for_claim(syncer, inside, None).await?;
    if let Choice::Waits(why) = &choice {
        let why = format!("not synced to the host yet: {why}");
        events::warn(syncer, inside, "SyncWarning", &why).await;
        return Ok(());
    }
    let own = choice.own();
    let mut desired = t.claim_to_host(inside);
    if let Some(volume) = own {
        t.ask_for(&mut desired, volume);
    }
    let desired = t.patched_kind(kind.resource().kind, inside, desired)?;
    create_on_host(syncer, kind, name, &desired).await?;
    for warning in t.claim_warnings(inside, own.is_some()) {
        events::warn(syncer, inside, "SyncWarning", &warning).await;
    }
    Ok(())
}

/// The claim, without a node for its volume that is none of those shown: a
/// tenant could write any name there.
fn on_shown_node(syncer: &Syncer, claim: Arc<Value>) -> Arc<Value> {
    let Some(node) = syncer.translator.selected_node(&claim) else {
        return claim;
    };
    let place = VirtualName::new("", node);
    let shown = syncer.inside.get(Kind::Node, &place);
    if shown.is_some_and(|node| syncer.translator.is_imported(&node)) {
        return claim;
    }
    Arc::new(syncer.translator.without_selected_node(&claim))
}

async fn both(syncer: &Syncer, inside: &Value, host: &Value) -> Result<(), ApiError> {
    let kind = Kind::Claim;
    let t = &syncer.translator;
    if object::is_terminating(inside) {
        if !object::is_terminating(host) {
            delete_on_host(syncer, kind, host, None).await?;
        }
        return Ok(());
    }
    let choice = volumes::for_claim(syncer, inside, Some(host)).await?;
    let own = choice.own();
    let desired = t.patched_kind(kind.resource().kind, inside, t.claim_to_host(inside))?;
    let mut updated = t.claim_update(host, &desired);
    if let Some(volume) = own
        && object::text(host, "/spec/volumeName").is_empty()
    {
        // A volume that came after the claim.
        let updated = updated.get_or_insert_with(|| host.clone());
        updated["spec"]["volumeName"] = t.class_name(object::name(volume)).into();
    }
    if let Some(updated) = updated {
        syncer
            .host
            .cluster
            .update(kind.resource(), "", &updated)
            .await?;
    }
    if own.is_none()
        && let Some(volume) = t.volume_inside(host, inside)
    {
        show_volume(syncer, &volume).await?;
    }
    if let Some(updated) = t.claim_back(host, inside, own) {
        // The status is looked at when this change comes back.
        syncer
            .inside
            .cluster
            .update(kind.resource(), "", &updated)
            .await?;
    } else if let Some(status) = t.claim_status_back(host, inside) {
        set_status(syncer, kind, inside, status).await?;
    }
    Ok(())
}

async fn show_volume(syncer: &Syncer, volume: &Value) -> Result<(), ApiError> {
    let cluster = &syncer.inside.cluster;
    if cluster
        .get(Kind::Volume.resource(), "", object::name(volume))
        .await?
        .is_some()
    {
        return Ok(());
    }
    match cluster.create(Kind::Volume.resource(), volume).await {
        Ok(_) => {
            let status = serde_json::json!({"status": volume["status"]});
            cluster
                .patch(
                    Kind::Volume.resource(),
                    "",
                    object::name(volume),
                    "status",
                    &status,
                )
                .await?;
            Ok(())
        }
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the volume inside if its claim is no longer there.
pub(crate) async fn reconcile_volume(syncer: &Syncer, name: &str) -> Result<Outcome, ApiError> {
    let kind = Kind::Volume;
    let Some(volume) = syncer.inside.get(kind, &VirtualName::new("", name)) else {
        return Ok(Outcome::Done);
    };
    let claim = claim_of(&volume);
    let uid = object::text(&volume, "/spec/claimRef/uid");
    let claimed = syncer
        .inside
        .get(Kind::Claim, &claim)
        .is_some_and(|claim| object::uid(&claim) == uid);
    if claimed || !syncer.translator.is_imported(&volume) {
        return Ok(Outcome::Done);
    }
    delete_inside(syncer, kind, &volume, None).await?;
    // The protection of a volume in use has no meaning for a mirror.
    let patch = serde_json::json!({"metadata": {"finalizers": null}});
    let cluster = &syncer.inside.cluster;
    match cluster.patch(kind.resource(), "", name, "", &patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Outcome::Done),
    }
}

/// The claim that a volume is bound to.
pub(crate) fn claim_of(volume: &Value) -> VirtualName {
    VirtualName::new(
        object::text(volume, "/spec/claimRef/namespace"),
        object::text(volume, "/spec/claimRef/name"),
    )
}
