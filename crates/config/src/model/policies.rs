//! What the tenant's workloads may use of the host.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Fragment, Texts, Toggle};

section!(
    /// What the tenant's workloads may use of the host.
    Policies {
        /// A ResourceQuota in the host namespace.
        resource_quota: Quota = Quota::default(),
        /// A LimitRange in the host namespace.
        limit_range: Limits = Limits::default(),
        /// NetworkPolicies around control plane and workloads.
        network_policy: NetworkPolicies = NetworkPolicies::default(),
        /// The Pod Security Standard that pods have to meet, or they do not get
        /// to the host: `privileged`, `baseline` or `restricted`; empty for
        /// none.
        pod_security_standard: String = String::new(),
    }
);

section!(
    /// A ResourceQuota in the host namespace.
    Quota {
        /// Whether there is one; `auto` is with the LimitRange.
        enabled: Toggle = Toggle::Auto,
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Its `hard` limits.
        quota: Fragment = fragment(&[
            ("requests.cpu", "10"),
            ("requests.memory", "20Gi"),
            ("requests.storage", "100Gi"),
            ("requests.ephemeral-storage", "60Gi"),
            ("limits.cpu", "20"),
            ("limits.memory", "40Gi"),
            ("limits.ephemeral-storage", "160Gi"),
            ("services.nodeports", "0"),
            ("services.loadbalancers", "1"),
            ("count/endpoints", "40"),
            ("count/pods", "20"),
            ("count/services", "20"),
            ("count/secrets", "100"),
            ("count/configmaps", "100"),
            ("count/persistentvolumeclaims", "20"),
        ]),
        /// Its scope selector.
        scope_selector: ScopeSelector = ScopeSelector::default(),
        /// Its scopes.
        scopes: Vec<String> = Vec::new(),
    }
);

section!(
    /// Which objects a quota counts.
    ScopeSelector {
        /// As in a ResourceQuota.
        match_expressions: Vec<Value> = Vec::new(),
    }
);

section!(
    /// A LimitRange in the host namespace.
    Limits {
        /// Whether there is one; `auto` is with the ResourceQuota.
        enabled: Toggle = Toggle::Auto,
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Default limits of a container.
        default: Fragment = fragment(&[
            ("ephemeral-storage", "8Gi"),
            ("memory", "512Mi"),
            ("cpu", "1"),
        ]),
        /// Default requests of a container.
        default_request: Fragment = fragment(&[
            ("ephemeral-storage", "3Gi"),
            ("memory", "128Mi"),
            ("cpu", "100m"),
        ]),
        /// The least of a container.
        min: Fragment = Fragment::new(),
        /// The most of a container.
        max: Fragment = Fragment::new(),
    }
);

section!(
    /// NetworkPolicies around control plane and workloads.
    NetworkPolicies {
        /// Whether there are any.
        enabled: bool = false,
        /// Further labels.
        labels: Texts = Texts::new(),
        /// Further annotations.
        annotations: Texts = Texts::new(),
        /// Further rules for the control plane.
        control_plane: PeerRules = PeerRules::default(),
        /// Rules for the workloads.
        workload: WorkloadRules = WorkloadRules::default(),
    }
);

section!(
    /// Further rules, as in a NetworkPolicy.
    PeerRules {
        /// Who may come in.
        ingress: Vec<Value> = Vec::new(),
        /// Where it may go.
        egress: Vec<Value> = Vec::new(),
    }
);

section!(
    /// Rules for the workloads.
    WorkloadRules {
        /// Addresses outside of the host cluster.
        public_egress: PublicEgress = PublicEgress::default(),
        /// Who else may come in.
        ingress: Vec<Value> = Vec::new(),
        /// Where else they may go.
        egress: Vec<Value> = Vec::new(),
    }
);

section!(
    /// Addresses outside of the host cluster that workloads may reach.
    PublicEgress {
        /// Whether any.
        enabled: bool = true,
        /// Which.
        cidr: String = "0.0.0.0/0".to_owned(),
        /// Which not: by default those that no public host has, metadata
        /// services of clouds among them.
        except: Vec<String> = [
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ]
        .map(str::to_owned)
        .into(),
    }
);

/// A fragment of texts.
fn fragment(entries: &[(&str, &str)]) -> Fragment {
    entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect()
}

impl Policies {
    /// Whether there is a ResourceQuota.
    pub fn has_quota(&self) -> bool {
        let other = self.limit_range.enabled == Toggle::On;
        self.resource_quota.enabled.is_on_or(other)
    }

    /// Whether there is a LimitRange. Where a quota counts what pods ask for,
    /// pods that do not say need a default.
    pub fn has_limit_range(&self) -> bool {
        let other = self.resource_quota.enabled == Toggle::On;
        self.limit_range.enabled.is_on_or(other)
    }
}
