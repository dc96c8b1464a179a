//! The table of built-in kinds.

use super::builder::{Row, cluster, namespaced};
use super::conversion::{AutoscalerV1, EventsGroup};
use crate::kind::{Kind, Verb};

const CREATE_ONLY: &[Verb] = &[Verb::Create];
const READ_ONLY: &[Verb] = &[Verb::Get, Verb::List];
const ALL_BUT_DELETE_COLLECTION: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];

/// Events go after an hour, as upstream's `--event-ttl` has it.
const EVENT_TTL_SECONDS: u64 = 3600;

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

pub(super) fn all() -> Vec<Kind> {
    [
        core(),
        workloads(),
        policy_and_access(),
        network_and_storage(),
        extension(),
    ]
    .into_iter()
    .flatten()
    .map(Row::done)
    .collect()
}

fn core() -> Vec<Row> {
    vec![
        namespaced("", "v1", "Binding", "bindings").verbs(CREATE_ONLY),
        cluster("", "v1", "ComponentStatus", "componentstatuses")
            .short(&["cs"])
            .verbs(READ_ONLY),
        namespaced("", "v1", "ConfigMap", "configmaps").short(&["cm"]),
        namespaced("", "v1", "Endpoints", "endpoints").short(&["ep"]),
        namespaced("", "v1", "Event", "events")
            .short(&["ev"])
            .ttl(EVENT_TTL_SECONDS),
        namespaced("", "v1", "LimitRange", "limitranges").short(&["limits"]),
        cluster("", "v1", "Namespace", "namespaces")
            .short(&["ns"])
            .verbs(ALL_BUT_DELETE_COLLECTION)
            .put_only("finalize")
            .status(),
        cluster("", "v1", "Node", "nodes")
            .short(&["no"])
            .proxy("NodeProxyOptions")
            .status(),
        namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .status(),
        cluster("", "v1", "PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .status(),
        namespaced("", "v1", "Pod", "pods")
            .short(&["po"])
            .category("all")
            .stream("attach", "PodAttachOptions")
            .action("binding", "", "v1", "Binding")
            .view("ephemeralcontainers")
            .action("eviction", "policy", "v1", "Eviction")
            .stream("exec", "PodExecOptions")
            .get_only("log")
            .stream("portforward", "PodPortForwardOptions")
            .proxy("PodProxyOptions")
            .view("resize")
            .status(),
        namespaced("", "v1", "PodTemplate", "podtemplates"),
        namespaced("", "v1", "ReplicationController", "replicationcontrollers")
            .short(&["rc"])
            .category("all")
            .scale()
            .status(),
        namespaced("", "v1", "ResourceQuota", "resourcequotas")
            .short(&["quota"])
            .status(),
        namespaced("", "v1", "Secret", "secrets"),
        namespaced("", "v1", "ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .action("token", "authentication.k8s.io", "v1", "TokenRequest"),
        namespaced("", "v1", "Service", "services")
            .short(&["svc"])
            .category("all")
            .proxy("ServiceProxyOptions")
            .status(),
    ]
}

fn workloads() -> Vec<Row> {
    vec![
        namespaced("apps", "v1", "ControllerRevision", "controllerrevisions"),
        namespaced("apps", "v1", "DaemonSet", "daemonsets")
            .short(&["ds"])
            .category("all")
            .status(),
        namespaced("apps", "v1", "Deployment", "deployments")
            .short(&["deploy"])
            .category("all")
            .scale()
            .status(),
        namespaced("apps", "v1", "ReplicaSet", "replicasets")
            .short(&["rs"])
            .category("all")
            .scale()
            .status(),
        namespaced("apps", "v1", "StatefulSet", "statefulsets")
            .short(&["sts"])
            .category("all")
            .scale()
            .status(),
        namespaced("batch", "v1", "CronJob", "cronjobs")
            .short(&["cj"])
            .category("all")
            .status(),
        namespaced("batch", "v1", "Job", "jobs")
            .category("all")
            .status(),
        namespaced(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        )
        .short(&["hpa"])
        .category("all")
        .status(),
        namespaced(
            "autoscaling",
            "v1",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        )
        .short(&["hpa"])
        .category("all")
        .status()
        .stored_as("autoscaling", "v2", AutoscalerV1),
        namespaced("events.k8s.io", "v1", "Event", "events")
            .short(&["ev"])
            .ttl(EVENT_TTL_SECONDS)
            .stored_as("", "v1", EventsGroup),
        namespaced(
            "policy",
            "v1",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
        )
        .short(&["pdb"])
        .status(),
        cluster(
            "scheduling.k8s.io",
            "v1",
            "PriorityClass",
            "priorityclasses",
        )
        .short(&["pc"]),
        cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses"),
        namespaced("coordination.k8s.io", "v1", "Lease", "leases"),
    ]
}

fn policy_and_access() -> Vec<Row> {
    vec![
        cluster(
            "authentication.k8s.io",
            "v1",
            "SelfSubjectReview",
            "selfsubjectreviews",
        )
        .verbs(CREATE_ONLY),
        cluster("authentication.k8s.io", "v1", "TokenReview", "tokenreviews").verbs(CREATE_ONLY),
        namespaced(
            AUTHORIZATION,
            "v1",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
        )
        .verbs(CREATE_ONLY),
        cluster(
            AUTHORIZATION,
            "v1",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
        )
        .verbs(CREATE_ONLY),
        cluster(
            AUTHORIZATION,
            "v1",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
        )
        .verbs(CREATE_ONLY),
        cluster(
            AUTHORIZATION,
            "v1",
            "SubjectAccessReview",
            "subjectaccessreviews",
        )
        .verbs(CREATE_ONLY),
        cluster(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
        )
        .short(&["csr"])
        .view("approval")
        .status(),
        cluster(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings"),
        cluster(RBAC, "v1", "ClusterRole", "clusterroles"),
        namespaced(RBAC, "v1", "RoleBinding", "rolebindings"),
        namespaced(RBAC, "v1", "Role", "roles"),
        cluster(FLOW, "v1", "FlowSchema", "flowschemas").status(),
        cluster(
            FLOW,
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
        )
        .status(),
    ]
}

fn network_and_storage() -> Vec<Row> {
    vec![
        namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        cluster(NETWORKING, "v1", "IngressClass", "ingressclasses"),
        namespaced(NETWORKING, "v1", "Ingress", "ingresses")
            .short(&["ing"])
            .status(),
        cluster(NETWORKING, "v1", "IPAddress", "ipaddresses").short(&["ip"]),
        namespaced(NETWORKING, "v1", "NetworkPolicy", "networkpolicies").short(&["netpol"]),
        cluster(NETWORKING, "v1", "ServiceCIDR", "servicecidrs").status(),
        cluster(STORAGE, "v1", "CSIDriver", "csidrivers"),
        cluster(STORAGE, "v1", "CSINode", "csinodes"),
        namespaced(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities"),
        cluster(STORAGE, "v1", "StorageClass", "storageclasses").short(&["sc"]),
        cluster(STORAGE, "v1", "VolumeAttachment", "volumeattachments").status(),
        cluster(
            STORAGE,
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
        )
        .short(&["vac"]),
        cluster(RESOURCE, "v1", "DeviceClass", "deviceclasses"),
        namespaced(RESOURCE, "v1", "ResourceClaim", "resourceclaims").status(),
        namespaced(
            RESOURCE,
            "v1",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
        ),
        cluster(RESOURCE, "v1", "ResourceSlice", "resourceslices"),
    ]
}

fn extension() -> Vec<Row> {
    vec![
        cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices").status(),
        cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
        .short(&["crd", "crds"])
        .status(),
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
        ),
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
        ),
        cluster(
            ADMISSION,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
        ),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
        )
        .status(),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        ),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        ),
    ]
    .into_iter()
    .map(|row| row.category("api-extensions"))
    .collect()
}
