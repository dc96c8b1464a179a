//! Volumes of the tenant's on the host.
//!
//! A host volume is there only while it is reserved for one claim of the same
//! virtual cluster, so that no other claim of the host can get it; which claim
//! that is, is decided inside. Whose the data behind is, nothing tells, so the
//! host always retains it.

use std::sync::Arc;

use coracle_machinery::{LabelSelector, Quantity, object};
use serde_json::{Value, json};

use crate::json::{copy_key, list, set, text};
use crate::metadata::{applied, merge_metadata, same_applied};
use crate::names::{Translator, VirtualName};

/// Types that name storage which nodes reach over a network, by an address or an
/// identity of its own. All others name a path or a program of the node's
/// (hostPath, local, flexVolume, the key files of cephfs and rbd), or cannot do
/// without a secret of the host (azureFile, scaleIO, storageos).
const TYPES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "cinder",
    "csi",
    "fc",
    "gcePersistentDisk",
    "iscsi",
    "nfs",
    "vsphereVolume",
];

/// What all volumes have; the rest of their spec is their type.
const FACTS: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Facts that are carried over, also when they change.
const CARRIED: &[&str] = &[
    "accessModes",
    "capacity",
    "mountOptions",
    "nodeAffinity",
    "storageClassName",
    "volumeMode",
];

/// Mount options that say nothing of the node. Others name files of it
/// (`credentials=`), or make another mount of it (`bind`).
const MOUNT_OPTIONS: &[&str] = &[
    "acdirmax",
    "acdirmin",
    "acregmax",
    "acregmin",
    "actimeo",
    "async",
    "discard",
    "hard",
    "lookupcache",
    "minorversion",
    "mountport",
    "mountproto",
    "mountvers",
    "nconnect",
    "nfsvers",
    "noac",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolock",
    "noresvport",
    "nosuid",
    "port",
    "proto",
    "rdirplus",
    "relatime",
    "resvport",
    "retrans",
    "retry",
    "ro",
    "rsize",
    "rw",
    "sec",
    "soft",
    "softerr",
    "sync",
    "tcp",
    "timeo",
    "udp",
    "vers",
    "wsize",
];

/// Annotations by which volume controllers talk to each other. On the host they
/// could have a provisioner delete what a volume names.
const CONTROLLERS: &[&str] = &[
    "pv.kubernetes.io/",
    "volume.beta.kubernetes.io/",
    "volume.kubernetes.io/",
];

/// What a claim wants of the tenant's volumes.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// This one.
    Volume(Arc<Value>),
    /// One that is not there, or that someone else has.
    Missing,
    /// None: the host may provide one.
    Open,
}

impl Translator {
    /// True if volumes of the tenant's flow to the host.
    pub fn volumes_flow(&self) -> bool {
        self.config.sync.to_host.persistent_volumes.enabled
    }

    /// Why a volume cannot go to the host, in words for its user.
    pub fn volume_obstacle(&self, volume: &Value) -> Option<String> {
        let entries = volume["spec"].as_object().into_iter().flatten();
        let mut types =
            entries.filter(|(key, value)| !FACTS.contains(&key.as_str()) && !value.is_null());
        let why = match (types.next(), types.next()) {
            (Some((kind, source)), None) if TYPES.contains(&kind.as_str()) => {
                names_secret(source).map(|key| {
                    format!("{kind}: {key:?} names a secret, and those of the host are not a virtual cluster's to choose")
                })
            }
            (Some((kind, _)), None) => Some(format!(
                "a volume of type {kind} reaches into the machine of the host's node"
            )),
            _ => Some("it has not just one type".to_owned()),
        };
        let options = list(&volume["spec"], "mountOptions").iter();
        let option = options
            .map(|option| option.as_str().unwrap_or_default())
            .find(|option| {
                let name = option.split('=').next().unwrap_or_default();
                !MOUNT_OPTIONS.contains(&name) || option.contains([',', '/', ' '])
            });
        let why = why.or_else(|| {
            option.map(|option| format!("mount option {option:?} could be about the host's node"))
        });
        why.map(|why| format!("not synced to the host: {why}"))
    }

