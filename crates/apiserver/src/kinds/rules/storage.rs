//! The rules of volumes, claims and storage classes.

use std::collections::BTreeSet;

use coracle_machinery::names::{dns1123_subdomain_errors, qualified_name_errors};
use coracle_machinery::{FieldError, FieldErrorKind, FieldPath};
use serde_json::{Value, json};

use super::text::check;
use super::{
    Errors, default_field, given, immutable, list, map_mut, non_negative, one_of, quantities,
    selectors, spec_mut, str_at, volumes,
};
use crate::kind::Strategy;

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
/// Fields of a PersistentVolume that say something else than its source.
const VOLUME_FACTS: &[&str] = &[
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// The rules of PersistentVolumes.
pub(in crate::kinds) struct PersistentVolume;
/// The rules of PersistentVolumeClaims.
pub(in crate::kinds) struct Claim;
/// The rules of StorageClasses.
pub(in crate::kinds) struct StorageClass;
/// The rules of CSIDrivers.
pub(in crate::kinds) struct CsiDriver;
/// The rules of CSINodes.
pub(in crate::kinds) struct CsiNode;
/// The rules of VolumeAttachments.
pub(in crate::kinds) struct VolumeAttachment;

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_field(spec, "volumeMode", "Filesystem");
        if let Some(source) = map_mut(spec, "hostPath") {
            default_field(source, "type", "");
        }
        if let Some(claim) = map_mut(spec, "claimRef") {
            default_field(claim, "kind", "PersistentVolumeClaim");
            default_field(claim, "apiVersion", "v1");
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.insert("status".into(), json!({"phase": "Pending"}));
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        access_modes(&mut errors, spec, &path);
        let at = path.child("capacity");
        match spec["capacity"].as_object() {
            Some(capacity) if !capacity.is_empty() => {
                if !capacity.contains_key("storage") {
                    let value = spec["capacity"].clone();
                    errors.push(FieldError::not_supported(&at, value, &["storage"]));
                }
                for (name, value) in capacity {
                    quantities::parse_non_negative(&mut errors, &at.key(name), value);
                }
            }
            _ => errors.push(FieldError::required(&at, "")),
        }
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(
            &mut errors,
            spec,
            "persistentVolumeReclaimPolicy",
            &path,
            &policies,
        );
        one_of(
            &mut errors,
            spec,
            "volumeMode",
            &path,
            &["Block", "Filesystem"],
        );
        let entries = spec.as_object().into_iter().flatten();
        let sources: Vec<&String> = entries
            .filter(|(key, value)| !VOLUME_FACTS.contains(&key.as_str()) && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        match sources.as_slice() {
            [] => errors.push(FieldError::required(&path, "must specify a volume type")),
            [_] => {}
            [_, more @ ..] => errors.extend(more.iter().map(|key| {
                FieldError::forbidden(&path.child(key), "may not specify more than 1 volume type")
            })),
        }
        if given(spec, "hostPath") {
            volumes::host_path(&mut errors, &spec["hostPath"], &path.child("hostPath"));
        }
        if given(&spec["nodeAffinity"], "required") {
            let at = path.child("nodeAffinity").child("required");
            selectors::node_selector(&mut errors, &spec["nodeAffinity"]["required"], &at);
        } else if given(spec, "local") {
            let at = path.child("nodeAffinity");
            errors.push(FieldError::required(
                &at,
                "Local volume requires node affinity",
            ));
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let source = |spec: &Value| {
            let mut spec = spec.clone();
            if let Some(map) = spec.as_object_mut() {
                map.retain(|key, value| !VOLUME_FACTS.contains(&key.as_str()) && !value.is_null());
            }
            spec
        };
        if source(&object["spec"]) != source(&old["spec"]) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden(
                &path.child("persistentvolumesource"),
                detail,
            ));
        }
        immutable(
            &mut errors,
            &object["spec"],
            &old["spec"],
            "volumeMode",
            &path,
        );
        if given(&old["spec"], "nodeAffinity") {
            immutable(
                &mut errors,
                &object["spec"],
                &old["spec"],
                "nodeAffinity",
                &path,
            );
        }
        errors
    }
}

