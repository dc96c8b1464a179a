//! Classes of the host, shown inside.

use std::sync::Arc;
use std::time::Duration;

use coracle_config::marks;
use coracle_translate::VirtualName;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{custom, delete_inside};
use crate::api::{ApiError, Narrow};
use crate::cache::Cache;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let cluster = &syncer.inside.cluster;
    let resource = kind.resource();
    let inside = syncer.inside.get(kind, name);
    let host = syncer.host.get(kind, name);
    // What is not listed yet must not be taken for gone.
    if !syncer.host.cache(kind).is_some_and(Cache::is_synced) {
        return Ok(Outcome::Done);
    }
    match (inside, host) {
        (None, None) => {}
        (Some(inside), None) => {
            if t.is_shown(&inside) {
                delete_inside(syncer, kind, &inside, None).await?;
            }
        }
        (None, Some(host)) => {
            let wanted = t.imported(resource.api_version, resource.kind, &host);
            let wanted = t.shown_kind(resource.kind, &host, wanted)?;
            match cluster.create(resource, &wanted).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        // One of the tenant's own with that name stays as it is.
        (Some(inside), Some(_)) if !t.is_shown(&inside) => {}
        (Some(inside), Some(host)) => {
            let wanted = t.imported(resource.api_version, resource.kind, &host);
            let wanted = t.shown_kind(resource.kind, &host, wanted)?;
            if let Some(updated) = t.imported_update(&inside, &wanted) {
                match cluster.update(resource, "", &updated).await {
                    // Some fields cannot be changed: it is made anew.
                    Err(error) if error.is_users_concern() => {
                        delete_inside(syncer, kind, &inside, None).await?;
                    }
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
        }
    }
    Ok(Outcome::Done)
}

/// Classes of the host by kind, all that can be shown.
pub(crate) const CLASSES: &[Kind] = &[
    Kind::IngressClass,
    Kind::StorageClass,
    Kind::RuntimeClass,
    Kind::PriorityClass,
];

/// Pause before it is tried again to remove what is no longer shown.
const PAUSE: Duration = Duration::from_secs(2);

/// Removes what an earlier configuration showed inside and this one does not.
pub(crate) async fn sweep(syncer: Arc<Syncer>, stop: CancellationToken) {
    while let Err(error) = custom::remove_unshown(&syncer).await {
        debug!(%error, "cannot remove what is no longer shown");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    for kind in CLASSES {
        if Kind::imported(&syncer.translator.config).contains(kind) {
            continue;
        }
        while let Err(error) = remove_all(&syncer, *kind).await {
            debug!(?kind, %error, "cannot remove what is no longer shown");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

async fn remove_all(syncer: &Syncer, kind: Kind) -> Result<(), ApiError> {
    let narrow = Narrow {
        labels: format!("{}=host", marks::IMPORTED),
        ..Narrow::default()
    };
    let (found, _) = syncer.inside.cluster.list(kind.resource(), &narrow).await?;
    for object in found.iter().filter(|o| syncer.translator.is_shown(o)) {
        delete_inside(syncer, kind, object, None).await?;
    }
    Ok(())
}
