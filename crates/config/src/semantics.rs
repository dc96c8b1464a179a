//! What the types of the configuration cannot say.

use serde_json::{Map, Value};

use crate::load::Problem;
use crate::model::Config;

/// Reports every choice that has the right type and still makes no sense.
pub(crate) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut problem = |path: &str, message: String| {
        problems.push(Problem {
            source: "values".into(),
            path: path.into(),
            message,
        });
    };
    let claim = &config.control_plane.stateful_set.persistence.volume_claim;
    if !["Retain", "Delete"].contains(&claim.retention_policy.as_str()) {
        problem(
            "controlPlane.statefulSet.persistence.volumeClaim.retentionPolicy",
            format!(
                "expected Retain or Delete, found {:?}",
                claim.retention_policy
            ),
        );
    }
    let policy = &config.control_plane.stateful_set.image_pull_policy;
    if !["", "Always", "IfNotPresent", "Never"].contains(&policy.as_str()) {
        problem(
            "controlPlane.statefulSet.imagePullPolicy",
            format!("expected Always, IfNotPresent or Never, found {policy:?}"),
        );
    }
    let domain = &config.networking.advanced.cluster_domain;
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if domain.is_empty() || domain.len() > 200 || !domain.chars().all(letter) {
        problem(
            "networking.advanced.clusterDomain",
            format!("{domain:?} is no DNS domain"),
        );
    }
    let tolerations = &config.sync.to_host.pods.enforce_tolerations;
    for (at, text) in tolerations.iter().enumerate() {
        if parse_toleration(text).is_none() {
            problem(
                &format!("sync.toHost.pods.enforceTolerations[{at}]"),
                format!("{text:?} is no toleration: write key=value:Effect or key:Effect"),
            );
        }
    }
    let replicate = &config.networking.replicate_services;
    for (path, mappings, bare_target) in [
        (
            "networking.replicateServices.toHost",
            &replicate.to_host,
            true,
        ),
        (
            "networking.replicateServices.fromHost",
            &replicate.from_host,
            false,
        ),
    ] {
        for (at, mapping) in mappings.iter().enumerate() {
            let pair = |text: &str| matches!(text.split_once('/'), Some((a, b)) if !a.is_empty() && !b.is_empty() && !b.contains('/'));
            if !pair(&mapping.from) {
                problem(
                    &format!("{path}[{at}].from"),
                    format!("expected namespace/name, found {:?}", mapping.from),
                );
            }
            let bare = bare_target && !mapping.to.is_empty() && !mapping.to.contains('/');
            if !pair(&mapping.to) && !bare {
                problem(
                    &format!("{path}[{at}].to"),
                    format!("expected namespace/name, found {:?}", mapping.to),
                );
            }
        }
    }
}

/// Reads `key=value:Effect`, `key:Effect` or `key=value` as a toleration of a
/// pod.
pub fn parse_toleration(text: &str) -> Option<Value> {
    let (pair, effect) = match text.rsplit_once(':') {
        Some((pair, effect)) => (pair, Some(effect)),
        None => (text, None),
    };
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (pair, None),
    };
    if key.is_empty() {
        return None;
    }
    let mut toleration = Map::new();
    toleration.insert("key".into(), key.into());
    match value {
        Some(value) => {
            toleration.insert("operator".into(), "Equal".into());
            toleration.insert("value".into(), value.into());
        }
        None => {
            toleration.insert("operator".into(), "Exists".into());
        }
    }
    if let Some(effect) = effect {
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return None;
        }
        toleration.insert("effect".into(), effect.into());
    }
    Some(Value::Object(toleration))
}
