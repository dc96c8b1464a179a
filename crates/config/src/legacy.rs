//! The keys of 0.15, moved to their places of today.

use serde_json::{Map, Value, json};

use crate::load::Hint;

/// What a value has to be, to be moved.
type Fits = fn(&Value) -> bool;

/// A key of 0.15 whose value goes elsewhere as it is.
struct Move {
    old: &'static str,
    new: &'static [&'static str],
    fits: Fits,
}

const fn switch(old: &'static str, new: &'static [&'static str]) -> Move {
    Move {
        old,
        new,
        fits: Value::is_boolean,
    }
}

const fn text(old: &'static str, new: &'static [&'static str]) -> Move {
    Move {
        old,
        new,
        fits: |value| value.is_string() || value.is_number(),
    }
}

const fn map(old: &'static str, new: &'static [&'static str]) -> Move {
    Move {
        old,
        new,
        fits: Value::is_object,
    }
}

const fn list(old: &'static str, new: &'static [&'static str]) -> Move {
    Move {
        old,
        new,
        fits: Value::is_array,
    }
}

/// In an order in which what is explicit comes before what goes along.
const MOVES: &[Move] = &[
    switch(
        "sync.ingressclasses.enabled",
        &["sync.fromHost.ingressClasses.enabled"],
    ),
    switch(
        "sync.ingresses.enabled",
        &[
            "sync.toHost.ingresses.enabled",
            "sync.fromHost.ingressClasses.enabled",
        ],
    ),
    switch(
        "sync.hoststorageclasses.enabled",
        &["sync.fromHost.storageClasses.enabled"],
    ),
    switch(
        "sync.nodes.enableScheduler",
        &["controlPlane.advanced.virtualScheduler.enabled"],
    ),
    switch("sync.nodes.enabled", &["sync.fromHost.nodes.enabled"]),
    switch(
        "sync.nodes.syncAllNodes",
        &["sync.fromHost.nodes.selector.all"],
    ),
    switch(
        "sync.nodes.syncNodeChanges",
        &["sync.fromHost.nodes.syncBackChanges"],
    ),
    switch("sync.services.enabled", &["sync.toHost.services.enabled"]),
    switch("sync.endpoints.enabled", &["sync.toHost.endpoints.enabled"]),
    switch(
        "sync.configmaps.enabled",
        &["sync.toHost.configMaps.enabled"],
    ),
    switch("sync.configmaps.all", &["sync.toHost.configMaps.all"]),
    switch("sync.secrets.enabled", &["sync.toHost.secrets.enabled"]),
    switch("sync.secrets.all", &["sync.toHost.secrets.all"]),
    switch("sync.pods.enabled", &["sync.toHost.pods.enabled"]),
    switch("sync.events.enabled", &["sync.fromHost.events.enabled"]),
    switch(
        "sync.persistentvolumeclaims.enabled",
        &["sync.toHost.persistentVolumeClaims.enabled"],
    ),
    switch(
        "sync.persistentvolumes.enabled",
        &["sync.toHost.persistentVolumes.enabled"],
    ),
    switch(
        "sync.storageclasses.enabled",
        &["sync.toHost.storageClasses.enabled"],
    ),
    switch(
        "sync.priorityclasses.enabled",
        &["sync.toHost.priorityClasses.enabled"],
    ),
    switch(
        "sync.networkpolicies.enabled",
        &["sync.toHost.networkPolicies.enabled"],
    ),
    switch(
        "sync.poddisruptionbudgets.enabled",
        &["sync.toHost.podDisruptionBudgets.enabled"],
    ),
    switch(
        "sync.serviceaccounts.enabled",
        &["sync.toHost.serviceAccounts.enabled"],
    ),
    switch(
        "sync.csistoragecapacities.enabled",
        &["sync.fromHost.csiStorageCapacities.enabled"],
    ),
    switch("sync.csinodes.enabled", &["sync.fromHost.csiNodes.enabled"]),
    switch(
        "sync.csidrivers.enabled",
        &["sync.fromHost.csiDrivers.enabled"],
    ),
    list(
        "mapServices.fromHost",
        &["networking.replicateServices.fromHost"],
    ),
    list(
        "mapServices.fromVirtual",
        &["networking.replicateServices.toHost"],
    ),
    switch(
        "sync.nodes.fakeKubeletIPs",
        &["networking.advanced.proxyKubelets.byIP"],
    ),
    switch(
        "fallbackHostDns",
        &["networking.advanced.fallbackHostCluster"],
    ),
    switch("coredns.enabled", &["controlPlane.coredns.enabled"]),
    switch("coredns.integrated", &["controlPlane.coredns.embedded"]),
    text("service.type", &["controlPlane.service.spec.type"]),
    list(
        "service.externalIPs",
        &["controlPlane.service.spec.externalIPs"],
    ),
    text(
        "service.externalTrafficPolicy",
        &["controlPlane.service.spec.externalTrafficPolicy"],
    ),
    text(
        "service.loadBalancerIP",
        &["controlPlane.service.spec.loadBalancerIP"],
    ),
    list(
        "service.loadBalancerSourceRanges",
        &["controlPlane.service.spec.loadBalancerSourceRanges"],
    ),
    text(
        "service.loadBalancerClass",
        &["controlPlane.service.spec.loadBalancerClass"],
    ),
    map(
        "service.loadBalancerAnnotations",
        &["controlPlane.service.annotations"],
    ),
    map(
        "syncer.serviceAnnotations",
        &["controlPlane.service.annotations"],
    ),
    map("syncer.labels", &["controlPlane.statefulSet.labels"]),
    map("labels", &["controlPlane.statefulSet.labels"]),
    map(
        "syncer.annotations",
        &["controlPlane.statefulSet.annotations"],
    ),
    map("annotations", &["controlPlane.statefulSet.annotations"]),
    map("podLabels", &["controlPlane.statefulSet.pods.labels"]),
    map(
        "podAnnotations",
        &["controlPlane.statefulSet.pods.annotations"],
    ),
    map(
        "nodeSelector",
        &["controlPlane.statefulSet.scheduling.nodeSelector"],
    ),
    map(
        "affinity",
        &["controlPlane.statefulSet.scheduling.affinity"],
    ),
    list(
        "tolerations",
        &["controlPlane.statefulSet.scheduling.tolerations"],
    ),
    text(
        "priorityClassName",
        &["controlPlane.statefulSet.scheduling.priorityClassName"],
    ),
    text(
        "syncer.imagePullPolicy",
        &["controlPlane.statefulSet.imagePullPolicy"],
    ),
    list("syncer.env", &["controlPlane.statefulSet.env"]),
    map("syncer.resources", &["controlPlane.statefulSet.resources"]),
    text(
        "syncer.kubeConfigContextName",
        &["exportKubeConfig.context"],
    ),
    switch(
        "syncer.storage.persistence",
        &["controlPlane.statefulSet.persistence.volumeClaim.enabled"],
    ),
    switch(
        "storage.persistence",
        &["controlPlane.statefulSet.persistence.volumeClaim.enabled"],
    ),
    text(
        "syncer.storage.size",
        &["controlPlane.statefulSet.persistence.volumeClaim.size"],
    ),
    text(
        "storage.size",
        &["controlPlane.statefulSet.persistence.volumeClaim.size"],
    ),
    text(
        "syncer.storage.className",
        &["controlPlane.statefulSet.persistence.volumeClaim.storageClass"],
    ),
    text(
        "storage.className",
        &["controlPlane.statefulSet.persistence.volumeClaim.storageClass"],
    ),
    switch("ingress.enabled", &["controlPlane.ingress.enabled"]),
    text("ingress.host", &["controlPlane.ingress.host"]),
    text("ingress.pathType", &["controlPlane.ingress.pathType"]),
    text(
        "ingress.ingressClassName",
        &["controlPlane.ingress.spec.ingressClassName"],
    ),
    list("ingress.tls", &["controlPlane.ingress.spec.tls"]),
    map("ingress.annotations", &["controlPlane.ingress.annotations"]),
    map(
        "globalAnnotations",
        &["controlPlane.advanced.globalMetadata.annotations"],
    ),
    map(
        "workloadServiceAccount.annotations",
        &["controlPlane.advanced.workloadServiceAccount.annotations"],
    ),
    list(
        "serviceAccount.imagePullSecrets",
        &["controlPlane.advanced.serviceAccount.imagePullSecrets"],
    ),
];

/// Parts of `isolation`, which hold only where it is enabled.
const ISOLATION: &[Move] = &[
    switch(
        "isolation.resourceQuota.enabled",
        &["policies.resourceQuota.enabled"],
    ),
    switch(
        "isolation.limitRange.enabled",
        &["policies.limitRange.enabled"],
    ),
    switch(
        "isolation.networkPolicy.enabled",
        &["policies.networkPolicy.enabled"],
    ),
    map(
        "isolation.resourceQuota.quota",
        &["policies.resourceQuota.quota"],
    ),
    map(
        "isolation.resourceQuota.scopeSelector",
        &["policies.resourceQuota.scopeSelector"],
    ),
    list(
        "isolation.resourceQuota.scopes",
        &["policies.resourceQuota.scopes"],
    ),
    map(
        "isolation.limitRange.default",
        &["policies.limitRange.default"],
    ),
    map(
        "isolation.limitRange.defaultRequest",
        &["policies.limitRange.defaultRequest"],
    ),
    text(
        "isolation.networkPolicy.outgoingConnections.ipBlock.cidr",
        &["policies.networkPolicy.workload.publicEgress.cidr"],
    ),
    list(
        "isolation.networkPolicy.outgoingConnections.ipBlock.except",
        &["policies.networkPolicy.workload.publicEgress.except"],
    ),
    text(
        "isolation.podSecurityStandard",
        &["policies.podSecurityStandard"],
    ),
    switch(
        "isolation.enabled",
        &[
            "policies.resourceQuota.enabled",
            "policies.limitRange.enabled",
            "policies.networkPolicy.enabled",
        ],
    ),
];

/// Moves every key of 0.15 in `values` to today's place, with one hint for
/// each. Values that do not fit are left where they are, to be reported there.
pub(crate) fn translate(source: &str, values: &mut Value) -> Vec<Hint> {
    let mut moves = Moves {
        source,
        values,
        hints: Vec::new(),
    };
    for one in MOVES {
        moves.apply(one);
    }
    moves.node_selector();
    moves.isolation();
    moves.image();
    moves.claim_policy();
    moves.arguments();
    moves.hints
}

struct Moves<'a> {
    source: &'a str,
    values: &'a mut Value,
    hints: Vec<Hint>,
}

impl Moves<'_> {
    fn apply(&mut self, one: &Move) {
        if let Some(value) = take(self.values, one.old, one.fits) {
            for path in one.new {
                put(self.values, path, value.clone());
            }
            self.hint(one.old, &one.new.join(" and "));
        }
    }

    /// `nodeSelector: "a=b,c=d"` becomes a map.
    fn node_selector(&mut self) {
        let old = "sync.nodes.nodeSelector";
        let is_selector = |value: &Value| value.as_str().is_some_and(|t| labels(t).is_some());
        if let Some(value) = take(self.values, old, is_selector) {
            let new = "sync.fromHost.nodes.selector.labels";
            let labels = value.as_str().and_then(labels).unwrap_or_default();
            put(self.values, new, Value::Object(labels));
            self.hint(old, new);
        }
    }

    fn isolation(&mut self) {
        let enabled = self.values.pointer("/isolation/enabled") == Some(&Value::Bool(true));
        if enabled {
            for one in ISOLATION {
                self.apply(one);
            }
            put(
                self.values,
                "policies.podSecurityStandard",
                "baseline".into(),
            );
        } else if take(self.values, "isolation.enabled", |v| {
            *v == Value::Bool(false)
        })
        .is_some()
        {
            for one in ISOLATION {
                take(self.values, one.old, one.fits);
            }
            self.tell("isolation is switched off, so nothing of it is kept");
        }
    }

    /// `syncer.image` in one text becomes parts.
    fn image(&mut self) {
        let Some(Value::String(text)) = take(self.values, "syncer.image", Value::is_string) else {
            return;
        };
        let new = "controlPlane.statefulSet.image";
        let (registry, rest) = match text.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("", text.as_str()),
        };
        let (repository, tag) = rest.rsplit_once(':').unwrap_or((rest, ""));
        for (key, part) in [
            ("registry", registry),
            ("repository", repository),
            ("tag", tag),
        ] {
            if !part.is_empty() {
                put(self.values, &format!("{new}.{key}"), part.into());
            }
        }
        self.hint("syncer.image", new);
    }

    fn claim_policy(&mut self) {
        let old = "autoDeletePersistentVolumeClaims";
        if let Some(value) = take(self.values, old, Value::is_boolean) {
            let new = "controlPlane.statefulSet.persistence.volumeClaim.retentionPolicy";
            let policy = if value == Value::Bool(true) {
                "Delete"
            } else {
                "Retain"
            };
            put(self.values, new, policy.into());
            self.hint(old, new);
        }
    }

    /// Arguments of the syncer that have a key today. What has none stays, to be
    /// refused.
    fn arguments(&mut self) {
        let arguments = take(self.values, "syncer.extraArgs", |value| {
            value
                .as_array()
                .is_some_and(|all| all.iter().all(Value::is_string))
        });
        let mut left = Vec::new();
        for argument in arguments.iter().filter_map(Value::as_array).flatten() {
            let text = argument.as_str().unwrap_or_default();
            let (flag, value) = text
                .trim_start_matches('-')
                .split_once('=')
                .unwrap_or((text.trim_start_matches('-'), "true"));
            match self.argument(flag, value) {
                Some(new) => self.hint(&format!("syncer.extraArgs --{flag}"), new),
                None => left.push(argument.clone()),
            }
        }
        if !left.is_empty() {
            put(self.values, "syncer.extraArgs", Value::Array(left));
        }
    }

    fn argument(&mut self, flag: &str, value: &str) -> Option<&'static str> {
        let texts = || -> Vec<Value> { value.split(',').map(Value::from).collect() };
        let is_on = || match value {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        };
        let (path, value) = match flag {
            "tls-san" => ("controlPlane.proxy.extraSANs", Value::Array(texts())),
            "enforce-toleration" => ("sync.toHost.pods.enforceTolerations", Value::Array(texts())),
            "translate-image" => (
                "sync.toHost.pods.translateImage",
                Value::Object(labels(value)?),
            ),
            "node-selector" => {
                put(self.values, "sync.fromHost.nodes.enabled", true.into());
                (
                    "sync.fromHost.nodes.selector.labels",
                    Value::Object(labels(value)?),
                )
            }
            "sync-all-nodes" => ("sync.fromHost.nodes.selector.all", is_on()?),
            "enable-scheduler" => ("controlPlane.advanced.virtualScheduler.enabled", is_on()?),
            "cluster-domain" => ("networking.advanced.clusterDomain", value.into()),
            "out-kube-config-server" => ("exportKubeConfig.server", value.into()),
            "kube-config-context-name" => ("exportKubeConfig.context", value.into()),
            "out-kube-config-secret" => (
                "exportKubeConfig.additionalSecrets",
                json!([{"name": value}]),
            ),
            _ => return None,
        };
        extend(self.values, path, value);
        Some(path)
    }

    fn hint(&mut self, old: &str, new: &str) {
        self.tell(&format!("{old} is a key of 0.15; today it is {new}"));
    }

    fn tell(&mut self, message: &str) {
        self.hints.push(Hint {
            source: self.source.to_owned(),
            message: message.to_owned(),
        });
    }
}

