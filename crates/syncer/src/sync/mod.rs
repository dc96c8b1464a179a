//! Reconciliation, one module for each kind that has rules of its own. Each
//! looks at both sides as they are now and does the next thing that brings them
//! together; a change that it causes comes back through the watch.

pub(crate) mod accounts;
pub(crate) mod aliases;
pub(crate) mod claims;
pub(crate) mod classes;
pub(crate) mod custom;
pub(crate) mod data;
pub(crate) mod endpoints;
pub(crate) mod events;
pub(crate) mod imports;
pub(crate) mod nodes;
pub(crate) mod owner;
pub(crate) mod plain;
pub(crate) mod pods;
pub(crate) mod publish;
pub(crate) mod replicas;
pub(crate) mod selection;
pub(crate) mod services;
pub(crate) mod shown;
pub(crate) mod sources;
pub(crate) mod tokens;
pub(crate) mod usage;
pub(crate) mod volumes;

use coracle_machinery::object;
use coracle_translate::VirtualName;
use serde_json::Value;

use crate::api::{ApiError, Cluster, Delete, Resource};
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Creates the host object. If the name is taken: by the same object (created
/// a moment ago, not yet seen) that is as good; by an older incarnation, that
/// one is removed; by a foreign object, it is left alone and the user is told.
pub(crate) async fn create_on_host(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
    desired: &Value,
) -> Result<Option<Value>, ApiError> {
    let resource = kind.resource();
    let ours = |host: &Value| syncer.translator.ours(resource.kind, host).as_ref() == Some(name);
    let present = match create_unless_taken(syncer, resource, desired, ours).await? {
        Created::New(created) => return Ok(Some(created)),
        Created::Present(present) => present,
    };
    if object::annotation(&present, coracle_config::marks::OBJECT_UID)
        != object::annotation(desired, coracle_config::marks::OBJECT_UID)
        && kind == Kind::Pod
    {
        delete_on_host(syncer, kind, &present, None).await?;
        return Ok(None);
    }
    Ok(Some(present))
}

/// Creates a host class or volume, which lies in no namespace, as `create_on_host` does.
pub(crate) async fn create_class_on_host(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
    desired: &Value,
) -> Result<Option<Value>, ApiError> {
    let ours = |host: &Value| {
        let found = syncer.translator.our_class(kind.resource().kind, host);
        found.as_ref() == Some(name)
    };
    match create_unless_taken(syncer, kind.resource(), desired, ours).await? {
        Created::New(_) => Ok(None),
        Created::Present(present) => Ok(Some(present)),
    }
}

/// How a host object came to be there.
enum Created {
    /// Just now.
    New(Value),
    /// It was there, and is ours.
    Present(Value),
}

/// Creates the host object unless its name is taken: by one of `ours`, that is
/// given back; by another, that is an error for the user.
async fn create_unless_taken(
    syncer: &Syncer,
    resource: Resource<'_>,
    desired: &Value,
    ours: impl Fn(&Value) -> bool,
) -> Result<Created, ApiError> {
    match syncer.host.cluster.create(resource, desired).await {
        Ok(created) => return Ok(Created::New(created)),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let host_name = object::name(desired);
    let namespace = object::namespace(desired);
    let Some(present) = syncer
        .host
        .cluster
        .get(resource, namespace, host_name)
        .await?
    else {
        // Gone again: try once more, soon.
        return Err(ApiError::Transport(format!("{host_name} comes and goes")));
    };
    if !ours(&present) {
        return Err(ApiError::Refused {
            code: 422,
            reason: "Invalid".into(),
            message: format!(
                "the host already has a {} {host_name:?} that does not belong to this virtual cluster; \
                 it is left alone, so this object cannot be synced under its name",
                resource.kind
            ),
        });
    }
    Ok(Created::Present(present))
}

/// Deletes this incarnation of a host object.
pub(crate) async fn delete_on_host(
    syncer: &Syncer,
    kind: Kind,
    host: &Value,
    grace: Option<i64>,
) -> Result<(), ApiError> {
    delete(&syncer.host.cluster, kind.resource(), host, grace).await
}

/// Deletes this incarnation of a virtual object.
pub(crate) async fn delete_inside(
    syncer: &Syncer,
    kind: Kind,
    inside: &Value,
    grace: Option<i64>,
) -> Result<(), ApiError> {
    delete(&syncer.inside.cluster, kind.resource(), inside, grace).await
}

/// Deletes this incarnation of an object.
async fn delete(
    cluster: &Cluster,
    resource: Resource<'_>,
    object: &Value,
    grace: Option<i64>,
) -> Result<(), ApiError> {
    let how = Delete {
        grace,
        uid: object::uid(object).to_owned(),
    };
    let place = (object::namespace(object), object::name(object));
    cluster.delete(resource, place.0, place.1, &how).await
}

/// Replaces the status of a virtual object. A merge patch, so that nothing
/// but the status can be lost; fields that are gone are named.
pub(crate) async fn set_status(
    syncer: &Syncer,
    kind: Kind,
    inside: &Value,
    status: Value,
) -> Result<(), ApiError> {
    set_status_in(syncer, kind.resource(), "status", inside, status).await
}

/// As `set_status`, of any resource; `sub` is empty where the status is no
/// subresource.
async fn set_status_in(
    syncer: &Syncer,
    resource: Resource<'_>,
    sub: &str,
    inside: &Value,
    mut status: Value,
) -> Result<(), ApiError> {
    if let Some(old) = inside.get("status") {
        name_what_is_gone(old, &mut status);
    }
    let patch = serde_json::json!({
        "metadata": {"uid": object::uid(inside)},
        "status": status,
    });
    let place = (object::namespace(inside), object::name(inside));
    match syncer
        .inside
        .cluster
        .patch(resource, place.0, place.1, sub, &patch)
        .await
    {
        Ok(_) => Ok(()),
        // Deleted meanwhile: nobody looks at its status.
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a merge patch of what an object is to become: it says nothing of what
/// it does not name, at any depth, so what is gone is named.
fn name_what_is_gone(old: &Value, patch: &mut Value) {
    let (Some(old), Some(patch)) = (old.as_object(), patch.as_object_mut()) else {
        return;
    };
    for (key, value) in old {
        match patch.get_mut(key) {
            Some(new) => name_what_is_gone(value, new),
            None => {
                patch.insert(key.clone(), Value::Null);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_names_what_is_gone_at_any_depth() {
        let old = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}, "conditions": []});
        let mut patch = json!({"loadBalancer": {}});
        name_what_is_gone(&old, &mut patch);
        assert_eq!(
            patch,
            json!({"loadBalancer": {"ingress": null}, "conditions": null})
        );
        let mut same =
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}, "conditions": []});
        let wanted = same.clone();
        name_what_is_gone(&old, &mut same);
        assert_eq!(same, wanted);
    }
}
