//! Certificates that are asked for, approved and signed.

use std::sync::Arc;
use std::time::Duration;

use coracle_controllers::{Asked, CertificateSigner, Options, Signing};
use coracle_pki::{CertificateAuthority, CertificateRequest, Usages};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::support::Cluster;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const NODE: &[u8] = include_bytes!("data/node.csr");
const JANE: &[u8] = include_bytes!("data/jane.csr");

struct Signer(CertificateAuthority);

impl CertificateSigner for Signer {
    fn read(&self, request: &[u8]) -> Result<Asked, String> {
        let request = CertificateRequest::from_pem(request).map_err(|e| e.to_string())?;
        Ok(Asked {
            common_name: request.common_name,
            organizations: request.organizations,
            ..Asked::default()
        })
    }

    fn sign(&self, request: &[u8], _: &[String], valid: Duration) -> Result<String, String> {
        let request = CertificateRequest::from_pem(request).map_err(|e| e.to_string())?;
        let signed = self.0.sign_request(&request, Usages::default(), valid);
        signed.map_err(|e| e.to_string())
    }
}

async fn cluster() -> Cluster {
    let signer = Arc::new(Signer(CertificateAuthority::generate("ca").unwrap()));
    Cluster::start_with(Options {
        signing: Some(Signing::of_clients(signer)),
        ..Options::default()
    })
    .await
}

fn request(name: &str, signer: &str, pem: &[u8]) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "request": ByteString(pem.to_vec()), "signerName": format!("kubernetes.io/{signer}"),
        "usages": ["client auth", "digital signature"], "expirationSeconds": 3600,
    }})
}

fn condition(kind: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "Test"}]}})
}

/// The certificate's common name and groups once it is there.
async fn issued(cluster: &Cluster, name: &str) -> (String, Vec<String>) {
    let path = format!("{REQUESTS}/{name}");
    let there = |answer: &Result<Value, u16>| {
        let request = answer.as_ref().unwrap();
        request["status"]["certificate"].is_string()
    };
    let request = cluster.until(&path, there).await;
    let pem: ByteString = serde_json::from_value(request["status"]["certificate"].clone()).unwrap();
    let end = coracle_pki::certificate_end(&pem.0).unwrap();
    let now = jiff::Timestamp::now().as_second();
    assert!((3000..=3600).contains(&(end - now)), "{}", end - now);
    let text = String::from_utf8(pem.0).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let der: ByteString = serde_json::from_value(body.into()).unwrap();
    coracle_pki::certificate_subject(&der.0).unwrap()
}

#[tokio::test]
async fn a_node_gets_its_certificate_without_asking_anybody() {
    let cluster = cluster().await;
    let wanted = request("node", "kube-apiserver-client-kubelet", NODE);
    cluster.create(REQUESTS, wanted).await;
    let (name, groups) = issued(&cluster, "node").await;
    assert_eq!(name, "system:node:n1");
    assert_eq!(groups, ["system:nodes"]);
    let node = cluster.get(&format!("{REQUESTS}/node")).await.unwrap();
    let approved = &node["status"]["conditions"][0];
    assert_eq!(approved["reason"], "AutoApproved");
    // That somebody may be a node does not make everybody one.
    let wanted = request("other", "kube-apiserver-client-kubelet", JANE);
    cluster.create(REQUESTS, wanted).await;
    let path = format!("{REQUESTS}/other");
    cluster
        .patch(&format!("{path}/approval"), condition("Approved"))
        .await;
    let failed = cluster
        .until(&path, |answer| {
            let request = answer.as_ref().unwrap();
            request["status"]["conditions"][1]["type"] == "Failed"
        })
        .await;
    let failed = &failed["status"]["conditions"][1];
    assert_eq!(failed["reason"], "SignerValidationFailure");
    assert_eq!(
        failed["message"],
        "subject organization is not system:nodes"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_approved_is_signed() {
    let cluster = cluster().await;
    for name in ["jane", "denied"] {
        let wanted = request(name, "kube-apiserver-client", JANE);
        cluster.create(REQUESTS, wanted).await;
    }
    let denied = format!("{REQUESTS}/denied/approval");
    cluster.patch(&denied, condition("Denied")).await;
    let approval = format!("{REQUESTS}/jane/approval");
    cluster.patch(&approval, condition("Approved")).await;
    let (name, mut groups) = issued(&cluster, "jane").await;
    groups.sort();
    assert_eq!(
        (name.as_str(), groups),
        ("jane", vec!["dev".into(), "ops".into()])
    );
    let denied = cluster.get(&format!("{REQUESTS}/denied")).await.unwrap();
    assert_eq!(denied["status"].get("certificate"), None);
    cluster.stop().await;
}
