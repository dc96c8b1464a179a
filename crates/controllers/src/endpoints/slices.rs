//! Which endpoint slices to create, change and delete.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::objects::service::{EndpointSlice, SERVICE_NAME_LABEL, Service};
use crate::objects::{Kind, Meta, OwnerReference, controller_reference};

use super::addresses::{Group, is_headless};

/// The label that says who looks after a slice.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice at most.
const MAX_ENDPOINTS: usize = 100;

/// Whether this controller made the slice.
pub(super) fn is_ours(meta: &Meta) -> bool {
    meta.label(MANAGED_BY) == Some(MANAGER)
}

/// Writes that bring slices up to date.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub create: Vec<Value>,
    /// Name and merge patch.
    pub update: Vec<(String, Value)>,
    /// Name and uid.
    pub delete: Vec<(String, String)>,
}

/// A slice as it is to be.
struct Draft<'a> {
    existing: Option<&'a EndpointSlice>,
    endpoints: Vec<Value>,
}

/// What all slices of one service have in common.
pub(super) struct Head {
    pub name: String,
    pub namespace: String,
    /// The object that they are made from.
    pub owner: OwnerReference,
    pub labels: BTreeMap<String, String>,
}

impl Head {
    /// Of the slices that are made from a service and its pods.
    pub fn of(service: &Service) -> Self {
        Self {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            owner: controller_reference(Service::RESOURCE, &service.metadata),
            labels: labels(service),
        }
    }
}

/// Compares what is wanted with what exists. Endpoints stay in the slice that
/// holds them, so that few slices change.
pub(super) fn changes(head: &Head, existing: &[Arc<EndpointSlice>], groups: Vec<Group>) -> Changes {
    let labels = &head.labels;
    let mut changes = Changes::default();
    let mut free: Vec<&EndpointSlice> = existing.iter().map(Arc::as_ref).collect();
    let mut fresh: Vec<(Group, Vec<Value>)> = Vec::new();
    for group in groups {
        let (same, others): (Vec<_>, Vec<_>) = free.into_iter().partition(|slice| {
            slice.address_type == group.address_type && slice.ports == group.ports
        });
        free = others;
        let (drafts, mut homeless) = distribute(same, &group);
        let has_draft = drafts.iter().any(|draft| !draft.endpoints.is_empty());
        let mut kept_empty = false;
        for draft in drafts {
            let Some(slice) = draft.existing else {
                continue;
            };
            // One slice remains even when it is empty.
            let placeholder = !has_draft && homeless.is_empty() && !kept_empty;
            if draft.endpoints.is_empty() && !placeholder {
                free.push(slice);
                continue;
            }
            kept_empty |= draft.endpoints.is_empty();
            if slice.endpoints != draft.endpoints || slice.metadata.labels != *labels {
                changes.update.push((
                    slice.metadata.name.clone(),
                    patch(slice, &group.ports, &draft.endpoints, labels),
                ));
            }
        }
        if homeless.is_empty() && !has_draft && !kept_empty {
            fresh.push((clone_head(&group), Vec::new()));
        }
        while !homeless.is_empty() {
            let rest = homeless.split_off(homeless.len().min(MAX_ENDPOINTS));
            fresh.push((clone_head(&group), homeless));
            homeless = rest;
        }
    }
    // A slice that is no longer needed takes the place of one to be made.
    for (group, endpoints) in fresh {
        let reuse = free
            .iter()
            .position(|slice| slice.address_type == group.address_type);
        match reuse.map(|n| free.swap_remove(n)) {
            Some(slice) => changes.update.push((
                slice.metadata.name.clone(),
                patch(slice, &group.ports, &endpoints, labels),
            )),
            None => changes.create.push(body(head, &group, &endpoints)),
        }
    }
    changes.delete = free
        .iter()
        .map(|it| (it.metadata.name.clone(), it.metadata.uid.clone()))
        .collect();
    changes
}

/// Deletes all that exists.
pub(super) fn none_of(existing: &[Arc<EndpointSlice>]) -> Changes {
    Changes {
        delete: existing
            .iter()
            .map(|it| (it.metadata.name.clone(), it.metadata.uid.clone()))
            .collect(),
        ..Changes::default()
    }
}

fn clone_head(group: &Group) -> Group {
    Group {
        address_type: group.address_type,
        ports: group.ports.clone(),
        endpoints: Vec::new(),
    }
}

/// Keeps each endpoint where it is, puts new ones where there is room, and
/// returns those that found none.
fn distribute<'a>(slices: Vec<&'a EndpointSlice>, group: &Group) -> (Vec<Draft<'a>>, Vec<Value>) {
    let mut wanted: HashMap<String, &Value> = group
        .endpoints
        .iter()
        .map(|endpoint| (identity(endpoint), endpoint))
        .collect();
    let mut drafts: Vec<Draft<'_>> = slices
        .into_iter()
        .map(|slice| {
            let kept = slice
                .endpoints
                .iter()
                .filter_map(|old| wanted.remove(&identity(old)));
            Draft {
                existing: Some(slice),
                endpoints: kept.cloned().collect(),
            }
        })
        .collect();
    // In the order of the group, not of the map.
    let mut rest: std::collections::VecDeque<Value> = group
        .endpoints
        .iter()
        .filter(|endpoint| wanted.contains_key(&identity(endpoint)))
        .cloned()
        .collect();
    for draft in &mut drafts {
        while draft.endpoints.len() < MAX_ENDPOINTS
            && let Some(endpoint) = rest.pop_front()
        {
            draft.endpoints.push(endpoint);
        }
    }
    (drafts, rest.into())
}

