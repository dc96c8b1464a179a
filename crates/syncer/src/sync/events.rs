//! Events: what the host says about synced objects is told inside, and so is
//! what the syncer cannot do.

use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::object;
use coracle_translate::{VirtualName, is_of_other_container};
use futures::{StreamExt, pin_mut};
use kube::core::WatchEvent;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::nodes::now_seconds;
use crate::api::{ApiError, Narrow};
use crate::engine::Syncer;
use crate::kinds::{Kind, other};

/// Pause before the watch of events is opened again after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Kinds whose events are told, by the kind that the event names.
const TOLD: &[(&str, Kind)] = &[
    ("Pod", Kind::Pod),
    ("Service", Kind::Service),
    ("Endpoints", Kind::Endpoints),
    ("PersistentVolumeClaim", Kind::Claim),
    ("Ingress", Kind::Ingress),
    ("NetworkPolicy", Kind::NetworkPolicy),
];

/// Follows the events of the host namespace. One at a time: events are the
/// least urgent thing there is, and what cannot be kept up with waits in the
/// host's watch buffer, whose end is a fresh start.
pub(crate) async fn run(syncer: Arc<Syncer>, stop: CancellationToken) {
    if !syncer.translator.config.sync.from_host.events.enabled {
        return;
    }
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = follow(&syncer) => outcome,
        };
        if let Err(error) = outcome {
            debug!(%error, "the watch of events broke off");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn follow(syncer: &Syncer) -> Result<(), ApiError> {
    let narrow = Narrow {
        namespace: syncer.translator.host_namespace.clone(),
        ..Narrow::default()
    };
    // Events from before are not told again.
    let (_, mut version) = syncer.host.cluster.list(other::EVENTS, &narrow).await?;
    loop {
        let stream = syncer
            .host
            .cluster
            .watch(other::EVENTS, &narrow, &version)
            .await?;
        pin_mut!(stream);
        let mut seen = false;
        while let Some(event) = stream.next().await {
            match event? {
                WatchEvent::Added(event) | WatchEvent::Modified(event) => {
                    object::resource_version(&event).clone_into(&mut version);
                    if let Err(error) = tell(syncer, &event).await {
                        debug!(%error, "cannot tell an event");
                    }
                }
                WatchEvent::Deleted(event) => {
                    object::resource_version(&event).clone_into(&mut version)
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(ApiError::from(kube::Error::Api(status))),
            }
            seen = true;
        }
        if !seen {
            return Ok(());
        }
    }
}

async fn tell(syncer: &Syncer, event: &Value) -> Result<(), ApiError> {
    let involved = object::text(event, "/involvedObject/kind");
    let place = VirtualName::new(
        syncer.translator.host_namespace.as_str(),
        object::text(event, "/involvedObject/name"),
    );
    let pair = match TOLD.iter().find(|(name, _)| *name == involved) {
        Some((name, kind)) => pair(syncer, name, *kind, &place),
        None => {
            let api_version = object::text(event, "/involvedObject/apiVersion");
            let t = &syncer.translator;
            syncer.customs.pair(t, api_version, involved, &place)
        }
    };
    let Some((host, inside)) = pair else {
        return Ok(());
    };
    if is_of_other_container(event, &inside) {
        return Ok(());
    }
    let told = syncer.translator.event_to_virtual(event, &host, &inside);
    put(syncer, &told).await
}

/// The host object at a place and that which it stands for, if it is ours.
fn pair(
    syncer: &Syncer,
    name_of_kind: &str,
    kind: Kind,
    place: &VirtualName,
) -> Option<(Arc<Value>, Arc<Value>)> {
    let host = syncer.host.get(kind, place)?;
    let name = syncer.translator.ours(name_of_kind, &host)?;
    let inside = syncer.inside.get(kind, &name)?;
    Some((host, inside))
}

/// Creates the event, or brings an earlier one up to date.
async fn put(syncer: &Syncer, event: &Value) -> Result<(), ApiError> {
    let cluster = &syncer.inside.cluster;
    match cluster.create(other::EVENTS, event).await {
        Ok(_) => return Ok(()),
        Err(error) if error.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    let mut patch = json!({});
    for field in ["count", "lastTimestamp", "message", "series"] {
        if let Some(value) = event.get(field) {
            patch[field] = value.clone();
        }
    }
    let (namespace, name) = (object::namespace(event), object::name(event));
    cluster
        .patch(other::EVENTS, namespace, name, "", &patch)
        .await?;
    Ok(())
}

/// Tells the user about a virtual object what the syncer cannot do with it.
pub(crate) async fn warn(syncer: &Syncer, inside: &Value, reason: &str, message: &str) {
    let (name, namespace) = (object::name(inside), object::namespace(inside));
    // One event for each message, however often it is tried.
    let digest = Sha256::digest(format!("{}{reason}{message}", object::uid(inside)).as_bytes());
    let suffix: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let now = now_seconds();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{suffix}"), "namespace": if namespace.is_empty() { "default" } else { namespace }},
        "involvedObject": {
            "apiVersion": inside.get("apiVersion"), "kind": inside.get("kind"),
            "name": name, "namespace": namespace, "uid": object::uid(inside),
        },
        "type": "Warning", "reason": reason,
        "message": message.chars().take(1000).collect::<String>(),
        "source": {"component": "coracle-syncer"},
        "reportingComponent": "coracle-syncer", "reportingInstance": syncer.translator.vc,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    if let Err(error) = put(syncer, &event).await {
        debug!(%error, "cannot tell the user");
    }
}
