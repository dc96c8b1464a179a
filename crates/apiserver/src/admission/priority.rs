//! Priority: the number behind a pod's priority class.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, object};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::auth::named;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

const CLASSES: GroupResource = named("scheduling.k8s.io", "priorityclasses");

pub(super) struct Priority {
    objects: Arc<dyn Objects>,
}

/// What a class gives a pod.
struct Given {
    class: Option<String>,
    value: i64,
    preemption: String,
}

impl Priority {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The default class: the lowest of those marked so.
    async fn default_class(&self) -> Result<Given, ApiError> {
        let classes = self.objects.list(&CLASSES, "").await?;
        let lowest = classes
            .iter()
            .filter(|c| c.get("globalDefault") == Some(&Value::Bool(true)))
            .min_by_key(|c| value(c));
        Ok(lowest.map_or(
            Given {
                class: None,
                value: 0,
                preemption: "PreemptLowerPriority".to_owned(),
            },
            |class| given(class),
        ))
    }

    async fn admit_pod(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(pod) = request.object.as_ref() else {
            return Ok(());
        };
        let name = object::text(pod, "/spec/priorityClassName");
        let given = if name.is_empty() {
            self.default_class().await?
        } else {
            match self.objects.get(&CLASSES, "", name).await? {
                Some(class) => given(&class),
                None => {
                    let why = format!("no PriorityClass with name {name} was found");
                    return Err(forbidden(request, &why));
                }
            }
        };
        if let Some(own) = pod.pointer("/spec/priority").and_then(Value::as_i64)
            && own != given.value
        {
            let why = format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                given.value
            );
            return Err(forbidden(request, &why));
        }
        let own = object::text(pod, "/spec/preemptionPolicy");
        if !own.is_empty() && own != given.preemption {
            let why = format!(
                "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                given.preemption
            );
            return Err(forbidden(request, &why));
        }
        if let Some(pod) = request.object.as_mut() {
            let spec = object::child_map(pod, "spec");
            if let Some(class) = given.class {
                spec.insert("priorityClassName".into(), json!(class));
            }
            spec.insert("priority".into(), json!(given.value));
            spec.insert("preemptionPolicy".into(), json!(given.preemption));
        }
        Ok(())
    }

    /// Only one class may be the default.
    async fn check_class(&self, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
        let is_default = |c: &Value| c.get("globalDefault") == Some(&Value::Bool(true));
        let Some(class) = request.object.as_ref().filter(|c| is_default(c)) else {
            return Ok(());
        };
        for other in self.objects.list(&CLASSES, "").await? {
            if is_default(&other) && object::name(&other) != object::name(class) {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    object::name(&other)
                );
                return Err(forbidden(request, &why));
            }
        }
        Ok(())
    }
}

fn value(class: &Value) -> i64 {
    class
        .get("value")
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

fn given(class: &Value) -> Given {
    let preemption = match object::text(class, "/preemptionPolicy") {
        "" => "PreemptLowerPriority",
        policy => policy,
    };
    Given {
        class: Some(object::name(class).to_owned()),
        value: value(class),
        preemption: preemption.to_owned(),
    }
}

#[async_trait]
impl Admission for Priority {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && (is(resource, "", "pods") || is(resource, "scheduling.k8s.io", "priorityclasses"))
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if !is(request.resource, "", "pods") {
            return Ok(());
        }
        if request.operation == Operation::Create {
            return self.admit_pod(request).await;
        }
        // An old client that does not know the fields sends them not.
        if let (Some(pod), Some(old)) = (request.object.as_mut(), request.old) {
            for field in ["priority", "preemptionPolicy"] {
                let pointer = format!("/spec/{field}");
                let absent = pod.pointer(&pointer).is_none_or(Value::is_null);
                if absent && let Some(value) = old.pointer(&pointer) {
                    object::child_map(pod, "spec").insert(field.to_owned(), value.clone());
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if is(request.resource, "", "pods") {
            return Ok(());
        }
        self.check_class(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    fn class(name: &str, value: i64, default: bool) -> Value {
        json!({"metadata": {"name": name}, "value": value, "globalDefault": default})
    }

    async fn run(classes: &[Value], spec: Value) -> Result<Value, ApiError> {
        let objects = FakeObjects::new();
        for class in classes {
            objects.put(&CLASSES, class.clone());
        }
        let rule = Priority::new(objects);
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        let got = Try::create(&rule, "pods").pass(pod).await?;
        Ok(json!([
            got["spec"]["priorityClassName"],
            got["spec"]["priority"],
            got["spec"]["preemptionPolicy"]
        ]))
    }

    #[tokio::test]
    async fn a_pod_gets_the_number_of_its_class() {
        let high = class("high", 7, false);
        let normal = class("normal", 3, true);
        let lower = "PreemptLowerPriority";
        assert_eq!(run(&[], json!({})).await.unwrap(), json!([null, 0, lower]));
        assert_eq!(
            run(std::slice::from_ref(&normal), json!({})).await.unwrap(),
            json!(["normal", 3, lower])
        );
        let named = json!({"priorityClassName": "high", "priority": 7});
        let both = [high, normal];
        assert_eq!(run(&both, named).await.unwrap(), json!(["high", 7, lower]));
        let error = run(&[], json!({"priorityClassName": "x"}))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: no PriorityClass with name x was found"
        );
        let error = run(&both, json!({"priority": 9})).await.unwrap_err();
        assert!(
            error.message.contains("priority (9) must not be provided"),
            "{}",
            error.message
        );
    }

    #[tokio::test]
    async fn one_class_is_the_default() {
        let objects = FakeObjects::new();
        objects.put(&CLASSES, class("a", 1, true));
        let rule = Priority::new(objects);
        let create = Try::create(&rule, "scheduling.k8s.io/priorityclasses");
        assert!(create.pass(class("a", 1, true)).await.is_ok());
        assert!(create.pass(class("b", 1, false)).await.is_ok());
        assert!(create.pass(class("b", 1, true)).await.is_err());
    }
}