fn access_modes(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let modes = list(spec, "accessModes");
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(
            &at,
            "at least 1 access mode is required",
        ));
    }
    for mode in modes {
        let text = mode.as_str().unwrap_or_default();
        if !ACCESS_MODES.contains(&text) {
            errors.push(FieldError::not_supported(&at, text, ACCESS_MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(&at, detail));
    }
}

impl Strategy for Claim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            default_field(spec, "volumeMode", "Filesystem");
            // Both forms of a data source are kept equal, as upstream has it.
            if !spec.get("dataSource").is_none_or(Value::is_null) {
                let source = spec["dataSource"].clone();
                default_field(spec, "dataSourceRef", source);
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            map.insert("status".into(), json!({"phase": "Pending"}));
        }
    }

    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        claim_spec(&mut errors, &object["spec"], &FieldPath::new("spec"));
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let path = FieldPath::new("spec");
        // The size may grow, the binder fills in the volume, and the class
        // may be set where it was not.
        let unbound = str_at(&old["spec"], "volumeName").is_empty();
        let fixed = |spec: &Value| {
            let mut spec = spec.clone();
            if let Some(map) = spec.as_object_mut() {
                map.remove("resources");
                map.remove("volumeAttributesClassName");
                if unbound {
                    map.remove("volumeName");
                }
                if !given(&old["spec"], "storageClassName") {
                    map.remove("storageClassName");
                }
                map.retain(|_, value| !value.is_null());
            }
            spec
        };
        let mut errors = Vec::new();
        if fixed(&object["spec"]) != fixed(&old["spec"]) {
            let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.push(FieldError::forbidden(&path, detail));
        }
        let size = |o: &Value| {
            let value = &o["spec"]["resources"]["requests"]["storage"];
            coracle_machinery::quantity::Quantity::from_value(value).ok()
        };
        if let (Some(new), Some(before)) = (size(object), size(old))
            && new < before
        {
            let at = path.child("resources").child("requests").child("storage");
            errors.push(FieldError::forbidden(
                &at,
                "field can not be less than status.capacity",
            ));
        }
        errors
    }
}

/// The spec of a claim, also inside of templates.
pub(super) fn claim_spec(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    access_modes(errors, spec, path);
    selectors::label_selector(errors, &spec["selector"], &path.child("selector"));
    let at = path.child("resources");
    let size = &spec["resources"]["requests"]["storage"];
    let at_size = at.child("requests").key("storage");
    if size.is_null() {
        errors.push(FieldError::required(&at.key("storage"), ""));
    } else if let Some(quantity) = quantities::parse(errors, &at_size, size)
        && (quantity.is_negative() || quantity.is_zero())
    {
        errors.push(FieldError::invalid(
            &at_size,
            size.clone(),
            "must be greater than zero",
        ));
    }
    let class = str_at(spec, "storageClassName");
    if !class.is_empty() {
        check(
            errors,
            &path.child("storageClassName"),
            class,
            dns1123_subdomain_errors,
        );
    }
    one_of(errors, spec, "volumeMode", path, &["Block", "Filesystem"]);
}

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            default_field(map, "reclaimPolicy", "Delete");
            default_field(map, "volumeBindingMode", "Immediate");
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::default();
        if str_at(object, "provisioner").is_empty() {
            errors.push(FieldError::required(&FieldPath::new("provisioner"), ""));
        }
        one_of(
            &mut errors,
            object,
            "reclaimPolicy",
            &path,
            &["Delete", "Retain"],
        );
        let modes = ["Immediate", "WaitForFirstConsumer"];
        one_of(&mut errors, object, "volumeBindingMode", &path, &modes);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if object[key] != old[key] {
                let detail = "updates to ".to_owned() + key + " are forbidden.";
                errors.push(FieldError::forbidden(&FieldPath::new(key), detail));
            }
        }
        immutable(
            &mut errors,
            object,
            old,
            "volumeBindingMode",
            &FieldPath::default(),
        );
        errors
    }
}

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = spec_mut(object) {
            default_field(spec, "attachRequired", true);
            default_field(spec, "podInfoOnMount", false);
            default_field(spec, "storageCapacity", false);
            default_field(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
            default_field(spec, "requiresRepublish", false);
            default_field(spec, "seLinuxMount", false);
            default_field(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }
}

/// Longest name of a driver, and of a node as a driver knows it.
const DRIVER_NAME_MAX: usize = 63;
const NODE_ID_MAX: usize = 192;

fn driver_name(errors: &mut Errors, name: &str, path: &FieldPath) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.push(FieldError {
            kind: FieldErrorKind::TooLong,
            path: path.clone(),
            value: None,
            detail: format!("may not be more than {DRIVER_NAME_MAX} bytes"),
        });
    }
    for detail in dns1123_subdomain_errors(&name.to_lowercase()) {
        errors.push(FieldError::invalid(path, name, detail));
    }
}

