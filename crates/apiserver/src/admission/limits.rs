//! LimitRanger: defaults and bounds that a namespace sets for resources.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::resources::{Amounts, amounts, of_pod, requests_and_limits};
use coracle_machinery::{ApiError, Quantity, object};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::auth::core;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

/// Tells what was filled in.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(super) struct LimitRanger {
    objects: Arc<dyn Objects>,
}

/// One item of a LimitRange.
struct Limit {
    kind: String,
    max: Amounts,
    min: Amounts,
    default: Amounts,
    default_request: Amounts,
    ratio: Amounts,
}

impl LimitRanger {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    async fn limits(&self, namespace: &str) -> Result<Vec<Limit>, ApiError> {
        let ranges = self.objects.list(&core("limitranges"), namespace).await?;
        let items = ranges.iter().flat_map(|r| object::items(r, "/spec/limits"));
        Ok(items.map(Limit::read).collect())
    }
}

#[async_trait]
impl Admission for LimitRanger {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        let pods = operation == Operation::Create && is(resource, "", "pods");
        let claims = matches!(operation, Operation::Create | Operation::Update)
            && is(resource, "", "persistentvolumeclaims");
        subresource.is_empty() && (pods || claims)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if !is(request.resource, "", "pods") {
            return Ok(());
        }
        let limits = self.limits(request.namespace).await?;
        if let Some(pod) = request.object.as_mut() {
            fill_in(pod, &limits);
        }
        Ok(())
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let limits = self.limits(request.namespace).await?;
        let Some(object) = request.object.as_ref() else {
            return Ok(());
        };
        let errors = if is(request.resource, "", "pods") {
            check_pod(object, &limits)
        } else {
            check_claim(object, &limits)
        };
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(request, one)),
            many => Err(forbidden(request, &format!("[{}]", many.join(", ")))),
        }
    }
}

impl Limit {
    fn read(item: &Value) -> Self {
        let of = |key: &str| amounts(item.get(key));
        let mut limit = Self {
            kind: object::text(item, "/type").to_owned(),
            max: of("max"),
            min: of("min"),
            default: of("default"),
            default_request: of("defaultRequest"),
            ratio: of("maxLimitRequestRatio"),
        };
        if limit.kind == "Container" {
            // What is not said follows from what is.
            add_missing(&mut limit.default, &limit.max);
            add_missing(&mut limit.default_request, &limit.default);
            add_missing(&mut limit.default_request, &limit.min);
        }
        limit
    }

    /// What requests and limits violate.
    fn check(&self, requests: &Amounts, limits: &Amounts) -> Vec<String> {
        let mut errors = Vec::new();
        let kind = &self.kind;
        for (name, least) in &self.min {
            let head = format!("minimum {name} usage per {kind} is {least}");
            match (requests.get(name), limits.get(name)) {
                (None, _) => errors.push(format!("{head}.  No request is specified")),
                (Some(r), _) if r < least => errors.push(format!("{head}, but request is {r}")),
                (_, Some(l)) if l < least => errors.push(format!("{head}, but limit is {l}")),
                _ => {}
            }
        }
        for (name, most) in &self.max {
            let head = format!("maximum {name} usage per {kind} is {most}");
            match (requests.get(name), limits.get(name)) {
                (_, None) => errors.push(format!("{head}.  No limit is specified")),
                (_, Some(l)) if l > most => errors.push(format!("{head}, but limit is {l}")),
                (Some(r), _) if r > most => errors.push(format!("{head}, but request is {r}")),
                _ => {}
            }
        }
        for (name, most) in &self.ratio {
            let head = format!("{name} max limit to request ratio per {kind} is {most}, but");
            let request = requests.get(name).map_or(0.0, Quantity::as_f64);
            let limit = limits.get(name).map_or(0.0, Quantity::as_f64);
            if request == 0.0 {
                errors.push(format!("{head} no request is specified or request is 0"));
            } else if limit == 0.0 {
                errors.push(format!("{head} no limit is specified or limit is 0"));
            } else if limit / request > most.as_f64() {
                errors.push(format!("{head} provided ratio is {:.6}", limit / request));
            }
        }
        errors
    }
}

fn add_missing(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        into.entry(name.clone()).or_insert_with(|| *amount);
    }
}

