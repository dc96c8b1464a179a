//! Host services under names of the user's choice that lead to virtual
//! services.

use std::sync::Arc;

use coracle_config::mapping;
use coracle_translate::VirtualName;
use serde_json::Value;

use super::{create_unless_taken, delete_on_host, events};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

/// The names of host services that lead to the virtual Service.
pub(crate) fn of(syncer: &Syncer, service: &VirtualName) -> Vec<String> {
    let t = &syncer.translator;
    let all = mapping::services_to_host(&t.config, &t.host_namespace);
    all.into_iter()
        .filter(|mapping| mapping.from_namespace == service.namespace)
        .filter_map(|mapping| mapping.forth(&service.name))
        .collect()
}

/// The virtual Service that a host name leads to.
fn source(syncer: &Syncer, host_name: &str) -> Option<VirtualName> {
    let t = &syncer.translator;
    let all = mapping::services_to_host(&t.config, &t.host_namespace);
    all.into_iter().find_map(|mapping| {
        let name = mapping.back(host_name)?;
        Some(VirtualName::new(mapping.from_namespace, name))
    })
}

pub(crate) async fn reconcile(syncer: &Syncer, host_name: &str) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let place = VirtualName::new(t.host_namespace.as_str(), host_name);
    let host = syncer.host.get(Kind::Service, &place);
    let host = host.filter(|host| t.alias_of(host).is_some());
    let inside = source(syncer, host_name)
        .and_then(|name| syncer.inside.get(Kind::Service, &name))
        .filter(|service| !coracle_machinery::object::is_terminating(service));
    let (inside, obstacle) = match inside {
        Some(service) => {
            let obstacle = t.alias_obstacle(&service);
            (Some(service), obstacle)
        }
        None => (None, None),
    };
    if let (Some(inside), Some(obstacle)) = (&inside, obstacle) {
        let message = format!("the host gets no service {host_name:?} for this one: {obstacle}");
        events::warn(syncer, inside, "SyncWarning", &message).await;
    }
    match (inside.filter(|_| obstacle.is_none()), host) {
        (None, None) => {}
        (None, Some(host)) => delete_on_host(syncer, Kind::Service, &host, None).await?,
        (Some(inside), host) => {
            let result = write(syncer, &inside, host, host_name).await;
            if let Err(error) = &result
                && error.is_users_concern()
            {
                events::warn(syncer, &inside, "SyncError", &error.to_string()).await;
            }
            result?;
        }
    }
    Ok(Outcome::Done)
}

async fn write(
    syncer: &Syncer,
    inside: &Value,
    host: Option<Arc<Value>>,
    host_name: &str,
) -> Result<(), ApiError> {
    let t = &syncer.translator;
    let desired = t.service_alias(inside, host_name);
    let Some(host) = host else {
        let ours = |host: &Value| t.alias_of(host).is_some();
        create_unless_taken(syncer, Kind::Service.resource(), &desired, ours).await?;
        return Ok(());
    };
    if let Some(updated) = t.service_update(&host, &desired) {
        let resource = Kind::Service.resource();
        syncer.host.cluster.update(resource, "", &updated).await?;
    }
    Ok(())
}
