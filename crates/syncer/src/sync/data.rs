//! ConfigMaps and Secrets: those that something on the host refers to.

use std::time::Duration;

use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::{DataKind, Reference, VirtualName, references};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde_json::Value;
use tracing::debug;

use super::{create_on_host, delete_on_host};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

/// How many objects that one pod refers to are written at once.
const AT_ONCE: usize = 8;

/// The ConfigMap that a controller makes in every namespace and that almost
/// every pod refers to.
const ROOT_CA: &str = "kube-root-ca.crt";
/// How long a new pod waits for it.
const ROOT_CA_PATIENCE: Duration = Duration::from_secs(2);

fn kind_of(data: DataKind) -> Kind {
    match data {
        DataKind::ConfigMap => Kind::ConfigMap,
        DataKind::Secret => Kind::Secret,
    }
}

/// True for a pod so new that its namespace's certificates may still be on
/// their way.
pub(crate) fn lacks_root_ca(syncer: &Syncer, pod: &Value) -> bool {
    let name = VirtualName::new(object::namespace(pod), ROOT_CA);
    let wanted = Reference {
        kind: DataKind::ConfigMap,
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let created = object::text(pod, "/metadata/creationTimestamp").parse::<Timestamp>();
    let age = created.map(|at| Timestamp::now().duration_since(at));
    let is_new = age.is_ok_and(|age| age.unsigned_abs() < ROOT_CA_PATIENCE);
    is_new
        && references(pod).contains(&wanted)
        && syncer.inside.get(Kind::ConfigMap, &name).is_none()
}

/// Makes sure that what a pod refers to is on the host, as far as it is there
/// inside.
pub(crate) async fn ensure(syncer: &Syncer, pod: &Value) -> Result<(), ApiError> {
    let all = syncer.references_of(Kind::Pod, pod);
    let missing = all.into_iter().filter_map(|reference| {
        let (data, kind) = (reference.kind, kind_of(reference.kind));
        let name = VirtualName::new(reference.namespace, reference.name);
        let missing =
            syncer.inside.get(kind, &name).is_some() && syncer.host_object(kind, &name).is_none();
        missing.then_some((data, name))
    });
    futures::stream::iter(missing.map(Ok))
        .try_for_each_concurrent(AT_ONCE, |(data, name)| async move {
            match reconcile(syncer, data, &name).await {
                // Its own turn tells the user; the pod may do without it.
                Err(error) if error.is_users_concern() => {
                    debug!(?name, %error, "a pod is made without it");
                    Ok(())
                }
                result => result.map(drop),
            }
        })
        .await
}

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
        // Who refers to it may not be known yet: all are looked at again then.
        let may_go = syncer.inside.get(kind, name).is_none() || !syncer.customs.may_refer();
        if let Some(host) = host.filter(|_| may_go) {
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
    let t = &syncer.translator;
    let desired = t.patched_kind(resource.kind, &whole, t.data_to_host(data, &whole))?;
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
