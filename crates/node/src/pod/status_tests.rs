//! Tables for [`super::status`].

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::runtime::{ContainerView, PodView};
use super::status::{Health, Input, Waiting, compute, merge_patch};

fn view(containers: &[(&str, u32, &str)]) -> PodView {
    let mut view = PodView {
        sandboxes: vec![cri::PodSandbox {
            id: "sb".into(),
            state: cri::PodSandboxState::SandboxReady.into(),
            ..Default::default()
        }],
        containers: Vec::new(),
        ips: vec!["10.1.0.2".into()],
    };
    for (name, attempt, state) in containers {
        let (state, exit_code) = match *state {
            "running" => (cri::ContainerState::ContainerRunning, 0),
            "created" => (cri::ContainerState::ContainerCreated, 0),
            exit => (cri::ContainerState::ContainerExited, exit.parse().unwrap()),
        };
        view.containers.push(ContainerView {
            sandbox_id: "sb".into(),
            name: (*name).into(),
            attempt: *attempt,
            status: cri::ContainerStatus {
                id: format!("{name}{attempt}"),
                state: state.into(),
                exit_code,
                started_at: 1_000_000_000,
                finished_at: 2_000_000_000,
                ..Default::default()
            },
        });
    }
    view.containers
        .sort_by_key(|c| std::cmp::Reverse(c.attempt));
    view
}

fn pod(policy: &str, init: Value, names: &[&str]) -> Pod {
    let containers: Vec<Value> = names
        .iter()
        .map(|n| json!({"name": n, "image": "i"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 2},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": containers,
            "readinessGates": null},
        "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True"}, {"type": "example.com/x", "status": "True"}]}
    }))
    .unwrap()
}

fn run(pod: &Pod, view: &PodView, waiting: &[(&str, &str)], terminal: bool) -> PodStatus {
    let waiting: HashMap<String, Waiting> = waiting
        .iter()
        .map(|(name, reason)| {
            (
                (*name).to_owned(),
                Waiting {
                    reason: (*reason).to_owned(),
                    message: "m".into(),
                },
            )
        })
        .collect();
    let health: HashMap<String, Health> = view
        .containers
        .iter()
        .map(|c| {
            (
                c.status.id.clone(),
                Health {
                    started: true,
                    ready: true,
                },
            )
        })
        .collect();
    compute(&Input {
        pod,
        view,
        waiting: &waiting,
        health: &health,
        messages: &HashMap::new(),
        node_ip: "10.0.0.1",
        terminal,
        failure: None,
        now: Timestamp::from_second(50).unwrap(),
    })
}

fn condition(status: &PodStatus, kind: &str) -> String {
    let list = status.conditions.as_ref().unwrap();
    let found = list.iter().find(|c| c.type_ == kind).unwrap();
    format!(
        "{} {}",
        found.status,
        found.reason.as_deref().unwrap_or("-")
    )
}

#[test]
fn phases() {
    let none = json!([]);
    for (policy, containers, waiting, terminal, want) in [
        ("Always", vec![], vec![], false, "Pending"),
        (
            "Always",
            vec![("a", 0, "running"), ("b", 0, "running")],
            vec![],
            false,
            "Running",
        ),
        (
            "Always",
            vec![("a", 0, "running")],
            vec![],
            false,
            "Pending",
        ),
        (
            "Always",
            vec![("a", 0, "0"), ("b", 0, "running")],
            vec![],
            false,
            "Running",
        ),
        (
            "Always",
            vec![("a", 0, "1"), ("b", 0, "1")],
            vec![("a", "CrashLoopBackOff")],
            false,
            "Running",
        ),
        (
            "Never",
            vec![("a", 0, "0"), ("b", 0, "0")],
            vec![],
            false,
            "Succeeded",
        ),
        (
            "Never",
            vec![("a", 0, "0"), ("b", 0, "1")],
            vec![],
            false,
            "Failed",
        ),
        (
            "OnFailure",
            vec![("a", 0, "0"), ("b", 0, "1")],
            vec![],
            false,
            "Running",
        ),
        (
            "OnFailure",
            vec![("a", 0, "0"), ("b", 0, "0")],
            vec![],
            false,
            "Succeeded",
        ),
        (
            "Always",
            vec![("a", 0, "0"), ("b", 0, "137")],
            vec![],
            true,
            "Failed",
        ),
        (
            "Always",
            vec![("a", 0, "0"), ("b", 0, "0")],
            vec![],
            true,
            "Succeeded",
        ),
    ] {
        let status = run(
            &pod(policy, none.clone(), &["a", "b"]),
            &view(&containers),
            &waiting,
            terminal,
        );
        assert_eq!(
            status.phase.as_deref(),
            Some(want),
            "{policy} {containers:?}"
        );
    }
}

