//! May somebody do something, and what may they do.

use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind, object};
use serde_json::{Value, json};

use super::Reviews;
use crate::access::{Attributes, Decision, UserInfo};
use crate::auth::rbac::PolicyRule;

impl Reviews {
    /// Answers a SubjectAccessReview or, with the namespace of the request, a
    /// LocalSubjectAccessReview.
    ///
    /// # Errors
    /// Invalid or bad request, if the question makes no sense.
    pub async fn subject_access_review(
        &self,
        mut review: Value,
        namespace: Option<&str>,
    ) -> Result<Value, ApiError> {
        let kind = if namespace.is_some() {
            "LocalSubjectAccessReview"
        } else {
            "SubjectAccessReview"
        };
        let mut errors = check_question(&review);
        let spec = FieldPath::new("spec");
        if object::text(&review, "/spec/user").is_empty()
            && object::items(&review, "/spec/groups").is_empty()
        {
            let why = "at least one of user or group must be specified";
            errors.push(FieldError::invalid(&spec.child("user"), "", why));
        }
        if let Some(namespace) = namespace {
            let given = object::namespace(&review);
            if !given.is_empty() && given != namespace {
                return Err(ApiError::bad_request(
                    "namespace on request does not match namespace on object",
                ));
            }
            object::metadata_mut(&mut review).insert("namespace".into(), json!(namespace));
            errors.extend(check_local(&review, namespace));
        }
        refuse(kind, &errors)?;
        let user = subject(&review);
        review["status"] = self.decide(&user, &attributes(&review)).await;
        Ok(review)
    }

    /// Answers a SelfSubjectAccessReview.
    ///
    /// # Errors
    /// Invalid, if the question makes no sense.
    pub async fn self_subject_access_review(
        &self,
        user: &UserInfo,
        mut review: Value,
    ) -> Result<Value, ApiError> {
        refuse("SelfSubjectAccessReview", &check_question(&review))?;
        review["status"] = self.decide(user, &attributes(&review)).await;
        Ok(review)
    }

    /// Lists what the caller may do in a namespace.
    ///
    /// # Errors
    /// Bad request, if no namespace is named; or if roles cannot be read.
    pub async fn self_subject_rules_review(
        &self,
        user: &UserInfo,
        mut review: Value,
    ) -> Result<Value, ApiError> {
        let namespace = object::text(&review, "/spec/namespace").to_owned();
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let held = self.rbac.rules_for(user, &namespace).await?;
        let written = |wanted: fn(&PolicyRule) -> bool| -> Vec<Value> {
            let rules = held.rules.iter().filter(|rule| wanted(rule));
            rules.map(PolicyRule::to_value).collect()
        };
        let mut status = json!({
            "resourceRules": written(|rule| !rule.resources.is_empty()),
            "nonResourceRules": written(|rule| !rule.urls.is_empty()),
            "incomplete": !held.errors.is_empty(),
        });
        if !held.errors.is_empty() {
            status["evaluationError"] = json!(held.errors.join(", "));
        }
        review["status"] = status;
        Ok(review)
    }

    async fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Value {
        let (allowed, reason) = match self.authorizer.authorize(user, attributes).await {
            Decision::Allow { reason } => (true, reason),
            Decision::NoOpinion { reason } => (false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        status
    }
}

fn refuse(kind: &'static str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let kind = GroupKind::new("authorization.k8s.io", kind);
    Err(ApiError::invalid(&kind, "", errors))
}

fn present<'a>(review: &'a Value, pointer: &str) -> Option<&'a Value> {
    review.pointer(pointer).filter(|value| !value.is_null())
}

/// Exactly one of the two forms of attributes must be there.
fn check_question(review: &Value) -> Vec<FieldError> {
    let spec = FieldPath::new("spec");
    let resource = present(review, "/spec/resourceAttributes");
    let other = present(review, "/spec/nonResourceAttributes");
    match (resource, other) {
        (Some(_), Some(other)) => vec![FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            other.clone(),
            "cannot be specified in combination with resourceAttributes",
        )],
        (None, None) => vec![FieldError::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        _ => Vec::new(),
    }
}

fn check_local(review: &Value, namespace: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if present(review, "/spec/resourceAttributes").is_some() {
        let asked = object::text(review, "/spec/resourceAttributes/namespace");
        if asked != namespace {
            let path = FieldPath::new("spec.resourceAttributes.namespace");
            errors.push(FieldError::invalid(
                &path,
                asked,
                "must match metadata.namespace",
            ));
        }
    }
    if let Some(other) = present(review, "/spec/nonResourceAttributes") {
        let path = FieldPath::new("spec.nonResourceAttributes");
        let why = "disallowed on this kind of request";
        errors.push(FieldError::invalid(&path, other.clone(), why));
    }
    errors
}

