use serde_json::{Value, json};

use crate::kind::Kind;
use crate::kinds::builtin;

fn kind(name: &str) -> Kind {
    let mut kinds = builtin().into_iter();
    kinds.find(|k| k.gvk.kind == name).expect("kind exists")
}

fn errors(name: &str, mut object: Value) -> Vec<String> {
    let strategy = kind(name).strategy;
    strategy.default(&mut object);
    strategy.prepare_for_create(&mut object);
    let mut errors = strategy.validate(&object);
    errors.extend(strategy.validate_create(&object));
    errors.iter().map(ToString::to_string).collect()
}

fn template(labels: Value, restart: Option<&str>) -> Value {
    let mut template = json!({
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    });
    if let Some(restart) = restart {
        template["spec"]["restartPolicy"] = restart.into();
    }
    template
}

#[test]
fn valid_objects_have_no_errors() {
    let labels = json!({"app": "x"});
    let selector = json!({"matchLabels": {"app": "x"}});
    for (name, spec) in [
        (
            "Deployment",
            json!({"selector": selector, "template": template(labels.clone(), None)}),
        ),
        (
            "ReplicaSet",
            json!({"selector": selector, "template": template(labels.clone(), None)}),
        ),
        (
            "StatefulSet",
            json!({"selector": selector, "serviceName": "s", "template": template(labels.clone(), None)}),
        ),
        (
            "StatefulSet",
            json!({
                "selector": selector,
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                    "name": "c", "image": "nginx",
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                }}],
            }),
        ),
        (
            "DaemonSet",
            json!({"selector": selector, "template": template(labels.clone(), None)}),
        ),
        (
            "ReplicationController",
            json!({"template": template(labels.clone(), None)}),
        ),
        (
            "Job",
            json!({"template": template(json!({}), Some("Never"))}),
        ),
        (
            "CronJob",
            json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template(json!({}), Some("OnFailure"))}}}),
        ),
        ("Pod", template(json!({}), None)["spec"].clone()),
        ("Namespace", json!({})),
        (
            "Service",
            json!({"ports": [{"port": 80, "targetPort": "http"}], "selector": {"a": "b"}}),
        ),
        (
            "Ingress",
            json!({"rules": [{"host": "a.b", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}),
        ),
        (
            "NetworkPolicy",
            json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
        ),
        (
            "PersistentVolumeClaim",
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
        ),
        (
            "PersistentVolume",
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}),
        ),
        (
            "PodDisruptionBudget",
            json!({"minAvailable": "50%", "selector": selector}),
        ),
        (
            "HorizontalPodAutoscaler",
            json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}),
        ),
        (
            "Lease",
            json!({"holderIdentity": "me", "leaseDurationSeconds": 15}),
        ),
    ] {
        let object = json!({"metadata": {"name": "x", "uid": "u"}, "spec": spec});
        assert_eq!(errors(name, object), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn valid_policies_and_pods_have_no_errors() {
    for (name, spec) in [
        (
            "ResourceQuota",
            json!({"hard": {
                "pods": 5, "cpu": "1500m", "requests.storage": "1.5Gi", "hugepages-2Mi": "4Mi",
                "requests.nvidia.com/gpu": 1, "count/deployments.apps": "4",
                "fast.storageclass.storage.k8s.io/requests.storage": "1Ti",
            }}),
        ),
        (
            "ResourceQuota",
            json!({"hard": {"pods": 5, "cpu": 1, "limits.memory": "1Gi"}, "scopes": ["NotTerminating", "NotBestEffort"],
            "scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]},
                {"scopeName": "CrossNamespacePodAffinity", "operator": "Exists"},
            ]}}),
        ),
        (
            "LimitRange",
            json!({"limits": [
                {"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": 1, "example.com/gpu": 2}, "default": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": 4}},
                {"type": "Pod", "max": {"memory": "1Gi"}},
                {"type": "PersistentVolumeClaim", "max": {"storage": "1Ti"}},
                {"type": "example.com/thing", "max": {"storage": "1Ti"}},
            ]}),
        ),
        (
            "Job",
            json!({
                "completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3,
                "managedBy": "example.com/controller", "template": template(json!({}), Some("Never")),
                "podFailurePolicy": {"rules": [
                    {"action": "FailIndex", "onExitCodes": {"containerName": "c", "operator": "In", "values": [1, 2]}},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [0]}},
                ]},
                "successPolicy": {"rules": [{"succeededIndexes": "0,2-4", "succeededCount": 2}, {"succeededCount": 5}]},
            }),
        ),
        (
            "Pod",
            json!({
                "os": {"name": "linux"}, "hostUsers": false, "schedulingGates": [{"name": "a.b/c"}],
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}, {"name": "kernel/shm_rmid_forced", "value": "0"}]},
                "resourceClaims": [{"name": "gpu", "resourceClaimName": "g"}],
                "volumes": [
                    {"name": "v", "emptyDir": {}}, {"name": "i", "image": {"reference": "a"}},
                    {"name": "d", "iscsi": {"targetPortal": "a:1", "iqn": "iqn.2001-04.com.example:s", "lun": 0}},
                ],
                "containers": [{
                    "name": "c", "image": "i", "securityContext": {"privileged": true},
                    "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}],
                    "resources": {"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi"}, "claims": [{"name": "gpu", "request": "a"}, {"name": "gpu", "request": "b"}]},
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                    "lifecycle": {"preStop": {"sleep": {"seconds": 30}}},
                }],
            }),
        ),
        (
            "Pod",
            json!({
                "os": {"name": "windows"}, "hostPID": false, "securityContext": {"windowsOptions": {"hostProcess": true}, "runAsNonRoot": true},
                "containers": [{"name": "c", "image": "i"}],
            }),
        ),
    ] {
        let object = json!({"metadata": {"name": "x", "uid": "u"}, "spec": spec});
        assert_eq!(errors(name, object), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn errors_read_like_upstream() {
    let selector = json!({"matchLabels": {"app": "x"}});
    for (name, spec, expected) in [
        (
            "Deployment",
            json!({"selector": selector, "template": template(json!({"app": "y"}), None)}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"y\"}: `selector` does not match template `labels`",
        ),
        (
            "Deployment",
            json!({"selector": selector, "replicas": -1, "template": template(json!({"app": "x"}), None)}),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "Deployment",
            json!({"selector": selector, "template": template(json!({"app": "x"}), Some("Never"))}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "Job",
            json!({"template": template(json!({}), None)}),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            "Pod",
            json!({"containers": []}),
            "spec.containers: Required value",
        ),
        (
            "Pod",
            json!({"containers": [{"name": "c"}]}),
            "spec.containers[0].image: Required value",
        ),
        (
            "Pod",
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "Pod",
            json!({"restartPolicy": "X", "containers": [{"name": "c", "image": "i"}]}),
            "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "Pod",
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (
            "Service",
            json!({"ports": []}),
            "spec.ports: Required value",
        ),
        (
            "Service",
            json!({"ports": [{"port": 0}]}),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
    ] {
        let object = json!({"metadata": {"name": "x", "uid": "u"}, "spec": spec});
        let found = errors(name, object);
        assert!(found.iter().any(|e| e == expected), "{name}: {found:?}");
    }
}

/// For each kind, specs each with all of their errors.
fn assert_errors(kind: &str, table: &[(Value, &[&str])]) {
    for (spec, expected) in table {
        let object = json!({"metadata": {"name": "x", "uid": "u"}, "spec": spec});
        assert_eq!(errors(kind, object), *expected, "{kind} {spec}");
    }
}

#[test]
fn quotas_name_resources_and_scopes_that_exist() {
    let scoped = |hard: Value, scopes: Value| json!({"hard": hard, "scopes": scopes});
    let selected =
        |term: Value| json!({"hard": {"pods": 1}, "scopeSelector": {"matchExpressions": [term]}});
    assert_errors(
        "ResourceQuota",
        &[
            (
                json!({"hard": {"foo": 1}}),
                &[
                    "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                    "spec.hard[foo]: Invalid value: \"foo\": must be a standard resource for quota",
                ],
            ),
            (
                json!({"hard": {"secrets": "1.5"}}),
                &["spec.hard[secrets]: Invalid value: \"1.5\": must be an integer"],
            ),
            (
                scoped(
                    json!({"services": 1, "pods": 1}),
                    json!(["BestEffort", "NotBestEffort"]),
                ),
                &[
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
                    "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
                ],
            ),
            (
                scoped(json!({}), json!(["X"])),
                &["spec.scopes: Invalid value: [\"X\"]: unsupported scope"],
            ),
            (
                selected(json!({"scopeName": "Terminating", "operator": "In", "values": ["a"]})),
                &[
                    "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                ],
            ),
            (
                selected(json!({"scopeName": "PriorityClass", "operator": "In"})),
                &[
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                ],
            ),
        ],
    );
}

#[test]
fn limits_are_consistent() {
    let limits = |limits: Value| json!({"limits": limits});
    assert_errors(
        "LimitRange",
        &[
            (
                limits(json!([{"type": "Container", "max": {"cpu": 1}}, {"type": "Container"}])),
                &["spec.limits[1].type: Duplicate value: \"Container\""],
            ),
            (
                limits(json!([{"type": "PersistentVolumeClaim"}])),
                &[
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                ],
            ),
            (
                limits(json!([{"type": "Foo"}])),
                &[
                    "spec.limits[0].type: Invalid value: \"Foo\": must be a standard limit type or fully qualified",
                ],
            ),
            (
                limits(
                    json!([{"type": "Pod", "min": {"cpu": 2}, "max": {"cpu": "1"}, "default": {"cpu": 1}}]),
                ),
                &[
                    "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                ],
            ),
            (
                limits(json!([{"type": "Pod", "max": {"storage": 1}}])),
                &[
                    "spec.limits[0].max[storage]: Invalid value: \"storage\": must be a standard resource for containers",
                ],
            ),
            (
                limits(
                    json!([{"type": "Pod", "min": {"cpu": 1}, "max": {"cpu": 2}, "maxLimitRequestRatio": {"cpu": 3}}]),
                ),
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                ],
            ),
        ],
    );
}

#[test]
fn policies_of_jobs() {
    let job = |edit: Value| {
        let mut spec = json!({"template": template(json!({}), Some("Never"))});
        for (key, value) in edit.as_object().expect("a map") {
            spec[key] = value.clone();
        }
        spec
    };
    let failing = |rule: Value| job(json!({"podFailurePolicy": {"rules": [rule]}}));
    let codes = json!({"operator": "In", "values": [1]});
    let succeeding = |rule: Value| {
        job(
            json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [rule]}}),
        )
    };
    assert_errors(
        "Job",
        &[
            (
                job(
                    json!({"template": template(json!({}), Some("OnFailure")), "podFailurePolicy": {"rules": []}}),
                ),
                &[
                    "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified",
                ],
            ),
            (
                failing(json!({"action": "X", "onExitCodes": codes})),
                &[
                    "spec.podFailurePolicy.rules[0].action: Unsupported value: \"X\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                ],
            ),
            (
                failing(json!({"action": "FailIndex", "onExitCodes": codes})),
                &[
                    "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                ],
            ),
            (
                failing(
                    json!({"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1, 0, 1], "containerName": "z"}}),
                ),
                &[
                    "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"z\": must be one of the container or initContainer names in the pod template",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 1",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [1,0,1]: must be ordered",
                ],
            ),
            (
                failing(json!({"action": "Ignore"})),
                &[
                    "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                ],
            ),
            (
                job(
                    json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed"}),
                ),
                &[
                    "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
                ],
            ),
            (
                job(json!({"managedBy": "foo"})),
                &[
                    "spec.managedBy: Invalid value: \"foo\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ],
            ),
            (
                job(json!({"maxFailedIndexes": 1})),
                &[
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                ],
            ),
            (
                succeeding(json!({})),
                &[
                    "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                ],
            ),
            (
                succeeding(json!({"succeededIndexes": "1-3"})),
                &[
                    "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1-3\": error parsing succeededIndexes: too large index: \"3\"",
                ],
            ),
            (
                succeeding(json!({"succeededIndexes": "1-2", "succeededCount": 3})),
                &[
                    "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                ],
            ),
        ],
    );
}

#[test]
fn pods_fit_their_hosts() {
    let pod = |edit: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in edit.as_object().expect("a map") {
            spec[key] = value.clone();
        }
        spec
    };
    let with = |edit: Value| {
        let mut spec = pod(json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
        for (key, value) in edit.as_object().expect("a map") {
            spec["containers"][0][key] = value.clone();
        }
        spec
    };
    assert_errors(
        "Pod",
        &[
            (
                pod(json!({"nodeName": "n", "schedulingGates": [{"name": "a"}]})),
                &[
                    "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
                ],
            ),
            (
                pod(json!({"ephemeralContainers": [{"name": "e", "image": "i"}]})),
                &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            ),
            (
                pod(json!({"hostPID": true, "shareProcessNamespace": true})),
                &[
                    "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
                ],
            ),
            (
                pod(json!({"hostNetwork": true, "hostUsers": false})),
                &["spec.hostNetwork: Forbidden: when `hostUsers` is false"],
            ),
            (
                pod(json!({"os": {"name": "foo"}})),
                &["spec.os: Unsupported value: \"foo\": supported values: \"linux\", \"windows\""],
            ),
            (
                pod(json!({"os": {"name": "windows"}, "securityContext": {"runAsUser": 1}})),
                &["spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"],
            ),
            (
                pod(json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}})),
                &[
                    "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                ],
            ),
            (
                pod(json!({"securityContext": {"sysctls": [{"name": "a b", "value": "1"}]}})),
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"a b\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                pod(json!({"volumes": [{"name": "v", "iscsi": {}}, {"name": "w", "image": {}}]})),
                &[
                    "spec.volumes[0].iscsi.targetPortal: Required value",
                    "spec.volumes[0].iscsi.iqn: Required value",
                    "spec.volumes[1].image.reference: Required value",
                ],
            ),
            (
                with(
                    json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}),
                ),
                &[
                    "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                ],
            ),
            (
                with(
                    json!({"resizePolicy": [{"resourceName": "x", "restartPolicy": "NotRequired"}]}),
                ),
                &[
                    "spec.containers[0].resizePolicy: Unsupported value: \"x\": supported values: \"cpu\", \"memory\"",
                ],
            ),
            (
                with(json!({"resources": {"claims": [{"name": "x"}]}})),
                &[
                    "spec.containers[0].resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
                ],
            ),
            (
                with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}})),
                &[
                    "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
                ],
            ),
        ],
    );
}

#[test]
fn hostile_shapes_do_not_panic() {
    let shapes = [
        json!({}),
        json!({"spec": null, "metadata": null, "status": []}),
        json!({"spec": [], "metadata": "x", "data": 5, "rules": {}, "webhooks": 7}),
        json!({"spec": {"template": [], "ports": {}, "containers": [5, null], "selector": "x"}}),
        json!({"spec": {"template": {"spec": {"containers": {}, "volumes": [[]]}, "metadata": 5}, "versions": 3}, "status": 5}),
    ];
    for kind in builtin() {
        for shape in &shapes {
            let mut object = shape.clone();
            kind.strategy.default(&mut object);
            kind.strategy.prepare_for_create(&mut object);
            kind.strategy.prepare_for_update(&mut object, shape);
            kind.strategy.prepare_for_status_update(&mut object, shape);
            kind.strategy.validate(&object);
            kind.strategy.validate_create(&object);
            kind.strategy.validate_update(&object, shape);
            kind.strategy.warnings(&object);
            kind.strategy.graceful_period(&object);
            if let Some(stored) = &kind.stored_as {
                object = stored.conversion.to_stored(object);
                object = stored.conversion.to_served(object);
            }
            for field in kind.strategy.selectable_fields() {
                kind.strategy.selectable_field(&object, field);
            }
            kind.table.cells(&object, 0);
        }
    }
}
