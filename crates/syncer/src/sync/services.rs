//! Services, the control plane's own two among them.

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::Value;
use tracing::warn;

use super::{create_on_host, delete_inside, delete_on_host, endpoints, events, set_status};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    if *name == VirtualName::new("default", "kubernetes") {
        return kubernetes(syncer).await;
    }
    let inside = syncer.inside.get(Kind::Service, name);
    let is_dns = syncer.translator.is_dns(name);
    if is_dns {
        endpoints::own(syncer, "kube-dns", "kube-system").await?;
        if inside.is_none() {
            create_inside(syncer, &syncer.translator.dns_service()).await?;
            return Ok(Outcome::Done);
        }
    } else if !syncer.translator.config.sync.to_host.services.enabled {
        return Ok(Outcome::Done);
    }
    let host = syncer.host_object(Kind::Service, name);
    let inside = inside.filter(|service| !object::is_terminating(service));
    match (inside, host) {
        (None, None) => Ok(Outcome::Done),
        (None, Some(host)) => {
            if !object::is_terminating(&host) {
                delete_on_host(syncer, Kind::Service, &host, None).await?;
            }
            Ok(Outcome::Done)
        }
        (Some(inside), None) => {
            let desired = desired(syncer, &inside, is_dns)?;
            if let Some(host) = create_on_host(syncer, Kind::Service, name, &desired).await? {
                back(syncer, &inside, &host).await?;
            }
            warn(syncer, &inside).await;
            Ok(Outcome::Done)
        }
        (Some(inside), Some(host)) => {
            if let Some(updated) = syncer
                .translator
                .service_update(&host, &desired(syncer, &inside, is_dns)?)
            {
                let host = syncer
                    .host
                    .cluster
                    .update(Kind::Service.resource(), "", &updated)
                    .await?;
                back(syncer, &inside, &host).await?;
                warn(syncer, &inside).await;
            } else {
                back(syncer, &inside, &host).await?;
            }
            Ok(Outcome::Done)
        }
    }
}

/// Tells the user what of the Service the host does not have.
async fn warn(syncer: &Syncer, inside: &Value) {
    for warning in syncer.translator.service_warnings(inside) {
        events::warn(syncer, inside, "SyncWarning", &warning).await;
    }
}

fn desired(syncer: &Syncer, inside: &Value, is_dns: bool) -> Result<Value, ApiError> {
    let t = &syncer.translator;
    if is_dns {
        return Ok(t.dns_service_to_host(inside));
    }
    Ok(t.patched_kind("Service", inside, t.service_to_host(inside))?)
}

/// Shows inside what the host allocated.
async fn back(syncer: &Syncer, inside: &Value, host: &Value) -> Result<(), ApiError> {
    let resource = Kind::Service.resource();
    if let Some(updated) = syncer.translator.service_back(host, inside) {
        // The status is looked at when this change comes back.
        syncer.inside.cluster.update(resource, "", &updated).await?;
    } else if let Some(status) = syncer.translator.service_status_back(host, inside) {
        set_status(syncer, Kind::Service, inside, status).await?;
    }
    Ok(())
}

/// The Service of the virtual API server shows the address of the host's.
async fn kubernetes(syncer: &Syncer) -> Result<Outcome, ApiError> {
    let name = VirtualName::new("default", "kubernetes");
    endpoints::own(syncer, "kubernetes", "default").await?;
    let wanted = syncer.translator.kubernetes_service(&syncer.own_service);
    let Some(inside) = syncer.inside.get(Kind::Service, &name) else {
        create_inside(syncer, &wanted).await?;
        return Ok(Outcome::Done);
    };
    let mut updated = (*inside).clone();
    if let (Some(spec), Some(wanted)) =
        (updated["spec"].as_object_mut(), wanted["spec"].as_object())
    {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = wanted.get(key) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    if updated == *inside {
        return Ok(Outcome::Done);
    }
    match syncer
        .inside
        .cluster
        .update(Kind::Service.resource(), "", &updated)
        .await
    {
        Ok(_) => Ok(Outcome::Done),
        // The address cannot be changed, so the Service is made anew.
        Err(error) if error.is_users_concern() => {
            warn!(%error, "recreating the Service default/kubernetes");
            delete_inside(syncer, Kind::Service, &inside, None).await?;
            create_inside(syncer, &wanted).await?;
            Ok(Outcome::Done)
        }
        Err(error) => Err(error),
    }
}

async fn create_inside(syncer: &Syncer, service: &Value) -> Result<(), ApiError> {
    match syncer
        .inside
        .cluster
        .create(Kind::Service.resource(), service)
        .await
    {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}
