//! Keys of today's `vcluster.yaml` and of 0.15 that this version does not carry
//! out, each with the reason. Switched off, empty, or as it is here anyway, such
//! a key is accepted: nothing else happens than what it asks for.

use serde_json::Value;

use crate::model::Toggle;
use crate::shape::join;

/// A key that is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its dotted path; what lies below it is not carried out either.
    pub path: &'static str,
    /// Why, in a few words.
    pub reason: &'static str,
    /// The value, as JSON, that it has here anyway; empty if there is none.
    pub as_is: &'static str,
}

const fn refused(path: &'static str, reason: &'static str) -> Refused {
    given(path, "", reason)
}

const fn given(path: &'static str, as_is: &'static str, reason: &'static str) -> Refused {
    Refused {
        path,
        reason,
        as_is,
    }
}

const ONE_IMAGE: &str = "the control plane is one program in coracle's own image";
const EMBEDDED_STORE: &str = "the data lies in a database inside the control plane's pod";
const EMBEDDED_DNS: &str = "DNS is part of the control plane and has no pods of its own";
const ONE_POD: &str = "the control plane is one pod, whose shape is fixed";
const OWN_RULES: &str = "roles are made of what is switched on, and hold no more than that";
const HOST_NODES: &str = "pods run on the host's nodes; there are no nodes of its own";
const NOT_YET: &str = "not there yet";
const NO_SERVICE: &str = "coracle is one program; it talks to no other service";

