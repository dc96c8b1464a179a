//! Validation of security contexts of pods and containers.

use std::collections::BTreeSet;

use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, list, one_of, str_at};

const SECCOMP_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
/// Longest name of a kernel setting.
const SYSCTL_MAX: usize = 253;

/// `spec.securityContext`.
pub(super) fn pod(errors: &mut Errors, context: &Value, path: &FieldPath) {
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(errors, context, key, path);
    }
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        let at = path.child("supplementalGroups").index(index);
        check_id(errors, group, &at);
    }
    one_of(
        errors,
        context,
        "fsGroupChangePolicy",
        path,
        &["Always", "OnRootMismatch"],
    );
    one_of(
        errors,
        context,
        "supplementalGroupsPolicy",
        path,
        &["Merge", "Strict"],
    );
    profile(
        errors,
        &context["seccompProfile"],
        &path.child("seccompProfile"),
    );
    let mut seen = BTreeSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let at = path.child("sysctls").index(index).child("name");
        let name = str_at(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !is_sysctl(name) {
            let detail = format!(
                "must have at most {SYSCTL_MAX} characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
            );
            errors.push(FieldError::invalid(&at, name, detail));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
    }
}

/// True for names such as `net.ipv4.ip_forward`, with dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let part = part.as_bytes();
        part.iter().all(|b| plain(*b) || matches!(b, b'-' | b'_'))
            && part.first().is_some_and(|b| plain(*b))
            && part.last().is_some_and(|b| plain(*b))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(part)
}

/// `securityContext` of a container.
pub(super) fn container(errors: &mut Errors, context: &Value, path: &FieldPath) {
    for key in ["runAsUser", "runAsGroup"] {
        id(errors, context, key, path);
    }
    one_of(errors, context, "procMount", path, &["Default", "Unmasked"]);
    profile(
        errors,
        &context["seccompProfile"],
        &path.child("seccompProfile"),
    );
    if context["allowPrivilegeEscalation"] == false {
        let at = path.child("allowPrivilegeEscalation");
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(&at, false, detail));
        }
        let added = list(&context["capabilities"], "add");
        if added.iter().any(|cap| cap == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(&at, false, detail));
        }
    }
}

fn id(errors: &mut Errors, context: &Value, key: &str, path: &FieldPath) {
    check_id(errors, &context[key], &path.child(key));
}

fn check_id(errors: &mut Errors, value: &Value, path: &FieldPath) {
    if let Some(id) = value.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        let detail = "must be between 0 and 2147483647, inclusive";
        errors.push(FieldError::invalid(path, id, detail));
    }
}

fn profile(errors: &mut Errors, profile: &Value, path: &FieldPath) {
    if profile.is_null() {
        return;
    }
    let local = str_at(profile, "localhostProfile");
    match str_at(profile, "type") {
        "" => errors.push(FieldError::required(
            &path.child("type"),
            "type is required when seccompProfile is set",
        )),
        "Localhost" if local.is_empty() => errors.push(FieldError::required(
            &path.child("localhostProfile"),
            "must be set when seccomp type is Localhost",
        )),
        "Localhost" => {}
        _ if !local.is_empty() => errors.push(FieldError::invalid(
            &path.child("localhostProfile"),
            local,
            "can only be set when seccomp type is Localhost",
        )),
        _ => one_of(errors, profile, "type", path, SECCOMP_TYPES),
    }
}
