//! Selectors: the user's keys under their host names, and the bounds that keep
//! them within the virtual cluster.

use coracle_config::marks;
use serde_json::{Map, Value, json};

use crate::names::Translator;

impl Translator {
    /// A `map[string]string` selector of a Service. An empty one stays empty.
    pub(crate) fn map_selector(&self, selector: &Value, namespace: &str) -> Value {
        let Some(selector) = selector.as_object().filter(|map| !map.is_empty()) else {
            return selector.clone();
        };
        let mut host: Map<String, Value> = selector
            .iter()
            .map(|(key, value)| (marks::host_label_key(key), value.clone()))
            .collect();
        host.insert(marks::NAMESPACE.into(), namespace.into());
        host.insert(marks::MANAGED_BY.into(), self.vc.as_str().into());
        Value::Object(host)
    }

    /// A `LabelSelector` limited to one virtual namespace.
    pub(crate) fn selector_in(&self, selector: &Value, namespace: &str) -> Value {
        let mut host = renamed(selector);
        self.limit(&mut host);
        labels(&mut host).insert(marks::NAMESPACE.into(), namespace.into());
        host
    }

    /// A `LabelSelector` limited to this virtual cluster and to the namespaces
    /// that `namespaces` or `namespace_selector` choose.
    pub(crate) fn selector_among(
        &self,
        selector: &Value,
        namespaces: &[&str],
        namespace_selector: Option<&Value>,
    ) -> Value {
        let mut host = renamed(selector);
        self.limit(&mut host);
        if let Some(chosen) = namespace_selector {
            // The labels of a namespace are copied onto its pods.
            for (key, value) in chosen
                .get("matchLabels")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                labels(&mut host).insert(marks::namespace_label_key(key), value.clone());
            }
            for expression in crate::json::list(chosen, "matchExpressions") {
                let mut expression = expression.clone();
                let key = marks::namespace_label_key(crate::json::text(&expression, "key"));
                crate::json::set(&mut expression, "key", key);
                expressions(&mut host).push(expression);
            }
        } else if let [one] = namespaces {
            labels(&mut host).insert(marks::NAMESPACE.into(), (*one).into());
        } else {
            expressions(&mut host)
                .push(json!({"key": marks::NAMESPACE, "operator": "In", "values": namespaces}));
        }
        host
    }

    fn limit(&self, host: &mut Value) {
        labels(host).insert(marks::MANAGED_BY.into(), self.vc.as_str().into());
    }
}

/// The selector with host keys.
fn renamed(selector: &Value) -> Value {
    let mut host = json!({});
    if let Some(map) = selector.get("matchLabels").and_then(Value::as_object) {
        host["matchLabels"] = map
            .iter()
            .map(|(key, value)| (marks::host_label_key(key), value.clone()))
            .collect::<Map<_, _>>()
            .into();
    }
    for expression in crate::json::list(selector, "matchExpressions") {
        let mut expression = expression.clone();
        let key = marks::host_label_key(crate::json::text(&expression, "key"));
        crate::json::set(&mut expression, "key", key);
        expressions(&mut host).push(expression);
    }
    host
}

fn labels(selector: &mut Value) -> &mut Map<String, Value> {
    coracle_machinery::object::child_map(selector, "matchLabels")
}

fn expressions(selector: &mut Value) -> &mut Vec<Value> {
    let map = selector.as_object_mut().expect("renamed() makes a map");
    crate::json::child_list(map, "matchExpressions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    type Labels = BTreeMap<String, String>;

    /// A plain evaluation of a LabelSelector.
    fn matches(selector: &Value, labels: &Labels) -> bool {
        let all_labels = selector
            .get("matchLabels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str());
        let all_expressions = crate::json::list(selector, "matchExpressions")
            .iter()
            .all(|e| {
                let value = labels.get(e["key"].as_str().unwrap());
                let listed =
                    value.is_some_and(|v| crate::json::list(e, "values").iter().any(|x| x == v));
                match e["operator"].as_str().unwrap() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    _ => value.is_none(),
                }
            });
        all_labels && all_expressions
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("app".to_owned()),
            Just("release".to_owned()),
            Just("coracle.dev/managed-by".to_owned()),
            Just("coracle.dev/namespace".to_owned()),
            Just("x.coracle.dev/a".to_owned()),
        ]
    }

    fn label_map() -> impl Strategy<Value = Labels> {
        proptest::collection::btree_map(key(), "[ab]", 0..4)
    }

    fn selector() -> impl Strategy<Value = Value> {
        let expression = (
            key(),
            prop_oneof![
                Just("In"),
                Just("NotIn"),
                Just("Exists"),
                Just("DoesNotExist")
            ],
            proptest::collection::vec("[ab]", 1..3),
        )
            .prop_map(|(key, operator, values)| match operator {
                "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
                _ => json!({"key": key, "operator": operator}),
            });
        (label_map(), proptest::collection::vec(expression, 0..3)).prop_map(
            |(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}),
        )
    }

    proptest! {
        /// A selector matches on the host exactly if it matches inside, and
        /// never beyond the namespace and the virtual cluster.
        #[test]
        fn host_matches_iff_virtual_matches(
            selector in selector(), labels in label_map(),
            pod_ns in "[pq]", selector_ns in "[pq]", pod_vc in "vc|vd",
        ) {
            let pod = json!({"metadata": {"name": "n", "namespace": pod_ns, "labels": labels}});
            let owner = Translator::new(&pod_vc, "demo", Arc::default());
            let shell = owner.shell("v1", "Pod", &pod);
            let host_labels: Labels = serde_json::from_value(shell["metadata"]["labels"].clone()).unwrap();
            let t = Translator::new("vc", "demo", Arc::default());
            let host = t.selector_in(&selector, &selector_ns);
            let expected = pod_vc == "vc" && pod_ns == selector_ns && matches(&selector, &labels);
            prop_assert_eq!(matches(&host, &host_labels), expected);
            let among = t.selector_among(&selector, &["p", "r"], None);
            let expected = pod_vc == "vc" && pod_ns == "p" && matches(&selector, &labels);
            prop_assert_eq!(matches(&among, &host_labels), expected);
        }
    }
}
