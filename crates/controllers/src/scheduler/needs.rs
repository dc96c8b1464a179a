//! Amounts of resources: what pods need and what nodes have.

use std::collections::BTreeMap;

use coracle_machinery::quantity::Quantity;

use crate::objects::pod::{Container, Pod, ResourceNeeds};

/// Amounts by resource name: CPU in thousandths, all else in units.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Amounts(pub BTreeMap<String, i64>);

/// What the scheduler assumes of a container that states no need when it
/// compares loads, so that such pods spread too.
const ASSUMED_MILLI_CPU: i64 = 100;
const ASSUMED_MEMORY: i64 = 200 << 20;

impl Amounts {
    /// Reads amounts; what does not parse counts as nothing.
    pub(super) fn parse(map: &BTreeMap<String, String>) -> Self {
        let amounts = map.iter().filter_map(|(name, text)| {
            let quantity = Quantity::parse(text).ok()?;
            let amount = if name == "cpu" {
                quantity.milli_value()
            } else {
                quantity.value()
            };
            Some((name.clone(), amount.max(0)))
        });
        Self(amounts.collect())
    }

    pub(super) fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let entry = self.0.entry(name.clone()).or_insert(0);
            *entry = entry.saturating_add(*amount);
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if let Some(entry) = self.0.get_mut(name) {
                *entry = entry.saturating_sub(*amount);
            }
        }
        self.0.retain(|_, amount| *amount != 0);
    }

    /// The larger amount of each resource.
    fn max(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let entry = self.0.entry(name.clone()).or_insert(0);
            *entry = (*entry).max(*amount);
        }
    }
}

fn of_container(container: &Container) -> Amounts {
    requests(&container.resources)
}

/// Requests; a limit without a request is one.
fn requests(needs: &ResourceNeeds) -> Amounts {
    let mut amounts = Amounts::parse(&needs.limits);
    amounts.0.extend(Amounts::parse(&needs.requests).0);
    amounts
}

/// What a pod needs at its worst moment: all containers with the sidecars, or
/// the greediest init container with the sidecars that run by then.
pub(super) fn of_pod(pod: &Pod) -> Amounts {
    let mut total = Amounts::default();
    for container in &pod.spec.containers {
        total.add(&of_container(container));
    }
    let mut sidecars = Amounts::default();
    let mut peak = Amounts::default();
    for container in &pod.spec.init_containers {
        let mut now = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        peak.max(&now);
    }
    total.add(&sidecars);
    total.max(&peak);
    // Needs of the whole pod stand for the sums above.
    if let Some(whole) = &pod.spec.resources {
        total.0.extend(requests(whole).0);
    }
    total.add(&Amounts::parse(&pod.spec.overhead));
    total.0.retain(|_, amount| *amount != 0);
    total
}

/// CPU and memory as they count for comparing loads.
pub(super) fn load_of_pod(pod: &Pod) -> (i64, i64) {
    let (mut cpu, mut memory) = (0i64, 0i64);
    for container in &pod.spec.containers {
        let needs = of_container(container);
        let or = |name: &str, assumed: i64| match needs.get(name) {
            0 => assumed,
            amount => amount,
        };
        cpu = cpu.saturating_add(or("cpu", ASSUMED_MILLI_CPU));
        memory = memory.saturating_add(or("memory", ASSUMED_MEMORY));
    }
    let whole = of_pod(pod);
    (cpu.max(whole.get("cpu")), memory.max(whole.get("memory")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    fn container(cpu: &str, sidecar: bool) -> Value {
        let mut value = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        if sidecar {
            value["restartPolicy"] = "Always".into();
        }
        value
    }

    #[test]
    fn the_worst_moment_counts() {
        for (containers, inits, expected) in [
            (
                json!([container("1", false), container("500m", false)]),
                json!([]),
                1500,
            ),
            (
                json!([container("1", false)]),
                json!([container("3", false)]),
                3000,
            ),
            (
                json!([container("1", false)]),
                json!([container("3", true)]),
                4000,
            ),
            (
                json!([container("1", false)]),
                json!([container("1", true), container("3", false)]),
                4000,
            ),
            (
                json!([container("1", false)]),
                json!([container("3", false), container("1", true)]),
                3000,
            ),
        ] {
            let pod: Pod =
                object(json!({"spec": {"containers": containers, "initContainers": inits}}));
            assert_eq!(of_pod(&pod).get("cpu"), expected, "{containers} {inits}");
        }
    }

    #[test]
    fn overhead_and_pod_level_needs() {
        let pod: Pod = object(json!({"spec": {
            "containers": [container("1", false)], "overhead": {"cpu": "100m"},
            "resources": {"requests": {"cpu": "2"}},
        }}));
        assert_eq!(of_pod(&pod).get("cpu"), 2100);
    }
}
