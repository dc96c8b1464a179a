use serde_json::{Value, json};

use crate::kinds::builtin;

const NOW: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

fn row(group: &str, kind: &str, object: &Value) -> Vec<String> {
    let mut kinds = builtin().into_iter();
    let kind = kinds
        .find(|k| k.gvk.group == group && k.gvk.kind == kind)
        .unwrap();
    let cells = kind.table.cells(object, NOW);
    assert_eq!(cells.len(), kind.table.columns().len());
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect()
}

#[test]
fn every_kind_has_a_name_column_and_as_many_cells_as_columns() {
    for kind in builtin() {
        let columns = kind.table.columns();
        assert_eq!(
            columns.iter().filter(|c| c.format == "name").count(),
            1,
            "{kind:?}"
        );
        let cells = kind.table.cells(&json!({"metadata": {"name": "x"}}), NOW);
        assert_eq!(cells.len(), columns.len(), "{kind:?}");
    }
}

#[test]
fn pods_say_what_they_do() {
    let pod = |spec: Value, status: Value| json!({"metadata": {"name": "p", "creationTimestamp": "2025-12-31T23:55:00Z"}, "spec": spec, "status": status});
    let one = json!({"containers": [{"name": "c"}], "nodeName": "n"});
    let init =
        json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    let sidecar = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
    let running = json!({"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}});
    for (spec, status, expected) in [
        (
            one.clone(),
            json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running]}),
            ["p", "1/1", "Running", "0", "5m"],
        ),
        (
            one.clone(),
            json!({"phase": "Pending"}),
            ["p", "0/1", "Pending", "0", "5m"],
        ),
        (
            one.clone(),
            json!({"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 2,
                "lastState": {"terminated": {"finishedAt": "2025-12-31T23:57:00Z"}},
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            ["p", "0/1", "CrashLoopBackOff", "2 (3m ago)", "5m"],
        ),
        (
            one.clone(),
            json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ["p", "0/1", "Completed", "0", "5m"],
        ),
        (
            one.clone(),
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "restartCount": 0,
                "state": {"terminated": {"exitCode": 3}}}]}),
            ["p", "0/1", "ExitCode:3", "0", "5m"],
        ),
        (
            init.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "restartCount": 0, "state": {"running": {}}}]}),
            ["p", "0/1", "Init:1/2", "0", "5m"],
        ),
        (
            init.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            ["p", "0/1", "Init:Error", "1", "5m"],
        ),
        (
            sidecar,
            json!({"phase": "Running", "containerStatuses": [running], "initContainerStatuses": [
                {"name": "i", "restartCount": 0, "started": true, "ready": true, "state": {"running": {}}}]}),
            ["p", "2/2", "Running", "0", "5m"],
        ),
        (
            one.clone(),
            json!({"phase": "Failed", "reason": "Evicted"}),
            ["p", "0/1", "Evicted", "0", "5m"],
        ),
    ] {
        let object = pod(spec, status);
        assert_eq!(row("", "Pod", &object)[..5], expected, "{object}");
    }
    let mut leaving = pod(one, json!({"phase": "Running"}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let cells = row("", "Pod", &leaving);
    assert_eq!(cells[2], "Terminating");
    assert_eq!(cells[5..], ["<none>", "n", "<none>", "<none>"]);
}

#[test]
fn other_kinds_read_as_kubectl_users_know() {
    let meta = json!({"name": "x", "creationTimestamp": "2025-12-31T00:00:00Z"});
    for (group, kind, mut object, expected) in [
        (
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
                "status": {"readyReplicas": 1, "updatedReplicas": 3, "availableReplicas": 1}}),
            vec!["x", "1/3", "3", "1", "24h", "c", "i", "a=b"],
        ),
        (
            "",
            "Service",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}}),
            vec![
                "x",
                "NodePort",
                "10.0.0.1",
                "<none>",
                "80:30080/TCP",
                "24h",
                "<none>",
            ],
        ),
        (
            "",
            "Node",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
                    "nodeInfo": {"kubeletVersion": "v1.36.2"}}}),
            vec![
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "24h",
                "v1.36.2",
                "1.2.3.4",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>",
            ],
        ),
        (
            "",
            "Event",
            json!({"type": "Normal", "reason": "R", "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m", "count": 2,
                "firstTimestamp": "2025-12-31T00:00:00Z", "lastTimestamp": "2025-12-31T23:59:00Z", "source": {"component": "c"}}),
            vec!["60s", "Normal", "R", "pod/p", "", "c", "m", "24h", "2", "x"],
        ),
        (
            "storage.k8s.io",
            "StorageClass",
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
            vec!["x (default)", "p", "Delete", "Immediate", "false", "24h"],
        ),
        (
            "batch",
            "Job",
            json!({"spec": {"completions": 1, "parallelism": 1, "template": {"spec": {"containers": []}}},
                "status": {"succeeded": 1, "startTime": "2025-12-31T00:00:00Z", "completionTime": "2025-12-31T00:00:05Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
            vec![
                "x", "Complete", "1/1", "5s", "24h", "<none>", "<none>", "<none>",
            ],
        ),
        (
            "",
            "Endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}], "ports": [{"port": 80}]}]}),
            vec!["x", "1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 1 more...", "24h"],
        ),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            json!({"spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]}}),
            vec![
                "x",
                "Deployment/d",
                "cpu: <unknown>/80%",
                "1",
                "3",
                "0",
                "24h",
            ],
        ),
    ] {
        for (key, value) in meta.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        assert_eq!(row(group, kind, &object), expected, "{kind}");
    }
}
