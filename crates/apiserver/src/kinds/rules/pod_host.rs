//! What a pod says about its operating system and takes from its host.

use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, given, list, str_at};

const SYSTEMS: &[&str] = &["linux", "windows"];
/// Fields of a Linux pod, of its security context and of those of its
/// containers: Windows has none of them.
const LINUX_POD: [&str; 4] = ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];
const LINUX_POD_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
];
const LINUX_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// The rules of a pod's spec at `path`.
pub(super) fn rules(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        let at = path.child("shareProcessNamespace");
        errors.push(FieldError::invalid(&at, true, detail));
    }
    if spec["hostUsers"] == false {
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            if spec[key] == true {
                let detail = "when `hostUsers` is false";
                errors.push(FieldError::forbidden(&path.child(key), detail));
            }
        }
    }
    if given(spec, "os") {
        let at = path.child("os");
        match str_at(&spec["os"], "name") {
            "" => errors.push(FieldError::required(&at.child("name"), "cannot be empty")),
            "linux" => linux(errors, spec, path),
            "windows" => windows(errors, spec, path),
            other => errors.push(FieldError::not_supported(&at, other, SYSTEMS)),
        }
    }
}

/// The security contexts of all containers.
fn contexts<'a>(spec: &'a Value, path: &FieldPath) -> impl Iterator<Item = (FieldPath, &'a Value)> {
    let path = path.clone();
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |key| {
            let at = path.child(key);
            let containers = list(spec, key).iter().enumerate();
            containers.map(move |(index, container)| {
                let at = at.index(index).child("securityContext");
                (at, &container["securityContext"])
            })
        })
}

fn linux(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let pod = (path.child("securityContext"), &spec["securityContext"]);
    for (at, context) in std::iter::once(pod).chain(contexts(spec, path)) {
        if given(context, "windowsOptions") {
            let detail = "windows options cannot be set for a linux pod";
            errors.push(FieldError::forbidden(&at.child("windowsOptions"), detail));
        }
    }
}

fn windows(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let mut refuse = |value: &Value, keys: &[&str], path: &FieldPath| {
        for key in keys.iter().filter(|key| is_set(&value[**key], key)) {
            let detail = "cannot be set for a windows pod";
            errors.push(FieldError::forbidden(&path.child(key), detail));
        }
    };
    refuse(spec, &LINUX_POD, path);
    let at = path.child("securityContext");
    refuse(&spec["securityContext"], &LINUX_POD_CONTEXT, &at);
    for (at, context) in contexts(spec, path) {
        refuse(context, &LINUX_CONTEXT, &at);
    }
}

/// True if a field is there; a plain flag of the pod must be true as well.
fn is_set(value: &Value, key: &str) -> bool {
    match key {
        "hostPID" | "hostIPC" => value == &Value::Bool(true),
        _ => !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()),
    }
}
