//! The validating webhook: an authority and a certificate of its own, made at
//! every start and written into the configuration that names the webhook.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use coracle_pki::CertificateAuthority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Result;

/// The configuration, and the service that leads here.
const CONFIGURATION: &str = "library-webhook";
const SERVICE: &str = "library-webhook.library-system.svc";

const ADDRESS: &str = "0.0.0.0:9443";

const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// Largest review that is read: twice what the API server stores.
const MAX_REVIEW: usize = 4 << 20;

/// Most replicas of a Library.
const MAX_REPLICAS: i64 = 3;

/// Listens and announces its authority; the future serves for ever.
pub async fn serve(client: &Client) -> Result<impl Future<Output = Result> + use<>> {
    let authority = CertificateAuthority::generate("library-operator")?;
    let serving = authority.issue_server(SERVICE, &[SERVICE.to_owned()], VALIDITY)?;
    let tls = coracle_pki::tls::server_config(&serving.cert_pem, &serving.key_pem, None, &[])?;
    let listener = TcpListener::bind(ADDRESS).await?;
    announce(client, authority.cert_pem()).await?;
    Ok(accept(listener, TlsAcceptor::from(tls)))
}

async fn announce(client: &Client, authority: &str) -> Result {
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mut configuration = configurations.get(CONFIGURATION).await?;
    for webhook in configuration.webhooks.iter_mut().flatten() {
        let bundle = base64::engine::general_purpose::STANDARD.encode(authority);
        webhook.client_config.ca_bundle = serde_json::from_value(bundle.into())?;
    }
    let patch = json!({"webhooks": configuration.webhooks});
    let patch = Patch::Merge(patch);
    configurations
        .patch(CONFIGURATION, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn accept(listener: TcpListener, tls: TlsAcceptor) -> Result {
    loop {
        let (stream, _) = listener.accept().await?;
        let tls = tls.clone();
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let served = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
            if let Err(error) = served {
                eprintln!("{error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let (status, body) = match (request.method(), path.as_str()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok".to_owned()),
        (&Method::POST, "/validate") => {
            let body = Limited::new(request.into_body(), MAX_REVIEW);
            let body = body.collect().await.map(|body| body.to_bytes());
            match body.map(|body| serde_json::from_slice::<Value>(&body)) {
                Ok(Ok(review)) => (StatusCode::OK, verdict(&review).to_string()),
                _ => (StatusCode::BAD_REQUEST, "no review".to_owned()),
            }
        }
        _ => (StatusCode::NOT_FOUND, "nothing is here".to_owned()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    Ok(response)
}

fn verdict(review: &Value) -> Value {
    let request = &review["request"];
    let mut response = json!({"uid": request["uid"], "allowed": true});
    if let Err(message) = validate(&request["object"], &request["oldObject"]) {
        response["allowed"] = false.into();
        response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
    }
    if request["object"]["spec"]["edition"] == "first" {
        response["warnings"] = json!(["spec.edition: the first edition is out of print"]);
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn validate(new: &Value, old: &Value) -> std::result::Result<(), String> {
    let replicas = new["spec"]["replicas"].as_i64().unwrap_or(1);
    if replicas > MAX_REPLICAS {
        return Err(format!(
            "spec.replicas: Invalid value: {replicas}: no more than {MAX_REPLICAS} are lent out"
        ));
    }
    let claims = "volumeClaimTemplates";
    if !old.is_null() && old["spec"][claims] != new["spec"][claims] {
        return Err(format!("spec.{claims}: Forbidden: cannot be changed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_stay_small_and_keep_their_claims() {
        let library = |replicas: i64, size: &str| json!({"spec": {"replicas": replicas, "volumeClaimTemplates": [{"size": size}]}});
        assert_eq!(validate(&library(3, "1Gi"), &Value::Null), Ok(()));
        assert!(validate(&library(4, "1Gi"), &Value::Null).is_err());
        assert_eq!(validate(&library(1, "1Gi"), &library(3, "1Gi")), Ok(()));
        assert!(validate(&library(3, "2Gi"), &library(3, "1Gi")).is_err());
        let review = json!({"request": {"uid": "u", "object": library(9, "")}});
        let answer = verdict(&review);
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["allowed"], false);
    }
}
