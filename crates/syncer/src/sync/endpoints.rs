//! Endpoints and EndpointSlices of services without a selector, and those of
//! the control plane's own services.

use coracle_machinery::object;
use coracle_translate::{VirtualName, is_controller_made_slice};
use serde_json::Value;

use super::{create_on_host, delete_on_host};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let own = *name == VirtualName::new("default", "kubernetes") || syncer.translator.is_dns(name);
    if own {
        self::own(syncer, &name.name, &name.namespace).await?;
        return Ok(Outcome::Done);
    }
    let inside = syncer
        .inside
        .get(kind, name)
        .filter(|object| flows(syncer, kind, object));
    let host = syncer.host_object(kind, name);
    let t = &syncer.translator;
    let desired = inside.and_then(|object| {
        let desired = match kind {
            Kind::Endpoints => t.endpoints_to_host(&object),
            _ => t.slice_to_host(&object)?,
        };
        Some(t.patched_kind(kind.resource().kind, &object, desired))
    });
    let desired = desired.transpose()?;
    match (desired, host) {
        (None, None) => {}
        (None, Some(host)) => delete_on_host(syncer, kind, &host, None).await?,
        (Some(desired), None) => {
            create_on_host(syncer, kind, name, &desired).await?;
        }
        (Some(desired), Some(host)) => {
            let fields: &[&str] = match kind {
                Kind::Endpoints => &["subsets"],
                _ => &["endpoints", "ports"],
            };
            if let Some(updated) = t.replace_update(&host, &desired, fields) {
                syncer
                    .host
                    .cluster
                    .update(kind.resource(), "", &updated)
                    .await?;
            }
        }
    }
    Ok(Outcome::Done)
}

fn flows(syncer: &Syncer, kind: Kind, object: &Value) -> bool {
    let namespace = object::namespace(object);
    let service = match kind {
        Kind::Endpoints => object::name(object),
        _ if is_controller_made_slice(object) => return false,
        _ => match syncer.translator.slice_service(object) {
            Some(service) => service,
            None => return false,
        },
    };
    let service = VirtualName::new(namespace, service);
    let own =
        service == VirtualName::new("default", "kubernetes") || syncer.translator.is_dns(&service);
    if own || object::is_terminating(object) {
        return false;
    }
    // The host makes the endpoints of services with a selector, from the pods
    // that the selector finds there.
    syncer
        .inside
        .get(Kind::Service, &service)
        .is_some_and(|service| {
            object::string_map(&service, "/spec/selector")
                .next()
                .is_none()
        })
}

/// Writes Endpoints and EndpointSlice of one of the control plane's own
/// services inside.
pub(crate) async fn own(syncer: &Syncer, name: &str, namespace: &str) -> Result<(), ApiError> {
    let wanted = syncer
        .translator
        .own_endpoints(name, namespace, &syncer.pod_ip);
    write_inside(syncer, wanted).await
}

/// Writes Endpoints and EndpointSlice inside.
pub(crate) async fn write_inside(syncer: &Syncer, wanted: [Value; 2]) -> Result<(), ApiError> {
    for (kind, wanted) in [Kind::Endpoints, Kind::EndpointSlice]
        .into_iter()
        .zip(wanted)
    {
        let cluster = &syncer.inside.cluster;
        let resource = kind.resource();
        let (namespace, name) = (object::namespace(&wanted), object::name(&wanted));
        let Some(mut present) = cluster.get(resource, namespace, name).await? else {
            match cluster.create(resource, &wanted).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => continue,
            }
        };
        let mut changed = false;
        for field in ["subsets", "endpoints", "ports"] {
            if let Some(value) = wanted.get(field)
                && addresses(present.get(field)) != addresses(Some(value))
            {
                present[field] = value.clone();
                changed = true;
            }
        }
        if changed {
            cluster.update(resource, "", &present).await?;
        }
    }
    Ok(())
}

/// What counts in endpoints: addresses and port numbers, whatever else the
/// server filled in.
fn addresses(value: Option<&Value>) -> Vec<String> {
    let mut found = Vec::new();
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(map) => {
                for (key, value) in map {
                    if matches!(
                        key.as_str(),
                        "ip" | "port" | "protocol" | "addresses" | "ports"
                    ) {
                        found.push(key.clone());
                        collect(value, found);
                    }
                }
            }
            other => found.push(other.to_string()),
        }
    }
    if let Some(value) = value {
        collect(value, &mut found);
    }
    found
}
