//! CertificateSigningRequests: those of nodes are approved if their sender may
//! have them, what is approved is signed, and what is done with is removed.
//!
//! The key is not here: whoever runs the controllers gives a
//! [`CertificateSigner`].

mod rules;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use serde_json::json;

use crate::api::{Api, Delete, Resource};
use crate::context::{Context, Task, enqueue_self, plus_seconds, until};
use crate::error::{Error, found};
use crate::objects::certificates::Request;
use crate::objects::{Condition, Kind, condition};
use crate::queue::{Next, Queue};

pub use rules::{Asked, KUBELET_SERVING};
use rules::{CLIENT, KUBELET_CLIENT};

/// Requests that are worked on at once.
const WORKERS: usize = 2;
/// How long a certificate is valid at the most, and unless something shorter is
/// asked for, as upstream's `--cluster-signing-duration`.
const MAX_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long one is valid at the least.
const MIN_VALIDITY: Duration = Duration::from_secs(600);
/// How long a request stays, in seconds, once it is answered one way or the
/// other.
const KEPT_ANSWERED: i64 = 3600;
/// How long one stays that nobody answers.
const KEPT_PENDING: i64 = 24 * 3600;

const REVIEWS: &Resource = &Resource::new(
    "authorization.k8s.io",
    "v1",
    "SubjectAccessReview",
    "subjectaccessreviews",
    false,
);

/// Holds the authority's key.
pub trait CertificateSigner: Send + Sync + 'static {
    /// What a request, as PEM, asks for.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, request: &[u8]) -> Result<Asked, String>;

    /// Signs a request, as PEM, for these usages; the certificate as PEM.
    ///
    /// # Errors
    /// Why it cannot be signed.
    fn sign(&self, request: &[u8], usages: &[String], valid: Duration) -> Result<String, String>;
}

/// Who signs, and what.
#[derive(Clone)]
pub struct Signing {
    /// Holds the key.
    pub signer: Arc<dyn CertificateSigner>,
    /// The names of the signers that are served.
    pub names: Vec<&'static str>,
}

impl Signing {
    /// Signs for clients of the API, kubelets among them.
    pub fn of_clients(signer: Arc<dyn CertificateSigner>) -> Self {
        let names = vec![CLIENT, KUBELET_CLIENT];
        Self { signer, names }
    }
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Registers the controller that approves what nodes ask for themselves.
pub(crate) fn start_approving(context: &Context) -> Task {
    let Some(signing) = context.options.signing.clone() else {
        return Box::pin(std::future::ready(()));
    };
    work(context, "csrapproving", move |api, request| {
        let signer = signing.signer.clone();
        async move { approve(&api, &*signer, &request).await }
    })
}

/// Registers the controller that signs.
pub(crate) fn start_signing(context: &Context) -> Task {
    let Some(signing) = context.options.signing.clone() else {
        return Box::pin(std::future::ready(()));
    };
    work(context, "csrsigning", move |api, request| {
        let signing = signing.clone();
        async move { sign(&api, &signing, &request).await }
    })
}

/// Registers the controller that removes old requests.
pub(crate) fn start_cleaner(context: &Context) -> Task {
    work(context, "csrcleaner", move |api, request| async move {
        let due = removal(&request);
        let now = Timestamp::now();
        if due > now {
            return Ok(Next::After(until(due, now)));
        }
        let meta = &request.metadata;
        let options = Delete::exactly(&meta.uid);
        let deleted = api.delete(Request::RESOURCE, "", &meta.name, &options);
        found(deleted.await).map(|_| Next::Wait)
    })
}

fn work<F, Fut>(context: &Context, name: &'static str, reconcile: F) -> Task
where
    F: Fn(Api, Arc<Request>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Next, Error>> + Send + 'static,
{
    let queue = Queue::new();
    let requests = context.store::<Request>();
    enqueue_self(&requests, &queue);
    let api = context.api.clone();
    let reconcile = Arc::new(reconcile);
    context.work(name, WORKERS, queue, move |key| {
        let request = requests.by_key(&key);
        let (api, reconcile) = (api.clone(), reconcile.clone());
        async move {
            match request {
                Some(request) if !request.metadata.is_deleting() => reconcile(api, request).await,
                _ => Ok(Next::Wait),
            }
        }
    })
}

async fn approve(
    api: &Api,
    signer: &dyn CertificateSigner,
    request: &Request,
) -> Result<Next, Error> {
    let (spec, status) = (&request.spec, &request.status);
    let decided = |kind| condition(&status.conditions, kind).is_some();
    if !status.certificate.0.is_empty() || decided("Approved") || decided("Denied") {
        return Ok(Next::Wait);
    }
    if spec.signer_name != KUBELET_CLIENT {
        return Ok(Next::Wait);
    }
    let Ok(asked) = signer.read(&spec.request.0) else {
        return Ok(Next::Wait);
    };
    if rules::check(&spec.signer_name, &asked, &spec.usages).is_err() {
        return Ok(Next::Wait);
    }
    let own = (spec.username == asked.common_name).then_some("selfnodeclient");
    for subresource in own.into_iter().chain(["nodeclient"]) {
        let review = json!({"spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                "verb": "create", "subresource": subresource,
            },
        }});
        let answer = api.create(REVIEWS, "", review).await?;
        if answer["status"]["allowed"] != true {
            continue;
        }
        let whose = if subresource == "selfnodeclient" {
            "self kubelet"
        } else {
            "kubelet"
        };
        let message =
            format!("Auto approving {whose} client certificate after SubjectAccessReview.");
        return write_condition(
            api,
            request,
            "approval",
            "Approved",
            "AutoApproved",
            &message,
        )
        .await;
    }
    Ok(Next::Wait)
}

async fn sign(api: &Api, signing: &Signing, request: &Request) -> Result<Next, Error> {
    let (spec, status) = (&request.spec, &request.status);
    let has = |kind| condition(&status.conditions, kind).is_some();
    let ready = has("Approved") && !has("Denied") && !has("Failed");
    let ours = signing.names.contains(&spec.signer_name.as_str());
    if !ready || !ours || !status.certificate.0.is_empty() {
        return Ok(Next::Wait);
    }
    let signer = &signing.signer;
    let signed = signer.read(&spec.request.0).and_then(|asked| {
        rules::check(&spec.signer_name, &asked, &spec.usages)?;
        signer.sign(
            &spec.request.0,
            &spec.usages,
            validity(spec.expiration_seconds),
        )
    });
    let certificate = match signed {
        Ok(pem) => ByteString(pem.into_bytes()),
        Err(why) => {
            let reason = "SignerValidationFailure";
            return write_condition(api, request, "status", "Failed", reason, &why).await;
        }
    };
    let meta = &request.metadata;
    let patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {"certificate": certificate},
    });
    let patched = api.patch(Request::RESOURCE, "", &meta.name, "status", &patch);
    settled(patched.await)
}

