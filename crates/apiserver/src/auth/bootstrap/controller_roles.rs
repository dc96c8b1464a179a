//! The default ClusterRoles of the built-in controllers.

use super::notation::Role;

/// Without the prefix `system:controller:`. Each is bound to the service account of
/// that name in kube-system.
pub(super) const CONTROLLER_ROLES: &[Role] = &[
    Role {
        name: "attachdetach-controller",
        rules: &[
            "list,watch core:persistentvolumeclaims,persistentvolumes",
            "read core:nodes",
            "patch,update core:nodes/status",
            "list,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
            "create,delete,get,list,watch storage.k8s.io:volumeattachments",
            "read storage.k8s.io:csidrivers",
            "read storage.k8s.io:csinodes",
        ],
    },
    Role {
        name: "certificate-controller",
        rules: &[
            "delete,get,list,watch certificates.k8s.io:certificatesigningrequests",
            "update certificates.k8s.io:certificatesigningrequests/approval,certificatesigningrequests/status",
            "approve certificates.k8s.io:signers =kubernetes.io/kube-apiserver-client-kubelet",
            "sign certificates.k8s.io:signers =kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown",
            "create authorization.k8s.io:subjectaccessreviews",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "clusterrole-aggregation-controller",
        rules: &["escalate,get,list,patch,update,watch rbac.authorization.k8s.io:clusterroles"],
    },
    Role {
        name: "cronjob-controller",
        rules: &[
            "get,list,update,watch batch:cronjobs",
            "create,delete,get,list,patch,update,watch batch:jobs",
            "update batch:cronjobs/status",
            "update batch:cronjobs/finalizers",
            "delete,list,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "daemon-set-controller",
        rules: &[
            "read apps,extensions:daemonsets",
            "update apps,extensions:daemonsets/status",
            "update apps,extensions:daemonsets/finalizers",
            "list,watch core:nodes",
            "create,delete,list,patch,watch core:pods",
            "create core:pods/binding",
            "create,delete,get,list,patch,update,watch apps:controllerrevisions",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "deployment-controller",
        rules: &[
            "get,list,update,watch apps,extensions:deployments",
            "update apps,extensions:deployments/status",
            "update apps,extensions:deployments/finalizers",
            "create,delete,get,list,patch,update,watch apps,extensions:replicasets",
            "get,list,update,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "device-taint-eviction-controller",
        rules: &[
            "delete,get,list,watch core:pods",
            "patch,update core:pods/status",
            "read resource.k8s.io:resourceclaims",
            "read resource.k8s.io:resourceslices",
            "read resource.k8s.io:deviceclasses",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "disruption-controller",
        rules: &[
            "read apps,extensions:deployments",
            "read apps,extensions:replicasets",
            "read core:replicationcontrollers",
            "read policy:poddisruptionbudgets",
            "read apps:statefulsets",
            "update policy:poddisruptionbudgets/status",
            "patch,update core:pods/status",
            "get *:*/scale",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "endpoint-controller",
        rules: &[
            "read core:pods,services",
            "create,delete,get,list,update,watch core:endpoints",
            "create core:endpoints/restricted",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "endpointslice-controller",
        rules: &[
            "read core:nodes,pods,services",
            "update core:services/finalizers",
            "create,delete,get,list,update,watch discovery.k8s.io:endpointslices",
            "create discovery.k8s.io:endpointslices/restricted",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "endpointslicemirroring-controller",
        rules: &[
            "read core:endpoints,services",
            "update core:services/finalizers",
            "update core:endpoints/finalizers",
            "create,delete,get,list,update,watch discovery.k8s.io:endpointslices",
            "create discovery.k8s.io:endpointslices/restricted",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "ephemeral-volume-controller",
        rules: &[
            "read core:pods",
            "update core:pods/finalizers",
            "create,get,list,watch core:persistentvolumeclaims",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "expand-controller",
        rules: &[
            "get,list,patch,update,watch core:persistentvolumes",
            "patch,update core:persistentvolumeclaims/status",
            "read core:persistentvolumeclaims",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "generic-garbage-collector",
        rules: &[
            "delete,get,list,patch,update,watch *:*",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "horizontal-pod-autoscaler",
        rules: &[
            "read autoscaling:horizontalpodautoscalers",
            "update autoscaling:horizontalpodautoscalers/status",
            "get,update *:*/scale",
            "list,watch core:pods",
            "list,watch metrics.k8s.io:pods",
            "read custom.metrics.k8s.io:*",
            "read external.metrics.k8s.io:*",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "job-controller",
        rules: &[
            "get,list,patch,update,watch batch:jobs",
            "update batch:jobs/status",
            "update batch:jobs/finalizers",
            "create,delete,list,patch,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "legacy-service-account-token-cleaner",
        rules: &[
            "get core:configmaps =kube-apiserver-legacy-service-account-token-tracking",
            "delete,patch core:secrets",
        ],
    },
    Role {
        name: "namespace-controller",
        rules: &[
            "delete,get,list,watch core:namespaces",
            "update core:namespaces/finalize,namespaces/status",
            "delete,deletecollection,get,list,watch *:*",
        ],
    },
    Role {
        name: "node-controller",
        rules: &[
            "delete,get,list,patch,update,watch core:nodes",
            "patch,update core:nodes/status",
            "patch,update core:pods/status",
            "delete,get,list,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "persistent-volume-binder",
        rules: &[
            "create,delete,get,list,update,watch core:persistentvolumes",
            "update core:persistentvolumes/status",
            "get,list,update,watch core:persistentvolumeclaims",
            "update core:persistentvolumeclaims/status",
            "create,delete,get,list,watch core:pods",
            "read storage.k8s.io:storageclasses",
            "list,watch core:nodes",
            "create,patch,update core,events.k8s.io:events",
            "watch core:events",
        ],
    },
    Role {
        name: "pod-garbage-collector",
        rules: &[
            "delete,list,watch core:pods",
            "read core:nodes",
            "patch core:pods/status",
        ],
    },
    Role {
        name: "pv-protection-controller",
        rules: &[
            "get,list,update,watch core:persistentvolumes",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "pvc-protection-controller",
        rules: &[
            "get,list,update,watch core:persistentvolumeclaims",
            "update core:persistentvolumeclaims/status",
            "read core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "replicaset-controller",
        rules: &[
            "get,list,update,watch apps,extensions:replicasets",
            "update apps,extensions:replicasets/status",
            "update apps,extensions:replicasets/finalizers",
            "create,delete,list,patch,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "replication-controller",
        rules: &[
            "get,list,update,watch core:replicationcontrollers",
            "update core:replicationcontrollers/status",
            "update core:replicationcontrollers/finalizers",
            "create,delete,list,patch,watch core:pods",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "resource-claim-controller",
        rules: &[
            "read core:pods",
            "update core:pods/finalizers",
            "create,delete,get,list,watch resource.k8s.io:resourceclaims",
            "patch,update resource.k8s.io:resourceclaims,resourceclaims/status",
            "patch,update core:pods/status",
            "create,patch,update core,events.k8s.io:events",
            "patch,update resource.k8s.io:resourceclaims/binding",
        ],
    },
    Role {
        name: "resourcequota-controller",
        rules: &[
            "list,watch *:*",
            "update core:resourcequotas/status",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "root-ca-cert-publisher",
        rules: &[
            "create,update core:configmaps",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "route-controller",
        rules: &[
            "list,watch core:nodes",
            "patch core:nodes/status",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "selinux-warning-controller",
        rules: &[
            "create,patch,update core,events.k8s.io:events",
            "read core:persistentvolumes",
            "read core:persistentvolumeclaims",
            "read core:pods",
            "read storage.k8s.io:csidrivers",
        ],
    },
    Role {
        name: "service-account-controller",
        rules: &[
            "create core:serviceaccounts",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "service-ca-cert-publisher",
        rules: &[
            "create,update core:configmaps",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "service-cidrs-controller",
        rules: &[
            "get,list,patch,update,watch networking.k8s.io:servicecidrs",
            "patch,update networking.k8s.io:servicecidrs/finalizers",
            "patch,update networking.k8s.io:servicecidrs/status",
            "read networking.k8s.io:ipaddresses",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "service-controller",
        rules: &[
            "read core:services",
            "patch,update core:services/status",
            "list,watch core:nodes",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "statefulset-controller",
        rules: &[
            "list,watch core:pods",
            "read apps:statefulsets",
            "update apps:statefulsets/status",
            "update apps:statefulsets/finalizers",
            "create,delete,get,patch,update core:pods",
            "create,delete,get,list,patch,update,watch apps:controllerrevisions",
            "create,get,list,watch core:persistentvolumeclaims",
            "delete,update core:persistentvolumeclaims",
            "update core:pods/finalizers",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "ttl-after-finished-controller",
        rules: &[
            "delete,get,list,watch batch:jobs",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "ttl-controller",
        rules: &[
            "list,patch,update,watch core:nodes",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "validatingadmissionpolicy-status-controller",
        rules: &[
            "read admissionregistration.k8s.io:validatingadmissionpolicies",
            "get,patch,update admissionregistration.k8s.io:validatingadmissionpolicies/status",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "volumeattributesclass-protection-controller",
        rules: &[
            "read core:persistentvolumeclaims",
            "read core:persistentvolumes",
            "get,list,update,watch storage.k8s.io:volumeattributesclasses",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
];
