//! The restricted level: current good practice for hardening pods.

use serde_json::Value;

use super::baseline::adding;
use super::{Check, Violation, by_containers, containers, named, plural};
use crate::object;

/// Checks of this level alone, by upstream's names and in their order.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("allowPrivilegeEscalation", escalation),
    ("capabilities_restricted", capabilities),
    ("restrictedVolumes", volumes),
    ("runAsNonRoot", non_root),
    ("runAsUser", root_user),
    ("seccompProfile_restricted", seccomp),
];

const VOLUME_TYPES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const SECCOMP_TYPES: &[&str] = &["RuntimeDefault", "Localhost"];

fn windows(spec: &Value) -> bool {
    object::text(spec, "/os/name") == "windows"
}

fn flag(value: &Value, name: &str) -> Option<bool> {
    value
        .pointer(&format!("/securityContext/{name}"))
        .and_then(Value::as_bool)
}

fn escalation(spec: &Value) -> Option<Violation> {
    if windows(spec) {
        return None;
    }
    let names = named(spec, |c| flag(c, "allowPrivilegeEscalation") != Some(false));
    let must = "must set securityContext.allowPrivilegeEscalation=false";
    by_containers("allowPrivilegeEscalation != false", &names, must)
}

fn capabilities(spec: &Value) -> Option<Violation> {
    if windows(spec) {
        return None;
    }
    let keeping = named(spec, |c| {
        let dropped = object::items(c, "/securityContext/capabilities/drop");
        !dropped.iter().any(|d| d == "ALL")
    });
    let mut faults = Vec::new();
    if !keeping.is_empty() {
        faults.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            plural("container", &keeping)
        ));
    }
    faults.extend(adding(spec, &["NET_BIND_SERVICE"]));
    (!faults.is_empty()).then(|| Violation {
        reason: "unrestricted capabilities",
        detail: faults.join("; "),
    })
}

fn volumes(spec: &Value) -> Option<Violation> {
    let mut names = Vec::new();
    let mut types = Vec::new();
    for volume in object::items(spec, "/volumes") {
        let kinds = volume.as_object().into_iter().flatten();
        let bad = kinds
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .find(|key| !VOLUME_TYPES.contains(key));
        if let Some(kind) = bad {
            names.push(format!("{:?}", object::text(volume, "/name")));
            types.push(format!("{kind:?}"));
        }
    }
    types.sort_unstable();
    types.dedup();
    let (uses, s) = match (names.len(), types.len()) {
        (0, _) => return None,
        (1, _) => ("uses", ""),
        (_, 1) => ("use", ""),
        _ => ("use", "s"),
    };
    Some(Violation {
        reason: "restricted volume types",
        detail: format!(
            "{} {uses} restricted volume type{s} {}",
            plural("volume", &names),
            types.join(", ")
        ),
    })
}

fn non_root(spec: &Value) -> Option<Violation> {
    let pod = flag(spec, "runAsNonRoot");
    let mut faults = Vec::new();
    if pod == Some(false) {
        faults.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    let explicit = named(spec, |c| flag(c, "runAsNonRoot") == Some(false));
    if !explicit.is_empty() {
        faults.push(format!(
            "{} must not set securityContext.runAsNonRoot=false",
            plural("container", &explicit)
        ));
    }
    let implicit = named(spec, |c| flag(c, "runAsNonRoot").is_none());
    if faults.is_empty() && pod.is_none() && !implicit.is_empty() {
        faults.push(format!(
            "pod or {} must set securityContext.runAsNonRoot=true",
            plural("container", &implicit)
        ));
    }
    (!faults.is_empty()).then(|| Violation {
        reason: "runAsNonRoot != true",
        detail: faults.join(", "),
    })
}

fn root_user(spec: &Value) -> Option<Violation> {
    let is_root = |v: &Value| {
        v.pointer("/securityContext/runAsUser")
            .and_then(Value::as_i64)
            == Some(0)
    };
    let mut who = Vec::new();
    if is_root(spec) {
        who.push("pod".to_owned());
    }
    let names = named(spec, is_root);
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty()).then(|| Violation {
        reason: "runAsUser=0",
        detail: format!("{} must not set runAsUser=0", who.join(" and ")),
    })
}

fn seccomp(spec: &Value) -> Option<Violation> {
    if windows(spec) {
        return None;
    }
    let profile = |v: &Value| object::text(v, "/securityContext/seccompProfile/type").to_owned();
    let bad = |v: &Value| {
        let profile = profile(v);
        !profile.is_empty() && !SECCOMP_TYPES.contains(&profile.as_str())
    };
    let wanted = "securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    let forbidden =
        |profile: &str| format!("must not set securityContext.seccompProfile.type to {profile:?}");
    let detail = if bad(spec) {
        format!("pod {}", forbidden(&profile(spec)))
    } else {
        let explicit = named(spec, bad);
        let implicit = named(spec, |c| profile(c).is_empty());
        if !explicit.is_empty() {
            let shown = containers(spec)
                .find(|c| bad(c))
                .map(profile)
                .unwrap_or_default();
            format!("{} {}", plural("container", &explicit), forbidden(&shown))
        } else if profile(spec).is_empty() && !implicit.is_empty() {
            format!(
                "pod or {} must set {wanted}",
                plural("container", &implicit)
            )
        } else {
            return None;
        }
    };
    Some(Violation {
        reason: "seccompProfile",
        detail,
    })
}
