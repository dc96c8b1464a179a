//! The default ClusterRoles of people, nodes and control plane components.

use super::notation::Role;

/// In the order of their names, without the aggregated ones.
pub(super) const CLUSTER_ROLES: &[Role] = &[
    Role {
        name: "cluster-admin",
        rules: &["* *:*", "* url:*"],
    },
    Role {
        name: "system:aggregate-to-admin",
        rules: &[
            "create authorization.k8s.io:localsubjectaccessreviews",
            "all rbac.authorization.k8s.io:rolebindings,roles",
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        rules: &[
            "read core:pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
            "impersonate core:serviceaccounts",
            "create,delete,deletecollection,patch,update core:pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
            "create core:pods/eviction",
            "create,delete,deletecollection,patch,update core:configmaps,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy",
            "create core:serviceaccounts/token",
            "create,delete,deletecollection,patch,update core,events.k8s.io:events",
            "create,delete,deletecollection,patch,update apps:daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale",
            "create,delete,deletecollection,patch,update autoscaling:horizontalpodautoscalers",
            "create,delete,deletecollection,patch,update batch:cronjobs,jobs",
            "create,delete,deletecollection,patch,update extensions:daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale",
            "create,delete,deletecollection,patch,update policy:poddisruptionbudgets",
            "create,delete,deletecollection,patch,update networking.k8s.io:ingresses,networkpolicies",
            "all coordination.k8s.io:leases",
            "create,delete,deletecollection,patch,update resource.k8s.io:resourceclaims,resourceclaimtemplates",
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        rules: &[
            "read core:configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
            "read core:bindings,limitranges,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status",
            "read core:namespaces",
            "read core,events.k8s.io:events",
            "read discovery.k8s.io:endpointslices",
            "read apps:controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status",
            "read autoscaling:horizontalpodautoscalers,horizontalpodautoscalers/status",
            "read batch:cronjobs,cronjobs/status,jobs,jobs/status",
            "read extensions:daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale",
            "read policy:poddisruptionbudgets,poddisruptionbudgets/status",
            "read networking.k8s.io:ingresses,ingresses/status,networkpolicies",
            "read resource.k8s.io:resourceclaims,resourceclaims/status,resourceclaimtemplates",
        ],
    },
    Role {
        name: "system:auth-delegator",
        rules: &[
            "create authentication.k8s.io:tokenreviews",
            "create authorization.k8s.io:subjectaccessreviews",
        ],
    },
    Role {
        name: "system:basic-user",
        rules: &[
            "create authorization.k8s.io:selfsubjectaccessreviews,selfsubjectrulesreviews",
            "create authentication.k8s.io:selfsubjectreviews",
        ],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &["create certificates.k8s.io:certificatesigningrequests/nodeclient"],
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &["create certificates.k8s.io:certificatesigningrequests/selfnodeclient"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &["approve certificates.k8s.io:signers =kubernetes.io/kube-apiserver-client"],
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &[
            "approve certificates.k8s.io:signers =kubernetes.io/kube-apiserver-client-kubelet",
        ],
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &["approve certificates.k8s.io:signers =kubernetes.io/kubelet-serving"],
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &["approve certificates.k8s.io:signers =kubernetes.io/legacy-unknown"],
    },
    Role {
        name: "system:discovery",
        rules: &[
            "get url:/api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/",
        ],
    },
    Role {
        name: "system:heapster",
        rules: &[
            "read core:events,namespaces,nodes,pods",
            "read extensions:deployments",
        ],
    },
    Role {
        name: "system:kube-aggregator",
        rules: &["read core:endpoints,services"],
    },
    Role {
        name: "system:kube-controller-manager",
        rules: &[
            "create,patch,update core,events.k8s.io:events",
            "create coordination.k8s.io:leases",
            "get,update coordination.k8s.io:leases =kube-controller-manager",
            "create core:secrets,serviceaccounts",
            "delete core:secrets",
            "get core:configmaps,namespaces,secrets,serviceaccounts",
            "update core:secrets,serviceaccounts",
            "create authentication.k8s.io:tokenreviews",
            "create authorization.k8s.io:subjectaccessreviews",
            "list,watch *:*",
            "create core:serviceaccounts/token",
        ],
    },
    Role {
        name: "system:kube-dns",
        rules: &["list,watch core:endpoints,services"],
    },
    Role {
        name: "system:kube-scheduler",
        rules: &[
            "create,patch,update core,events.k8s.io:events",
            "create coordination.k8s.io:leases",
            "get,list,update,watch coordination.k8s.io:leases =kube-scheduler",
            "all coordination.k8s.io:leasecandidates",
            "read core:nodes",
            "delete,get,list,watch core:pods",
            "create core:bindings,pods/binding",
            "patch,update core:pods/status",
            "read core:replicationcontrollers,services",
            "read apps,extensions:replicasets",
            "read apps:statefulsets",
            "read policy:poddisruptionbudgets",
            "read core:persistentvolumeclaims,persistentvolumes",
            "create authentication.k8s.io:tokenreviews",
            "create authorization.k8s.io:subjectaccessreviews",
            "read storage.k8s.io:csinodes",
            "read storage.k8s.io:volumeattachments",
            "read core:namespaces",
            "read storage.k8s.io:csidrivers",
            "read storage.k8s.io:csistoragecapacities",
            "read resource.k8s.io:deviceclasses",
            "get,list,patch,update,watch resource.k8s.io:resourceclaims",
            "get,list,patch,update,watch resource.k8s.io:resourceclaims/status",
            "update core:pods/finalizers",
            "read resource.k8s.io:resourceslices",
            "create,delete resource.k8s.io:resourceclaims",
            "patch,update resource.k8s.io:resourceclaims/binding",
        ],
    },
    Role {
        name: "system:kubelet-api-admin",
        rules: &[
            "read core:nodes",
            "proxy core:nodes",
            "* core:nodes/log,nodes/metrics,nodes/proxy,nodes/stats",
            "* core:nodes/configz,nodes/healthz,nodes/pods",
        ],
    },
    Role {
        name: "system:monitoring",
        rules: &[
            "get url:/flagz,/healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*,/statusz",
            "get core:nodes/metrics",
        ],
    },
    Role {
        name: "system:node",
        rules: &[
            "create authentication.k8s.io:tokenreviews",
            "create authorization.k8s.io:localsubjectaccessreviews,subjectaccessreviews",
            "read core:services",
            "create,get,list,watch core:nodes",
            "patch,update core:nodes/status",
            "patch,update core:nodes",
            "create,patch,update core,events.k8s.io:events",
            "read core:pods",
            "create,delete core:pods",
            "patch,update core:pods/status",
            "create core:pods/eviction",
            "read core:configmaps,secrets",
            "get core:persistentvolumeclaims,persistentvolumes",
            "get core:endpoints",
            "create,get,list,watch certificates.k8s.io:certificatesigningrequests",
            "create,delete,get,patch,update coordination.k8s.io:leases",
            "get storage.k8s.io:volumeattachments",
            "create core:serviceaccounts/token",
            "get,patch,update core:persistentvolumeclaims/status",
            "read storage.k8s.io:csidrivers",
            "create,delete,get,patch,update storage.k8s.io:csinodes",
            "read node.k8s.io:runtimeclasses",
            "get resource.k8s.io:resourceclaims",
            "deletecollection resource.k8s.io:resourceslices",
            "get core:serviceaccounts",
        ],
    },
    Role {
        name: "system:node-bootstrapper",
        rules: &["create,get,list,watch certificates.k8s.io:certificatesigningrequests"],
    },
    Role {
        name: "system:node-problem-detector",
        rules: &[
            "get core:nodes",
            "patch core:nodes/status",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "system:node-proxier",
        rules: &[
            "list,watch core:endpoints,services",
            "read core:nodes",
            "create,patch,update core,events.k8s.io:events",
            "list,watch networking.k8s.io:servicecidrs",
            "list,watch discovery.k8s.io:endpointslices",
        ],
    },
    Role {
        name: "system:persistent-volume-provisioner",
        rules: &[
            "create,delete,get,list,watch core:persistentvolumes",
            "get,list,update,watch core:persistentvolumeclaims",
            "read storage.k8s.io:storageclasses",
            "watch core:events",
            "create,patch,update core,events.k8s.io:events",
        ],
    },
    Role {
        name: "system:public-info-viewer",
        rules: &["get url:/healthz,/livez,/readyz,/version,/version/"],
    },
    Role {
        name: "system:service-account-issuer-discovery",
        rules: &[
            "get url:/.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/",
        ],
    },
    Role {
        name: "system:volume-scheduler",
        rules: &[
            "get,list,patch,update,watch core:persistentvolumes",
            "read storage.k8s.io:storageclasses",
            "get,list,patch,update,watch core:persistentvolumeclaims",
        ],
    },
];
