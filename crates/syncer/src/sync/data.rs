//! ConfigMaps and Secrets: those that something on the host refers to.

use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::{DataKind, Reference, VirtualName};

use super::{create_on_host, delete_on_host};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    data: DataKind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let (kind, choice) = match data {
        DataKind::ConfigMap => (
            Kind::ConfigMap,
            &syncer.translator.config.sync.to_host.config_maps,
        ),
        DataKind::Secret => (Kind::Secret, &syncer.translator.config.sync.to_host.secrets),
    };
    let reference = Reference {
        kind: data,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let wanted = choice.enabled && (choice.all || syncer.is_referenced(&reference));
    let host = syncer.host_object(kind, name);
    let inside = syncer.inside.get(kind, name).filter(|_| wanted);
    let Some(inside) = inside else {
        if let Some(host) = host {
            delete_on_host(syncer, kind, &host, None).await?;
        }
        return Ok(Outcome::Done);
    };
    // The cache keeps no content.
    let resource = kind.resource();
    let Some(whole) = syncer
        .inside
        .cluster
        .get(resource, &name.namespace, &name.name)
        .await?
    else {
        return Ok(Outcome::Done);
    };
    if object::uid(&whole) != object::uid(&inside) {
        // Recreated meanwhile: the watch will tell.
        return Ok(Outcome::Done);
    }
    let desired = syncer.translator.data_to_host(data, &whole);
    let Some(host) = host else {
        create_on_host(syncer, kind, name, &desired).await?;
        return Ok(Outcome::Done);
    };
    let same_type = host.get("type") == desired.get("type") || desired.get("type").is_none();
    if !same_type {
        // A Secret's type cannot be changed.
        delete_on_host(syncer, kind, &host, None).await?;
        return Ok(Outcome::Done);
    }
    if object::annotation(&host, marks::APPLIED) != object::annotation(&desired, marks::APPLIED) {
        let fields = ["data", "binaryData"];
        if let Some(updated) = syncer.translator.replace_update(&host, &desired, &fields) {
            syncer.host.cluster.update(resource, "", &updated).await?;
        }
    }
    Ok(Outcome::Done)
}
