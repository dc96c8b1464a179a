//! NamespaceLifecycle: nothing is created in a namespace that is absent or
//! going away, and the system's namespaces stay.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::auth::core;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

/// Namespaces that may not be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) struct NamespaceLifecycle {
    objects: Arc<dyn Objects>,
}

impl NamespaceLifecycle {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn handles(&self, operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        match operation {
            Operation::Delete => is(resource, "", "namespaces"),
            Operation::Create => resource.namespaced(),
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if request.operation == Operation::Delete {
            return Ok(());
        }
        // An access review asks about a namespace, and creates nothing in it.
        if is(
            request.resource,
            "authorization.k8s.io",
            "localsubjectaccessreviews",
        ) {
            return Ok(());
        }
        let namespace = request.namespace;
        let namespaces = core("namespaces");
        let found = self.objects.get(&namespaces, "", namespace).await?;
        let Some(found) = found else {
            return Err(ApiError::not_found(&namespaces, namespace));
        };
        let terminating = object::text(&found, "/status/phase") == "Terminating"
            || object::is_terminating(&found);
        if !terminating {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let mut error = forbidden(request, &why);
        if let Value::Object(details) = &mut error.details {
            let cause = json!({
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            });
            details.insert("causes".into(), json!([cause]));
        }
        Err(error)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(forbidden(request, "this namespace may not be deleted"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn content_needs_a_living_namespace() {
        let objects = FakeObjects::new();
        objects.put(&core("namespaces"), json!({"metadata": {"name": "live"}}));
        objects.put(
            &core("namespaces"),
            json!({"metadata": {"name": "dying"}, "status": {"phase": "Terminating"}}),
        );
        let rule = NamespaceLifecycle::new(objects);
        let create = Try::create(&rule, "pods");
        let pod = |ns: &str| json!({"metadata": {"name": "p", "namespace": ns}});
        assert!(create.pass(pod("live")).await.is_ok());
        let error = create.pass(pod("absent")).await.unwrap_err();
        assert_eq!(error.message, "namespaces \"absent\" not found");
        let error = create.pass(pod("dying")).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: unable to create new content in namespace dying because it is being terminated"
        );
        assert_eq!(error.details["causes"][0]["reason"], "NamespaceTerminating");
        assert!(
            Try::create(&rule, "nodes")
                .pass(json!({"metadata": {"name": "n"}}))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn system_namespaces_stay() {
        let rule = NamespaceLifecycle::new(FakeObjects::new());
        let delete = Try {
            operation: Operation::Delete,
            ..Try::create(&rule, "namespaces")
        };
        let error = delete
            .run(None, Some(&json!({"metadata": {"name": "kube-system"}})))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
        );
        let mine = json!({"metadata": {"name": "mine"}});
        assert!(delete.run(None, Some(&mine)).await.is_ok());
    }
}
