//! The host Secrets by which users reach the virtual cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use coracle_config::marks;
use coracle_config::model::TokenAccount;
use coracle_machinery::object;
use coracle_translate::Translator;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::accounts::{self, Held};
use super::nodes;
use crate::Published;
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Pause before a secret that could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// How often an account whose token was published is looked for: without it the
/// token is worth nothing. Also the longest sleep, which does not count the time
/// in which the machine itself sleeps.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// A secret and what is known of the token in it.
struct Job {
    secret: Published,
    /// When it is to be looked at, unless something happens before.
    due: Timestamp,
    held: Option<Held>,
}

/// Writes all of them, and those with tokens again from time to time.
pub(crate) async fn run(syncer: Arc<Syncer>, secrets: Vec<Published>, stop: CancellationToken) {
    // Whoever has the kubeconfig finds the node of the control plane. Imported
    // nodes have to be seen on the host first, and chosen.
    let imported = syncer.translator.config.sync.from_host.nodes.enabled;
    if !imported && let Err(error) = nodes::ensure(&syncer, &syncer.own_node).await {
        warn!(node = syncer.own_node, %error, "cannot show the node yet");
    }
    let due = Timestamp::now();
    let accounts: Vec<TokenAccount> = secrets.iter().filter_map(|s| s.account.clone()).collect();
    let mut jobs: Vec<Job> = secrets
        .into_iter()
        .map(|secret| Job {
            secret,
            due,
            held: None,
        })
        .collect();
    let mut swept = false;
    loop {
        jobs = pass(&syncer, jobs).await;
        if !swept {
            match accounts::sweep(&syncer, &accounts).await {
                Ok(()) => swept = true,
                Err(error) => warn!(%error, "cannot remove what bound earlier accounts"),
            }
        }
        let soon = Timestamp::now() + PAUSE;
        let next = match jobs.iter().map(|job| job.due).min() {
            None if swept => return,
            Some(next) if swept => next,
            _ => soon,
        };
        let pause = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Does what is due; gives what is left to be done later.
async fn pass(syncer: &Syncer, jobs: Vec<Job>) -> Vec<Job> {
    let now = Timestamp::now();
    let mut left = Vec::new();
    for mut job in jobs {
        if job.due <= now {
            match publish(syncer, &job).await {
                // Nothing of it ever changes while this process runs.
                Ok(None) => continue,
                Ok(held) => {
                    job.due = now + LOOK_AGAIN;
                    job.held = held;
                }
                Err(error) => {
                    let secret = &job.secret;
                    warn!(secret = secret.name, namespace = secret.namespace, %error, "cannot publish");
                    job.due = now + PAUSE;
                }
            }
        }
        left.push(job);
    }
    left
}

/// Writes a secret unless it is as it should be; gives what to know of its
/// token, if it has one.
async fn publish(syncer: &Syncer, job: &Job) -> Result<Option<Held>, ApiError> {
    let Some(account) = &job.secret.account else {
        write(syncer, &job.secret).await?;
        return Ok(None);
    };
    let uid = accounts::ensure(syncer, account).await?;
    if let Some(held) = &job.held
        && held.is_good(&uid, Timestamp::now())
    {
        return Ok(Some(held.clone()));
    }
    let (token, held) = accounts::token(syncer, account, uid).await?;
    let mut secret = job.secret.clone();
    let kubeconfig = secret.data.entry("config".to_owned()).or_default();
    let mut config: Value = serde_json::from_slice(kubeconfig)
        .map_err(|error| ApiError::Transport(format!("the kubeconfig: {error}")))?;
    config["users"][0]["user"] = json!({"token": token});
    *kubeconfig = config.to_string().into_bytes();
    secret.data.insert("token".to_owned(), token.into_bytes());
    write(syncer, &secret).await?;
    Ok(Some(held))
}

async fn write(syncer: &Syncer, secret: &Published) -> Result<(), ApiError> {
    let resource = Kind::Secret.resource();
    let cluster = &syncer.host.cluster;
    let (namespace, name) = (secret.namespace.as_str(), secret.name.as_str());
    let Some(mut present) = cluster.get(resource, namespace, name).await? else {
        cluster.create(resource, &rendered(syncer, secret)).await?;
        return Ok(());
    };
    let labels = labels(&syncer.translator, secret.additional);
    let ours = labels
        .iter()
        .all(|(key, value)| object::label(&present, key) == Some(value.as_str()));
    if !ours {
        return Err(ApiError::Refused {
            code: 409,
            reason: "Conflict".into(),
            message: format!("a Secret {name:?} that belongs to someone else is in the way"),
        });
    }
    let data = encoded(&secret.data);
    if present.get("data") != Some(&data) {
        present["data"] = data;
        cluster.update(resource, "", &present).await?;
    }
    Ok(())
}

fn rendered(syncer: &Syncer, secret: &Published) -> Value {
    let t = &syncer.translator;
    let labels: Map<String, Value> = labels(t, secret.additional)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": secret.name, "namespace": secret.namespace, "labels": labels},
        "data": encoded(&secret.data),
    });
    // An owner lies in the same namespace.
    if let Some(owner) = t
        .owner
        .as_ref()
        .filter(|_| secret.namespace == t.host_namespace)
    {
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    object
}

fn labels(t: &Translator, additional: bool) -> Vec<(&'static str, String)> {
    if additional {
        marks::exported_labels(&t.host_namespace, &t.vc).into()
    } else {
        marks::control_plane_labels(&t.vc).into()
    }
}

fn encoded(content: &BTreeMap<String, Vec<u8>>) -> Value {
    let encode = |value: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(value);
    content
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(encode(value))))
        .collect()
}