/// Reads `a=b,c=d`; `None` if a part has no `=`.
fn labels(text: &str) -> Option<Map<String, Value>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=')?;
            Some((key.to_owned(), Value::from(value)))
        })
        .collect()
}

/// Removes the value at a dotted path if it fits, and the maps that are empty
/// afterwards.
fn take(values: &mut Value, path: &str, fits: impl Fn(&Value) -> bool) -> Option<Value> {
    let map = values.as_object_mut()?;
    match path.split_once('.') {
        None => {
            if fits(map.get(path)?) {
                map.remove(path)
            } else {
                None
            }
        }
        Some((head, rest)) => {
            let inner = map.get_mut(head)?;
            let taken = take(inner, rest, fits)?;
            if inner.as_object().is_some_and(Map::is_empty) {
                map.remove(head);
            }
            Some(taken)
        }
    }
}

/// Sets the value at a dotted path unless today's key is given as well; maps
/// are added to.
fn put(values: &mut Value, path: &str, value: Value) {
    let Some(map) = values.as_object_mut() else {
        return;
    };
    match path.split_once('.') {
        None => match (map.get_mut(path), value) {
            (Some(Value::Object(present)), Value::Object(added)) => {
                for (key, value) in added {
                    present.entry(key).or_insert(value);
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                map.insert(path.to_owned(), value);
            }
        },
        Some((head, rest)) => {
            let inner = map.entry(head).or_insert_with(|| Value::Object(Map::new()));
            put(inner, rest, value);
        }
    }
}

/// As `put`; items are added to a list.
fn extend(values: &mut Value, path: &str, value: Value) {
    let pointer = format!("/{}", path.replace('.', "/"));
    if let (Some(Value::Array(present)), Value::Array(added)) =
        (values.pointer_mut(&pointer), &value)
    {
        present.extend(added.iter().cloned());
    } else {
        put(values, path, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{refused, shape};

    #[test]
    fn every_key_of_the_past_has_its_place_today() {
        let mut values = json!({
            "mapServices": {
                "fromHost": [{"from": "default/hostsvc", "to": "default/virtualsvc"}],
                "fromVirtual": [{"from": "default/a", "to": "b"}],
            },
            "sync": {"nodes": {"syncAllNodes": true, "syncNodeChanges": true, "nodeSelector": "env=dev"}},
            "fallbackHostDns": true,
        });
        let hints = translate("v", &mut values);
        assert_eq!(hints.len(), 6);
        assert_eq!(
            values,
            json!({
                "networking": {
                    "replicateServices": {
                        "fromHost": [{"from": "default/hostsvc", "to": "default/virtualsvc"}],
                        "toHost": [{"from": "default/a", "to": "b"}],
                    },
                    "advanced": {"fallbackHostCluster": true},
                },
                "sync": {"fromHost": {"nodes": {
                    "selector": {"all": true, "labels": {"env": "dev"}},
                    "syncBackChanges": true,
                }}},
            })
        );
    }

    #[test]
    fn every_place_is_known_or_refused_with_a_reason() {
        let defaults = shape::defaults();
        for path in MOVES.iter().chain(ISOLATION).flat_map(|one| one.new) {
            let free = path.contains(".spec.");
            let known = defaults.pointer(&format!("/{}", path.replace('.', "/")));
            assert!(
                free || known.is_some() || refused::find(path).is_some(),
                "{path}"
            );
        }
    }

    #[test]
    fn arguments_images_and_parts_of_isolation_find_their_keys() {
        let mut values = json!({
            "syncer": {
                "image": "localhost:5000/team/coracle:1",
                "extraArgs": ["--tls-san=a.b,c.d", "--tls-san=e.f", "--node-selector=env=dev", "--nope=1"],
                "storage": {"size": "1Gi", "persistence": true},
            },
            "isolation": {"enabled": true, "limitRange": {"enabled": false},
                "resourceQuota": {"quota": {"count/pods": 3}},
                "networkPolicy": {"outgoingConnections": {"ipBlock": {"cidr": "1.0.0.0/8"}}}},
        });
        translate("v", &mut values);
        assert_eq!(
            values,
            json!({
                "controlPlane": {
                    "proxy": {"extraSANs": ["a.b", "c.d", "e.f"]},
                    "statefulSet": {
                        "image": {"registry": "localhost:5000", "repository": "team/coracle", "tag": "1"},
                        "persistence": {"volumeClaim": {"size": "1Gi", "enabled": true}},
                    },
                },
                "sync": {"fromHost": {"nodes": {"enabled": true, "selector": {"labels": {"env": "dev"}}}}},
                "policies": {
                    "limitRange": {"enabled": false},
                    "resourceQuota": {"enabled": true, "quota": {"count/pods": 3}},
                    "networkPolicy": {"enabled": true, "workload": {"publicEgress": {"cidr": "1.0.0.0/8"}}},
                    "podSecurityStandard": "baseline",
                },
                "syncer": {"extraArgs": ["--nope=1"]},
            })
        );
    }

    #[test]
    fn isolation_that_is_off_leaves_nothing() {
        let mut values = json!({"isolation": {"enabled": false, "limitRange": {"enabled": true}}});
        assert_eq!(translate("v", &mut values).len(), 1);
        assert_eq!(values, json!({}));
    }

    #[test]
    fn what_does_not_fit_stays_to_be_reported() {
        let mut values = json!({"sync": {"nodes": {"nodeSelector": "env", "enabled": "yes"}}});
        let before = values.clone();
        assert!(translate("v", &mut values).is_empty());
        assert_eq!(values, before);
    }
}
