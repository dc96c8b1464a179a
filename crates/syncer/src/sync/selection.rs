//! Classes of the host of which the values choose some: what uses another one
//! is not synced. As upstream, but for objects without a class, which the host
//! would give its own default: they are not synced either.

use std::sync::Arc;

use coracle_config::Config;
use coracle_machinery::{LabelSelector, object};
use coracle_translate::claim_class;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::events;
use super::imports::CLASSES;
use crate::cache::Cache;
use crate::engine::Syncer;
use crate::kinds::Kind;

/// Why an object was not synced, as upstream names it.
const REASON: &str = "SyncWarning";

/// Names the class of an Ingress, from before there was a field for it.
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

/// Which of the host's classes of this kind are shown; `None` for all of them.
pub(crate) fn selector(config: &Config, kind: Kind) -> Option<LabelSelector> {
    let from_host = &config.sync.from_host;
    let chosen = match kind {
        Kind::IngressClass => &from_host.ingress_classes.selector,
        Kind::StorageClass => &from_host.storage_classes.selector,
        Kind::RuntimeClass => &from_host.runtime_classes.selector,
        Kind::PriorityClass => &from_host.priority_classes.selector,
        _ => return None,
    };
    // One that cannot be read is refused with the values.
    let selector = chosen.parsed().unwrap_or_else(|_| LabelSelector::nothing());
    let shown = Kind::imported(config).contains(&kind) && !selector.is_everything();
    shown.then_some(selector)
}

/// The kinds of objects that use classes of a kind.
pub(crate) fn users(class: Kind) -> &'static [Kind] {
    match class {
        Kind::IngressClass => &[Kind::Ingress],
        Kind::StorageClass => &[Kind::Claim],
        Kind::RuntimeClass | Kind::PriorityClass => &[Kind::Pod],
        _ => &[],
    }
}

/// True once the chosen classes that objects of a kind may use are known:
/// before that, nothing is new and nothing is taken away.
pub(crate) fn is_known(syncer: &Syncer, user: Kind) -> bool {
    CLASSES
        .iter()
        .filter(|class| users(**class).contains(&user))
        .filter(|class| selector(&syncer.translator.config, **class).is_some())
        .all(|class| syncer.host.cache(*class).is_some_and(Cache::is_synced))
}

/// Has everything looked at that was met before the host's classes were known.
pub(crate) async fn once_known(syncer: Arc<Syncer>, stop: CancellationToken) {
    // Each by itself: one that may not be listed must not hold up the others.
    let each = CLASSES.iter().map(|class| async {
        let Some(cache) = syncer.host.cache(*class) else {
            return;
        };
        cache.synced().await;
        syncer.push_all(*class, None);
        for user in users(*class) {
            syncer.push_all(*user, None);
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::join_all(each) => {}
    }
}

/// Tells the user why an object does not flow, once that is sure.
pub(crate) async fn tell(syncer: &Syncer, user: Kind, inside: &Value, why: &str) {
    if is_known(syncer, user) {
        events::warn(syncer, inside, REASON, why).await;
    }
}

/// Why a virtual object must not flow to the host: its class is not among those
/// chosen.
pub(crate) fn obstacle(syncer: &Syncer, kind: Kind, inside: &Value) -> Option<String> {
    match kind {
        Kind::Ingress => {
            let outside = |name| outside(syncer, Kind::IngressClass, "ingressClasses", name);
            // Controllers differ in which of them they look at.
            let field = object::text(inside, "/spec/ingressClassName");
            let annotation = object::annotation(inside, INGRESS_CLASS).unwrap_or_default();
            match (field, annotation) {
                ("", "") => outside(""),
                (name, "") | ("", name) => outside(name),
                (field, annotation) => outside(field).or_else(|| outside(annotation)),
            }
        }
        Kind::Claim => {
            let class = claim_class(inside);
            outside(syncer, Kind::StorageClass, "storageClasses", class)
        }
        Kind::Pod => {
            let enforced = &syncer.translator.config.sync.to_host.pods;
            let priority = object::text(inside, "/spec/priorityClassName");
            let runtime = object::text(inside, "/spec/runtimeClassName");
            // None is given where none is named; those of the system do not flow.
            let asks = !priority.is_empty() && !priority.starts_with("system-");
            let priority = (asks && enforced.priority_class_name.is_empty())
                .then(|| outside(syncer, Kind::PriorityClass, "priorityClasses", priority));
            let asks = !runtime.is_empty();
            let runtime = (asks && enforced.runtime_class_name.is_empty())
                .then(|| outside(syncer, Kind::RuntimeClass, "runtimeClasses", runtime));
            priority.flatten().or(runtime.flatten())
        }
        _ => None,
    }
}

fn outside(syncer: &Syncer, class: Kind, key: &str, name: &str) -> Option<String> {
    selector(&syncer.translator.config, class)?;
    let kind = class.resource().kind;
    if name.is_empty() {
        return Some(format!(
            "not synced to the host: it names no {kind}, and sync.fromHost.{key}.selector chooses \
             which may be used"
        ));
    }
    let place = coracle_translate::VirtualName::new("", name);
    // Only those chosen are watched.
    syncer.host.get(class, &place).is_none().then(|| {
        format!(
            "not synced to the host: {kind} {name:?} is none that sync.fromHost.{key}.selector \
             chooses"
        )
    })
}