#[test]
fn init_containers_hold_the_rest_back() {
    let init = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
    let pod = pod("Never", init, &["a"]);
    let status = run(&pod, &view(&[("i", 0, "running")]), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, "Initialized"),
        "False ContainersNotInitialized"
    );
    let main = &status.container_statuses.as_ref().unwrap()[0];
    let init = &status.init_container_statuses.as_ref().unwrap()[1];
    for container in [main, init] {
        let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
    }
    let status = run(&pod, &view(&[("i", 0, "1")]), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let view = view(&[("i", 0, "0"), ("s", 0, "running"), ("a", 0, "running")]);
    let status = run(&pod, &view, &[], false);
    assert_eq!(condition(&status, "Initialized"), "True -");
    assert_eq!(condition(&status, "Ready"), "True -");
}

#[test]
fn restarts_show_the_last_state() {
    let pod = pod("Always", json!([]), &["a"]);
    let status = run(
        &pod,
        &view(&[("a", 1, "running"), ("a", 0, "3")]),
        &[],
        false,
    );
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 1);
    let last = container
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    let status = run(
        &pod,
        &view(&[("a", 1, "4"), ("a", 0, "3")]),
        &[("a", "CrashLoopBackOff")],
        false,
    );
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    let last = container
        .last_state
        .as_ref()
        .unwrap()
        .terminated
        .as_ref()
        .unwrap();
    assert_eq!(last.exit_code, 4);
    assert_eq!(
        condition(&status, "ContainersReady"),
        "False ContainersNotReady"
    );
}

#[test]
fn conditions_of_others_survive_and_gates_count() {
    let mut pod = pod("Always", json!([]), &["a"]);
    let view = view(&[("a", 0, "running")]);
    pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/x"}])).unwrap();
    let status = run(&pod, &view, &[], false);
    assert_eq!(condition(&status, "example.com/x"), "True -");
    assert_eq!(condition(&status, "Ready"), "True -");
    pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/y"}])).unwrap();
    let status = run(&pod, &view, &[], false);
    assert_eq!(condition(&status, "Ready"), "False ReadinessGatesNotReady");
    assert_eq!(condition(&status, "ContainersReady"), "True -");
}

#[test]
fn an_unchanged_pod_gives_an_unchanged_status() {
    let mut pod = pod("Always", json!([]), &["a"]);
    let view = view(&[("a", 0, "running")]);
    let first = run(&pod, &view, &[], false);
    pod.status = Some(first.clone());
    assert_eq!(run(&pod, &view, &[], false), first);
}

#[test]
fn patches_are_minimal() {
    for (old, new, want) in [
        (json!({"a": 1}), json!({"a": 1}), None),
        (
            json!({"a": 1, "b": 2}),
            json!({"a": 1}),
            Some(json!({"b": null})),
        ),
        (
            json!({"a": {"x": 1, "y": 2}}),
            json!({"a": {"x": 1, "y": 3}}),
            Some(json!({"a": {"y": 3}})),
        ),
        (
            json!({"a": [1]}),
            json!({"a": [1, 2]}),
            Some(json!({"a": [1, 2]})),
        ),
    ] {
        assert_eq!(merge_patch(&old, &new), want);
    }
}
