//! The baseline level: nothing that is known to reach the node.

use serde_json::Value;

use super::{Check, Violation, by_containers, containers, named, plural};
use crate::object;

/// Checks of both levels, by upstream's names and in their order.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("appArmorProfile", app_armor),
    ("hostNamespaces", host_namespaces),
    ("hostPorts", host_ports),
    ("privileged", privileged),
    ("procMount", proc_mount),
    ("seLinuxOptions", selinux),
    ("sysctls", sysctls),
    ("windowsHostProcess", host_process),
];

/// Checks for which the restricted level has stricter ones.
pub(super) const ONLY_BASELINE: &[(&str, Check)] = &[
    ("capabilities_baseline", capabilities),
    ("hostPathVolumes", host_paths),
    ("seccompProfile_baseline", seccomp),
];

const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const SAFE_SELINUX_TYPES: &[&str] = &[
    "",
    "container_engine_t",
    "container_init_t",
    "container_kvm_t",
    "container_t",
];

fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer) == Some(&Value::Bool(true))
}

fn host_namespaces(spec: &Value) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|key| is_true(spec, &format!("/{key}")))
        .map(|key| format!("{key}=true"))
        .collect();
    (!used.is_empty()).then(|| Violation {
        reason: "host namespaces",
        detail: used.join(", "),
    })
}

fn privileged(spec: &Value) -> Option<Violation> {
    let names = named(spec, |c| is_true(c, "/securityContext/privileged"));
    by_containers(
        "privileged",
        &names,
        "must not set securityContext.privileged=true",
    )
}

/// The capabilities that a container adds and that `allowed` does not list.
pub(super) fn added<'a>(
    container: &'a Value,
    allowed: &'a [&str],
) -> impl Iterator<Item = &'a str> {
    object::items(container, "/securityContext/capabilities/add")
        .iter()
        .filter_map(Value::as_str)
        .filter(|capability| !allowed.contains(capability))
}

/// Who adds which capabilities that are not allowed, as text.
pub(super) fn adding(spec: &Value, allowed: &[&str]) -> Option<String> {
    let names = named(spec, |c| added(c, allowed).next().is_some());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<&str> = containers(spec).flat_map(|c| added(c, allowed)).collect();
    all.sort_unstable();
    all.dedup();
    let quoted: Vec<String> = all.iter().map(|c| format!("{c:?}")).collect();
    Some(format!(
        "{} must not include {} in securityContext.capabilities.add",
        plural("container", &names),
        quoted.join(", ")
    ))
}

fn capabilities(spec: &Value) -> Option<Violation> {
    let detail = adding(spec, DEFAULT_CAPABILITIES)?;
    Some(Violation {
        reason: "non-default capabilities",
        detail,
    })
}

