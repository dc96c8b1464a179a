//! The keys of 0.15, moved to their places of today.

use serde_json::{Map, Value};

use crate::load::Hint;

/// Moves every key of 0.15 in `values` to today's place, with one hint for
/// each. Values that do not fit are left where they are, to be reported there.
pub(crate) fn translate(source: &str, values: &mut Value) -> Vec<Hint> {
    let mut moves = Moves {
        source,
        values,
        hints: Vec::new(),
    };
    moves.switch(
        "sync.ingresses.enabled",
        &[
            "sync.toHost.ingresses.enabled",
            "sync.fromHost.ingressClasses.enabled",
        ],
    );
    moves.switch(
        "sync.hoststorageclasses.enabled",
        &["sync.fromHost.storageClasses.enabled"],
    );
    moves.switch(
        "sync.nodes.enableScheduler",
        &["controlPlane.advanced.virtualScheduler.enabled"],
    );
    moves.switch("sync.nodes.enabled", &["sync.fromHost.nodes.enabled"]);
    moves.switch(
        "sync.nodes.syncAllNodes",
        &["sync.fromHost.nodes.selector.all"],
    );
    moves.switch(
        "sync.nodes.syncNodeChanges",
        &["sync.fromHost.nodes.syncBackChanges"],
    );
    moves.node_selector();
    moves.rename(
        "mapServices.fromHost",
        "networking.replicateServices.fromHost",
        Value::is_array,
    );
    moves.rename(
        "mapServices.fromVirtual",
        "networking.replicateServices.toHost",
        Value::is_array,
    );
    moves.switch(
        "isolation.enabled",
        &[
            "policies.resourceQuota.enabled",
            "policies.limitRange.enabled",
            "policies.networkPolicy.enabled",
        ],
    );
    moves.without_pod_security();
    moves.switch(
        "fallbackHostDns",
        &["networking.advanced.fallbackHostCluster"],
    );
    moves.hints
}

struct Moves<'a> {
    source: &'a str,
    values: &'a mut Value,
    hints: Vec<Hint>,
}

impl Moves<'_> {
    fn switch(&mut self, old: &str, new: &[&str]) {
        if let Some(value) = take(self.values, old, Value::is_boolean) {
            for path in new {
                put(self.values, path, value.clone());
            }
            self.hint(old, &new.join(" and "));
        }
    }

    fn rename(&mut self, old: &str, new: &str, fits: fn(&Value) -> bool) {
        if let Some(value) = take(self.values, old, fits) {
            put(self.values, new, value);
            self.hint(old, new);
        }
    }

    /// `nodeSelector: "a=b,c=d"` becomes a map.
    fn node_selector(&mut self) {
        let old = "sync.nodes.nodeSelector";
        let is_selector = |value: &Value| {
            value
                .as_str()
                .is_some_and(|text| pairs(text).all(|pair| pair.is_some()))
        };
        if let Some(Value::String(text)) = take(self.values, old, is_selector) {
            let labels: Map<String, Value> = pairs(&text)
                .flatten()
                .map(|(key, value)| (key.to_owned(), Value::from(value)))
                .collect();
            let new = "sync.fromHost.nodes.selector.labels";
            put(self.values, new, Value::Object(labels));
            self.hint(old, new);
        }
    }

    /// Isolation of 0.15 also held pods to a security standard.
    fn without_pod_security(&mut self) {
        let isolated = "/policies/networkPolicy/enabled";
        let moved = self
            .hints
            .iter()
            .any(|hint| hint.message.starts_with("isolation.enabled"));
        if moved && self.values.pointer(isolated) == Some(&Value::Bool(true)) {
            self.hints.push(Hint {
                source: self.source.to_owned(),
                message:
                    "isolation.enabled also set a pod security standard; this version does not"
                        .into(),
            });
        }
    }

    fn hint(&mut self, old: &str, new: &str) {
        self.hints.push(Hint {
            source: self.source.to_owned(),
            message: format!("{old} is a key of 0.15; today it is {new}"),
        });
    }
}

fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('='))
}

/// Removes the value at a dotted path if it fits, and the maps that are empty
/// afterwards.
fn take(values: &mut Value, path: &str, fits: impl Fn(&Value) -> bool) -> Option<Value> {
    let map = values.as_object_mut()?;
    match path.split_once('.') {
        None => {
            if fits(map.get(path)?) {
                map.remove(path)
            } else {
                None
            }
        }
        Some((head, rest)) => {
            let inner = map.get_mut(head)?;
            let taken = take(inner, rest, fits)?;
            if inner.as_object().is_some_and(Map::is_empty) {
                map.remove(head);
            }
            Some(taken)
        }
    }
}

/// Sets the value at a dotted path unless today's key is given as well.
fn put(values: &mut Value, path: &str, value: Value) {
    let Some(map) = values.as_object_mut() else {
        return;
    };
    match path.split_once('.') {
        None => {
            map.entry(path).or_insert(value);
        }
        Some((head, rest)) => {
            let inner = map.entry(head).or_insert_with(|| Value::Object(Map::new()));
            put(inner, rest, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_key_of_the_past_has_its_place_today() {
        let mut values = json!({
            "mapServices": {
                "fromHost": [{"from": "default/hostsvc", "to": "default/virtualsvc"}],
                "fromVirtual": [{"from": "default/a", "to": "b"}],
            },
            "sync": {"nodes": {"syncAllNodes": true, "syncNodeChanges": true, "nodeSelector": "env=dev"}},
            "fallbackHostDns": true,
        });
        let hints = translate("v", &mut values);
        assert_eq!(hints.len(), 6);
        assert_eq!(
            values,
            json!({
                "networking": {
                    "replicateServices": {
                        "fromHost": [{"from": "default/hostsvc", "to": "default/virtualsvc"}],
                        "toHost": [{"from": "default/a", "to": "b"}],
                    },
                    "advanced": {"fallbackHostCluster": true},
                },
                "sync": {"fromHost": {"nodes": {
                    "selector": {"all": true, "labels": {"env": "dev"}},
                    "syncBackChanges": true,
                }}},
            })
        );
    }

    #[test]
    fn what_does_not_fit_stays_to_be_reported() {
        let mut values = json!({"sync": {"nodes": {"nodeSelector": "env", "enabled": "yes"}}});
        let before = values.clone();
        assert!(translate("v", &mut values).is_empty());
        assert_eq!(values, before);
    }
}
