//! Kinds of certificates.k8s.io.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde::Deserialize;

use super::{Condition, Meta, kind, nullable};

/// A CertificateSigningRequest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Request {
    pub metadata: Meta,
    pub spec: RequestSpec,
    pub status: RequestStatus,
}
kind!(
    Request,
    "certificates.k8s.io",
    "v1",
    "CertificateSigningRequest",
    "certificatesigningrequests",
    false
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RequestSpec {
    pub request: ByteString,
    pub signer_name: String,
    pub expiration_seconds: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    pub usages: Vec<String>,
    pub username: String,
    pub uid: String,
    #[serde(deserialize_with = "nullable")]
    pub groups: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub extra: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RequestStatus {
    pub certificate: ByteString,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}
