//! Server-side apply and the tracking of who owns which field, after
//! `sigs.k8s.io/structured-merge-diff` and
//! `k8s.io/apimachinery/pkg/util/managedfields`.

mod compare;
mod fields;
mod managers;
mod merge;
mod walk;

use serde_json::{Map, Value, json};

pub use fields::FieldSet;
pub use merge::merge;

use crate::error::{ApiError, Reason};
use crate::schema::Schema;
use compare::compare;
use managers::{ManagerId, Managers};

/// The owner of the fields of objects that existed before they were tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The longest name of a manager, in bytes; upstream's limit.
pub const MANAGER_MAX: usize = 128;

/// Who applies, and how.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// The field manager; required by the API.
    pub manager: String,
    /// Takes fields from other owners.
    pub force: bool,
    /// The `apiVersion` of the configuration.
    pub api_version: String,
    /// The subresource that is written, or empty.
    pub subresource: String,
    /// The present time, in RFC 3339.
    pub now: String,
}

/// Applies a configuration: the result has the fields of `config`, without
/// those that the manager applied before and no longer does, and with
/// `metadata.managedFields` brought up to date. If nothing changes, the result
/// equals `live`.
///
/// The caller drops beforehand from `config` what the endpoint does not write
/// (`status`, or all but `status`), and finishes the result as any write:
/// defaults, generation, validation.
///
/// # Errors
/// `Conflict` with a cause for each field that another manager owns with
/// another value, unless `force`; `BadRequest` for a configuration whose list
/// items lack their keys or occur twice, or that sets `managedFields`.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    schema: &Schema,
    options: &ApplyOptions,
) -> Result<Value, ApiError> {
    check_config(config, schema, options)?;
    let empty = Value::Object(Map::new());
    let before = live.map(without_managed_fields);
    let before = before.as_ref().unwrap_or(&empty);
    let present = live.map_or(&[][..], |l| {
        crate::object::items(l, "/metadata/managedFields")
    });
    let mut managers = Managers::read(present);
    if live.is_some() && managers.is_empty() {
        let all = compare(&empty, before, Some(schema)).added;
        let id = ManagerId::update(BEFORE_FIRST_APPLY, &options.api_version, "");
        managers.set(id, stripped(all), &options.now);
    }
    let id = ManagerId::apply(&options.manager, &options.subresource);
    let last = managers.fields_of(&id).cloned().unwrap_or_default();
    let configured = walk::field_set(config, Some(schema));

    let mut merged = merge::merge(before, config, Some(schema));
    // With the name in it, which nobody owns: it keeps `.metadata` alive.
    let kept = managers.all_but(&id).union(&configured);
    let owned = kept.with_containers();
    let applied = stripped(configured);
    let lost = last.with_containers().difference(&owned);
    if !lost.is_empty() {
        // Of what is there: a list without items is no field of the set.
        let present = walk::field_set(&merged, Some(schema)).with_containers();
        let dropped = lost.intersection(&present);
        walk::remove(&mut merged, &dropped, Some(schema));
    }

    let mut diff = compare(before, &merged, Some(schema));
    diff.strip(&strip_fields());
    let changed = diff.modified.union(&diff.added);
    if !options.force {
        let conflicts = managers.owners_of(&changed, &id);
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
    }
    managers.take_away(&changed.union(&diff.removed), &id);
    if last != applied || !changed.is_empty() || !diff.removed.is_empty() {
        let api_version = &options.api_version;
        managers.set_applied(id, api_version, applied, &options.now);
    }
    put_managed_fields(&mut merged, managers.write());
    Ok(merged)
}

