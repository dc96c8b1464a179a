//! `pods/binding` and the older `bindings`: the scheduler's decision.

use coracle_machinery::object::{self, child_map, items, string_map, text};
use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind, GroupResource};
use http::Response;
use serde_json::{Value, json};

use crate::body::Body;
use crate::dispatch::{Call, not_allowed};
use crate::write::{Part, Writer, meta};

/// Binds a pod to a node. `name` is that of the URL, or empty.
pub(super) async fn bind(
    call: &Call<'_>,
    name: &str,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let mut binding = call.read_own(body).await?;
    let pods = GroupResource::new("", "pods");
    let storage = &call.server.storage;
    let resource = storage.registry.storage(&pods).ok_or_else(not_allowed)?;
    meta::claim_namespace(&resource, &mut binding, call.namespace())?;
    if !name.is_empty() {
        meta::claim_name(&mut binding, name)?;
    }
    let name = object::name(&binding).to_owned();
    validate(&binding, &name)?;
    let options = call.options("CreateOptions")?;
    let warn = |text: String| call.context.warn(text);
    let writer = Writer {
        resource: &resource,
        subresource: "binding",
        ..call.writer(&options, &warn)
    };
    let mut change = |pod: &Value| assign(pod, &binding, &pods);
    writer
        .update(call.namespace(), &name, Part::Special, &mut change)
        .await?;
    Ok(super::done())
}

fn validate(binding: &Value, name: &str) -> Result<(), ApiError> {
    let path = FieldPath::new("target");
    let mut errors = Vec::new();
    let kind = text(binding, "/target/kind");
    if !matches!(kind, "" | "Node") {
        let supported = &["Node", "<empty>"];
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            kind,
            supported,
        ));
    }
    if text(binding, "/target/name").is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        &GroupKind::new("", "Binding"),
        name,
        &errors,
    ))
}

fn assign(pod: &Value, binding: &Value, pods: &GroupResource) -> Result<Value, ApiError> {
    let name = object::name(pod);
    let conflict = |why: String| Err(ApiError::conflict(pods, name, &why));
    if object::is_terminating(pod) {
        return conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if !items(pod, "/spec/schedulingGates").is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = pod.clone();
    let uid = object::uid(binding);
    if !uid.is_empty() {
        object::metadata_mut(&mut new).insert("uid".into(), uid.into());
    }
    child_map(&mut new, "spec").insert("nodeName".into(), text(binding, "/target/name").into());
    for map in ["annotations", "labels"] {
        let metadata = new.pointer_mut("/metadata");
        let Some(metadata) = metadata else { continue };
        for (key, value) in string_map(binding, &format!("/metadata/{map}")) {
            child_map(metadata, map).insert(key.to_owned(), value.into());
        }
    }
    scheduled(&mut new);
    Ok(new)
}

/// Sets the condition PodScheduled.
fn scheduled(pod: &mut Value) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": meta::now(),
    });
    let conditions = child_map(pod, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else {
        return;
    };
    match list.iter_mut().find(|c| text(c, "/type") == "PodScheduled") {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}
