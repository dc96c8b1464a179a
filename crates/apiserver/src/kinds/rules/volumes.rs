//! Validation of volumes and of their mounts.

use std::collections::{BTreeMap, BTreeSet};

use coracle_machinery::names::{
    config_map_key_errors, dns1123_label_errors, dns1123_subdomain_errors,
};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::{check, check_required, local_path, no_parent};
use super::{Errors, given, list, one_of, quantities, str_at};

const HOST_PATH_TYPES: &[&str] = &[
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Upstream's bounds for the life of a projected token, in seconds.
const TOKEN_MIN: i64 = 600;
const TOKEN_MAX: i64 = 1 << 32;

/// The volumes of a pod by name, with their sources.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// `spec.volumes`.
pub(super) fn volumes<'a>(errors: &mut Errors, spec: &'a Value, path: &FieldPath) -> Volumes<'a> {
    let mut known = Volumes::new();
    let at = path.child("volumes");
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        let at = at.index(index);
        let name = str_at(volume, "name");
        check_required(errors, &at.child("name"), name, dns1123_label_errors);
        source(errors, volume, &at);
        if known.insert(name, volume).is_some() {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
    known
}

fn source(errors: &mut Errors, volume: &Value, path: &FieldPath) {
    let sources = volume.as_object().into_iter().flatten();
    let mut count = 0;
    for (kind, source) in sources.filter(|(key, v)| *key != "name" && !v.is_null()) {
        let at = path.child(kind);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(
                &at,
                "may not specify more than 1 volume type",
            ));
            continue;
        }
        one_source(errors, kind, source, &at);
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn one_source(errors: &mut Errors, kind: &str, source: &Value, path: &FieldPath) {
    match kind {
        "hostPath" => host_path(errors, source, path),
        "emptyDir" if given(source, "sizeLimit") => {
            let at = path.child("sizeLimit");
            quantities::parse_non_negative(errors, &at, &source["sizeLimit"]);
        }
        "secret" => {
            required_text(errors, source, "secretName", path);
            file_mode(errors, source, "defaultMode", path);
            items(errors, source, path);
        }
        "configMap" => {
            required_text(errors, source, "name", path);
            file_mode(errors, source, "defaultMode", path);
            items(errors, source, path);
        }
        "downwardAPI" => {
            file_mode(errors, source, "defaultMode", path);
            downward_items(errors, source, path);
        }
        "persistentVolumeClaim" => required_text(errors, source, "claimName", path),
        "projected" => projected(errors, source, path),
        "nfs" => {
            required_text(errors, source, "server", path);
            required_text(errors, source, "path", path);
            if !str_at(source, "path").is_empty() && !str_at(source, "path").starts_with('/') {
                let at = path.child("path");
                errors.push(FieldError::invalid(
                    &at,
                    str_at(source, "path"),
                    "must be an absolute path",
                ));
            }
        }
        "iscsi" => iscsi(errors, source, path),
        "csi" => required_text(errors, source, "driver", path),
        "image" => one_of(
            errors,
            source,
            "pullPolicy",
            path,
            &["Always", "Never", "IfNotPresent"],
        ),
        "ephemeral" if !given(source, "volumeClaimTemplate") => {
            errors.push(FieldError::required(&path.child("volumeClaimTemplate"), ""));
        }
        "ephemeral" => {
            let at = path.child("volumeClaimTemplate").child("spec");
            super::storage::claim_spec(errors, &source["volumeClaimTemplate"]["spec"], &at);
        }
        _ => {}
    }
}

fn iscsi(errors: &mut Errors, source: &Value, path: &FieldPath) {
    required_text(errors, source, "targetPortal", path);
    required_text(errors, source, "iqn", path);
    let name = str_at(source, "iqn");
    if !name.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| name.starts_with(p)) {
        let detail = "must be valid format starting with iqn, eui, or naa";
        errors.push(FieldError::invalid(&path.child("iqn"), name, detail));
    }
    if let Some(lun) = source["lun"]
        .as_i64()
        .filter(|lun| !(0..=255).contains(lun))
    {
        let detail = "must be between 0 and 255, inclusive";
        errors.push(FieldError::invalid(&path.child("lun"), lun, detail));
    }
    let authenticated = ["chapAuthDiscovery", "chapAuthSession"];
    if authenticated.iter().any(|key| source[*key] == true) && !given(source, "secretRef") {
        errors.push(FieldError::required(&path.child("secretRef"), ""));
    }
}

fn required_text(errors: &mut Errors, source: &Value, key: &str, path: &FieldPath) {
    if str_at(source, key).is_empty() {
        errors.push(FieldError::required(&path.child(key), ""));
    }
}

/// A `hostPath` source, of a pod or of a PersistentVolume.
pub(super) fn host_path(errors: &mut Errors, source: &Value, path: &FieldPath) {
    let at = path.child("path");
    let text = str_at(source, "path");
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    no_parent(errors, &at, text);
    one_of(errors, source, "type", path, HOST_PATH_TYPES);
}

fn file_mode(errors: &mut Errors, source: &Value, key: &str, path: &FieldPath) {
    if let Some(mode) = source[key].as_i64()
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(&path.child(key), mode, detail));
    }
}

/// Items that map keys of an object to files.
fn items(errors: &mut Errors, source: &Value, path: &FieldPath) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let at = path.child("items").index(index);
        check_required(
            errors,
            &at.child("key"),
            str_at(item, "key"),
            config_map_key_errors,
        );
        file_path(errors, item, &at);
        file_mode(errors, item, "mode", &at);
    }
}

