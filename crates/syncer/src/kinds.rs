//! The kinds that are watched, on which side, and how much of them is kept.

use crate::api::Resource;
use crate::cache::{Kept, Watched};
use coracle_config::Config;

/// A kind that is watched on one side or on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    ConfigMap,
    Secret,
    Claim,
    Ingress,
    NetworkPolicy,
    DisruptionBudget,
    ServiceAccount,
    /// Virtual side; also on the host where real nodes are shown.
    Node,
    IngressClass,
    StorageClass,
    RuntimeClass,
    PriorityClass,
    /// Virtual side: those that mirror one of the host. Where those of the
    /// tenant's flow, all of them, and their counterparts on the host.
    Volume,
    /// Virtual side only.
    Namespace,
    /// The token secrets of a pod. This and what follows are no kinds of their
    /// own, but keys of the work queue.
    Tokens,
    /// A host Service under a name of the user's choice: that name.
    Alias,
    /// A Service inside that stands for one of the host: its name inside.
    Replica,
    /// A ConfigMap of the host that is shown inside: its name inside.
    ShownConfigMap,
    /// A Secret likewise.
    ShownSecret,
}

impl Kind {
    /// How many kinds there are: the size of tables by kind.
    pub(crate) const COUNT: usize = Kind::ShownSecret as usize + 1;

    /// The resource.
    pub(crate) fn resource(self) -> Resource<'static> {
        let (api_version, plural, kind) = match self {
            Self::Pod => ("v1", "pods", "Pod"),
            Self::Service | Self::Alias | Self::Replica => ("v1", "services", "Service"),
            Self::Endpoints => ("v1", "endpoints", "Endpoints"),
            Self::EndpointSlice => ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
            Self::ConfigMap | Self::ShownConfigMap => ("v1", "configmaps", "ConfigMap"),
            Self::Secret | Self::Tokens | Self::ShownSecret => ("v1", "secrets", "Secret"),
            Self::Claim => ("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
            Self::Ingress => ("networking.k8s.io/v1", "ingresses", "Ingress"),
            Self::NetworkPolicy => ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
            Self::DisruptionBudget => ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
            Self::ServiceAccount => ("v1", "serviceaccounts", "ServiceAccount"),
            Self::RuntimeClass => ("node.k8s.io/v1", "runtimeclasses", "RuntimeClass"),
            Self::PriorityClass => ("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass"),
            Self::Node => ("v1", "nodes", "Node"),
            Self::IngressClass => ("networking.k8s.io/v1", "ingressclasses", "IngressClass"),
            Self::StorageClass => ("storage.k8s.io/v1", "storageclasses", "StorageClass"),
            Self::Volume => ("v1", "persistentvolumes", "PersistentVolume"),
            Self::Namespace => ("v1", "namespaces", "Namespace"),
        };
        Resource {
            api_version,
            plural,
            kind,
        }
    }

    /// The kinds that flow to the host, by the user's choice.
    pub(crate) fn to_host(config: &Config) -> Vec<Self> {
        let to_host = &config.sync.to_host;
        [
            (Self::Pod, to_host.pods.enabled),
            // That of DNS always flows.
            (Self::Service, true),
            (Self::Endpoints, to_host.endpoints.enabled),
            (Self::EndpointSlice, to_host.endpoint_slices.enabled),
            (Self::ConfigMap, to_host.config_maps.enabled),
            (
                Self::Secret,
                to_host.secrets.enabled || to_host.pods.enabled,
            ),
            (Self::Claim, to_host.persistent_volume_claims.enabled),
            (Self::Ingress, to_host.ingresses.enabled),
            (Self::NetworkPolicy, to_host.network_policies.enabled),
            (
                Self::DisruptionBudget,
                to_host.pod_disruption_budgets.enabled,
            ),
            (Self::ServiceAccount, to_host.service_accounts.enabled),
            (Self::PriorityClass, to_host.priority_classes.enabled),
            (Self::StorageClass, to_host.storage_classes.enabled),
            (Self::Volume, to_host.persistent_volumes.enabled),
        ]
        .into_iter()
        .filter_map(|(kind, on)| on.then_some(kind))
        .collect()
    }

    /// The cluster-scoped kinds of the host that are shown inside.
    pub(crate) fn imported(config: &Config) -> Vec<Self> {
        let from_host = &config.sync.from_host;
        [
            (Self::Node, from_host.nodes.enabled),
            (Self::IngressClass, from_host.ingress_classes.enabled),
            (Self::StorageClass, config.shows_storage_classes()),
            (Self::RuntimeClass, from_host.runtime_classes.enabled),
            (Self::PriorityClass, from_host.priority_classes.enabled),
        ]
        .into_iter()
        .filter_map(|(kind, on)| on.then_some(kind))
        .collect()
    }

    /// True for kinds that lie in no namespace.
    pub(crate) fn is_cluster_scoped(self) -> bool {
        matches!(
            self,
            Self::Node
                | Self::IngressClass
                | Self::StorageClass
                | Self::RuntimeClass
                | Self::PriorityClass
                | Self::Volume
                | Self::Namespace
        )
    }

    /// What is watched, and how much of it is kept.
    pub(crate) fn watched(self) -> Watched<'static> {
        let kept = match self {
            Self::ConfigMap | Self::Secret => Kept::Frame,
            _ => Kept::Whole,
        };
        Watched {
            resource: self.resource(),
            kept,
        }
    }
}

/// Resources that are no kinds of their own here.
pub(crate) mod other {
    use crate::api::Resource;

    pub(crate) const EVENTS: Resource<'static> = Resource {
        api_version: "v1",
        plural: "events",
        kind: "Event",
    };
    pub(crate) const LEASES: Resource<'static> = Resource {
        api_version: "coordination.k8s.io/v1",
        plural: "leases",
        kind: "Lease",
    };
    pub(crate) const DEFINITIONS: Resource<'static> = Resource {
        api_version: "apiextensions.k8s.io/v1",
        plural: "customresourcedefinitions",
        kind: "CustomResourceDefinition",
    };
    pub(crate) const CLUSTER_ROLE_BINDINGS: Resource<'static> = Resource {
        api_version: "rbac.authorization.k8s.io/v1",
        plural: "clusterrolebindings",
        kind: "ClusterRoleBinding",
    };
    pub(crate) const SERVICE_ACCOUNTS: Resource<'static> = Resource {
        api_version: "v1",
        plural: "serviceaccounts",
        kind: "ServiceAccount",
    };
}
