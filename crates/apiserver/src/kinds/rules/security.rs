//! Validation of security contexts of pods and containers.

use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, list, one_of, str_at};

const SECCOMP_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

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
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        if str_at(sysctl, "name").is_empty() {
            let at = path.child("sysctls").index(index).child("name");
            errors.push(FieldError::required(&at, ""));
        }
    }
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
