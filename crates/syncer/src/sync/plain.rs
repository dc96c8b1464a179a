//! Kinds whose whole spec is translated and whose status comes back: ingresses,
//! network policies, disruption budgets, service accounts.

use coracle_machinery::object;
use coracle_translate::VirtualName;

use super::{create_on_host, delete_on_host, selection, set_status};
use crate::api::ApiError;
use crate::engine::Syncer;
use crate::kinds::Kind;
use crate::queue::Outcome;

pub(crate) async fn reconcile(
    syncer: &Syncer,
    kind: Kind,
    name: &VirtualName,
) -> Result<Outcome, ApiError> {
    let inside = syncer
        .inside
        .get(kind, name)
        .filter(|o| !object::is_terminating(o));
    let host = syncer.host_object(kind, name);
    let Some(inside) = inside else {
        if let Some(host) = host {
            delete_on_host(syncer, kind, &host, None).await?;
        }
        return Ok(Outcome::Done);
    };
    if let Some(why) = selection::obstacle(syncer, kind, &inside) {
        selection::tell(syncer, kind, &inside, &why).await;
        if let Some(host) = host.filter(|_| selection::is_known(syncer, kind)) {
            delete_on_host(syncer, kind, &host, None).await?;
        }
        return Ok(Outcome::Done);
    }
    let t = &syncer.translator;
    let desired = match kind {
        Kind::Ingress => t.ingress_to_host(&inside),
        Kind::NetworkPolicy => t.network_policy_to_host(&inside),
        Kind::ServiceAccount => t.service_account_to_host(&inside),
        _ => t.disruption_budget_to_host(&inside),
    };
    let desired = t.patched_kind(kind.resource().kind, &inside, desired)?;
    let Some(host) = host else {
        create_on_host(syncer, kind, name, &desired).await?;
        return Ok(Outcome::Done);
    };
    if let Some(updated) =
        t.replace_update(&host, &desired, &["spec", "automountServiceAccountToken"])
    {
        syncer
            .host
            .cluster
            .update(kind.resource(), "", &updated)
            .await?;
    }
    // The budget's status is counted inside as well, from the virtual pods.
    if kind == Kind::Ingress
        && let Some(status) = host.get("status")
        && Some(status) != inside.get("status")
    {
        set_status(syncer, kind, &inside, status.clone()).await?;
    }
    Ok(Outcome::Done)
}
