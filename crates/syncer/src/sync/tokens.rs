//! Service-account tokens of pods: asked for inside, bound to the virtual pod,
//! kept in one host secret for each pod, and renewed before they expire.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::{Token, Translator, VirtualName, token_secret_name};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{delete_on_host, pods};
use crate::api::ApiError;
use crate::cache::Change;
use crate::engine::Syncer;
use crate::kinds::{Kind, other};
use crate::queue::Outcome;

/// Annotation of a token secret: when to ask for new tokens, RFC 3339.
const RENEW_AT: &str = "coracle.dev/renew-at";

/// Part of a token's life after which a new one is asked for. Kubelets do it
/// at four fifths; a secret takes another minute or so to reach the container.
const RENEW_AFTER: f64 = 0.7;

/// Longest time until a token is renewed, however long it lives: keys rotate.
const RENEW_AT_LATEST: Duration = Duration::from_secs(24 * 3600);

/// The token secrets on the host, by the virtual pod that they are for.
#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<VirtualName, HashMap<String, Secret>>>,
}

#[derive(Clone)]
struct Secret {
    host: VirtualName,
    uid: String,
    pod_uid: String,
    renew_at: Timestamp,
}

impl Tokens {
    /// Notes a change of a host secret; gives the pod's name if it is a token
    /// secret of ours.
    pub(crate) fn note(&self, translator: &Translator, change: &Change) -> Option<VirtualName> {
        let object = change.object()?;
        let pod_uid = object::annotation(object, marks::OBJECT_UID)?;
        let is_ours = object::label(object, marks::TOKEN) == Some("true")
            && object::label(object, marks::MANAGED_BY) == Some(translator.vc.as_str())
            && object::name(object) == token_secret_name(pod_uid);
        if !is_ours {
            return None;
        }
        let pod = VirtualName::new(
            object::annotation(object, marks::OBJECT_NAMESPACE)?,
            object::annotation(object, marks::OBJECT_NAME)?,
        );
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let secrets = known.entry(pod.clone()).or_default();
        if change.new.is_some() {
            let renew_at = object::annotation(object, RENEW_AT).and_then(|text| text.parse().ok());
            let secret = Secret {
                host: VirtualName::of(object),
                uid: object::uid(object).to_owned(),
                pod_uid: pod_uid.to_owned(),
                // A secret that does not say when is renewed at once.
                renew_at: renew_at.unwrap_or(Timestamp::UNIX_EPOCH),
            };
            secrets.insert(object::name(object).to_owned(), secret);
        } else {
            secrets.remove(object::name(object));
            if secrets.is_empty() {
                known.remove(&pod);
            }
        }
        Some(pod)
    }

    fn of(&self, pod: &VirtualName) -> Vec<Secret> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(pod)
            .map(|secrets| secrets.values().cloned().collect())
            .unwrap_or_default()
    }
}

/// Makes sure that the pod's token secret is there and fresh.
pub(crate) async fn ensure(syncer: &Syncer, pod: &Value, tokens: &[Token]) -> Result<(), ApiError> {
    if tokens.is_empty() {
        return Ok(());
    }
    let known = syncer.tokens.of(&VirtualName::of(pod));
    let now = Timestamp::now();
    let fresh = |secret: &Secret| secret.pod_uid == object::uid(pod) && secret.renew_at > now;
    if known.iter().any(fresh) {
        return Ok(());
    }
    write(syncer, pod, tokens).await
}

/// Renews the secrets of the pod that are due, and removes those whose pod is
/// gone on both sides.
pub(crate) async fn reconcile(syncer: &Syncer, name: &VirtualName) -> Result<Outcome, ApiError> {
    let inside = syncer.inside.get(Kind::Pod, name);
    let host = syncer.host_object(Kind::Pod, name);
    let mut next: Option<Duration> = None;
    for secret in syncer.tokens.of(name) {
        let pod = inside
            .as_ref()
            .filter(|pod| object::uid(pod) == secret.pod_uid);
        let Some(pod) = pod else {
            // A pod that is still stopping may need its token.
            if host
                .as_ref()
                .is_none_or(|host| pods::virtual_uid(host) != secret.pod_uid)
            {
                let place = json!({"metadata": {
                    "name": secret.host.name, "namespace": secret.host.namespace, "uid": secret.uid,
                }});
                delete_on_host(syncer, Kind::Secret, &place, None).await?;
            }
            continue;
        };
        if object::is_terminating(pod) {
            // No new tokens are given to it.
            continue;
        }
        let wait = secret.renew_at.duration_since(Timestamp::now());
        if let Ok(wait) = Duration::try_from(wait)
            && !wait.is_zero()
        {
            next = Some(next.map_or(wait, |other| other.min(wait)));
            continue;
        }
        let tokens = syncer.translator.tokens_of(pod);
        write(syncer, pod, &tokens).await?;
    }
    Ok(next.map_or(Outcome::Done, Outcome::Again))
}