fn host_paths(spec: &Value) -> Option<Violation> {
    let names: Vec<String> = object::items(spec, "/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some_and(|h| !h.is_null()))
        .map(|v| format!("{:?}", object::text(v, "/name")))
        .collect();
    (!names.is_empty()).then(|| Violation {
        reason: "hostPath volumes",
        detail: plural("volume", &names),
    })
}

fn host_ports(spec: &Value) -> Option<Violation> {
    fn ports(container: &Value) -> impl Iterator<Item = i64> {
        object::items(container, "/ports")
            .iter()
            .filter_map(|p| p.get("hostPort").and_then(Value::as_i64))
            .filter(|port| *port != 0)
    }
    let names = named(spec, |c| ports(c).next().is_some());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<i64> = containers(spec).flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    let shown: Vec<String> = all.iter().map(i64::to_string).collect();
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let s = if all.len() == 1 { "" } else { "s" };
    Some(Violation {
        reason: "hostPort",
        detail: format!(
            "{} {uses} hostPort{s} {}",
            plural("container", &names),
            shown.join(", ")
        ),
    })
}

fn proc_mount(spec: &Value) -> Option<Violation> {
    let names = named(spec, |c| {
        !["", "Default"].contains(&object::text(c, "/securityContext/procMount"))
    });
    let must = "must not set securityContext.procMount to \"Unmasked\"";
    by_containers("procMount", &names, must)
}

/// Pod and containers that set something forbidden, as a text for upstream's
/// `pod and container "a"` form.
fn setters(spec: &Value, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let context = |v: &Value| v.get("securityContext").cloned().unwrap_or_default();
    let names = named(spec, |c| bad(&context(c)));
    match (bad(&context(spec)), names.is_empty()) {
        (true, true) => Some("pod".to_owned()),
        (true, false) => Some(format!("pod and {}", plural("container", &names))),
        (false, false) => Some(plural("container", &names)),
        (false, true) => None,
    }
}

fn app_armor(spec: &Value) -> Option<Violation> {
    let who = setters(spec, |c| {
        object::text(c, "/appArmorProfile/type") == "Unconfined"
    })?;
    Some(Violation {
        reason: "forbidden AppArmor profile",
        detail: format!("{who} must not set AppArmor profile type to \"Unconfined\""),
    })
}

/// Profiles by annotation, as before the fields existed.
pub(super) fn app_armor_annotations(pod: &Value) -> Option<Violation> {
    let prefix = "container.apparmor.security.beta.kubernetes.io/";
    let bad: Vec<String> = object::string_map(pod, "/metadata/annotations")
        .filter(|(key, _)| key.starts_with(prefix))
        .filter(|(_, value)| {
            !["", "runtime/default"].contains(value) && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    (!bad.is_empty()).then(|| Violation {
        reason: if bad.len() == 1 {
            "forbidden AppArmor profile"
        } else {
            "forbidden AppArmor profiles"
        },
        detail: bad.join(", "),
    })
}

fn seccomp(spec: &Value) -> Option<Violation> {
    let who = setters(spec, |c| {
        object::text(c, "/seccompProfile/type") == "Unconfined"
    })?;
    Some(Violation {
        reason: "seccompProfile",
        detail: format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""),
    })
}

fn selinux(spec: &Value) -> Option<Violation> {
    let options =
        |v: &Value, key: &str| object::text(v, &format!("/seLinuxOptions/{key}")).to_owned();
    let bad_type = |v: &Value| !SAFE_SELINUX_TYPES.contains(&options(v, "type").as_str());
    let who = setters(spec, |c| {
        bad_type(c) || !options(c, "user").is_empty() || !options(c, "role").is_empty()
    })?;
    let contexts: Vec<Value> = std::iter::once(spec)
        .chain(containers(spec))
        .filter_map(|v| v.get("securityContext").cloned())
        .collect();
    let mut types: Vec<String> = contexts
        .iter()
        .filter(|c| bad_type(c))
        .map(|c| format!("{:?}", options(c, "type")))
        .collect();
    types.sort_unstable();
    types.dedup();
    let mut faults = Vec::new();
    if !types.is_empty() {
        let s = if types.len() == 1 { "" } else { "s" };
        faults.push(format!("type{s} {}", types.join(", ")));
    }
    for key in ["user", "role"] {
        if contexts.iter().any(|c| !options(c, key).is_empty()) {
            faults.push(format!("{key} may not be set"));
        }
    }
    Some(Violation {
        reason: "seLinuxOptions",
        detail: format!(
            "{who} set forbidden securityContext.seLinuxOptions: {}",
            faults.join("; ")
        ),
    })
}

fn sysctls(spec: &Value) -> Option<Violation> {
    let bad: Vec<&str> = object::items(spec, "/securityContext/sysctls")
        .iter()
        .map(|s| object::text(s, "/name"))
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    (!bad.is_empty()).then(|| Violation {
        reason: "forbidden sysctls",
        detail: bad.join(", "),
    })
}

fn host_process(spec: &Value) -> Option<Violation> {
    let who = setters(spec, |c| is_true(c, "/windowsOptions/hostProcess"))?;
    Some(Violation {
        reason: "hostProcess",
        detail: format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    })
}