/// Brings `metadata.managedFields` of `new` up to date after a create, update
/// or patch: what changed since `live` belongs to `manager`, what is gone to
/// nobody. Objects that were never tracked stay so. `now` is in RFC 3339.
///
/// A client may also edit the entries itself; entries that cannot be read are
/// replaced by those of `live`, and a list of one empty entry clears them.
pub fn track_update(
    live: Option<&Value>,
    new: &mut Value,
    schema: Option<&Schema>,
    manager: &str,
    api_version: &str,
    subresource: &str,
    now: &str,
) {
    let of_live = live.map_or(&[][..], |l| {
        crate::object::items(l, "/metadata/managedFields")
    });
    let sent = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let reset = sent.is_some_and(|list| match list.as_slice() {
        [] => true,
        [only] => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    });
    let entries: Vec<Value> = match sent {
        _ if reset => Vec::new(),
        Some(sent) if Managers::readable(sent) => sent.clone(),
        _ => of_live.to_vec(),
    };
    if reset || (live.is_some() && entries.is_empty()) {
        put_managed_fields(new, Vec::new());
        return;
    }
    let empty = Value::Object(Map::new());
    let mut diff = compare(live.unwrap_or(&empty), new, schema);
    diff.strip(&strip_fields());
    if diff.is_empty() {
        put_managed_fields(new, entries);
        return;
    }
    let mut managers = Managers::read(&entries);
    let id = ManagerId::update(manager, api_version, subresource);
    let changed = diff.modified.union(&diff.added);
    let gone = changed.union(&diff.removed);
    managers.take_away(&gone, &id);
    managers.replace(id, &diff.removed, &changed, now);
    put_managed_fields(new, managers.write());
}

fn check_config(config: &Value, schema: &Schema, options: &ApplyOptions) -> Result<(), ApiError> {
    if options.manager.is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required \
             for apply patch",
        ));
    }
    if options.manager.len() > MANAGER_MAX {
        return Err(ApiError::bad_request(format!(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more \
             than {MANAGER_MAX} bytes"
        )));
    }
    if !config.is_object() {
        return Err(ApiError::bad_request("the configuration must be an object"));
    }
    let managed = config.pointer("/metadata/managedFields");
    if managed.is_some_and(|m| m.as_array().is_none_or(|list| !list.is_empty()) && !m.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    walk::check_keys(config, Some(schema))
        .map_err(|why| ApiError::bad_request(format!("failed to create typed patch object: {why}")))
}

/// Fields that nobody owns: identity, and what the server sets.
fn strip_fields() -> FieldSet {
    let mut set = FieldSet::default();
    for path in [
        &["f:apiVersion"][..],
        &["f:kind"],
        &["f:metadata"],
        &["f:metadata", "f:name"],
        &["f:metadata", "f:namespace"],
        &["f:metadata", "f:creationTimestamp"],
        &["f:metadata", "f:deletionTimestamp"],
        &["f:metadata", "f:deletionGracePeriodSeconds"],
        &["f:metadata", "f:selfLink"],
        &["f:metadata", "f:uid"],
        &["f:metadata", "f:clusterName"],
        &["f:metadata", "f:generation"],
        &["f:metadata", "f:managedFields"],
        &["f:metadata", "f:resourceVersion"],
    ] {
        set.insert(path);
    }
    set
}

fn stripped(set: FieldSet) -> FieldSet {
    set.difference(&strip_fields())
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

fn put_managed_fields(object: &mut Value, entries: Vec<Value>) {
    if entries.is_empty() {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    } else if object.is_object() {
        let metadata = crate::object::metadata_mut(object);
        metadata.insert("managedFields".into(), Value::Array(entries));
    }
}

/// Upstream's 409, with a cause for each field.
fn conflict(conflicts: &[(ManagerId, FieldSet)]) -> ApiError {
    let mut causes = Vec::new();
    let mut texts: Vec<(String, Vec<String>)> = Vec::new();
    for (manager, fields) in conflicts {
        let name = manager.to_string();
        let paths = fields.paths();
        for path in &paths {
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {name}"),
                "field": path,
            }));
        }
        match texts.iter_mut().find(|(n, _)| *n == name) {
            Some((_, all)) => all.extend(paths),
            None => texts.push((name, paths)),
        }
    }
    let message = match texts.as_slice() {
        [(name, paths)] if paths.len() == 1 => {
            format!(
                "Apply failed with 1 conflict: conflict with {name}: {}",
                paths[0]
            )
        }
        all => {
            let parts: Vec<String> = all
                .iter()
                .map(|(name, paths)| format!("conflicts with {name}:\n- {}", paths.join("\n- ")))
                .collect();
            format!(
                "Apply failed with {} conflicts: {}",
                causes.len(),
                parts.join("\n")
            )
        }
    };
    ApiError {
        reason: Reason::Conflict,
        message,
        details: json!({"causes": causes}),
    }
}

#[cfg(test)]
mod tests;