async fn write(syncer: &Syncer, pod: &Value, tokens: &[Token]) -> Result<(), ApiError> {
    let mut data = BTreeMap::new();
    let mut renew_at: Option<Timestamp> = None;
    for token in tokens {
        let (text, renew) = request(syncer, pod, token).await?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        data.insert(token.key.clone(), encoded);
        renew_at = Some(renew_at.map_or(renew, |other| other.min(renew)));
    }
    let t = &syncer.translator;
    let name = token_secret_name(object::uid(pod));
    let namespace = t.host_namespace.as_str();
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": {
                marks::MANAGED_BY: t.vc,
                marks::NAMESPACE: object::namespace(pod),
                marks::TOKEN: "true",
            },
            "annotations": {
                marks::OBJECT_KIND: "Token",
                marks::OBJECT_NAME: object::name(pod),
                marks::OBJECT_NAMESPACE: object::namespace(pod),
                marks::OBJECT_UID: object::uid(pod),
                RENEW_AT: renew_at.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
            },
        },
        "data": data,
    });
    if let Some(owner) = &t.owner {
        secret["metadata"]["ownerReferences"] = json!([owner]);
    }
    let resource = Kind::Secret.resource();
    match syncer.host.cluster.create(resource, &secret).await {
        Ok(_) => return Ok(()),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    // Only a secret with our marks is changed: the patch would fail to keep a
    // foreign one as it is.
    match syncer.host.cluster.get(resource, namespace, &name).await? {
        Some(present) if object::label(&present, marks::MANAGED_BY) == Some(t.vc.as_str()) => {
            let patch = json!({
                "metadata": {
                    "uid": object::uid(&present),
                    "annotations": secret["metadata"]["annotations"],
                },
                "data": secret["data"],
            });
            syncer
                .host
                .cluster
                .patch(resource, namespace, &name, "", &patch)
                .await?;
            Ok(())
        }
        Some(_) => Err(ApiError::Refused {
            code: 422,
            reason: "Invalid".into(),
            message: format!("the host secret {name:?} does not belong to this virtual cluster"),
        }),
        None => Err(ApiError::Transport(format!("{name} comes and goes"))),
    }
}

/// One token, and when to renew it.
async fn request(
    syncer: &Syncer,
    pod: &Value,
    token: &Token,
) -> Result<(String, Timestamp), ApiError> {
    let account = match object::text(pod, "/spec/serviceAccountName") {
        "" => "default",
        name => name,
    };
    let mut spec = json!({
        "expirationSeconds": token.expiration_seconds,
        "boundObjectRef": {
            "apiVersion": "v1", "kind": "Pod",
            "name": object::name(pod), "uid": object::uid(pod),
        },
    });
    if !token.audience.is_empty() {
        spec["audiences"] = json!([token.audience]);
    }
    let body =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = syncer
        .inside
        .cluster
        .post(
            other::SERVICE_ACCOUNTS,
            object::namespace(pod),
            account,
            "token",
            &body,
        )
        .await?;
    let text = object::text(&answer, "/status/token");
    if text.is_empty() {
        return Err(ApiError::Transport(
            "the token request was answered without a token".into(),
        ));
    }
    let now = Timestamp::now();
    let expires: Timestamp = object::text(&answer, "/status/expirationTimestamp")
        .parse()
        .map_err(|error| ApiError::Transport(format!("expirationTimestamp of a token: {error}")))?;
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    let renew = now + life.mul_f64(RENEW_AFTER).min(RENEW_AT_LATEST);
    Ok((text.to_owned(), renew))
}