/// Gives containers the defaults of the namespace.
fn fill_in(pod: &mut Value, limits: &[Limit]) {
    let (mut requests, mut most) = (Amounts::new(), Amounts::new());
    for limit in limits.iter().filter(|l| l.kind == "Container") {
        add_missing(&mut requests, &limit.default_request);
        add_missing(&mut most, &limit.default);
    }
    if requests.is_empty() && most.is_empty() {
        return;
    }
    let mut told = Vec::new();
    for (list, what) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let containers = pod
            .pointer_mut(&format!("/spec/{list}"))
            .and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|c| c.is_object()) {
            let name = object::text(container, "/name").to_owned();
            for (key, defaults, noun) in [
                ("limits", &most, "limit"),
                ("requests", &requests, "request"),
            ] {
                let set = set_missing(container, key, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {noun} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let metadata = object::metadata_mut(pod);
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations[ANNOTATION] = json!(format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

fn set_missing(container: &mut Value, key: &str, defaults: &Amounts) -> Vec<String> {
    let resources = object::child_map(container, "resources");
    let slot = resources.entry(key).or_insert(Value::Null);
    let held = slot.as_object().cloned().unwrap_or_default();
    let missing: Vec<(&String, &Quantity)> = defaults
        .iter()
        .filter(|(name, _)| !held.contains_key(*name))
        .collect();
    if missing.is_empty() {
        if slot.is_null() {
            resources.remove(key);
        }
        return Vec::new();
    }
    let mut map = held;
    for (name, amount) in &missing {
        map.insert((*name).clone(), json!(amount.to_string()));
    }
    *slot = Value::Object(map);
    missing.into_iter().map(|(name, _)| name.clone()).collect()
}

fn resources(container: &Value) -> (Amounts, Amounts) {
    requests_and_limits(container.get("resources"))
}

fn check_pod(pod: &Value, limits: &[Limit]) -> Vec<String> {
    let mut errors = Vec::new();
    for limit in limits {
        match limit.kind.as_str() {
            "Container" => {
                for list in ["/spec/containers", "/spec/initContainers"] {
                    for container in object::items(pod, list) {
                        let (requests, most) = resources(container);
                        errors.extend(limit.check(&requests, &most));
                    }
                }
            }
            "Pod" => {
                let (requests, most) = of_pod(pod);
                errors.extend(limit.check(&requests, &most));
            }
            _ => {}
        }
    }
    errors
}

fn check_claim(claim: &Value, limits: &[Limit]) -> Vec<String> {
    let (requests, _) = resources(&json!({"resources": claim.pointer("/spec/resources")}));
    let mut errors = Vec::new();
    for limit in limits.iter().filter(|l| l.kind == "PersistentVolumeClaim") {
        for (name, least) in &limit.min {
            let head = format!("minimum {name} usage per PersistentVolumeClaim is {least}");
            match requests.get(name) {
                None => errors.push(format!("{head}.  No request is specified")),
                Some(r) if r < least => errors.push(format!("{head}, but request is {r}")),
                Some(_) => {}
            }
        }
        for (name, most) in &limit.max {
            let head = format!("maximum {name} usage per PersistentVolumeClaim is {most}");
            match requests.get(name) {
                None => errors.push(format!("{head}.  No request is specified")),
                Some(r) if r > most => errors.push(format!("{head}, but request is {r}")),
                Some(_) => {}
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    fn rule(limits: Value) -> LimitRanger {
        let objects = FakeObjects::new();
        objects.put(
            &core("limitranges"),
            json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"limits": limits}}),
        );
        LimitRanger::new(objects)
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": containers}})
    }

    #[tokio::test]
    async fn defaults_are_filled_in_and_told() {
        let rule =
            rule(json!([{"type": "Container", "default": {"cpu": "1"}, "min": {"memory": "1Mi"}}]));
        let create = Try::create(&rule, "pods");
        let own = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2", "memory": "2Mi"}});
        let got = create
            .pass(pod(json!([{"name": "a"}, {"name": "b", "resources": own}])))
            .await
            .unwrap();
        let containers = &got["spec"]["containers"];
        assert_eq!(
            containers[0]["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1", "memory": "1Mi"}})
        );
        assert_eq!(containers[1]["resources"], own);
        assert_eq!(
            got["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu limit for container a; cpu, memory request for container a"
        );
    }

    #[tokio::test]
    async fn bounds_are_kept() {
        let of = |requests: Value, limits: Value| {
            pod(json!([{"name": "a", "resources": {"requests": requests, "limits": limits}}]))
        };
        let cases = [
            (
                json!([{"type": "Container", "max": {"cpu": "1"}}]),
                of(json!({}), json!({"cpu": "2"})),
                "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "1"}}]),
                of(json!({"cpu": "100m"}), json!({})),
                "minimum cpu usage per Container is 1, but request is 100m",
            ),
            (
                json!([{"type": "Pod", "max": {"cpu": "1"}}]),
                of(json!({}), json!({})),
                "maximum cpu usage per Pod is 1.  No limit is specified",
            ),
            (
                json!([{"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}}]),
                of(json!({"cpu": "1"}), json!({"cpu": "3"})),
                "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000",
            ),
        ];
        for (limits, pod, text) in cases {
            let rule = rule(limits);
            let error = Try::create(&rule, "pods").pass(pod).await.unwrap_err();
            assert!(error.message.ends_with(text), "{}", error.message);
        }
        let rule = rule(json!([{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]));
        let claim = json!({"metadata": {"name": "c", "namespace": "n"},
            "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let create = Try::create(&rule, "persistentvolumeclaims");
        let error = create.pass(claim).await.unwrap_err();
        assert!(error.message.ends_with(
            "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
        ));
    }
}
