//! The host Secrets by which users reach the virtual cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use coracle_config::marks;
use coracle_machinery::object;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Pause before a secret that could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) async fn run(
    syncer: Arc<Syncer>,
    secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    stop: CancellationToken,
) {
    for (name, content) in secrets {
        loop {
            match write(&syncer, &name, &content).await {
                Ok(()) => break,
                Err(error) => warn!(secret = name, %error, "cannot publish"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

async fn write(
    syncer: &Syncer,
    name: &str,
    content: &BTreeMap<String, Vec<u8>>,
) -> Result<(), ApiError> {
    let t = &syncer.translator;
    let resource = Kind::Secret.resource();
    let cluster = &syncer.host.cluster;
    let namespace = t.host_namespace.as_str();
    let data: Map<String, Value> = content
        .iter()
        .map(|(key, value)| {
            (
                key.clone(),
                base64::engine::general_purpose::STANDARD
                    .encode(value)
                    .into(),
            )
        })
        .collect();
    let labels: Map<String, Value> = marks::control_plane_labels(&t.vc)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let Some(mut present) = cluster.get(resource, namespace, name).await? else {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "data": data,
        });
        if let Some(owner) = &t.owner {
            secret["metadata"]["ownerReferences"] = json!([owner]);
        }
        cluster.create(resource, &secret).await?;
        return Ok(());
    };
    if object::label(&present, marks::RELEASE) != Some(t.vc.as_str()) {
        return Err(ApiError::Refused {
            code: 409,
            reason: "Conflict".into(),
            message: format!("a Secret {name:?} that belongs to someone else is in the way"),
        });
    }
    if present.get("data") != Some(&Value::Object(data.clone())) {
        present["data"] = data.into();
        cluster.update(resource, "", &present).await?;
    }
    Ok(())
}
