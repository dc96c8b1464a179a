//! What a delete does to an object, after `k8s.io/apiserver/pkg/registry`:
//! remove it, mark it, or leave it because it is marked already. Pure.

use coracle_machinery::object::{self, metadata_mut};
use coracle_machinery::time;
use serde_json::Value;

use super::meta;
use super::options::{DeleteOptions, Policy};
use super::update::finalizers;
use crate::kind::Propagation;
use crate::registry::Resource;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Remove it.
    Remove,
    /// Store this instead: something still holds it.
    Mark(Value),
    /// It is marked already, and nothing changes.
    Pending,
}

/// True if something keeps the object from being removed: its finalizers, or
/// those in the spec of a namespace.
pub fn held(resource: &Resource, object: &Value) -> bool {
    finalizers(object).next().is_some()
        || (is_namespace(resource) && !object::items(object, "/spec/finalizers").is_empty())
}

fn is_namespace(resource: &Resource) -> bool {
    resource.storage.group.is_empty() && resource.storage.resource == "namespaces"
}

/// The plan for an object (in the stored form). `now` is in seconds since the
/// epoch.
pub fn plan(resource: &Resource, old: &Value, options: &DeleteOptions, now: i64) -> Plan {
    let mut new = old.clone();
    if object::is_terminating(old) {
        shorten(&mut new, options);
    } else if let Some(default) = resource.strategy().graceful_period(old) {
        // Nothing to wait for (not started, already over): a longer period
        // that the caller asks for changes nothing.
        let grace = match options.grace_period.unwrap_or(default) {
            _ if default == 0 => 0,
            negative if negative < 0 => 1,
            period => period,
        };
        mark(&mut new, now.saturating_add(grace), grace);
    }
    if let Some(list) = gc_finalizers(resource, old, options) {
        if list.is_empty() {
            meta::remove(&mut new, &["finalizers"]);
        } else {
            metadata_mut(&mut new).insert("finalizers".into(), list.into());
        }
    }
    if !held(resource, &new) && grace(&new) == 0 {
        return Plan::Remove;
    }
    if !object::is_terminating(&new) {
        mark(&mut new, now, 0);
    }
    if is_namespace(resource) {
        object::child_map(&mut new, "status").insert("phase".into(), "Terminating".into());
    }
    if new == *old {
        Plan::Pending
    } else {
        Plan::Mark(new)
    }
}

/// `metadata.deletionGracePeriodSeconds`, 0 if it has none.
pub fn grace(object: &Value) -> i64 {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds");
    grace.and_then(Value::as_i64).unwrap_or(0)
}

fn mark(object: &mut Value, at: i64, grace: i64) {
    let generation = meta::generation(object);
    if generation > 0 {
        meta::set_generation(object, generation + 1);
    }
    let metadata = metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), time::rfc3339(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
}

/// A second delete may only shorten the grace period.
fn shorten(object: &mut Value, options: &DeleteOptions) {
    let current = grace(object);
    let Some(wanted) = options.grace_period else {
        return;
    };
    let period = if wanted < 0 { 1 } else { wanted };
    let at = time::parse_seconds(object::text(object, "/metadata/deletionTimestamp"));
    if period < current
        && let Some(at) = at
    {
        let metadata = metadata_mut(object);
        let at = time::rfc3339(at - current + period);
        metadata.insert("deletionTimestamp".into(), at.into());
        metadata.insert("deletionGracePeriodSeconds".into(), period.into());
    }
}

/// The finalizers with those for the garbage collector as the caller wants
/// them; `None` if they stay as they are.
fn gc_finalizers(
    resource: &Resource,
    object: &Value,
    options: &DeleteOptions,
) -> Option<Vec<String>> {
    let has = |name: &str| finalizers(object).any(|f| f == name);
    let (orphan, foreground) = match options.policy {
        Some(policy) => (policy == Policy::Orphan, policy == Policy::Foreground),
        None if has(ORPHAN) => (true, false),
        None if has(FOREGROUND) => (false, true),
        None => (
            resource.strategy().default_propagation() == Propagation::Orphan,
            false,
        ),
    };
    let mut list: Vec<String> = finalizers(object)
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .map(str::to_owned)
        .collect();
    if orphan {
        list.push(ORPHAN.to_owned());
    }
    if foreground {
        list.push(FOREGROUND.to_owned());
    }
    let same = list.iter().map(String::as_str).eq(finalizers(object))
        || (orphan == has(ORPHAN) && foreground == has(FOREGROUND));
    (!same).then_some(list)
}