impl Strategy for CsiNode {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec").child("drivers");
        let mut seen = BTreeSet::new();
        for (index, driver) in list(&object["spec"], "drivers").iter().enumerate() {
            let at = path.index(index);
            let (name, id) = (str_at(driver, "name"), str_at(driver, "nodeID"));
            driver_name(&mut errors, name, &at.child("name"));
            if id.is_empty() {
                errors.push(FieldError::required(&at.child("nodeID"), ""));
            } else if id.len() > NODE_ID_MAX {
                let detail = format!("must be {NODE_ID_MAX} characters or less");
                errors.push(FieldError::invalid(&at.child("nodeID"), id, detail));
            }
            let allocatable = &driver["allocatable"];
            non_negative(&mut errors, allocatable, "count", &at.child("allocatable"));
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            let mut keys = BTreeSet::new();
            for key in list(driver, "topologyKeys") {
                let key = key.as_str().unwrap_or_default();
                if key.is_empty() {
                    errors.push(FieldError::required(&at, ""));
                }
                if !keys.insert(key) {
                    errors.push(FieldError::duplicate(&at, key));
                }
                check(&mut errors, &at, key, qualified_name_errors);
            }
        }
        errors
    }
}

impl Strategy for VolumeAttachment {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        driver_name(
            &mut errors,
            str_at(spec, "attacher"),
            &path.child("attacher"),
        );
        let (at, source) = (path.child("source"), &spec["source"]);
        let volume = at.child("persistentVolumeName");
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (
            given(source, "inlineVolumeSpec"),
            source["persistentVolumeName"].as_str(),
        ) {
            (false, None) => errors.push(FieldError::required(&at, detail)),
            (true, Some(_)) => errors.push(FieldError::forbidden(&at, detail)),
            (false, Some("")) => errors.push(FieldError::required(
                &volume,
                "must specify non empty persistentVolumeName",
            )),
            (false, Some(name)) => check(&mut errors, &volume, name, dns1123_subdomain_errors),
            (true, None) => {}
        }
        let node = str_at(spec, "nodeName");
        check(
            &mut errors,
            &path.child("nodeName"),
            node,
            dns1123_subdomain_errors,
        );
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        immutable(&mut errors, object, old, "spec", &FieldPath::default());
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &Errors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nodes_of_drivers() {
        let driver = json!({"name": "csi.example.com", "nodeID": "n", "topologyKeys": ["a.b/zone"], "allocatable": {"count": 0}});
        let node = |drivers: Value| json!({"spec": {"drivers": drivers}});
        assert_eq!(CsiNode.validate(&node(json!([driver]))), []);
        let twice = CsiNode.validate(&node(json!([driver, driver])));
        let expected = ["spec.drivers[1].name: Duplicate value: \"csi.example.com\""];
        assert_eq!(texts(&twice), expected);
    }

    #[test]
    fn attachments() {
        let attachment = |spec: Value| texts(&VolumeAttachment.validate(&json!({"spec": spec})));
        let valid = json!({"attacher": "Csi.example.com", "nodeName": "n", "source": {"persistentVolumeName": "pv"}});
        assert!(attachment(valid).is_empty());
        let found = attachment(json!({}));
        assert_eq!(found[0], "spec.attacher: Required value");
        assert_eq!(
            found[1],
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        );
        assert!(found[2].starts_with("spec.nodeName: Invalid value: \"\": "));
    }
}
