//! Rules between pods and nodes that several controllers need: tolerations and
//! node selectors.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};

use crate::objects::core::{Node, Taint};
use crate::objects::pod::PodSpec;

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty() && toleration.value.as_deref().unwrap_or_default() == taint.value
        }
        "Lt" => compare(taint, toleration).is_some_and(std::cmp::Ordering::is_lt),
        "Gt" => compare(taint, toleration).is_some_and(std::cmp::Ordering::is_gt),
        _ => false,
    }
}

fn compare(taint: &Taint, toleration: &Toleration) -> Option<std::cmp::Ordering> {
    let taint: i64 = taint.value.parse().ok()?;
    let wanted: i64 = toleration.value.as_deref()?.parse().ok()?;
    Some(taint.cmp(&wanted))
}

/// The first taint with one of these effects that nothing tolerates.
pub(crate) fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[&str],
) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect.as_str())
            && !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
    })
}

/// Whether a node is one of those that a pod may run on by its node selector
/// and its required node affinity.
pub(crate) fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    let selected = spec
        .node_selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|affinity| {
        affinity
            .node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    selected && required.is_none_or(|selector| matches_selector(selector, node))
}

/// A selector matches if one of its terms does.
pub(crate) fn matches_selector(selector: &NodeSelector, node: &Node) -> bool {
    selector
        .node_selector_terms
        .iter()
        .any(|term| matches_term(term, node))
}

/// A term matches if all its requirements do; an empty one matches nothing.
pub(crate) fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let meta = &node.metadata;
    labels.iter().all(|requirement| {
        matches_requirement(
            requirement,
            meta.labels.get(&requirement.key).map(String::as_str),
        )
    }) && fields.iter().all(|requirement| {
        let value = (requirement.key == "metadata.name").then_some(meta.name.as_str());
        matches_requirement(requirement, value)
    })
}

fn matches_requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|other| other == value));
    let number =
        || -> Option<(i64, i64)> { Some((value?.parse().ok()?, values.first()?.parse().ok()?)) };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|(value, bound)| value > bound),
        "Lt" => number().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    #[test]
    fn tolerations() {
        let taint: Taint = object(json!({"key": "k", "value": "7", "effect": "NoSchedule"}));
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"key": "k", "value": "7"}), true),
            (json!({"key": "k", "value": "8"}), false),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "k", "operator": "Gt", "value": "5"}), true),
            (json!({"key": "k", "operator": "Lt", "value": "5"}), false),
            (json!({}), false),
        ] {
            let parsed: Toleration = object(toleration.clone());
            assert_eq!(tolerates(&parsed, &taint), expected, "{toleration}");
        }
    }

    #[test]
    fn node_affinity() {
        let node: Node = object(json!({"metadata": {"name": "n", "labels": {"size": "3"}}}));
        let required = |terms: Value| -> PodSpec {
            object(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
        };
        let size = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "size", "operator": operator, "values": [value]}]});
        for (terms, expected) in [
            (json!([size("Gt", "2")]), true),
            (json!([size("Lt", "2")]), false),
            (json!([size("Lt", "2"), size("In", "3")]), true),
            (json!([{}]), false),
            (
                json!([{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["n"]}]}]),
                true,
            ),
        ] {
            assert_eq!(
                selects(&required(terms.clone()), &node),
                expected,
                "{terms}"
            );
        }
        assert!(!selects(
            &object(json!({"nodeSelector": {"size": "4"}})),
            &node
        ));
    }
}
