//! How many replicas each replica set gets, next.

use crate::intstr::{Round, resolve};
use crate::objects::apps::Deployment;

use super::history::{DESIRED, MAX};
use super::plan::Set;

/// Limits of a rolling update, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub surge: i32,
    pub unavailable: i32,
}

/// Whether the deployment replaces everything at once.
pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.strategy.kind == "Recreate"
}

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// What the strategy allows: surplus is rounded up, absence down, and not both
/// may be zero, or nothing would ever move.
pub(super) fn limits(deployment: &Deployment) -> Limits {
    if is_recreate(deployment) {
        return Limits {
            surge: 0,
            unavailable: 0,
        };
    }
    let total = replicas(deployment);
    let quarter = |round| {
        let quarter =
            k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("25%".into());
        resolve(&quarter, total, round).unwrap_or(0)
    };
    let rolling = deployment.spec.strategy.rolling_update.as_ref();
    let surge = rolling
        .and_then(|rolling| rolling.max_surge.as_ref())
        .map_or_else(
            || quarter(Round::Up),
            |value| resolve(value, total, Round::Up).unwrap_or(0),
        )
        .max(0);
    let mut unavailable = rolling
        .and_then(|rolling| rolling.max_unavailable.as_ref())
        .map_or_else(
            || quarter(Round::Down),
            |value| resolve(value, total, Round::Down).unwrap_or(0),
        )
        .clamp(0, total.max(0));
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    Limits { surge, unavailable }
}

fn sum(sets: &[Set<'_>]) -> i32 {
    sets.iter()
        .map(|set| set.replicas)
        .fold(0, i32::saturating_add)
}

fn available(sets: &[Set<'_>]) -> i32 {
    sets.iter()
        .map(|set| set.object.status.available_replicas)
        .fold(0, i32::saturating_add)
}

/// Replicas of the newest set: as many as fit beside the old ones.
pub(super) fn new_replicas(deployment: &Deployment, old_total: i32, new: i32) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) || new > wanted {
        return wanted;
    }
    let room = wanted.saturating_add(limits(deployment).surge) - old_total.saturating_add(new);
    if room <= 0 {
        new
    } else {
        new + room.min(wanted - new)
    }
}

/// Shrinks old replica sets as far as enough pods stay available: first those
/// pods that are no use anyway. Returns whether anything changed.
pub(super) fn shrink_old(deployment: &Deployment, new: &Set<'_>, old: &mut [Set<'_>]) -> bool {
    let old_total = sum(old);
    if old_total == 0 {
        return false;
    }
    let minimum = replicas(deployment) - limits(deployment).unavailable;
    let new_unavailable = new.replicas - new.object.status.available_replicas;
    let mut spare = old_total + new.replicas - minimum - new_unavailable;
    if spare <= 0 {
        return false;
    }
    let all_available = available(old) + new.object.status.available_replicas;
    for set in old.iter_mut() {
        let broken = set.replicas - set.object.status.available_replicas.min(set.replicas);
        let cut = broken.min(spare).max(0);
        set.replicas -= cut;
        spare -= cut;
    }
    let mut spare = (all_available - minimum).max(0);
    for set in old.iter_mut() {
        let cut = set.replicas.min(spare).max(0);
        set.replicas -= cut;
        spare -= cut;
    }
    sum(old) != old_total
}

/// Spreads a change of the wanted number over all replica sets in use, in
/// proportion to their sizes, while a rollout is under way. `sets` come newest
/// first.
pub(super) fn proportional(deployment: &Deployment, sets: &mut [&mut Set<'_>]) {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 {
        wanted.saturating_add(limits(deployment).surge)
    } else {
        0
    };
    let total = sets
        .iter()
        .map(|set| set.replicas)
        .fold(0, i32::saturating_add);
    let change = allowed - total;
    if change == 0 {
        return;
    }
    // The largest set takes what rounding leaves over; of equal ones, the
    // newer when growing, the older when shrinking.
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|&n| {
        let age = if change > 0 { n } else { sets.len() - n };
        (std::cmp::Reverse(sets[n].replicas), age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(sets.len());
    for &n in &order {
        let set = &sets[n];
        let share = if set.replicas == 0 || change == added {
            0
        } else {
            let left = change - added;
            let share = share(deployment, set, allowed);
            if change > 0 {
                share.min(left)
            } else {
                share.max(left)
            }
        };
        added += share;
        sizes.push(set.replicas + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first += change - added;
    }
    for (&n, size) in order.iter().zip(sizes) {
        sets[n].replicas = size.max(0);
    }
}

/// By how much one set should change so that it keeps its part of the whole.
fn share(deployment: &Deployment, set: &Set<'_>, allowed: i32) -> i32 {
    if replicas(deployment) == 0 {
        return -set.replicas;
    }
    let before = set
        .object
        .metadata
        .annotation(MAX)
        .and_then(|text| text.parse::<i32>().ok());
    let before = before
        .filter(|before| *before > 0)
        .unwrap_or(deployment.status.replicas);
    if before <= 0 {
        return 0;
    }
    let size = f64::from(set.replicas) * f64::from(allowed) / f64::from(before);
    size.round() as i32 - set.replicas
}

/// Whether the deployment was scaled since the set was last sized.
pub(super) fn was_scaled(deployment: &Deployment, set: &Set<'_>) -> bool {
    let seen = set
        .object
        .metadata
        .annotation(DESIRED)
        .and_then(|text| text.parse::<i32>().ok());
    set.replicas > 0 && seen.is_some_and(|seen| seen != replicas(deployment))
}

/// Whether the newest set alone serves the whole deployment.
pub(super) fn is_saturated(deployment: &Deployment, new: &Set<'_>) -> bool {
    let wanted = replicas(deployment);
    let sized = new
        .object
        .metadata
        .annotation(DESIRED)
        .and_then(|text| text.parse::<i32>().ok());
    new.replicas == wanted
        && sized == Some(wanted)
        && new.object.status.available_replicas == wanted
}
