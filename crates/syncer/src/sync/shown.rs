//! ConfigMaps and Secrets of the host that are shown inside.

use coracle_machinery::object;
use coracle_translate::{DataKind, VirtualName};

use super::replicas::create_inside;
use super::sources::Found;
use super::{delete_inside, events};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    data: DataKind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let kind = match data {
        DataKind::ConfigMap => Kind::ConfigMap,
        DataKind::Secret => Kind::Secret,
    };
    let t = &syncer.translator;
    let inside = syncer.inside.get(kind, name);
    let host = match syncer.sources.find(kind, name) {
        Found::Unknown => return Ok(Outcome::Done),
        Found::Unmapped | Found::Absent => None,
        Found::Object(host) => Some(host).filter(|host| t.may_be_shown(host)),
    };
    if let Some(foreign) = inside.as_deref().filter(|object| !t.is_shown(object)) {
        if host.is_some() {
            let message =
                "the values map an object of the host to this name: this one is left alone";
            events::warn(syncer, foreign, "SyncWarning", message).await;
        }
        return Ok(Outcome::Done);
    }
    let Some(host) = host else {
        if let Some(inside) = inside {
            delete_inside(syncer, kind, &inside, None).await?;
        }
        return Ok(Outcome::Done);
    };
    // The caches keep no content.
    let resource = kind.resource();
    let place = (object::namespace(&host), object::name(&host));
    let Some(host) = syncer.host.cluster.get(resource, place.0, place.1).await? else {
        return Ok(Outcome::Done);
    };
    let wanted = t.shown_kind(resource.kind, &host, t.shown(data, name, &host))?;
    let cluster = &syncer.inside.cluster;
    let Some(present) = cluster.get(resource, &name.namespace, &name.name).await? else {
        create_inside(syncer, kind, &wanted).await?;
        return Ok(Outcome::Done);
    };
    if !t.is_shown(&present) {
        return Ok(Outcome::Done);
    }
    if let Some(updated) = t.shown_update(&present, &wanted) {
        match cluster.update(resource, "", &updated).await {
            // An immutable one, or another type: made anew once this is gone.
            Err(error) if error.is_users_concern() => {
                delete_inside(syncer, kind, &present, None).await?;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(Outcome::Done)
}
