//! The table of built-in kinds.

use super::builder::{Row, cluster, namespaced};
use super::conversion::{AutoscalerV1, EventsGroup};
use super::rules;
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
            .deprecated("v1 ComponentStatus is deprecated in v1.19+")
            .verbs(READ_ONLY),
        namespaced("", "v1", "ConfigMap", "configmaps")
            .rules(rules::ConfigMap)
            .short(&["cm"]),
        namespaced("", "v1", "Endpoints", "endpoints")
            .rules(rules::Endpoints)
            .short(&["ep"])
            .deprecated(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
            ),
        namespaced("", "v1", "Event", "events")
            .rules(rules::CoreEvent)
            .short(&["ev"])
            .ttl(EVENT_TTL_SECONDS),
        namespaced("", "v1", "LimitRange", "limitranges")
            .rules(rules::LimitRange)
            .short(&["limits"]),
        cluster("", "v1", "Namespace", "namespaces")
            .rules(rules::Namespace)
            .short(&["ns"])
            .verbs(ALL_BUT_DELETE_COLLECTION)
            .put_only("finalize")
            .status(),
        cluster("", "v1", "Node", "nodes")
            .rules(rules::Node)
            .short(&["no"])
            .proxy("NodeProxyOptions")
            .status(),
        namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .rules(rules::Claim)
            .short(&["pvc"])
            .status(),
        cluster("", "v1", "PersistentVolume", "persistentvolumes")
            .rules(rules::PersistentVolume)
            .short(&["pv"])
            .status(),
        namespaced("", "v1", "Pod", "pods")
            .rules(rules::Pod)
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
        namespaced("", "v1", "PodTemplate", "podtemplates").rules(rules::PodTemplate),
        namespaced("", "v1", "ReplicationController", "replicationcontrollers")
            .rules(rules::ReplicationController)
            .short(&["rc"])
            .category("all")
            .scale()
            .status(),
        namespaced("", "v1", "ResourceQuota", "resourcequotas")
            .rules(rules::ResourceQuota)
            .short(&["quota"])
            .status(),
        namespaced("", "v1", "Secret", "secrets").rules(rules::Secret),
        namespaced("", "v1", "ServiceAccount", "serviceaccounts")
            .rules(rules::ServiceAccount)
            .short(&["sa"])
            .action("token", "authentication.k8s.io", "v1", "TokenRequest"),
        namespaced("", "v1", "Service", "services")
            .rules(rules::Service)
            .short(&["svc"])
            .category("all")
            .proxy("ServiceProxyOptions")
            .status(),
    ]
}

fn workloads() -> Vec<Row> {
    vec![
        namespaced("apps", "v1", "ControllerRevision", "controllerrevisions")
            .rules(rules::ControllerRevision),
        namespaced("apps", "v1", "DaemonSet", "daemonsets")
            .rules(rules::DaemonSet)
            .short(&["ds"])
            .category("all")
            .status(),
        namespaced("apps", "v1", "Deployment", "deployments")
            .rules(rules::Deployment)
            .short(&["deploy"])
            .category("all")
            .scale()
            .status(),
        namespaced("apps", "v1", "ReplicaSet", "replicasets")
            .rules(rules::ReplicaSet)
            .short(&["rs"])
            .category("all")
            .scale()
            .status(),
        namespaced("apps", "v1", "StatefulSet", "statefulsets")
            .rules(rules::StatefulSet)
            .short(&["sts"])
            .category("all")
            .scale()
            .status(),
        namespaced("batch", "v1", "CronJob", "cronjobs")
            .rules(rules::CronJob)
            .short(&["cj"])
            .category("all")
            .status(),
        namespaced("batch", "v1", "Job", "jobs")
            .rules(rules::Job)
            .category("all")
            .status(),
        namespaced(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        )
        .rules(rules::Autoscaler)
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
        .rules(rules::DisruptionBudget)
        .short(&["pdb"])
        .status(),
        cluster(
            "scheduling.k8s.io",
            "v1",
            "PriorityClass",
            "priorityclasses",
        )
        .rules(rules::PriorityClass)
        .short(&["pc"]),
        cluster("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").rules(rules::RuntimeClass),
        namespaced("coordination.k8s.io", "v1", "Lease", "leases").rules(rules::Lease),
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
        .rules(rules::CertificateSigningRequest)
        .short(&["csr"])
        .view("approval")
        .status(),
        cluster(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings")
            .rules(rules::Binding { namespaced: false }),
        cluster(RBAC, "v1", "ClusterRole", "clusterroles").rules(rules::Role { namespaced: false }),
        namespaced(RBAC, "v1", "RoleBinding", "rolebindings")
            .rules(rules::Binding { namespaced: true }),
        namespaced(RBAC, "v1", "Role", "roles").rules(rules::Role { namespaced: true }),
        cluster(FLOW, "v1", "FlowSchema", "flowschemas")
            .rules(rules::FlowSchema)
            .status(),
        cluster(
            FLOW,
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
        )
        .rules(rules::PriorityLevel)
        .status(),
    ]
}

fn network_and_storage() -> Vec<Row> {
    vec![
        namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
            .rules(rules::EndpointSlice),
        cluster(NETWORKING, "v1", "IngressClass", "ingressclasses").rules(rules::IngressClass),
        namespaced(NETWORKING, "v1", "Ingress", "ingresses")
            .rules(rules::Ingress)
            .short(&["ing"])
            .status(),
        cluster(NETWORKING, "v1", "IPAddress", "ipaddresses")
            .rules(rules::IpAddressObject)
            .short(&["ip"]),
        namespaced(NETWORKING, "v1", "NetworkPolicy", "networkpolicies")
            .rules(rules::NetworkPolicy)
            .short(&["netpol"]),
        cluster(NETWORKING, "v1", "ServiceCIDR", "servicecidrs")
            .rules(rules::ServiceCidr)
            .status(),
        cluster(STORAGE, "v1", "CSIDriver", "csidrivers").rules(rules::CsiDriver),
        cluster(STORAGE, "v1", "CSINode", "csinodes").rules(rules::CsiNode),
        namespaced(STORAGE, "v1", "CSIStorageCapacity", "csistoragecapacities"),
        cluster(STORAGE, "v1", "StorageClass", "storageclasses")
            .rules(rules::StorageClass)
            .short(&["sc"]),
        cluster(STORAGE, "v1", "VolumeAttachment", "volumeattachments")
            .rules(rules::VolumeAttachment)
            .status(),
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
        cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .rules(rules::ApiService)
            .status(),
        cluster(
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
        .rules(rules::CustomResourceDefinition)
        .short(&["crd", "crds"])
        .status(),
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
        )
        .rules(rules::AdmissionPolicy { mutating: true }),
        cluster(
            ADMISSION,
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
        )
        .rules(rules::AdmissionBinding),
        cluster(
            ADMISSION,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
        )
        .rules(rules::WebhookConfiguration { mutating: true }),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
        )
        .rules(rules::AdmissionPolicy { mutating: false })
        .status(),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        )
        .rules(rules::AdmissionBinding),
        cluster(
            ADMISSION,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        )
        .rules(rules::WebhookConfiguration { mutating: false }),
    ]
    .into_iter()
    .map(|row| row.category("api-extensions"))
    .collect()
}