fn identity(endpoint: &Value) -> String {
    let uid = endpoint["targetRef"]["uid"].as_str().unwrap_or_default();
    format!(
        "{uid} {}",
        endpoint["addresses"][0].as_str().unwrap_or_default()
    )
}

/// A slice carries the labels of its service, and who made it for what.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone();
    labels.remove("service.kubernetes.io/headless");
    labels.insert(SERVICE_NAME_LABEL.to_owned(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    labels
}

fn patch(
    slice: &EndpointSlice,
    ports: &[Value],
    endpoints: &[Value],
    labels: &BTreeMap<String, String>,
) -> Value {
    let mut patch = json!({
        "metadata": {
            "uid": slice.metadata.uid, "resourceVersion": slice.metadata.resource_version,
            "labels": labels,
        },
        "ports": ports, "endpoints": endpoints,
    });
    for stale in slice
        .metadata
        .labels
        .keys()
        .filter(|it| !labels.contains_key(*it))
    {
        patch["metadata"]["labels"][stale] = Value::Null;
    }
    patch
}

fn body(head: &Head, group: &Group, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {
            "generateName": format!("{}-", head.name),
            "namespace": head.namespace, "labels": head.labels,
            "ownerReferences": [head.owner.to_value()],
        },
        "addressType": group.address_type, "ports": group.ports, "endpoints": endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn service() -> Service {
        object(
            json!({"metadata": {"name": "web", "namespace": "a", "uid": "s"},
                      "spec": {"clusterIP": "10.0.0.1"}}),
        )
    }

    fn endpoint(n: usize, ready: bool) -> Value {
        json!({"addresses": [format!("1.0.{}.{}", n / 250, n % 250)],
               "conditions": {"ready": ready}, "targetRef": {"uid": format!("u{n}")}})
    }

    fn group(endpoints: Vec<Value>) -> Group {
        Group {
            address_type: "IPv4",
            ports: vec![json!({"port": 80})],
            endpoints,
        }
    }

    fn apply(slices: &mut Vec<Value>, changes: &Changes) {
        for (name, patch) in &changes.update {
            let slice = slices
                .iter_mut()
                .find(|it| it["metadata"]["name"] == name.as_str());
            let slice = slice.unwrap();
            for field in ["ports", "endpoints"] {
                slice[field] = patch[field].clone();
            }
        }
        slices.retain(|it| {
            !changes
                .delete
                .iter()
                .any(|(name, _)| it["metadata"]["name"] == name.as_str())
        });
        for body in &changes.create {
            let mut slice = body.clone();
            let name = format!("web-{}", slices.len() + 1000);
            slice["metadata"]["name"] = name.as_str().into();
            slice["metadata"]["uid"] = name.into();
            slices.push(slice);
        }
    }

    fn run(slices: &mut Vec<Value>, groups: Vec<Group>) -> Changes {
        let existing: Vec<Arc<EndpointSlice>> = slices
            .iter()
            .map(|slice| Arc::new(object(slice.clone())))
            .collect();
        let changes = changes(&Head::of(&service()), &existing, groups);
        apply(slices, &changes);
        changes
    }

    #[test]
    fn slices_are_filled_kept_and_emptied() {
        let mut slices = Vec::new();
        let empty = || Group {
            address_type: "IPv4",
            ports: Vec::new(),
            endpoints: Vec::new(),
        };
        run(&mut slices, vec![empty()]);
        assert_eq!(slices.len(), 1, "a placeholder");
        assert_eq!(run(&mut slices, vec![empty()]), Changes::default());
        // The placeholder becomes the first real slice.
        let all = |count: usize| group((0..count).map(|n| endpoint(n, true)).collect());
        let made = run(&mut slices, vec![all(250)]);
        assert_eq!(
            (made.create.len(), made.update.len(), made.delete.len()),
            (2, 1, 0)
        );
        assert_eq!(run(&mut slices, vec![all(250)]), Changes::default());
        // One endpoint changes: one slice is written.
        let mut changed = all(250);
        changed.endpoints[120] = endpoint(120, false);
        let made = run(&mut slices, vec![changed]);
        assert_eq!(
            (made.create.len(), made.update.len(), made.delete.len()),
            (0, 1, 0)
        );
        // Down to nothing: the last slice stays.
        run(&mut slices, vec![empty()]);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0]["endpoints"], json!([]));
        let labels = &slices[0]["metadata"]["labels"];
        assert_eq!(labels["kubernetes.io/service-name"], "web");
    }
}
