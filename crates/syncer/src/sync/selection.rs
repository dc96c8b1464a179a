//! Classes of the host of which the values choose some: what uses another one
//! is not synced. As upstream, but for objects without a class, which the host
//! would give its own default: they are not synced either.

use coracle_config::Config;
use coracle_machinery::{LabelSelector, object};
use serde_json::Value;

use crate::engine::Syncer;
use crate::kinds::Kind;

/// Why an object was not synced, as upstream names it.
pub(crate) const REASON: &str = "SyncWarning";

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

/// Why a virtual object must not flow to the host: its class is not among those
/// chosen.
pub(crate) fn obstacle(syncer: &Syncer, kind: Kind, inside: &Value) -> Option<String> {
    let annotation = |key: &str| {
        let annotations = inside.pointer("/metadata/annotations");
        let value = annotations.and_then(|all| all.get(key));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let or = |name: &str, key: &str| {
        let name = object::text(inside, name).to_owned();
        if name.is_empty() {
            annotation(key)
        } else {
            name
        }
    };
    match kind {
        Kind::Ingress => {
            let class = or("/spec/ingressClassName", "kubernetes.io/ingress.class");
            outside(syncer, Kind::IngressClass, "ingressClasses", &class)
        }
        Kind::Claim => {
            let class = or(
                "/spec/storageClassName",
                "volume.beta.kubernetes.io/storage-class",
            );
            outside(syncer, Kind::StorageClass, "storageClasses", &class)
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
