//! Volume claims, and the volumes that appear inside for them.

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::Value;

use super::{create_on_host, delete_on_host, set_status};
use crate::api::{ApiError, Delete};
use crate::engine::Syncer;
use crate::kinds::{Kind, other};
use crate::queue::Outcome;

pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    let kind = Kind::Claim;
    let inside = syncer.inside.get(kind, name);
    let host = syncer.host_object(kind, name);
    match (inside, host) {
        (None, None) => {}
        (None, Some(host)) => {
            if !object::is_terminating(&host) {
                delete_on_host(syncer, kind, &host, None).await?;
            }
            remove_volume(syncer, &host).await?;
        }
        (Some(inside), None) => {
            if !object::is_terminating(&inside) {
                let desired = syncer.translator.claim_to_host(&inside);
                create_on_host(syncer, kind, name, &desired).await?;
            }
        }
        (Some(inside), Some(host)) => both(syncer, &inside, &host).await?,
    }
    Ok(Outcome::Done)
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
    if let Some(updated) = t.claim_update(host, &t.claim_to_host(inside)) {
        syncer
            .host
            .cluster
            .update(kind.resource(), "", &updated)
            .await?;
    }
    if let Some(volume) = t.volume_inside(host, inside) {
        show_volume(syncer, &volume).await?;
    }
    if let Some(updated) = t.claim_back(host, inside) {
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
        .get(other::VOLUMES, "", object::name(volume))
        .await?
        .is_some()
    {
        return Ok(());
    }
    match cluster.create(other::VOLUMES, volume).await {
        Ok(_) => {
            let status = serde_json::json!({"status": volume["status"]});
            cluster
                .patch(other::VOLUMES, "", object::name(volume), "status", &status)
                .await?;
            Ok(())
        }
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
    }
}

async fn remove_volume(syncer: &Syncer, host: &Value) -> Result<(), ApiError> {
    let name = object::text(host, "/spec/volumeName");
    if name.is_empty() {
        return Ok(());
    }
    let cluster = &syncer.inside.cluster;
    if let Some(volume) = cluster.get(other::VOLUMES, "", name).await?
        && syncer.translator.is_imported(&volume)
    {
        let how = Delete {
            uid: object::uid(&volume).to_owned(),
            ..Delete::default()
        };
        cluster.delete(other::VOLUMES, "", name, &how).await?;
        // The protection of a volume in use has no meaning for a mirror.
        let patch = serde_json::json!({"metadata": {"finalizers": null}});
        match cluster.patch(other::VOLUMES, "", name, "", &patch).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
