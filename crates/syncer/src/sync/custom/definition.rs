//! The definition of a custom resource: the host's, copied inside.

use std::sync::Arc;
use std::time::Duration;

use coracle_config::CustomName;
use coracle_machinery::object;
use coracle_translate::{
    CustomKind, VirtualName, definition_inside, definition_update, established,
};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Custom, Flow, Key, start};
use crate::api::{ApiError, Narrow};
use crate::cache::{Kept, Watched};
use crate::engine::Syncer;
use crate::kinds::other::DEFINITIONS;
use crate::sync::events;

/// Pause before it is tried again to write the definition inside.
const PAUSE: Duration = Duration::from_secs(2);

/// Follows the definition on both sides, and has the objects flow while it is
/// served on both.
pub(super) async fn follow(syncer: Arc<Syncer>, key: Key, stop: CancellationToken) {
    let custom = syncer.customs.get(key);
    let watched = Watched {
        resource: DEFINITIONS,
        kept: Kept::Whole,
    };
    let narrow = Narrow {
        name: custom.name.definition(),
        ..Narrow::default()
    };
    let definitions = &custom.definitions;
    let tell = |_| definitions.changed.notify_one();
    let (host, inside) = (syncer.host.cluster.clone(), syncer.inside.cluster.clone());
    tokio::join!(
        definitions
            .host
            .run(watched, host, narrow.clone(), stop.clone(), tell),
        definitions
            .inside
            .run(watched, inside, narrow.clone(), stop.clone(), tell),
        manage(&syncer, key, custom, &stop),
    );
}

async fn manage(syncer: &Arc<Syncer>, key: Key, custom: &Custom, stop: &CancellationToken) {
    let definitions = &custom.definitions;
    let known = async {
        definitions.host.synced().await;
        definitions.inside.synced().await;
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = known => {}
    }
    let mut running: Option<(Flow, CancellationToken, JoinSet<()>)> = None;
    let mut told = String::new();
    loop {
        let result = match look(syncer, custom).await {
            Ok(Look::Flows(flow)) => Ok(Some(flow)),
            Ok(Look::Waits(why)) => {
                if told != why {
                    warn!(resource = custom.name.definition(), "nothing flows: {why}");
                    told = why;
                }
                Ok(None)
            }
            Err(error) => {
                warn!(resource = custom.name.definition(), %error, "cannot bring the definition inside");
                Err(PAUSE)
            }
        };
        if let Ok(wanted) = &result
            && running.as_ref().map(|(flow, ..)| flow) != wanted.as_ref()
        {
            if let Some((_, token, mut tasks)) = running.take() {
                custom.set_served(None);
                token.cancel();
                while tasks.join_next().await.is_some() {}
            }
            if let Some(flow) = wanted {
                info!(
                    resource = custom.name.definition(),
                    version = flow.kind.api_version,
                    "objects flow"
                );
                told.clear();
                let (token, mut tasks) = (stop.child_token(), JoinSet::new());
                start(syncer, key, flow.clone(), &mut tasks, &token);
                running = Some((flow.clone(), token, tasks));
            }
        }
        let again = async {
            match result {
                Ok(_) => std::future::pending().await,
                Err(pause) => tokio::time::sleep(pause).await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = definitions.changed.notified() => {}
            () = again => {}
        }
    }
    if let Some((_, _, mut tasks)) = running {
        while tasks.join_next().await.is_some() {}
    }
}

/// What there is to do for objects.
enum Look {
    /// They flow.
    Flows(Flow),
    /// They cannot, for this reason.
    Waits(String),
}

/// Brings the definition inside, and tells what flows by it.
async fn look(syncer: &Syncer, custom: &Custom) -> Result<Look, ApiError> {
    let name = VirtualName::new("", custom.name.definition());
    let definitions = &custom.definitions;
    let waits = |why: &str| Ok(Look::Waits(why.to_owned()));
    let Some(host) = definitions.host.get(&name).filter(|d| established(d)) else {
        return waits("the host has no such definition");
    };
    let Some(kind) = CustomKind::of(&host, &at_version(syncer, custom)) else {
        return waits(
            "the host does not serve it in the version that flows; the values can name another",
        );
    };
    if kind.namespaced != custom.namespaced {
        return waits("its objects are of another scope than the values say");
    }
    let cluster = &syncer.inside.cluster;
    let wanted = definition_inside(&host, &kind);
    let Some(inside) = definitions.inside.get(&name) else {
        return match cluster.create(DEFINITIONS, &wanted).await {
            Err(error) if !error.is_already_exists() => Err(error),
            // The watch tells of it.
            _ => waits("its definition is on its way inside"),
        };
    };
    let ours = syncer.translator.is_shown(&inside);
    if ours
        && !object::is_terminating(&inside)
        && let Some(updated) = definition_update(&inside, &wanted)
    {
        cluster.update(DEFINITIONS, "", &updated).await?;
    }
    let flow = flow(&custom.name, &host, kind, &inside);
    if !ours {
        let message = match &flow {
            Some(_) => {
                "this definition is not the host's and is left as it is; its objects flow, as far as the host takes them"
            }
            None => {
                "this definition is not the host's and is left as it is; its objects do not flow, as it is not like that of the host"
            }
        };
        events::warn(syncer, &inside, "SyncWarning", message).await;
    }
    match flow {
        Some(flow) if established(&inside) => Ok(Look::Flows(flow)),
        Some(_) => waits("its definition inside is not served yet"),
        None => waits("the definition inside is the tenant's own, and not like the host's"),
    }
}

/// The name with the version that flows: the one that the values name, or the
/// one that the definition inside has already. The host may come to store
/// another one, but objects inside are written in this; to relabel them would
/// lose what the versions call by different names.
fn at_version(syncer: &Syncer, custom: &Custom) -> CustomName {
    let place = VirtualName::new("", custom.name.definition());
    let mut name = custom.name.clone();
    let flows_to_host = custom.namespaced && custom.mappings.is_empty();
    if name.version.is_none()
        && flows_to_host
        && let Some(inside) = custom.definitions.inside.get(&place)
        && syncer.translator.is_shown(&inside)
    {
        name.version = object::items(&inside, "/spec/versions")
            .iter()
            .find(|version| version["storage"] == true)
            .map(|version| object::text(version, "/name").to_owned());
    }
    name
}

/// What flows between the two definitions, if they are alike.
fn flow(name: &CustomName, host: &Value, kind: CustomKind, inside: &Value) -> Option<Flow> {
    let version = kind
        .api_version
        .rsplit_once('/')
        .map(|(_, version)| version.to_owned());
    let there = CustomKind::of(
        inside,
        &CustomName {
            version,
            ..name.clone()
        },
    )?;
    (there.kind == kind.kind && there.namespaced == kind.namespaced).then(|| Flow {
        status_inside: there.status,
        definition: object::uid(host).to_owned(),
        kind,
    })
}
