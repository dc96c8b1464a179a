//! The columns of volumes, claims and storage classes.

use std::sync::Arc;

use coracle_machinery::object::{self, is_terminating};
use serde_json::Value;

use super::{
    KindName, UNSET, age, count, flag_or_unset, joined, name, table, text, text_or, texts,
};
use crate::kind::TableConvertor;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    Some(match kind {
        ("", "PersistentVolume") => volumes(),
        ("", "PersistentVolumeClaim") => claims(),
        ("storage.k8s.io", "StorageClass") => classes(),
        ("storage.k8s.io", "CSIDriver") => drivers(),
        ("storage.k8s.io", "CSINode") => table(
            &[
                ("Name", "string", 0),
                ("Drivers", "integer", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), count(o, "/spec/drivers").into(), age(o, now)],
        ),
        ("storage.k8s.io", "CSIStorageCapacity") => table(
            &[
                ("Name", "string", 0),
                ("StorageClassName", "string", 0),
                ("Capacity", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    text(o, "/storageClassName"),
                    quantity(&o["capacity"]),
                    age(o, now),
                ]
            },
        ),
        ("storage.k8s.io", "VolumeAttachment") => table(
            &[
                ("Name", "string", 0),
                ("Attacher", "string", 0),
                ("PV", "string", 0),
                ("Node", "string", 0),
                ("Attached", "boolean", 0),
                ("Age", "string", 0),
            ],
            |o, now| {
                vec![
                    name(o),
                    text(o, "/spec/attacher"),
                    text(o, "/spec/source/persistentVolumeName"),
                    text(o, "/spec/nodeName"),
                    (o["status"]["attached"] == true).into(),
                    age(o, now),
                ]
            },
        ),
        ("storage.k8s.io", "VolumeAttributesClass") => table(
            &[
                ("Name", "string", 0),
                ("DriverName", "string", 0),
                ("Age", "string", 0),
            ],
            |o, now| vec![name(o), text(o, "/driverName"), age(o, now)],
        ),
        _ => return None,
    })
}

fn quantity(value: &Value) -> Value {
    match value {
        Value::Null => "".into(),
        Value::String(text) => text.as_str().into(),
        other => other.to_string().into(),
    }
}

/// `RWO,ROX`, in upstream's order and without repetition.
fn access_modes(o: &Value, pointer: &str) -> Value {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes: Vec<&str> = texts(o, pointer).collect();
    let found = short.iter().filter(|(long, _)| modes.contains(long));
    found
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
        .into()
}

fn phase(o: &Value) -> Value {
    if is_terminating(o) {
        "Terminating".into()
    } else {
        text(o, "/status/phase")
    }
}

fn class_of(o: &Value) -> Value {
    let old = object::annotation(o, "volume.beta.kubernetes.io/storage-class");
    match old {
        Some(class) => class.into(),
        None => text(o, "/spec/storageClassName"),
    }
}

fn volumes() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("Reclaim Policy", "string", 0),
            ("Status", "string", 0),
            ("Claim", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            ("Reason", "string", 0),
            ("Age", "string", 0),
            ("VolumeMode", "string", 1),
        ],
        |o, now| {
            let claim = &o["spec"]["claimRef"];
            let claim = if claim.is_object() {
                let namespace = object::text(claim, "/namespace");
                format!("{namespace}/{}", object::text(claim, "/name"))
            } else {
                String::new()
            };
            vec![
                name(o),
                quantity(&o["spec"]["capacity"]["storage"]),
                access_modes(o, "/spec/accessModes"),
                text(o, "/spec/persistentVolumeReclaimPolicy"),
                phase(o),
                claim.into(),
                class_of(o),
                text_or(o, "/spec/volumeAttributesClassName", UNSET),
                text(o, "/status/reason"),
                age(o, now),
                text_or(o, "/spec/volumeMode", UNSET),
            ]
        },
    )
}

fn claims() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Volume", "string", 0),
            ("Capacity", "string", 0),
            ("Access Modes", "string", 0),
            ("StorageClass", "string", 0),
            ("VolumeAttributesClass", "string", 0),
            ("Age", "string", 0),
            ("VolumeMode", "string", 1),
        ],
        |o, now| {
            let bound = !object::text(o, "/spec/volumeName").is_empty();
            let (capacity, modes) = if bound {
                (
                    quantity(&o["status"]["capacity"]["storage"]),
                    access_modes(o, "/status/accessModes"),
                )
            } else {
                ("".into(), "".into())
            };
            vec![
                name(o),
                phase(o),
                text(o, "/spec/volumeName"),
                capacity,
                modes,
                class_of(o),
                text_or(o, "/spec/volumeAttributesClassName", UNSET),
                age(o, now),
                text_or(o, "/spec/volumeMode", UNSET),
            ]
        },
    )
}

fn classes() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Provisioner", "string", 0),
            ("ReclaimPolicy", "string", 0),
            ("VolumeBindingMode", "string", 0),
            ("AllowVolumeExpansion", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let default = object::annotation(o, DEFAULT_CLASS) == Some("true");
            let suffix = if default { " (default)" } else { "" };
            vec![
                format!("{}{suffix}", object::name(o)).into(),
                text(o, "/provisioner"),
                text_or(o, "/reclaimPolicy", "Delete"),
                text_or(o, "/volumeBindingMode", "Immediate"),
                (o["allowVolumeExpansion"] == true).into(),
                age(o, now),
            ]
        },
    )
}

fn drivers() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("AttachRequired", "boolean", 0),
            ("PodInfoOnMount", "boolean", 0),
            ("StorageCapacity", "boolean", 0),
            ("TokenRequests", "string", 0),
            ("RequiresRepublish", "boolean", 0),
            ("Modes", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let audiences = object::items(o, "/spec/tokenRequests");
            let audiences: Vec<&str> = audiences
                .iter()
                .map(|t| object::text(t, "/audience"))
                .collect();
            let audiences = if audiences.is_empty() {
                UNSET.to_owned()
            } else {
                audiences.join(",")
            };
            vec![
                name(o),
                (o["spec"]["attachRequired"] != false).into(),
                (o["spec"]["podInfoOnMount"] == true).into(),
                (o["spec"]["storageCapacity"] == true).into(),
                audiences.into(),
                flag_or_unset(o, "/spec/requiresRepublish"),
                joined(texts(o, "/spec/volumeLifecycleModes")),
                age(o, now),
            ]
        },
    )
}