    /// The claim inside that a volume is reserved for.
    pub fn reserved_for(&self, volume: &Value) -> Option<VirtualName> {
        let claim = VirtualName::new(
            object::text(volume, "/spec/claimRef/namespace"),
            object::text(volume, "/spec/claimRef/name"),
        );
        (!claim.namespace.is_empty() && !claim.name.is_empty()).then_some(claim)
    }

    /// The host volume, reserved for the host claim.
    pub fn volume_to_host(&self, volume: &Value, claim: &VirtualName) -> Value {
        let mut host = self.cluster_shell("v1", "PersistentVolume", volume);
        if let Some(annotations) = host["metadata"]["annotations"].as_object_mut() {
            let kept = |key: &str| !CONTROLLERS.iter().any(|prefix| key.starts_with(prefix));
            annotations.retain(|key, _| kept(key));
        }
        let mut spec = json!({
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": self.host_namespace,
                "name": self.host_name("PersistentVolumeClaim", claim),
            },
        });
        for field in CARRIED.iter().chain(TYPES) {
            copy_key(&volume["spec"], &mut spec, field);
        }
        if let Some(class) = self.storage_class(volume) {
            set(&mut spec, "storageClassName", class);
        }
        host["spec"] = spec;
        applied(host, Value::clone)
    }

    /// The host volume with the changes made inside, or `None`. `again` is true
    /// if a claim that is there now is to have it although the host released it.
    pub fn volume_update(&self, host: &Value, desired: &Value, again: bool) -> Option<Value> {
        let mut updated = host.clone();
        let place = |v: &Value| {
            let claim = &v["spec"]["claimRef"];
            (
                text(claim, "namespace").to_owned(),
                text(claim, "name").to_owned(),
            )
        };
        let released = again && object::text(host, "/status/phase") == "Released";
        if released || place(host) != place(desired) {
            set(
                &mut updated["spec"],
                "claimRef",
                desired["spec"]["claimRef"].clone(),
            );
        }
        if !same_applied(host, desired) {
            merge_metadata(&mut updated, desired);
            for field in CARRIED {
                copy_key(&desired["spec"], &mut updated["spec"], field);
            }
        }
        (updated != *host).then_some(updated)
    }

    /// Has a host claim ask for this volume of the tenant's.
    pub fn ask_for(&self, host_claim: &mut Value, volume: &Value) {
        let spec = &mut host_claim["spec"];
        set(spec, "volumeName", self.class_name(object::name(volume)));
        let class = self.storage_class(volume);
        let plain = || object::text(volume, "/spec/storageClassName").into();
        set(spec, "storageClassName", class.unwrap_or_else(plain));
    }

    /// Which of the tenant's volumes a claim is to have, as Kubernetes chooses:
    /// the one that it names, one reserved for it, or the smallest that fits.
    pub fn wish(&self, claim: &Value, volumes: &[Arc<Value>]) -> Wish {
        let named = object::text(claim, "/spec/volumeName");
        if !named.is_empty() {
            let found = volumes.iter().find(|v| object::name(v) == named);
            return match found {
                Some(volume) if is_free_for(claim, volume) => Wish::Volume(volume.clone()),
                _ => Wish::Missing,
            };
        }
        let usable = |v: &&Arc<Value>| !self.is_imported(v) && self.volume_obstacle(v).is_none();
        let reserved = volumes
            .iter()
            .filter(usable)
            .find(|v| v["spec"]["claimRef"].is_object() && is_free_for(claim, v));
        let fitting = volumes.iter().filter(usable).filter(|v| fits(claim, v));
        let smallest = || fitting.min_by_key(|v| (size(&v["spec"]["capacity"]), object::name(v)));
        let selects = claim["spec"].get("selector").is_some_and(|s| !s.is_null());
        match reserved.or_else(smallest) {
            Some(volume) => Wish::Volume(volume.clone()),
            None if selects => Wish::Missing,
            None => Wish::Open,
        }
    }
}

/// The key of a source that names a secret.
fn names_secret(source: &Value) -> Option<String> {
    let here = |map: &Value| {
        let entries = map.as_object().into_iter().flatten();
        let mut named = entries
            .filter(|(key, value)| !value.is_null() && key.to_lowercase().contains("secret"));
        named.next().map(|(key, _)| key.clone())
    };
    here(source).or_else(|| here(&source["volumeAttributes"]))
}

