//! RuntimeClass: the overhead and the placement that a class adds to a pod.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::auth::named;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

pub(super) struct RuntimeClass {
    objects: Arc<dyn Objects>,
}

impl RuntimeClass {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Admission for RuntimeClass {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && is(resource, "", "pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(pod) = request.object.as_ref() else {
            return Ok(());
        };
        let own = pod
            .pointer("/spec/overhead")
            .filter(|o| o.as_object().is_some_and(|m| !m.is_empty()));
        let name = object::text(pod, "/spec/runtimeClassName");
        if name.is_empty() {
            if own.is_some() {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                return Err(forbidden(request, why));
            }
            return Ok(());
        }
        let classes = named("node.k8s.io", "runtimeclasses");
        let Some(class) = self.objects.get(&classes, "", name).await? else {
            let why = format!("pod rejected: RuntimeClass {name:?} not found");
            return Err(forbidden(request, &why));
        };
        let overhead = class.pointer("/overhead/podFixed").filter(|o| !o.is_null());
        if own.is_some() && own != overhead {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(forbidden(request, why));
        }
        let clash = object::string_map(&class, "/scheduling/nodeSelector").find_map(|(key, value)| {
            let held = pod.pointer("/spec/nodeSelector")?.get(key)?.as_str()?;
            (held != value).then(|| {
                format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {held}"
                )
            })
        });
        if let Some(why) = clash {
            return Err(forbidden(request, &why));
        }
        if let Some(pod) = request.object.as_mut() {
            apply(pod, &class, overhead);
        }
        Ok(())
    }
}

fn apply(pod: &mut Value, class: &Value, overhead: Option<&Value>) {
    let spec = object::child_map(pod, "spec");
    if let Some(overhead) = overhead {
        spec.insert("overhead".into(), overhead.clone());
    }
    let selector: Vec<(&str, &str)> =
        object::string_map(class, "/scheduling/nodeSelector").collect();
    if !selector.is_empty() {
        let held = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        if held.is_null() {
            *held = json!({});
        }
        if let Some(map) = held.as_object_mut() {
            for (key, value) in selector {
                map.insert(key.to_owned(), json!(value));
            }
        }
    }
    let tolerations = object::items(class, "/scheduling/tolerations");
    if !tolerations.is_empty() {
        let mut all = object::items(&json!({"t": spec.get("tolerations")}), "/t").to_vec();
        for toleration in tolerations {
            if !all.contains(toleration) {
                all.push(toleration.clone());
            }
        }
        spec.insert("tolerations".into(), Value::Array(all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn overhead_and_placement_come_from_the_class() {
        let objects = FakeObjects::new();
        objects.put(
            &named("node.k8s.io", "runtimeclasses"),
            json!({
                "metadata": {"name": "vm"},
                "overhead": {"podFixed": {"cpu": "1"}},
                "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]},
            }),
        );
        let rule = RuntimeClass::new(objects);
        let create = Try::create(&rule, "pods");
        let run = |spec: Value| create.pass(json!({"metadata": {"name": "p"}, "spec": spec}));
        let got = run(json!({"runtimeClassName": "vm"})).await.unwrap();
        assert_eq!(
            got["spec"],
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"},
            "nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm"}]})
        );
        for (spec, text) in [
            (
                json!({"runtimeClassName": "x"}),
                "RuntimeClass \"x\" not found",
            ),
            (json!({"overhead": {"cpu": "1"}}), "without corresponding"),
            (
                json!({"runtimeClassName": "vm", "overhead": {"cpu": "2"}}),
                "doesn't match",
            ),
            (
                json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
                "conflict",
            ),
        ] {
            let error = run(spec).await.unwrap_err();
            assert!(error.message.contains(text), "{}", error.message);
        }
    }
}