/// The user that a SubjectAccessReview is about.
fn subject(review: &Value) -> UserInfo {
    let texts = |values: &[Value]| -> Vec<String> {
        values
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let extra = review.pointer("/spec/extra").and_then(Value::as_object);
    UserInfo {
        username: object::text(review, "/spec/user").to_owned(),
        uid: object::text(review, "/spec/uid").to_owned(),
        groups: texts(object::items(review, "/spec/groups")),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), texts(object::items(values, ""))))
            .collect(),
    }
}

fn attributes(review: &Value) -> Attributes {
    let text = |key: &str| object::text(review, key).to_owned();
    if present(review, "/spec/nonResourceAttributes").is_some() {
        return Attributes {
            verb: text("/spec/nonResourceAttributes/verb"),
            path: text("/spec/nonResourceAttributes/path"),
            ..Attributes::default()
        };
    }
    let of = |key: &str| text(&format!("/spec/resourceAttributes/{key}"));
    Attributes {
        verb: of("verb"),
        group: of("group"),
        version: of("version"),
        resource: of("resource"),
        subresource: of("subresource"),
        namespace: of("namespace"),
        name: of("name"),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_pki::TokenSigner;

    use super::*;
    use crate::auth::ServiceAccountTokens;
    use crate::auth::fake::FakeObjects;
    use crate::auth::rbac::{CLUSTER_ROLES, ROLE_BINDINGS, Rbac};

    fn reviews() -> Reviews {
        let objects = FakeObjects::new();
        objects.put(
            &CLUSTER_ROLES,
            json!({"metadata": {"name": "r"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        for (name, role) in [("b", "r"), ("c", "gone")] {
            objects.put(
                &ROLE_BINDINGS,
                json!({"metadata": {"name": name, "namespace": "n"},
                "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": "ann"}]}),
            );
        }
        let signer = Arc::new(TokenSigner::generate().unwrap());
        let tokens = ServiceAccountTokens::new(signer, "https://me", objects.clone());
        let rbac = Arc::new(Rbac::new(objects));
        Reviews::new(rbac.clone(), rbac, Arc::new(tokens))
    }

    #[tokio::test]
    async fn access_is_reviewed() {
        let reviews = reviews();
        let get = json!({"verb": "get", "resource": "pods", "namespace": "n"});
        let review = reviews
            .subject_access_review(
                json!({"spec": {"user": "ann", "resourceAttributes": get}}),
                None,
            )
            .await
            .unwrap();
        assert_eq!(
            review["status"],
            json!({"allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"b/n\" of ClusterRole \"r\" to User \"ann\""})
        );
        let review = reviews
            .subject_access_review(
                json!({"spec": {"groups": ["g"], "resourceAttributes": get}}),
                Some("n"),
            )
            .await
            .unwrap();
        assert_eq!(review["status"], json!({"allowed": false}));
        let ann = UserInfo::authenticated("ann", &[]);
        let review = reviews
            .self_subject_access_review(
                &ann,
                json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/x"}}}),
            )
            .await
            .unwrap();
        assert_eq!(review["status"], json!({"allowed": false}));
    }

    #[tokio::test]
    async fn senseless_questions_are_refused() {
        let reviews = reviews();
        let get = json!({"verb": "get", "namespace": "m"});
        let cases = [
            (json!({"user": "a"}), None, "exactly one of"),
            (
                json!({"resourceAttributes": get}),
                None,
                "at least one of user or group",
            ),
            (
                json!({"user": "a", "resourceAttributes": {}, "nonResourceAttributes": {}}),
                None,
                "in combination",
            ),
            (
                json!({"user": "a", "resourceAttributes": get}),
                Some("n"),
                "must match metadata.namespace",
            ),
            (
                json!({"user": "a", "nonResourceAttributes": {}}),
                Some("n"),
                "disallowed",
            ),
        ];
        for (spec, namespace, text) in cases {
            let error = reviews
                .subject_access_review(json!({"spec": spec}), namespace)
                .await
                .unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.message.contains(text), "{}", error.message);
        }
    }

    #[tokio::test]
    async fn rules_are_listed() {
        let ann = UserInfo::authenticated("ann", &[]);
        let reviews = reviews();
        let review = reviews
            .self_subject_rules_review(&ann, json!({"spec": {"namespace": "n"}}))
            .await
            .unwrap();
        assert_eq!(
            review["status"],
            json!({
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
                "nonResourceRules": [],
                "incomplete": true,
                "evaluationError": "clusterrole.rbac.authorization.k8s.io \"gone\" not found",
            })
        );
        let error = reviews.self_subject_rules_review(&ann, json!({})).await;
        assert_eq!(error.unwrap_err().message, "no namespace on request");
    }
}
