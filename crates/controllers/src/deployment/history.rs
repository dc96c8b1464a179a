//! Revisions: numbers and annotations of replica sets, and which to forget.

use std::collections::BTreeMap;

use crate::objects::Meta;
use crate::objects::apps::Deployment;

use super::plan::Set;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Replica sets kept for rollbacks, if the deployment does not say.
const DEFAULT_LIMIT: i32 = 10;

/// The revision number of an object; zero if it has none.
pub(super) fn revision(meta: &Meta) -> i64 {
    meta.annotation(REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Annotations of the deployment that its replica sets do not inherit.
fn is_own(name: &str) -> bool {
    matches!(
        name,
        REVISION
            | REVISION_HISTORY
            | DESIRED
            | MAX
            | "kubectl.kubernetes.io/last-applied-configuration"
            | "deprecated.deployment.rollback.to"
    )
}

/// Annotations that the newest replica set should have and does not: those of
/// the deployment, its revision and the numbers for proportional scaling.
pub(super) fn missing_annotations(
    deployment: &Deployment,
    existing: Option<&Meta>,
    revision_wanted: i64,
    (desired, max): (i32, i32),
) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = deployment
        .metadata
        .annotations
        .iter()
        .filter(|(name, _)| !is_own(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let current = existing.map_or(0, revision);
    if current < revision_wanted {
        wanted.insert(REVISION.to_owned(), revision_wanted.to_string());
        // A revision that is used again keeps the numbers it had.
        if current > 0 {
            let past = existing.and_then(|meta| meta.annotation(REVISION_HISTORY));
            let past = past.filter(|past| !past.is_empty());
            let history =
                past.map_or_else(|| current.to_string(), |past| format!("{past},{current}"));
            wanted.insert(REVISION_HISTORY.to_owned(), history);
        }
    }
    wanted.insert(DESIRED.to_owned(), desired.to_string());
    wanted.insert(MAX.to_owned(), max.to_string());
    if let Some(meta) = existing {
        wanted.retain(|name, value| meta.annotation(name) != Some(value));
    }
    wanted
}

/// Old replica sets beyond the history limit, oldest first.
pub(super) fn surplus<'a>(deployment: &Deployment, old: &'a [Set<'a>]) -> Vec<&'a Set<'a>> {
    let limit = deployment
        .spec
        .revision_history_limit
        .unwrap_or(DEFAULT_LIMIT);
    // The largest number means: keep everything.
    if limit == i32::MAX {
        return Vec::new();
    }
    let mut idle: Vec<&Set<'_>> = old
        .iter()
        .filter(|set| {
            let (meta, status) = (&set.object.metadata, &set.object.status);
            !meta.is_deleting()
                && set.replicas == 0
                && status.replicas == 0
                && meta.generation <= status.observed_generation
        })
        .collect();
    idle.sort_by_key(|set| revision(&set.object.metadata));
    let keep = usize::try_from(limit).unwrap_or(0);
    idle.truncate(idle.len().saturating_sub(keep));
    idle
}
