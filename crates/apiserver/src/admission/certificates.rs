//! CertificateSigningRequests: who asked is noted on create, and who approves
//! or signs must be allowed to for that signer.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::ApiError;
use coracle_machinery::object::{child_map, text};
use serde_json::{Map, Value, json};

use super::{forbidden, is};
use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;

const GROUP: &str = "certificates.k8s.io";

pub(super) struct Certificates {
    authorizer: Arc<dyn Authorizer>,
}

impl Certificates {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    /// True if the user may do that to the signer, or to all of its domain.
    async fn may(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        for name in [signer.to_owned(), format!("{domain}/*")] {
            let attributes = Attributes {
                verb: verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..Attributes::default()
            };
            let decision = self.authorizer.authorize(user, &attributes).await;
            if matches!(decision, Decision::Allow { .. }) {
                return true;
            }
        }
        false
    }
}

#[async_trait]
impl Admission for Certificates {
    fn handles(&self, operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && is(resource, GROUP, "certificatesigningrequests")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if request.operation != Operation::Create || !request.subresource.is_empty() {
            return Ok(());
        }
        let user = request.user;
        if let Some(object) = request.object.as_mut() {
            note_requester(child_map(object, "spec"), user);
        }
        Ok(())
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let (Some(object), Some(old)) = (&request.object, request.old) else {
            return Ok(());
        };
        let signer = text(old, "/spec/signerName").to_owned();
        let signed = object["status"]["certificate"] != old["status"]["certificate"];
        let verb = match request.subresource {
            "approval" => "approve",
            "status" if signed => "sign",
            _ => return Ok(()),
        };
        if self.may(request.user, verb, &signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(forbidden(request, &why))
    }
}

/// Whatever the client says, the requester is who asks.
fn note_requester(spec: &mut Map<String, Value>, user: &UserInfo) {
    spec.insert("username".into(), user.username.clone().into());
    spec.insert("groups".into(), json!(user.groups));
    for (field, value) in [("uid", json!(user.uid)), ("extra", json!(user.extra))] {
        let empty = value == "" || value.as_object().is_some_and(Map::is_empty);
        if empty {
            spec.remove(field);
        } else {
            spec.insert(field.into(), value);
        }
    }
}
