//! Volumes of the tenant's on the host, and which claim has which.

use std::sync::Arc;

use coracle_machinery::object;
use coracle_translate::{VirtualName, Wish};
use serde_json::{Value, json};

use super::{claims, classes, create_class_on_host, delete_on_host, events, set_status};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

/// What becomes of a claim on the host.
pub(crate) enum Choice {
    /// It asks for this volume of the tenant's, which is there.
    Own(Arc<Value>),
    /// It waits inside, for this reason.
    Waits(String),
    /// It asks for none.
    Open,
}

impl Choice {
    /// The volume of the tenant's.
    pub(crate) fn own(&self) -> Option<&Value> {
        match self {
            Self::Own(volume) => Some(volume),
            _ => None,
        }
    }
}

/// Brings a volume to the host while it is reserved for a claim, and its phase
/// back.
pub(crate) async fn reconcile(syncer: &Syncer, name: &str) -> Result<Outcome, ApiError> {
    let t = &syncer.translator;
    let inside = syncer.inside.get(Kind::Volume, &VirtualName::new("", name));
    let mirror = inside.as_ref().is_some_and(|volume| t.is_imported(volume));
    if mirror || !t.volumes_flow() {
        return claims::reconcile_volume(syncer, name).await;
    }
    let host = classes::on_host(syncer, Kind::Volume, name);
    let Some(inside) = inside.filter(|volume| !object::is_terminating(volume)) else {
        return leave(syncer, host).await.map(|()| Outcome::Done);
    };
    if let Some(why) = t.volume_obstacle(&inside) {
        events::warn(syncer, &inside, "SyncWarning", &why).await;
        leave(syncer, host).await?;
        return Ok(Outcome::Done);
    }
    match holder(syncer, &inside) {
        Holder::Nobody => {
            leave(syncer, host).await?;
            set_phase(syncer, &inside, &json!({"phase": "Available"})).await?;
        }
        Holder::Gone if host.is_none() => {
            set_phase(syncer, &inside, &json!({"phase": "Released"})).await?;
        }
        _ => {
            if let Some(host) = bring(syncer, &inside).await?
                && let Some(status) = host.get("status")
            {
                set_phase(syncer, &inside, status).await?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// Who has a volume, as is told inside.
#[derive(PartialEq)]
enum Holder {
    Nobody,
    /// A claim, there or to come.
    Claim(VirtualName),
    /// One that is gone.
    Gone,
}

fn holder(syncer: &Syncer, volume: &Value) -> Holder {
    let Some(claim) = syncer.translator.reserved_for(volume) else {
        return Holder::Nobody;
    };
    let uid = object::text(volume, "/spec/claimRef/uid");
    let there = syncer.inside.get(Kind::Claim, &claim);
    let same = there.is_some_and(|there| object::uid(&there) == uid);
    if uid.is_empty() || same {
        Holder::Claim(claim)
    } else {
        Holder::Gone
    }
}

/// Makes the host volume of one that is reserved, or brings it up to date; gives
/// it if it is there, ours and to stay.
async fn bring(syncer: &Syncer, inside: &Value) -> Result<Option<Arc<Value>>, ApiError> {
    let (t, kind) = (&syncer.translator, Kind::Volume);
    let Some(claim) = t.reserved_for(inside) else {
        return Ok(None);
    };
    let name = VirtualName::new("", object::name(inside));
    let desired = t.volume_to_host(inside, &claim);
    let desired = t.patched_kind(kind.resource().kind, inside, desired)?;
    let host = match classes::on_host(syncer, kind, &name.name) {
        Some(host) => host,
        None => match create_class_on_host(syncer, kind, &name, &desired).await? {
            Some(present) => present.into(),
            None => return Ok(Some(desired.into())),
        },
    };
    if object::is_terminating(&host) {
        return Ok(None);
    }
    let bound = !object::text(inside, "/spec/claimRef/uid").is_empty();
    // A claim that is on its way out has let go of it on the host already.
    let leaving = |claim: &VirtualName| {
        let claim = syncer.inside.get(Kind::Claim, claim);
        claim.is_some_and(|claim| object::is_terminating(&claim))
    };
    let again = bound && matches!(holder(syncer, inside), Holder::Claim(of) if !leaving(&of));
    let Some(updated) = t.volume_update(&host, &desired, again) else {
        return Ok(Some(host));
    };
    let cluster = &syncer.host.cluster;
    let updated = cluster.update(kind.resource(), "", &updated).await?;
    Ok(Some(updated.into()))
}

/// Takes a volume from the host. The data behind it stays.
async fn leave(syncer: &Syncer, host: Option<Arc<Value>>) -> Result<(), ApiError> {
    match host.filter(|host| !object::is_terminating(host)) {
        Some(host) => delete_on_host(syncer, Kind::Volume, &host, None).await,
        None => Ok(()),
    }
}

async fn set_phase(syncer: &Syncer, inside: &Value, status: &Value) -> Result<(), ApiError> {
    let fields = ["phase", "message", "reason"];
    let of = |status: &Value| fields.map(|field| status.get(field).cloned());
    let before = inside.get("status").unwrap_or(&Value::Null);
    if of(before) == of(status) || status.get("phase").is_none() {
        return Ok(());
    }
    let mut wanted = json!({});
    for (field, value) in fields.into_iter().zip(of(status)) {
        if let Some(value) = value {
            wanted[field] = value;
        }
    }
    set_status(syncer, Kind::Volume, inside, wanted).await
}

/// Finds the volume of the tenant's that a claim is to have, reserves it inside
/// and brings it to the host.
pub(crate) async fn for_claim(
    syncer: &Syncer,
    claim: &Value,
    host: Option<&Value>,
) -> Result<Choice, ApiError> {
    let t = &syncer.translator;
    if !t.volumes_flow() || object::is_terminating(claim) {
        return Ok(Choice::Open);
    }
    let named = object::text(claim, "/spec/volumeName");
    let on_host = host.map_or("", |host| object::text(host, "/spec/volumeName"));
    let there = syncer
        .inside
        .get(Kind::Volume, &VirtualName::new("", named));
    let wish = if !on_host.is_empty() {
        // The host has bound it, or is about to.
        match bound_to(syncer, claim, on_host) {
            Some(volume) => Wish::Volume(volume),
            None => Wish::Open,
        }
    } else if there.is_some_and(|volume| t.is_imported(&volume)) {
        Wish::Open
    } else {
        let all = syncer.inside.cache(Kind::Volume);
        let all = all.map(|cache| cache.select(|_, _| true));
        t.wish(claim, &all.unwrap_or_default())
    };
    let volume = match wish {
        Wish::Open => return Ok(Choice::Open),
        Wish::Missing if named.is_empty() => {
            let message = "waits for a volume that its selector chooses";
            return Ok(Choice::Waits(message.into()));
        }
        Wish::Missing => {
            return Ok(Choice::Waits(format!(
                "waits for the volume {named:?}, which is not there or not free"
            )));
        }
        Wish::Volume(volume) => volume,
    };
    if let Some(why) = t.volume_obstacle(&volume) {
        let name = object::name(&volume);
        return Ok(Choice::Waits(format!(
            "waits for the volume {name:?}: {why}"
        )));
    }
    let volume = reserve(syncer, claim, volume).await?;
    Ok(match bring(syncer, &volume).await? {
        Some(_) => Choice::Own(volume),
        None => Choice::Waits("waits until its volume has left the host".into()),
    })
}

/// The volume of the tenant's that a host claim names, if it is this claim's.
fn bound_to(syncer: &Syncer, claim: &Value, on_host: &str) -> Option<Arc<Value>> {
    let t = &syncer.translator;
    let own = VirtualName::of(claim);
    let all = syncer.inside.cache(Kind::Volume)?;
    let mut found = all.select(|name, volume| {
        t.class_name(&name.name) == on_host
            && !t.is_imported(volume)
            && t.reserved_for(volume).as_ref() == Some(&own)
    });
    found.pop()
}

/// Has a volume inside say whose it is. Of two claims that want the same, one
/// comes first and the other looks again.
async fn reserve(
    syncer: &Syncer,
    claim: &Value,
    volume: Arc<Value>,
) -> Result<Arc<Value>, ApiError> {
    if object::text(&volume, "/spec/claimRef/uid") == object::uid(claim) {
        return Ok(volume);
    }
    let mut reserved = volume.as_ref().clone();
    reserved["spec"]["claimRef"] = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": object::namespace(claim), "name": object::name(claim),
        "uid": object::uid(claim),
    });
    let cluster = &syncer.inside.cluster;
    let resource = Kind::Volume.resource();
    cluster.update(resource, "", &reserved).await.map(Arc::new)
}
