//! Services inside that stand for services of the host.

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::{Value, json};

use super::sources::Found;
use super::{delete_inside, endpoints, events};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let inside = syncer.inside.get(Kind::Service, name);
    if let Some(foreign) = inside.as_deref().filter(|service| !t.is_shown(service)) {
        let message = "the values map a service of the host to this name: this one is left alone";
        events::warn(syncer, foreign, "SyncWarning", message).await;
        return Ok(Outcome::Done);
    }
    let host = match syncer.sources.find(Kind::Service, name) {
        Found::Unknown => return Ok(Outcome::Done),
        Found::Unmapped | Found::Absent => {
            if let Some(inside) = inside {
                remove_endpoints(syncer, name).await?;
                delete_inside(syncer, Kind::Service, &inside, None).await?;
            }
            return Ok(Outcome::Done);
        }
        Found::Object(host) => host,
    };
    let wanted = t.replica_service(name, &host);
    match inside {
        None => create_inside(syncer, Kind::Service, &wanted).await?,
        Some(inside) => match t.replica_update(&inside, &wanted) {
            Ok(None) => {}
            Ok(Some(updated)) => {
                let resource = Kind::Service.resource();
                syncer.inside.cluster.update(resource, "", &updated).await?;
            }
            Err(coracle_translate::NewType) => {
                // Its end brings the key back.
                delete_inside(syncer, Kind::Service, &inside, None).await?;
                return Ok(Outcome::Done);
            }
        },
    }
    if object::text(&wanted, "/spec/type") == "ExternalName" {
        return Ok(Outcome::Done);
    }
    let copied = match syncer.sources.find(Kind::Endpoints, name) {
        Found::Object(endpoints) => Some(endpoints),
        _ => None,
    };
    endpoints::write_inside(syncer, t.replica_endpoints(name, &host, copied.as_deref())).await?;
    Ok(Outcome::Done)
}

/// Creates an object inside, and its namespace before it if need be. One that
/// is there already is told by the watch.
pub(crate) async fn create_inside(
    syncer: &Syncer,
    kind: Kind,
    wanted: &Value,
) -> Result<(), ApiError> {
    ensure_namespace(syncer, object::namespace(wanted)).await?;
    match syncer.inside.cluster.create(kind.resource(), wanted).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

/// Makes a namespace inside unless it is there.
pub(crate) async fn ensure_namespace(syncer: &Syncer, namespace: &str) -> Result<(), ApiError> {
    let cluster = &syncer.inside.cluster;
    let place = VirtualName::new("", namespace);
    if syncer.inside.get(Kind::Namespace, &place).is_none() {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
        });
        match cluster.create(Kind::Namespace.resource(), &object).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what was written for the service: nobody else would.
async fn remove_endpoints(syncer: &Syncer, name: &VirtualName) -> Result<(), ApiError> {
    let how = crate::api::Delete::default();
    for kind in [Kind::Endpoints, Kind::EndpointSlice] {
        let cluster = &syncer.inside.cluster;
        cluster
            .delete(kind.resource(), &name.namespace, &name.name, &how)
            .await?;
    }
    Ok(())
}