/// True if nobody else has the volume.
fn is_free_for(claim: &Value, volume: &Value) -> bool {
    let reserved = &volume["spec"]["claimRef"];
    let uid = text(reserved, "uid");
    !reserved.is_object()
        || (text(reserved, "namespace") == object::namespace(claim)
            && text(reserved, "name") == object::name(claim)
            && (uid.is_empty() || uid == object::uid(claim)))
}

fn fits(claim: &Value, volume: &Value) -> bool {
    let (asked, offered) = (&claim["spec"], &volume["spec"]);
    let mode = |spec: &Value| match text(spec, "volumeMode") {
        "" => "Filesystem".to_owned(),
        mode => mode.to_owned(),
    };
    let selector = asked.get("selector").filter(|s| !s.is_null());
    !offered["claimRef"].is_object()
        && !object::is_terminating(volume)
        && text(asked, "storageClassName") == text(offered, "storageClassName")
        && mode(asked) == mode(offered)
        && list(asked, "accessModes")
            .iter()
            .all(|mode| list(offered, "accessModes").contains(mode))
        && size(&offered["capacity"]) >= size(&asked["resources"]["requests"])
        && selector.is_none_or(|selector| {
            LabelSelector::from_value(selector)
                .is_ok_and(|selector| selector.matches_object(volume))
        })
}

