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
    let errors = strategy.validate(&object);
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
