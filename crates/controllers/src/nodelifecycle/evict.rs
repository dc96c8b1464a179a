//! When a pod has to leave a tainted node: pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Toleration;

use crate::context::plus_seconds;
use crate::objects::core::Taint;
use crate::placement::tolerates;

/// The time by which the pod must go; `None` if it may stay for ever.
pub(super) fn due(
    tolerations: &[Toleration],
    taints: &[Taint],
    now: Timestamp,
) -> Option<Timestamp> {
    let mut due: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<&Toleration> = tolerations
            .iter()
            .filter(|toleration| tolerates(toleration, taint))
            .collect();
        if matching.is_empty() {
            return Some(now);
        }
        // Of several tolerations of one taint the shortest counts.
        let seconds = matching.iter().filter_map(|it| it.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let since = taint.time_added.unwrap_or(now);
            let at = plus_seconds(since, seconds.max(0));
            due = Some(due.map_or(at, |due| due.min(at)));
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    #[test]
    fn the_shortest_tolerance_counts() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |key: &str| {
            json!({"key": key, "effect": "NoExecute",
                                       "timeAdded": "2026-01-01T00:00:00Z"})
        };
        let tolerance = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        for (tolerations, taints, expected) in [
            (json!([]), json!([taint("a")]), Some(60)),
            (
                json!([tolerance("a", Value::Null)]),
                json!([taint("a")]),
                None,
            ),
            (
                json!([tolerance("a", json!(300))]),
                json!([taint("a")]),
                Some(300),
            ),
            (
                json!([tolerance("a", json!(300)), tolerance("b", json!(30))]),
                json!([taint("a"), taint("b")]),
                Some(30),
            ),
            (
                json!([]),
                json!([{"key": "a", "effect": "NoSchedule"}]),
                None,
            ),
        ] {
            let tolerations: Vec<Toleration> = object(tolerations);
            let taints: Vec<Taint> = object(taints);
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let expected = expected.map(|seconds| plus_seconds(start, seconds));
            assert_eq!(due(&tolerations, &taints, now), expected);
        }
    }
}
