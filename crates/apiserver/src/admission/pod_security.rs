//! PodSecurity: the Pod Security Standards, as namespaces demand by label.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::pod_security::{Level, violations};
use coracle_machinery::{ApiError, object};

use super::{forbidden, is};
use crate::auth::core;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

const LABEL: &str = "pod-security.kubernetes.io";

/// Where workloads keep the template of their pods.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

pub(super) struct PodSecurity {
    objects: Arc<dyn Objects>,
}

impl PodSecurity {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

fn template(resource: &Resource) -> Option<&'static str> {
    let row = TEMPLATES
        .iter()
        .find(|(group, plural, _)| is(resource, group, plural));
    row.map(|(_, _, pointer)| *pointer)
}

#[async_trait]
impl Admission for PodSecurity {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        let write = matches!(operation, Operation::Create | Operation::Update);
        let pods = is(resource, "", "pods") && ["", "ephemeralcontainers"].contains(&subresource);
        write && (pods || (subresource.is_empty() && template(resource).is_some()))
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(object) = request.object.as_ref() else {
            return Ok(());
        };
        let namespace = self
            .objects
            .get(&core("namespaces"), "", request.namespace)
            .await?;
        let Some(namespace) = namespace else {
            return Ok(());
        };
        let demand = |mode: &str| {
            let level = object::label(&namespace, &format!("{LABEL}/{mode}"))?;
            let version = object::label(&namespace, &format!("{LABEL}/{mode}-version"));
            let shown = format!("{level}:{}", version.unwrap_or("latest"));
            Some((Level::parse(level), shown))
        };
        let template = template(request.resource);
        let (pod, old) = match template {
            Some(pointer) => (
                object.pointer(pointer),
                request.old.and_then(|o| o.pointer(pointer)),
            ),
            None => (Some(object), request.old),
        };
        let Some(pod) = pod else {
            return Ok(());
        };
        if old.is_some_and(|old| old.get("spec") == pod.get("spec")) {
            return Ok(());
        }
        if template.is_none()
            && let Some((level, shown)) = demand("enforce")
            && let Some(found) = violations(pod, level)
        {
            let why = format!("violates PodSecurity {shown:?}: {found}");
            return Err(forbidden(request, &why));
        }
        if let Some((level, shown)) = demand("warn")
            && let Some(found) = violations(pod, level)
        {
            let text = format!("would violate PodSecurity {shown:?}: {found}");
            request.warnings.push(text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn namespaces_enforce_and_warn() {
        let objects = FakeObjects::new();
        objects.put(
            &core("namespaces"),
            json!({"metadata": {"name": "n", "labels": {
                "pod-security.kubernetes.io/enforce": "baseline",
                "pod-security.kubernetes.io/warn": "restricted",
            }}}),
        );
        let rule = PodSecurity::new(objects);
        let object =
            |spec: Value| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        let create = Try::create(&rule, "pods");
        assert!(
            create
                .pass(object(json!({"containers": [{"name": "c"}]})))
                .await
                .is_ok()
        );
        let error = create
            .pass(object(json!({"hostPID": true})))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"
        );
        // A workload is warned about, its pods are refused.
        let template = object(json!({"template": {"spec": {"hostPID": true}}}));
        assert!(
            Try::create(&rule, "apps/deployments")
                .pass(template)
                .await
                .is_ok()
        );
    }
}
