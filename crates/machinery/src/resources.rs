//! Amounts of resources that pods ask for, after
//! `k8s.io/component-helpers/resource`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object;
use crate::quantity::Quantity;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a map of amounts; what does not parse counts as nothing.
pub fn amounts(map: Option<&Value>) -> Amounts {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), Quantity::from_value(value).ok()?)))
        .collect()
}

/// Adds to each amount the one of the same name.
pub fn add(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        *into.entry(name.clone()).or_default() += *amount;
    }
}

/// Requests and limits below the `resources` of a container, a claim or a pod's
/// spec.
pub fn requests_and_limits(resources: Option<&Value>) -> (Amounts, Amounts) {
    let of = |key: &str| amounts(resources.and_then(|r| r.get(key)));
    (of("requests"), of("limits"))
}

/// Requests and limits of a pod at its worst moment: its containers and
/// sidecars together, but at least what its hungriest init container needs
/// beside the sidecars before it. What the whole pod states stands for that sum.
pub fn of_pod(pod: &Value) -> (Amounts, Amounts) {
    let of = |container: &Value| requests_and_limits(container.get("resources"));
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let init = object::items(pod, "/spec/initContainers");
    let sidecar = |c: &&Value| object::text(c, "/restartPolicy") == "Always";
    let together = object::items(pod, "/spec/containers")
        .iter()
        .chain(init.iter().filter(sidecar));
    for container in together {
        let (r, l) = of(container);
        add(&mut requests, &r);
        add(&mut limits, &l);
    }
    // Sidecars that started before an init container run beside it.
    let (mut before_r, mut before_l) = (Amounts::new(), Amounts::new());
    for container in init {
        let (r, l) = of(container);
        let (mut peak_r, mut peak_l) = (before_r.clone(), before_l.clone());
        add(&mut peak_r, &r);
        add(&mut peak_l, &l);
        raise(&mut requests, &peak_r);
        raise(&mut limits, &peak_l);
        if sidecar(&container) {
            (before_r, before_l) = (peak_r, peak_l);
        }
    }
    let (whole_r, whole_l) = requests_and_limits(pod.pointer("/spec/resources"));
    requests.extend(whole_r);
    limits.extend(whole_l);
    let overhead = amounts(pod.pointer("/spec/overhead"));
    add(&mut requests, &overhead);
    for (name, amount) in &overhead {
        if let Some(held) = limits.get_mut(name) {
            *held += *amount;
        }
    }
    (requests, limits)
}

/// Makes each amount at least the one of the same name.
fn raise(into: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let held = into.entry(name.clone()).or_default();
        if amount > held {
            *held = *amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_needs_what_it_needs_at_its_worst_moment() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let beside = |cpu: &str| {
            let mut sidecar = c(cpu);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        for (spec, wanted) in [
            (json!({"containers": [c("100m"), c("1")]}), "1100m"),
            (
                json!({"containers": [c("100m")], "initContainers": [c("2")]}),
                "2",
            ),
            (
                json!({"containers": [c("1"), c("1")], "initContainers": [beside("1"), c("4")]}),
                "5",
            ),
            (
                json!({"containers": [c("100m")], "initContainers": [c("200m"), beside("300m")]}),
                "400m",
            ),
            (
                json!({"containers": [c("1")], "resources": {"requests": {"cpu": "2"}},
                    "overhead": {"cpu": "250m"}}),
                "2250m",
            ),
            (json!({"containers": [c("lots")]}), ""),
        ] {
            let found = of_pod(&json!({"spec": spec})).0;
            let found = found
                .get("cpu")
                .map(Quantity::to_string)
                .unwrap_or_default();
            assert_eq!(found, wanted, "{spec}");
        }
    }
}
