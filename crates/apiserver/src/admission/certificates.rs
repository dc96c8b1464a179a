//! CertificateSigningRequests: who asked is noted on create, and who approves
//! or signs must be allowed to for that signer. Nobody asks for the group that
//! may do everything.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::ApiError;
use coracle_machinery::object::{child_map, text};
use serde_json::{Map, Value, json};

use super::{forbidden, is};
use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;

const GROUP: &str = "certificates.k8s.io";
/// The signer of certificates by which the API server knows its clients.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// The group that is asked nothing.
const MASTERS: &str = "system:masters";

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
        if let Some(why) = request.object.as_ref().and_then(asks_for_everything) {
            return Err(forbidden(request, &why));
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

/// Why a request for a certificate may not even be written: what it asks for
/// would pass every check there is (upstream's CertificateSubjectRestriction).
fn asks_for_everything(object: &Value) -> Option<String> {
    let signer = text(object, "/spec/signerName");
    if signer != CLIENT_SIGNER {
        return None;
    }
    let pem = STANDARD.decode(text(object, "/spec/request"));
    let parsed = match pem {
        Ok(pem) => coracle_pki::requested_organizations(&pem).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match parsed {
        Err(error) => Some(format!("failed to parse CSR: {error}")),
        Ok(groups) if groups.iter().any(|group| group == MASTERS) => Some(format!(
            "use of {signer} signer with {MASTERS} group is not allowed"
        )),
        Ok(_) => None,
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
