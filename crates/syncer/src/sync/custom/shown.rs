//! Custom objects of the host that are shown inside. They have no life of their
//! own there: what is changed inside is put right.

use coracle_config::mapping::Mapping;
use coracle_config::{CustomName, marks};
use coracle_machinery::object;
use coracle_translate::{CustomKind, VirtualName};
use serde_json::Value;
use std::sync::Arc;

use super::{Custom, Served, resource};
use crate::api::{ApiError, Narrow};
use crate::engine::Syncer;
use crate::kinds::other::DEFINITIONS;
use crate::sync::replicas::ensure_namespace;
use crate::sync::{delete, events};

/// What of the host a mapping is about.
pub(super) fn narrow(mapping: &Mapping) -> Narrow {
    let name = mapping.names.as_ref().map(|(from, _)| from.clone());
    Narrow {
        namespace: mapping.from_namespace.clone(),
        labels: String::new(),
        name: name.unwrap_or_default(),
    }
}

/// The host object that is shown under a name: that of the first mapping that
/// has one. What came from a virtual cluster is not shown in one.
fn source(
    syncer: &Syncer,
    custom: &Custom,
    served: &Served,
    name: &VirtualName,
) -> Option<Arc<Value>> {
    let mut sources = custom.mappings.iter().zip(&served.host);
    sources.find_map(|(mapping, cache)| {
        if mapping.to_namespace != name.namespace {
            return None;
        }
        let from = mapping.back(&name.name)?;
        let found = cache.get(&VirtualName::new(mapping.from_namespace.as_str(), from))?;
        syncer.translator.may_be_shown(&found).then_some(found)
    })
}

pub(super) async fn reconcile(
    syncer: &Syncer,
    custom: &Custom,
    served: &Served,
    name: &VirtualName,
) -> Result<(), ApiError> {
    let t = &syncer.translator;
    let cluster = &syncer.inside.cluster;
    let (resource, kind) = (served.resource(), &served.flow.kind);
    let inside = served.inside.get(name).filter(|inside| t.is_shown(inside));
    let Some(host) = source(syncer, custom, served, name) else {
        if let Some(inside) = inside.filter(|inside| !object::is_terminating(inside)) {
            delete(cluster, resource, &inside, None).await?;
        }
        return Ok(());
    };
    let shown = t.custom_shown(kind, name, &host);
    let shown = t.patched_back(&custom.patches, &host, &Value::Null, shown)?;
    let Some(inside) = inside else {
        if kind.namespaced {
            ensure_namespace(syncer, &name.namespace).await?;
        }
        match cluster.create(resource, &shown).await {
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
            // Its status follows when the watch tells of it.
            Ok(_) => return Ok(()),
        }
        let present = cluster.get(resource, &name.namespace, &name.name).await?;
        if let Some(foreign) = present.filter(|present| !t.is_shown(present)) {
            let message =
                "the values show an object of the host under this name: this one is left alone";
            events::warn(syncer, &foreign, "SyncWarning", message).await;
        }
        return Ok(());
    };
    if let Some(updated) = t.custom_shown_update(&inside, &shown) {
        match cluster.update(resource, "", &updated).await {
            // Some fields cannot be changed: it is made anew once this is gone.
            Err(error) if error.is_users_concern() => {
                return delete(cluster, resource, &inside, None).await;
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    served.show_status(syncer, &shown, &inside).await
}

/// Removes what an earlier configuration showed inside and this one does not.
/// Definitions stay: the tenant may have made objects of them.
///
/// # Errors
/// As the virtual cluster answers.
pub(crate) async fn remove_unshown(syncer: &Syncer) -> Result<(), ApiError> {
    let t = &syncer.translator;
    let cluster = &syncer.inside.cluster;
    let narrow = Narrow {
        labels: format!("{}=host", marks::IMPORTED),
        ..Narrow::default()
    };
    let (definitions, _) = cluster.list(DEFINITIONS, &narrow).await?;
    for definition in definitions
        .iter()
        .filter(|definition| t.is_shown(definition))
    {
        let Ok(name) = CustomName::parse(object::name(definition)) else {
            continue;
        };
        let all = &syncer.customs.from_host;
        let is_shown = all.iter().any(|c| c.name.definition() == name.definition());
        let Some(kind) = CustomKind::of(definition, &name).filter(|_| !is_shown) else {
            continue;
        };
        let (found, _) = cluster.list(resource(&kind), &narrow).await?;
        for object in found.iter().filter(|object| t.is_shown(object)) {
            delete(cluster, resource(&kind), object, None).await?;
        }
    }
    Ok(())
}