/// All of them, sorted by path.
pub const REFUSED: &[Refused] = &[
    refused("api", ONE_IMAGE),
    refused(
        "centralAdmission",
        "webhooks are set up inside the virtual cluster",
    ),
    refused("controlPlane.advanced.cloudControllerManager", HOST_NODES),
    refused(
        "controlPlane.advanced.defaultImageRegistry",
        "controlPlane.statefulSet.image names the one image there is",
    ),
    refused("controlPlane.advanced.konnectivity", HOST_NODES),
    refused("controlPlane.advanced.kubeVip", HOST_NODES),
    refused("controlPlane.advanced.podDisruptionBudget", ONE_POD),
    refused("controlPlane.advanced.registry", NOT_YET),
    given(
        "controlPlane.advanced.serviceAccount.enabled",
        "true",
        "the syncer's account is always made",
    ),
    refused(
        "controlPlane.advanced.serviceAccount.name",
        "the syncer's account is vc-NAME",
    ),
    given(
        "controlPlane.advanced.workloadServiceAccount.enabled",
        "true",
        "the account of workloads is always made",
    ),
    refused(
        "controlPlane.backingStore.database.embedded.extraArgs",
        EMBEDDED_STORE,
    ),
    given(
        "controlPlane.backingStore.database.embedded.enabled",
        "true",
        EMBEDDED_STORE,
    ),
    refused(
        "controlPlane.backingStore.database.external",
        EMBEDDED_STORE,
    ),
    refused("controlPlane.backingStore.etcd", EMBEDDED_STORE),
    refused("controlPlane.coredns.deployment", EMBEDDED_DNS),
    given("controlPlane.coredns.embedded", "true", EMBEDDED_DNS),
    refused("controlPlane.coredns.overwriteConfig", EMBEDDED_DNS),
    refused("controlPlane.coredns.overwriteManifests", EMBEDDED_DNS),
    refused("controlPlane.coredns.priorityClassName", EMBEDDED_DNS),
    refused("controlPlane.coredns.security", EMBEDDED_DNS),
    refused(
        "controlPlane.coredns.service",
        "the service of DNS is kube-system/kube-dns inside",
    ),
    refused("controlPlane.distro.eks", ONE_IMAGE),
    refused("controlPlane.distro.k0s", ONE_IMAGE),
    refused("controlPlane.distro.k3s", ONE_IMAGE),
    refused("controlPlane.distro.k8s.apiServer", ONE_IMAGE),
    refused("controlPlane.distro.k8s.controllerManager", ONE_IMAGE),
    refused("controlPlane.distro.k8s.env", ONE_IMAGE),
    refused("controlPlane.distro.k8s.image", ONE_IMAGE),
    refused("controlPlane.distro.k8s.imagePullPolicy", ONE_IMAGE),
    refused("controlPlane.distro.k8s.resources", ONE_IMAGE),
    refused(
        "controlPlane.distro.k8s.scheduler",
        "controlPlane.advanced.virtualScheduler switches it on",
    ),
    refused("controlPlane.distro.k8s.securityContext", ONE_IMAGE),
    refused("controlPlane.endpoint", NOT_YET),
    refused("controlPlane.gateway", NOT_YET),
    refused(
        "controlPlane.hostPathMapper",
        "pods with host paths see the host's own",
    ),
    given(
        "controlPlane.proxy.bindAddress",
        "\"0.0.0.0\"",
        "the API server listens on all addresses of its pod",
    ),
    given(
        "controlPlane.proxy.port",
        "8443",
        "the API server's port in its pod is 8443",
    ),
    given(
        "controlPlane.service.enabled",
        "true",
        "the Service owns all that a virtual cluster has on the host",
    ),
    refused(
        "controlPlane.service.kubeletNodePort",
        "kubelets are reached through the API server",
    ),
    refused("controlPlane.serviceMonitor", NOT_YET),
    refused("controlPlane.standalone", HOST_NODES),
    refused("controlPlane.statefulSet.args", ONE_IMAGE),
    refused("controlPlane.statefulSet.command", ONE_IMAGE),
    given(
        "controlPlane.statefulSet.enableServiceLinks",
        "true",
        ONE_POD,
    ),
    refused(
        "controlPlane.statefulSet.highAvailability.leaseDuration",
        ONE_POD,
    ),
    refused(
        "controlPlane.statefulSet.highAvailability.renewDeadline",
        ONE_POD,
    ),
    given(
        "controlPlane.statefulSet.highAvailability.replicas",
        "1",
        "the embedded database serves one pod",
    ),
    refused(
        "controlPlane.statefulSet.highAvailability.retryPeriod",
        ONE_POD,
    ),
    refused("controlPlane.statefulSet.hostAliases", NOT_YET),
    refused("controlPlane.statefulSet.initContainers", ONE_POD),
    refused(
        "controlPlane.statefulSet.persistence.addVolumeMounts",
        ONE_POD,
    ),
    refused("controlPlane.statefulSet.persistence.addVolumes", ONE_POD),
    refused(
        "controlPlane.statefulSet.persistence.binariesVolume",
        ONE_IMAGE,
    ),
    refused("controlPlane.statefulSet.persistence.dataVolume", ONE_POD),
    refused(
        "controlPlane.statefulSet.persistence.volumeClaimTemplates",
        ONE_POD,
    ),
    refused("controlPlane.statefulSet.probes", ONE_POD),
    given(
        "controlPlane.statefulSet.scheduling.podManagementPolicy",
        "\"Parallel\"",
        ONE_POD,
    ),
    refused(
        "controlPlane.statefulSet.scheduling.topologySpreadConstraints",
        ONE_POD,
    ),
    refused(
        "controlPlane.statefulSet.security",
        "both containers run without any privilege, as user 65532",
    ),
    refused("controlPlane.statefulSet.sidecarContainers", ONE_POD),
    refused("controlPlane.statefulSet.workingDir", ONE_IMAGE),
    refused("controlPlane.tlsRoute", NOT_YET),
    refused("controller", ONE_IMAGE),
    refused("coredns", EMBEDDED_DNS),
    refused(
        "defaultImageRegistry",
        "controlPlane.statefulSet.image names the one image there is",
    ),
    refused(
        "deploy",
        "what runs inside is installed with kubectl or helm once it is there",
    ),
    refused("embeddedEtcd", EMBEDDED_STORE),
    refused("etcd", EMBEDDED_STORE),
    refused("experimental", NOT_YET),
    refused(
        "exportKubeConfig.secret",
        "exportKubeConfig.additionalSecrets names further secrets",
    ),
    refused("external", NO_SERVICE),
    refused("headless", NOT_YET),
    refused(
        "init",
        "what runs inside is installed with kubectl or helm once it is there",
    ),
    refused("integrations", NOT_YET),
    refused(
        "isolation.namespace",
        "all host objects of a virtual cluster lie in its one host namespace",
    ),
    refused(
        "isolation.nodeProxyPermission",
        "nothing of a virtual cluster may reach a host's kubelet",
    ),
    refused("logging", NOT_YET),
    refused("monitoring", NOT_YET),
    refused(
        "multiNamespaceMode",
        "all host objects of a virtual cluster lie in its one host namespace",
    ),
    given("networking.podCIDR", "\"10.244.0.0/16\"", HOST_NODES),
    refused("networking.resolveDNS", NOT_YET),
    refused("noopSyncer", NOT_YET),
    refused("openshift", NOT_YET),
    refused("platform", NO_SERVICE),
    refused("plugin", NOT_YET),
    refused("plugins", NOT_YET),
    refused(
        "podSecurityContext",
        "both containers run without any privilege, as user 65532",
    ),
    refused(
        "policies.centralAdmission",
        "webhooks are set up inside the virtual cluster",
    ),
    given(
        "policies.networkPolicy.fallbackDns",
        "\"8.8.8.8\"",
        "names unknown inside are asked of the resolvers of the control plane's node",
    ),
    refused("privateNodes", HOST_NODES),
    refused(
        "pro",
        "there is no such thing: every feature is in the one program",
    ),
    refused(
        "proLicenseSecret",
        "there is no such thing: every feature is in the one program",
    ),
    refused("proxy", NOT_YET),
    refused("rbac.clusterRole.create", OWN_RULES),
    refused("rbac.clusterRole.enabled", OWN_RULES),
    refused("rbac.clusterRole.extraRules", OWN_RULES),
    refused("rbac.clusterRole.overwriteRules", OWN_RULES),
    given("rbac.role.create", "true", OWN_RULES),
    given("rbac.role.enabled", "true", OWN_RULES),
    refused("rbac.role.excludedApiResources", OWN_RULES),
    refused("rbac.role.extraRules", OWN_RULES),
    refused("rbac.role.overwriteRules", OWN_RULES),
    given("replicas", "1", "the embedded database serves one pod"),
    refused(
        "scheduler",
        "controlPlane.advanced.virtualScheduler switches it on",
    ),
    refused(
        "securityContext",
        "both containers run without any privilege, as user 65532",
    ),
    given(
        "serviceAccount.create",
        "true",
        "the syncer's account is always made",
    ),
    refused("serviceAccount.name", "the syncer's account is vc-NAME"),
    refused("serviceCIDR", "services have addresses of the host"),
    refused("sleep", NOT_YET),
    refused("sleepMode", NOT_YET),
    refused("snapshots", NOT_YET),
    refused("standalone", HOST_NODES),
    refused(
        "sync.fake-nodes",
        "nodes are made up unless sync.fromHost.nodes is on",
    ),
    refused("sync.fromHost.csiDrivers", NOT_YET),
    refused("sync.fromHost.csiNodes", NOT_YET),
    refused("sync.fromHost.csiStorageCapacities", NOT_YET),
    refused("sync.fromHost.deviceClasses", NOT_YET),
    refused(
        "sync.fromHost.events.patches",
        "events are told with the names inside, and else as they are",
    ),
    refused("sync.fromHost.gatewayClasses", NOT_YET),
    refused("sync.fromHost.gateways", NOT_YET),
    refused(
        "sync.fromHost.nodes.patches",
        "nodes are shown as sync.fromHost.nodes says, or made up",
    ),
    refused("sync.fromHost.volumeSnapshotClasses", NOT_YET),
    refused(
        "sync.generic",
        "sync.toHost.customResources and sync.fromHost.customResources take its place",
    ),
    given("sync.pods.ephemeralContainers", "true", "they always flow"),
    given("sync.pods.status", "true", "it always flows"),
    refused("sync.toHost.gatewayApi", NOT_YET),
    refused(
        "sync.toHost.namespaces",
        "all host objects of a virtual cluster lie in its one host namespace",
    ),
    refused("sync.toHost.pods.hybridScheduling", NOT_YET),
    refused(
        "sync.toHost.pods.rewriteHosts.initContainer",
        "the container is of coracle's own image, and asks for what the pod's first one asks for",
    ),
    given(
        "sync.toHost.pods.useSecretsForSATokens",
        "true",
        "tokens are kept in Secrets",
    ),
    refused("sync.toHost.resourceClaimTemplates", NOT_YET),
    refused("sync.toHost.resourceClaims", NOT_YET),
    refused("sync.toHost.volumeSnapshotContents", NOT_YET),
    refused("sync.toHost.volumeSnapshots", NOT_YET),
    refused(
        "syncer",
        "the syncer is a container of the control plane's pod, whose shape is fixed",
    ),
    refused("telemetry", "nothing is gathered or sent"),
    refused("vcluster", ONE_IMAGE),
    refused("volumes", ONE_POD),
    refused("workloadServiceAccount", NOT_YET),
];

