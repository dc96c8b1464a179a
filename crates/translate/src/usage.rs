//! What pods of others leave of a node, for a scheduler inside that does not
//! see them.

use std::collections::BTreeMap;

use coracle_machinery::Quantity;
use coracle_machinery::object;
use serde_json::{Map, Value, json};

/// The resources that are counted, beside the number of pods. Of others, such
/// as devices, a scheduler inside knows what the node has, and the host's
/// kubelet has the last word.
const COUNTED: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Amounts by resource, of those counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs(BTreeMap<&'static str, Quantity>);

impl Needs {
    /// What a pod asks for at its worst moment, as upstream's schedulers count:
    /// its containers with the sidecars, or the greediest init container with
    /// the sidecars before it; what the whole pod asks for stands for that.
    pub fn of_pod(pod: &Value) -> Self {
        let containers = object::items(pod, "/spec/containers");
        let mut total = containers.iter().fold(Self::default(), |sum, container| {
            sum.plus(&Self::of(&container["resources"]))
        });
        let (mut sidecars, mut peak) = (Self::default(), Self::default());
        for container in object::items(pod, "/spec/initContainers") {
            let mut now = Self::of(&container["resources"]).plus(&sidecars);
            if object::text(container, "/restartPolicy") == "Always" {
                sidecars = now.clone();
                now = sidecars.clone();
            }
            peak = peak.larger(&now);
        }
        total = total.plus(&sidecars).larger(&peak);
        total.0.extend(Self::of(&pod["spec"]["resources"]).0);
        total.plus(&Self::read(&pod["spec"]["overhead"]))
    }

    /// Requests; a limit without a request is one.
    fn of(resources: &Value) -> Self {
        let mut needs = Self::read(&resources["limits"]);
        needs.0.extend(Self::read(&resources["requests"]).0);
        needs
    }

    /// What does not parse counts as nothing.
    fn read(amounts: &Value) -> Self {
        let read = COUNTED.iter().filter_map(|name| {
            let amount = Quantity::from_value(amounts.get(name)?).ok()?;
            (!amount.is_negative()).then_some((*name, amount))
        });
        Self(read.collect())
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (name, amount) in &other.0 {
            let sum = self.0.remove(name).unwrap_or_default() + *amount;
            self.0.insert(name, sum);
        }
        self
    }

    fn larger(mut self, other: &Self) -> Self {
        for (name, amount) in &other.0 {
            let larger = self.0.remove(name).unwrap_or_default().max(*amount);
            self.0.insert(name, larger);
        }
        self
    }

    /// As a map of texts, to be kept beside other values.
    pub fn to_value(&self) -> Value {
        let texts = self.0.iter();
        let map: Map<String, Value> = texts
            .map(|(name, amount)| ((*name).to_owned(), amount.to_string().into()))
            .collect();
        map.into()
    }

    /// The opposite of `to_value`.
    pub fn from_value(value: &Value) -> Self {
        Self::read(value)
    }
}

/// Takes from a node's `allocatable` what so many pods of others need; nothing
/// gets less than zero.
pub fn leave(node: &mut Value, pods: i64, needs: &Needs) {
    let Some(allocatable) = node
        .pointer_mut("/status/allocatable")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    let mut take = |name: &str, amount: Quantity| {
        let Some(Ok(has)) = allocatable.get(name).map(Quantity::from_value) else {
            return;
        };
        let left = (has - amount).max(Quantity::default());
        allocatable.insert(name.to_owned(), json!(left.to_string()));
    };
    for (name, amount) in &needs.0 {
        take(name, *amount);
    }
    take("pods", Quantity::from_units(pods));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_needs_what_it_needs_at_its_worst_moment() {
        let needs = |cpu: &str| json!({"requests": {"cpu": cpu}});
        for (spec, wanted) in [
            (
                json!({"containers": [{"resources": needs("100m")}, {"resources": needs("1")}]}),
                "1100m",
            ),
            (
                json!({"containers": [{"resources": needs("100m")}],
                "initContainers": [{"resources": needs("2")}]}),
                "2",
            ),
            (
                json!({"containers": [{"resources": needs("100m")}], "initContainers": [
                {"resources": needs("300m"), "restartPolicy": "Always"},
                {"resources": needs("200m")}]}),
                "500m",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "3"}}}]}),
                "3",
            ),
            (
                json!({"containers": [{"resources": needs("1")}], "resources": needs("2"),
                "overhead": {"cpu": "250m"}}),
                "2250m",
            ),
            (json!({"containers": [{"resources": needs("lots")}]}), ""),
        ] {
            let found = Needs::of_pod(&json!({"spec": spec})).to_value();
            let found = found["cpu"].as_str().unwrap_or_default();
            assert_eq!(found, wanted, "{spec}");
        }
    }

    #[test]
    fn others_leave_what_they_do_not_need() {
        let needs = Needs::from_value(&json!({"cpu": "1500m", "memory": "9Gi"}));
        assert_eq!(Needs::from_value(&needs.to_value()), needs);
        let mut node = json!({"status": {"allocatable":
            {"cpu": "2", "memory": "8Gi", "pods": "110", "example.com/gpu": "1"}}});
        leave(&mut node, 10, &needs.clone().plus(&needs));
        assert_eq!(
            node["status"]["allocatable"],
            json!({"cpu": "0", "memory": "0", "pods": "100", "example.com/gpu": "1"})
        );
        let mut bare = json!({"status": {}});
        leave(&mut bare, 1, &needs);
        assert_eq!(bare, json!({"status": {}}));
    }
}
