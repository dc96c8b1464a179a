//! Affinity and topology spread: selectors that stay within the virtual
//! cluster, and the node a pod is tied to.

use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{child_list, drop_keys, list, list_mut, text};
use crate::names::Translator;

impl Translator {
    /// Rewrites `spec.affinity` and `spec.topologySpreadConstraints`.
    pub(crate) fn placement(&self, spec: &mut Value, namespace: &str) {
        for field in ["podAffinity", "podAntiAffinity"] {
            let Some(affinity) = spec.get_mut("affinity").and_then(|a| a.get_mut(field)) else {
                continue;
            };
            for term in list_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
                self.affinity_term(term, namespace);
            }
            for weighted in list_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
                if let Some(term) = weighted.get_mut("podAffinityTerm") {
                    self.affinity_term(term, namespace);
                }
            }
        }
        for constraint in list_mut(spec, "topologySpreadConstraints") {
            if let Some(selector) = constraint
                .get_mut("labelSelector")
                .filter(|s| s.is_object())
            {
                *selector = self.selector_in(selector, namespace);
            }
            rename_label_keys(constraint);
        }
    }

    fn affinity_term(&self, term: &mut Value, namespace: &str) {
        // Without a selector a term matches nothing; it must stay so.
        if term.get("labelSelector").is_some_and(Value::is_object) {
            let named: Vec<&str> = list(term, "namespaces")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let chosen = term.get("namespaceSelector").filter(|s| s.is_object());
            let own = [namespace];
            let namespaces = if named.is_empty() { &own[..] } else { &named };
            // Both together mean the union, which labels cannot say: the
            // explicit names count, since they are the narrower of the two.
            let chosen = if named.is_empty() { chosen } else { None };
            term["labelSelector"] = self.selector_among(&term["labelSelector"], namespaces, chosen);
        }
        drop_keys(term, &["namespaces", "namespaceSelector"]);
        rename_label_keys(term);
    }
}

fn rename_label_keys(term: &mut Value) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        for key in list_mut(term, field) {
            if let Some(name) = key.as_str() {
                *key = marks::host_label_key(name).into();
            }
        }
    }
}

/// Ties the pod to one node through the scheduler, which checks taints and
/// room, rather than by `nodeName`, which does not.
pub(crate) fn require_node(spec: &mut Value, node: &str) {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let mut required = object::child_map(spec, "affinity");
    for key in [
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
    ] {
        let slot = required.entry(key).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = json!({});
        }
        required = slot.as_object_mut().expect("made a map above");
    }
    let terms = child_list(required, "nodeSelectorTerms");
    if terms.is_empty() {
        terms.push(json!({}));
    }
    for term in terms.iter_mut().filter_map(Value::as_object_mut) {
        let fields = child_list(term, "matchFields");
        // A term that names another node cannot hold together with this one,
        // and a list of fields takes one requirement for each name.
        if !fields.iter().any(|f| text(f, "key") == "metadata.name") {
            fields.push(field.clone());
        }
    }
}
