//! The host Service that owns everything. When it is deleted, the host collects
//! what it owns; a syncer that went on would put back what is collected.

use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::object;
use futures::{StreamExt, pin_mut};
use kube::core::WatchEvent;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::api::{ApiError, Narrow};
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Pause before the watch is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Cancels `working` once the Service is gone or going.
pub(crate) async fn watch(syncer: Arc<Syncer>, working: CancellationToken) {
    loop {
        let outcome = tokio::select! {
            () = working.cancelled() => return,
            outcome = follow(&syncer) => outcome,
        };
        match outcome {
            Ok(true) => {
                info!("the virtual cluster is being deleted: nothing is synced any more");
                return working.cancel();
            }
            Ok(false) => {}
            Err(error) => debug!(%error, "the watch of the own Service broke off"),
        }
        tokio::select! {
            () = working.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Follows the Service; true once it is gone or going.
async fn follow(syncer: &Syncer) -> Result<bool, ApiError> {
    let own = object::uid(&syncer.own_service);
    let is_over = |service: &Value| object::is_terminating(service) || object::uid(service) != own;
    let narrow = Narrow {
        namespace: syncer.translator.host_namespace.clone(),
        labels: String::new(),
        name: object::name(&syncer.own_service).to_owned(),
    };
    let resource = Kind::Service.resource();
    let (found, mut version) = syncer.host.cluster.list(resource, &narrow).await?;
    if found.first().is_none_or(is_over) {
        return Ok(true);
    }
    loop {
        let stream = syncer
            .host
            .cluster
            .watch(resource, &narrow, &version)
            .await?;
        pin_mut!(stream);
        let mut seen = false;
        while let Some(event) = stream.next().await {
            seen = true;
            match event? {
                WatchEvent::Added(service) | WatchEvent::Modified(service) => {
                    if is_over(&service) {
                        return Ok(true);
                    }
                    object::resource_version(&service).clone_into(&mut version);
                }
                WatchEvent::Deleted(_) => return Ok(true),
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(ApiError::from(kube::Error::Api(status))),
            }
        }
        if !seen {
            return Ok(false);
        }
    }
}