fn file_path(errors: &mut Errors, item: &Value, path: &FieldPath) {
    let text = str_at(item, "path");
    let at = path.child("path");
    if text.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        local_path(errors, &at, text);
    }
}

fn downward_items(errors: &mut Errors, source: &Value, path: &FieldPath) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let at = path.child("items").index(index);
        file_path(errors, item, &at);
        file_mode(errors, item, "mode", &at);
        match (given(item, "fieldRef"), given(item, "resourceFieldRef")) {
            (true, true) => errors.push(FieldError::invalid(
                &at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            )),
            (false, false) => errors.push(FieldError::required(
                &at,
                "one of fieldRef and resourceFieldRef is required",
            )),
            (true, false) => super::containers::field_ref(
                errors,
                &item["fieldRef"],
                &at.child("fieldRef"),
                super::containers::VOLUME_FIELDS,
            ),
            (false, true) => {}
        }
    }
}

fn projected(errors: &mut Errors, source: &Value, path: &FieldPath) {
    file_mode(errors, source, "defaultMode", path);
    let mut paths = BTreeSet::new();
    for (index, part) in list(source, "sources").iter().enumerate() {
        let at = path.child("sources").index(index);
        let kinds = part.as_object().into_iter().flatten();
        for (position, (kind, part)) in kinds.filter(|(_, v)| !v.is_null()).enumerate() {
            let at = at.child(kind);
            if position > 0 {
                errors.push(FieldError::forbidden(
                    &at,
                    "may not specify more than 1 volume type per source",
                ));
                continue;
            }
            projected_part(errors, kind, part, &at);
            for file in files_of(kind, part) {
                if !file.is_empty() && !paths.insert(file) {
                    let detail = format!("conflicting duplicate paths: {file}");
                    errors.push(FieldError::invalid(path, file, detail));
                }
            }
        }
    }
}

fn projected_part(errors: &mut Errors, kind: &str, part: &Value, path: &FieldPath) {
    match kind {
        "secret" | "configMap" => {
            required_text(errors, part, "name", path);
            items(errors, part, path);
        }
        "downwardAPI" => downward_items(errors, part, path),
        "serviceAccountToken" => {
            if let Some(seconds) = part["expirationSeconds"].as_i64() {
                let at = path.child("expirationSeconds");
                if seconds < TOKEN_MIN {
                    let detail = "may not specify a duration less than 10 minutes";
                    errors.push(FieldError::invalid(&at, seconds, detail));
                } else if seconds > TOKEN_MAX {
                    let detail = "may not specify a duration larger than 2^32 seconds";
                    errors.push(FieldError::invalid(&at, seconds, detail));
                }
            }
            file_path(errors, part, path);
        }
        "clusterTrustBundle" => file_path(errors, part, path),
        _ => {}
    }
}

fn files_of<'a>(kind: &str, part: &'a Value) -> Vec<&'a str> {
    match kind {
        "serviceAccountToken" | "clusterTrustBundle" => vec![str_at(part, "path")],
        _ => list(part, "items")
            .iter()
            .map(|i| str_at(i, "path"))
            .collect(),
    }
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(super) fn mounts(
    errors: &mut Errors,
    container: &Value,
    path: &FieldPath,
    known: &Volumes<'_>,
) {
    let at = path.child("volumeMounts");
    let mut places = BTreeSet::new();
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = at.index(index);
        let name = str_at(mount, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        if !known.contains_key(name) {
            errors.push(not_found(&at.child("name"), name));
        }
        let place = str_at(mount, "mountPath");
        if place.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        }
        if !places.insert(place) {
            let detail = "must be unique";
            errors.push(FieldError::invalid(&at.child("mountPath"), place, detail));
        }
        for key in ["subPath", "subPathExpr"] {
            let sub = str_at(mount, key);
            if !sub.is_empty() {
                local_path(errors, &at.child(key), sub);
            }
        }
        if !str_at(mount, "subPath").is_empty() && !str_at(mount, "subPathExpr").is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(
                &at.child("subPathExpr"),
                str_at(mount, "subPathExpr"),
                detail,
            ));
        }
        one_of(
            errors,
            mount,
            "mountPropagation",
            &at,
            &["Bidirectional", "HostToContainer", "None"],
        );
        if mount["mountPropagation"] == "Bidirectional"
            && container["securityContext"]["privileged"] != true
        {
            let detail =
                "Bidirectional mount propagation is available only to privileged containers";
            errors.push(FieldError::forbidden(&at.child("mountPropagation"), detail));
        }
    }
    let at = path.child("volumeDevices");
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let at = at.index(index);
        let name = str_at(device, "name");
        match known.get(name) {
            None => errors.push(not_found(&at.child("name"), name)),
            Some(v) if !given(v, "persistentVolumeClaim") && !given(v, "ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(&at.child("name"), name, detail));
            }
            Some(_) => {}
        }
        let place = str_at(device, "devicePath");
        if !places.insert(place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(&at.child("devicePath"), place, detail));
        }
    }
}

/// A reference to something that the pod does not have.
pub(super) fn not_found(path: &FieldPath, value: &str) -> FieldError {
    FieldError {
        kind: coracle_machinery::FieldErrorKind::NotFound,
        path: path.clone(),
        value: Some(value.into()),
        detail: String::new(),
    }
}

/// References to pull secrets and such: names of objects.
pub(super) fn object_names(errors: &mut Errors, value: &Value, key: &str, path: &FieldPath) {
    for (index, item) in list(value, key).iter().enumerate() {
        let name = str_at(item, "name");
        if !name.is_empty() {
            let at = path.child(key).index(index).child("name");
            check(errors, &at, name, dns1123_subdomain_errors);
        }
    }
}