async fn write_condition(
    api: &Api,
    request: &Request,
    subresource: &str,
    kind: &str,
    reason: &str,
    message: &str,
) -> Result<Next, Error> {
    let now = Timestamp::now();
    let new = Condition {
        kind: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_update_time: Some(now),
        last_transition_time: Some(now),
        ..Condition::default()
    };
    let all = request.status.conditions.iter().chain([&new]);
    let all: Vec<_> = all.map(Condition::to_value).collect();
    let meta = &request.metadata;
    let patch = json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": {"conditions": all},
    });
    let patched = api.patch(Request::RESOURCE, "", &meta.name, subresource, &patch);
    settled(patched.await)
}

/// A request that changed meanwhile comes back by itself.
fn settled(outcome: Result<serde_json::Value, Error>) -> Result<Next, Error> {
    match found(outcome) {
        Err(error) if error.is_conflict() => Ok(Next::Wait),
        outcome => outcome.map(|_| Next::Wait),
    }
}

/// How long a certificate is to be valid.
fn validity(asked_seconds: Option<i64>) -> Duration {
    match asked_seconds.map(u64::try_from) {
        None => MAX_VALIDITY,
        Some(seconds) => {
            Duration::from_secs(seconds.unwrap_or(0)).clamp(MIN_VALIDITY, MAX_VALIDITY)
        }
    }
}

/// When a request is to be removed.
fn removal(request: &Request) -> Timestamp {
    let created = request
        .metadata
        .creation_timestamp
        .unwrap_or(Timestamp::MAX);
    let conditions = &request.status.conditions;
    let issued = !request.status.certificate.0.is_empty();
    let answered = conditions.iter().filter(|c| match c.kind.as_str() {
        "Approved" => issued,
        "Denied" | "Failed" => true,
        _ => false,
    });
    let answered = answered.filter_map(|c| c.last_update_time).min();
    match answered {
        Some(answered) => plus_seconds(answered, KEPT_ANSWERED),
        None if conditions.is_empty() => plus_seconds(created, KEPT_PENDING),
        // Approved, for a signer that takes its time.
        None => Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    #[test]
    fn validity_is_bounded() {
        assert_eq!(validity(None), MAX_VALIDITY);
        assert_eq!(validity(Some(3600)), Duration::from_secs(3600));
        assert_eq!(validity(Some(1)), MIN_VALIDITY);
        assert_eq!(validity(Some(-5)), MIN_VALIDITY);
        assert_eq!(validity(Some(i64::MAX)), MAX_VALIDITY);
    }

    #[test]
    fn requests_go_when_they_are_done_with() {
        let request = |status: serde_json::Value| -> Request {
            object(json!({
                "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "status": status,
            }))
        };
        let answered = |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-02T00:00:00Z"}]);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(removal(&request(json!({}))), at("2026-01-02T00:00:00Z"));
        let hour_later = at("2026-01-02T01:00:00Z");
        for kind in ["Denied", "Failed"] {
            assert_eq!(
                removal(&request(json!({"conditions": answered(kind)}))),
                hour_later
            );
        }
        let waits = json!({"conditions": answered("Approved")});
        assert_eq!(removal(&request(waits)), Timestamp::MAX);
        let issued = json!({"conditions": answered("Approved"), "certificate": "eA=="});
        assert_eq!(removal(&request(issued)), hour_later);
    }
}
