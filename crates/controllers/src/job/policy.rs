//! What the failure of one pod means for its job.

use k8s_openapi::api::batch::v1::PodFailurePolicyRule;

use crate::objects::condition;
use crate::objects::pod::{ContainerStatus, Pod};

/// The verdict of a failure policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limit.
    Count,
    /// It does not count: it was not the program's fault.
    Ignore,
    /// The index is given up.
    FailIndex,
    /// The whole job is given up, for this reason.
    FailJob(String),
}

/// Applies the first rule that fits.
pub(super) fn judge(rules: &[PodFailurePolicyRule], pod: &Pod) -> Verdict {
    for (number, rule) in rules.iter().enumerate() {
        let Some(cause) = fits(rule, pod, number) else {
            continue;
        };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(cause),
            "FailIndex" => Verdict::FailIndex,
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Whether a rule fits, and in which words.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod, number: usize) -> Option<String> {
    let name = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    if let Some(codes) = &rule.on_exit_codes {
        let statuses = pod
            .status
            .container_statuses
            .iter()
            .chain(&pod.status.init_container_statuses);
        let concerned = |it: &&ContainerStatus| {
            codes
                .container_name
                .as_ref()
                .is_none_or(|name| *name == it.name)
        };
        for status in statuses.filter(concerned) {
            let Some(ended) = &status.state.terminated else {
                continue;
            };
            let listed = codes.values.contains(&ended.exit_code);
            // Success is never a failure to act upon.
            let fits = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed && ended.exit_code != 0,
                _ => false,
            };
            if fits {
                return Some(format!(
                    "Container {} for pod {name} failed with exit code {} matching {} rule at \
                     index {number}",
                    status.name, ended.exit_code, rule.action
                ));
            }
        }
        return None;
    }
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let found = condition(&pod.status.conditions, &pattern.type_);
        let wanted = pattern.status.as_deref().unwrap_or("True");
        if found.is_some_and(|it| it.status == wanted) {
            return Some(format!(
                "Pod {name} has condition {} matching {} rule at index {number}",
                pattern.type_, rule.action
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::json;

    #[test]
    fn the_first_fitting_rule_decides() {
        let rules: Vec<PodFailurePolicyRule> = object(json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1]}},
        ]));
        let pod = |code: i32, disrupted: bool| -> Pod {
            let conditions = if disrupted {
                json!([{"type": "DisruptionTarget", "status": "True"}])
            } else {
                json!([])
            };
            object(
                json!({"metadata": {"name": "p", "namespace": "a"}, "status": {
                    "conditions": conditions,
                    "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}],
                }}),
            )
        };
        assert_eq!(judge(&rules, &pod(42, true)), Verdict::Ignore);
        assert_eq!(judge(&rules, &pod(1, false)), Verdict::Count);
        assert_eq!(judge(&rules, &pod(7, false)), Verdict::FailIndex);
        assert_eq!(judge(&rules, &pod(0, false)), Verdict::Count);
        let Verdict::FailJob(cause) = judge(&rules, &pod(42, false)) else {
            panic!()
        };
        assert_eq!(
            cause,
            "Container c for pod a/p failed with exit code 42 matching FailJob rule at index 1"
        );
    }
}
