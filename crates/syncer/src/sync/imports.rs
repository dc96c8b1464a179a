//! Ingress classes and storage classes of the host, shown inside.

use coracle_translate::VirtualName;

use super::delete_inside;
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
    let cluster = &syncer.inside.cluster;
    let resource = kind.resource();
    let inside = syncer.inside.get(kind, name);
    let host = syncer.host.get(kind, name);
    match (inside, host) {
        (None, None) => {}
        (Some(inside), None) => {
            if t.is_imported(&inside) {
                delete_inside(syncer, kind, &inside, None).await?;
            }
        }
        (None, Some(host)) => {
            let wanted = t.imported(resource.api_version, resource.kind, &host);
            match cluster.create(resource, &wanted).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        // One of the tenant's own with that name stays as it is.
        (Some(inside), Some(_)) if !t.is_imported(&inside) => {}
        (Some(inside), Some(host)) => {
            let wanted = t.imported(resource.api_version, resource.kind, &host);
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