fn size(amounts: &Value) -> Quantity {
    Quantity::parse(text(amounts, "storage")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_config::Config;

    fn translator() -> Translator {
        let yaml = "sync: {toHost: {persistentVolumes: {enabled: true}}}";
        let (config, _) = Config::from_yaml(&[("v", yaml)]).unwrap();
        let mut t = Translator::new("vc", "demo", Arc::new(config));
        t.owner = Some(json!({"kind": "Service"}));
        t
    }

    fn volume(name: &str, more: Value) -> Value {
        let mut spec = json!({"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
            "nfs": {"server": "192.0.2.1", "path": "/a"}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": name, "uid": "u", "labels": {"l": name}}, "spec": spec})
    }

    fn claim(more: Value) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "c", "namespace": "n", "uid": "cu"}, "spec": spec})
    }

    #[test]
    fn only_storage_beyond_the_node_goes_to_the_host() {
        let t = translator();
        let of = |kind: &str, source: Value| {
            let mut volume = volume("a", json!({}));
            volume["spec"].as_object_mut().unwrap().remove("nfs");
            volume["spec"][kind] = source;
            t.volume_obstacle(&volume)
        };
        let csi = |more: Value| {
            let mut source = json!({"driver": "d", "volumeHandle": "h"});
            source
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            of("csi", source)
        };
        assert_eq!(
            csi(json!({"fsType": "ext4", "volumeAttributes": {"a": "b"}})),
            None
        );
        for kind in TYPES {
            assert_eq!(of(kind, json!({})), None, "{kind}");
        }
        for kind in [
            "hostPath",
            "local",
            "flexVolume",
            "cephfs",
            "rbd",
            "azureFile",
            "new",
        ] {
            assert!(of(kind, json!({})).unwrap().contains(kind), "{kind}");
        }
        let secret = json!({"name": "s", "namespace": "kube-system"});
        for key in [
            "controllerPublishSecretRef",
            "nodeStageSecretRef",
            "nodePublishSecretRef",
            "nodeExpandSecretRef",
            "controllerExpandSecretRef",
        ] {
            let why = csi(json!({key: secret})).unwrap();
            assert!(why.contains(key), "{why}");
        }
        assert!(
            csi(json!({"volumeAttributes": {"csi.storage.k8s.io/node-stage-secret-name": "s"}}))
                .is_some()
        );
        assert!(of("iscsi", json!({"secretRef": secret})).is_some());
        assert!(of("cinder", json!({"secretRef": secret})).is_some());
        let two = volume("a", json!({"hostPath": {"path": "/"}}));
        assert!(t.volume_obstacle(&two).is_some());
        for (option, fine) in [
            ("vers=4.1", true),
            ("ro", true),
            ("credentials=/etc/shadow", false),
            ("bind", false),
            ("ro,bind", false),
            ("dev", false),
        ] {
            let volume = volume("a", json!({"mountOptions": [option]}));
            assert_eq!(t.volume_obstacle(&volume).is_none(), fine, "{option}");
        }
    }

    #[test]
    fn the_host_volume_is_the_claims_and_its_data_stay() {
        let t = translator();
        let mut inside = volume(
            "disk",
            json!({
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
            "claimRef": {"namespace": "n", "name": "c", "uid": "cu"}}),
        );
        inside["metadata"]["annotations"] = json!({"a": "b",
            "pv.kubernetes.io/provisioned-by": "d",
            "volume.kubernetes.io/provisioner-deletion-secret-name": "s"});
        let reserved = t.reserved_for(&inside).unwrap();
        let host = t.volume_to_host(&inside, &reserved);
        assert_eq!(host["metadata"]["name"], "coracle-disk-x-demo-x-vc");
        let annotations = host["metadata"]["annotations"].as_object().unwrap();
        assert_eq!(annotations["a"], "b");
        assert!(
            !annotations.keys().any(|k| k.contains("kubernetes.io")),
            "{annotations:?}"
        );
        for field in ["namespace", "ownerReferences"] {
            assert!(host["metadata"].get(field).is_none(), "{field}");
        }
        let spec = &host["spec"];
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(spec["nfs"]["path"], "/a");
        assert_eq!(
            spec["claimRef"],
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": "demo", "name": "c-x-n-x-vc"})
        );
        assert_eq!(
            t.our_class("PersistentVolume", &host),
            Some(VirtualName::new("", "disk"))
        );

        // The host's binder fills in which claim it is; that stays.
        let mut bound = host.clone();
        bound["spec"]["claimRef"]["uid"] = "hu".into();
        bound["status"] = json!({"phase": "Bound"});
        assert_eq!(t.volume_update(&bound, &host, true), None);
        bound["status"]["phase"] = "Released".into();
        assert_eq!(t.volume_update(&bound, &host, false), None);
        let again = t.volume_update(&bound, &host, true).unwrap();
        assert!(again["spec"]["claimRef"].get("uid").is_none());
        let other = t.volume_to_host(&inside, &VirtualName::new("n", "other"));
        let moved = t.volume_update(&bound, &other, false).unwrap();
        assert_eq!(moved["spec"]["claimRef"]["name"], "other-x-n-x-vc");
    }

    #[test]
    fn claims_get_what_they_name_or_the_smallest_that_fits() {
        let t = translator();
        let mine = json!({"namespace": "n", "name": "c", "uid": "cu"});
        let mut mirror = volume("mirror", json!({"capacity": {"storage": "1Gi"}}));
        mirror["metadata"]["labels"] = json!({"coracle.dev/imported": "host"});
        let all: Vec<Arc<Value>> = [
            volume("big", json!({"capacity": {"storage": "9Gi"}})),
            volume("fits", json!({})),
            volume("small", json!({"capacity": {"storage": "1Mi"}})),
            volume(
                "taken",
                json!({"claimRef": {"namespace": "n", "name": "other"}}),
            ),
            volume(
                "old",
                json!({"claimRef": {"namespace": "n", "name": "c", "uid": "before"}}),
            ),
            volume("class", json!({"storageClassName": "fast"})),
            volume(
                "path",
                json!({"nfs": null, "hostPath": {"path": "/"}, "capacity": {"storage": "1Gi"}}),
            ),
            mirror,
        ]
        .map(Arc::new)
        .into();
        let chosen = |more: Value, all: &[Arc<Value>]| match t.wish(&claim(more), all) {
            Wish::Volume(volume) => object::name(&volume).to_owned(),
            other => format!("{other:?}"),
        };
        for (more, expected) in [
            (json!({}), "fits"),
            (json!({"storageClassName": "fast"}), "class"),
            (json!({"storageClassName": "slow"}), "Open"),
            (json!({"volumeMode": "Block"}), "Open"),
            (json!({"selector": {"matchLabels": {"l": "big"}}}), "big"),
            (
                json!({"selector": {"matchLabels": {"l": "none"}}}),
                "Missing",
            ),
            (json!({"volumeName": "big"}), "big"),
            (json!({"volumeName": "taken"}), "Missing"),
            (json!({"volumeName": "old"}), "Missing"),
            (json!({"volumeName": "gone"}), "Missing"),
        ] {
            assert_eq!(chosen(more.clone(), &all), expected, "{more}");
        }
        let mut more = all;
        more.push(volume("reserved", json!({"claimRef": mine})).into());
        assert_eq!(chosen(json!({}), &more), "reserved");
    }
}