/// The entry that a key falls under: its own, or one of a key above it.
pub(crate) fn find(path: &str) -> Option<&'static Refused> {
    let under = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    REFUSED.iter().find(|refused| under(refused.path))
}

fn is(path: &str) -> Option<&'static Refused> {
    REFUSED.iter().find(|refused| refused.path == path)
}

/// True for a key that leads to refused ones, so that a map there is looked
/// into.
pub(crate) fn leads_on(path: &str) -> bool {
    let inside = format!("{path}.");
    REFUSED
        .iter()
        .any(|refused| refused.path.starts_with(&inside))
}

/// Removes the keys that are not carried out, where they ask for nothing.
pub(crate) fn drop_idle(values: &mut Value) {
    sift(values, "", &mut |refused, value| {
        let same = serde_json::from_str(refused.as_is).is_ok_and(|as_is: Value| as_is == *value);
        same || asks_for_nothing(value)
    });
}

/// Removes all keys that are not carried out, and gives those that asked for
/// something.
pub(crate) fn take(values: &mut Value) -> Vec<&'static Refused> {
    drop_idle(values);
    let mut taken = Vec::new();
    sift(values, "", &mut |refused, _| {
        taken.push(refused);
        true
    });
    taken
}

/// Removes the refused keys that are `unwanted`, and maps that held nothing
/// else.
fn sift(
    values: &mut Value,
    path: &str,
    unwanted: &mut impl FnMut(&'static Refused, &Value) -> bool,
) {
    let Value::Object(map) = values else {
        return;
    };
    map.retain(|key, value| {
        let here = join(path, key);
        if let Some(refused) = is(&here) {
            return !unwanted(refused, value);
        }
        sift(value, &here, unwanted);
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        !(is_empty && leads_on(&here))
    });
}

/// True for a value that switches nothing on.
pub(crate) fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => {
            let off = map
                .get("enabled")
                .is_some_and(|on| *on == Value::Bool(false) || on == Toggle::AUTO);
            off || map.values().all(asks_for_nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;

    #[test]
    fn no_key_is_both_known_and_refused() {
        for refused in REFUSED {
            let pointer = format!("/{}", refused.path.replace('.', "/"));
            assert!(
                shape::defaults().pointer(&pointer).is_none(),
                "{}",
                refused.path
            );
            assert!(!refused.reason.is_empty());
            let parsed: Result<Value, _> = serde_json::from_str(refused.as_is);
            assert!(
                refused.as_is.is_empty() || parsed.is_ok(),
                "{}",
                refused.path
            );
        }
        let mut paths: Vec<&str> = REFUSED.iter().map(|r| r.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), REFUSED.len());
    }

    #[test]
    fn what_asks_for_nothing_is_dropped_and_the_rest_is_told() {
        let mut values = serde_json::json!({
            "telemetry": {"enabled": false},
            "rbac": {"role": {"enabled": true, "extraRules": []}},
            "controlPlane": {"statefulSet": {"highAvailability": {"replicas": 3}}, "proxy": {"port": 8443}},
            "plugins": {},
            "sync": {},
        });
        let taken: Vec<&str> = take(&mut values).iter().map(|r| r.path).collect();
        assert_eq!(
            taken,
            ["controlPlane.statefulSet.highAvailability.replicas"]
        );
        assert_eq!(values, serde_json::json!({}));
    }
}
