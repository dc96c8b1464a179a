//! The host Secrets by which users reach the virtual cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use coracle_config::marks;
use coracle_machinery::object;
use coracle_translate::Translator;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::nodes;
use crate::Published;
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Pause before a secret that could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) async fn run(syncer: Arc<Syncer>, mut secrets: Vec<Published>, stop: CancellationToken) {
    // Whoever has the kubeconfig finds the node of the control plane. Imported
    // nodes have to be seen on the host first, and chosen.
    let imported = syncer.translator.config.sync.from_host.nodes.enabled;
    if !imported && let Err(error) = nodes::ensure(&syncer, &syncer.own_node).await {
        warn!(node = syncer.own_node, %error, "cannot show the node yet");
    }
    loop {
        let mut failed = Vec::new();
        for secret in secrets {
            if let Err(error) = write(&syncer, &secret).await {
                warn!(secret = secret.name, namespace = secret.namespace, %error, "cannot publish");
                failed.push(secret);
            }
        }
        if failed.is_empty() {
            return;
        }
        secrets = failed;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
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
