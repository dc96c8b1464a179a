//! A pod's status computed from its specification and what the runtime
//! shows. Pure: the same inputs give the same status.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};

use super::info::{self, Role};
use super::runtime::{ContainerView, PodView};

/// Why a container does not run although it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Reason in CamelCase, as in `ImagePullBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What probes have found of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
}

/// What a status is computed from.
pub struct Input<'a> {
    /// The pod with its last known status.
    pub pod: &'a Pod,
    /// The runtime's view.
    pub view: &'a PodView,
    /// Reasons of containers that wait, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// Probe results by container id.
    pub health: &'a HashMap<String, Health>,
    /// Termination messages by container id.
    pub messages: &'a HashMap<String, String>,
    /// The node's address.
    pub node_ip: &'a str,
    /// Nothing will run any more: the phase becomes Succeeded or Failed.
    pub terminal: bool,
    /// A verdict on the whole pod (reason, message), as of a missed deadline.
    pub failure: Option<(&'a str, &'a str)>,
    /// The present time.
    pub now: Timestamp,
}

/// The pod's status.
pub fn compute(input: &Input<'_>) -> PodStatus {
    let spec = info::spec(input.pod);
    let old = input.pod.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.init_container_statuses = some_unless_empty(
        spec.init_containers()
            .iter()
            .map(|c| container_status(input, &c.name, c.image.as_deref(), info::init_role(c)))
            .collect(),
    );
    status.container_statuses = some_unless_empty(
        spec.containers()
            .iter()
            .map(|c| container_status(input, &c.name, c.image.as_deref(), Role::Main))
            .collect(),
    );
    status.ephemeral_container_statuses = some_unless_empty(
        spec.ephemeral_containers()
            .iter()
            .map(|c| container_status(input, &c.name, c.image.as_deref(), Role::Ephemeral))
            .collect(),
    );
    let phase = phase(input, &status);
    status.phase = Some(phase.to_owned());
    if let Some((reason, message)) = input.failure {
        status.phase = Some("Failed".to_owned());
        status.reason = Some(reason.to_owned());
        status.message = Some(message.to_owned());
    }
    status.qos_class = Some(info::qos(input.pod).as_str().to_owned());
    status.start_time = old.start_time.or(Some(Time(whole_seconds(input.now))));
    status.host_ip = Some(input.node_ip.to_owned());
    status.host_ips = Some(vec![HostIP {
        ip: input.node_ip.to_owned(),
    }]);
    let ips: Vec<String> = if spec.host_network() {
        vec![input.node_ip.to_owned()]
    } else {
        input.view.ips.clone()
    };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.clone());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect());
    }
    status.observed_generation = input.pod.metadata.generation;
    status.conditions = Some(conditions(input, &status));
    status
}

fn some_unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The API's times have whole seconds.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn container_status(
    input: &Input<'_>,
    name: &str,
    image: Option<&str>,
    role: Role,
) -> ContainerStatus {
    let latest = input.view.latest(name);
    let waiting = input.waiting.get(name);
    let old = old_status(input.pod, name, role);
    let Some(latest) = latest else {
        return missing_status(input, name, image, role, waiting, old);
    };
    let mut state = state_of(input, latest);
    let mut last = input
        .view
        .previous(name)
        .map(|previous| state_of(input, previous))
        .or_else(|| {
            // The runtime keeps few old containers; the API remembers.
            let same =
                old.and_then(|o| o.container_id.as_deref()) == Some(container_id(latest).as_str());
            old.filter(|_| same).and_then(|o| o.last_state.clone())
        });
    if let Some(waiting) = waiting
        && !latest.running()
    {
        last = Some(state);
        state = waiting_state(&waiting.reason, &waiting.message);
    }
    let running = state.running.is_some();
    let health = input
        .health
        .get(&latest.status.id)
        .copied()
        .unwrap_or(Health {
            started: false,
            ready: false,
        });
    let succeeded = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    let (ready, started) = match role {
        Role::Init => (succeeded, running),
        Role::Ephemeral => (false, running),
        Role::Sidecar | Role::Main => (
            running && health.started && health.ready,
            running && health.started,
        ),
    };
    ContainerStatus {
        name: name.to_owned(),
        image: latest
            .status
            .image
            .as_ref()
            .map(|i| i.image.clone())
            .filter(|i| !i.is_empty() && !i.starts_with("sha256:"))
            .or_else(|| image.map(str::to_owned))
            .unwrap_or_default(),
        image_id: latest.status.image_ref.clone(),
        container_id: Some(container_id(latest)),
        restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
        ready,
        started: Some(started),
        last_state: Some(last.unwrap_or_default()),
        state: Some(state),
        ..Default::default()
    }
}

/// Status of a container that the runtime does not hold.
fn missing_status(
    input: &Input<'_>,
    name: &str,
    image: Option<&str>,
    role: Role,
    waiting: Option<&Waiting>,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    // One that ended for good and was cleared away keeps its last words.
    if let Some(old) = old
        && waiting.is_none()
        && old.state.as_ref().is_some_and(|s| s.terminated.is_some())
        && (input.terminal || role == Role::Init || role == Role::Ephemeral)
    {
        return old.clone();
    }
    let has_init = !info::spec(input.pod).init_containers().is_empty();
    let reason = if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let state = match waiting {
        Some(waiting) => waiting_state(&waiting.reason, &waiting.message),
        None => waiting_state(reason, ""),
    };
    let last = old.and_then(|o| {
        let ended = o.state.clone().filter(|s| s.terminated.is_some());
        ended.or_else(|| o.last_state.clone())
    });
    ContainerStatus {
        name: name.to_owned(),
        image: image.unwrap_or_default().to_owned(),
        image_id: String::new(),
        ready: false,
        started: Some(false),
        restart_count: old.map_or(0, |o| o.restart_count),
        last_state: Some(last.unwrap_or_default()),
        state: Some(state),
        ..Default::default()
    }
}

/// The status last reported for this container.
pub fn old_status<'a>(pod: &'a Pod, name: &str, role: Role) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = match role {
        Role::Init | Role::Sidecar => &status.init_container_statuses,
        Role::Main => &status.container_statuses,
        Role::Ephemeral => &status.ephemeral_container_statuses,
    };
    list.as_ref()?.iter().find(|s| s.name == name)
}

/// The id as the API writes it.
pub fn container_id(container: &ContainerView) -> String {
    format!("containerd://{}", container.status.id)
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..Default::default()
    }
}

fn state_of(input: &Input<'_>, container: &ContainerView) -> ContainerState {
    let status = &container.status;
    if container.running() {
        return ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(whole_seconds(container.started_at()))),
            }),
            ..Default::default()
        };
    }
    if !container.exited() {
        return waiting_state("ContainerCreating", "");
    }
    let message = match input.messages.get(&status.id) {
        Some(message) if !message.is_empty() => message.clone(),
        _ => status.message.clone(),
    };
    let reason = match status.reason.as_str() {
        "" if status.exit_code == 0 => "Completed",
        "" => "Error",
        given => given,
    };
    // A container whose start failed has no moment of start.
    let started = if status.started_at > 0 {
        status.started_at
    } else {
        status.created_at
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id(container)),
            exit_code: status.exit_code,
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then_some(message),
            started_at: Some(Time(whole_seconds(super::runtime::timestamp(started)))),
            finished_at: Some(Time(whole_seconds(container.finished_at()))),
            signal: None,
        }),
        ..Default::default()
    }
}

fn phase(input: &Input<'_>, status: &PodStatus) -> &'static str {
    let policy = info::spec(input.pod).restart_policy();
    let mains = status.container_statuses.as_deref().unwrap_or_default();
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in mains {
        let state = container.state.clone().unwrap_or_default();
        let last = container.last_state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(ended) = state.terminated {
            stopped += 1;
            succeeded += usize::from(ended.exit_code == 0);
        } else if last.terminated.is_some() {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    if input.terminal {
        let already = input.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        return match already {
            Some("Succeeded") => "Succeeded",
            Some("Failed") => "Failed",
            _ if stopped == succeeded && waiting == 0 && running == 0 => "Succeeded",
            _ => "Failed",
        };
    }
    let main_begun = running + stopped > 0;
    if !main_begun {
        if policy == "Never" && init_failed(input, status) {
            return "Failed";
        }
        return "Pending";
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 || policy == "Always" {
        return "Running";
    }
    if stopped == succeeded {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    }
}

fn init_failed(input: &Input<'_>, status: &PodStatus) -> bool {
    let statuses = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    info::spec(input.pod)
        .init_containers()
        .iter()
        .zip(statuses)
        .filter(|(c, _)| !info::is_sidecar(c))
        .any(|(_, s)| {
            s.state
                .as_ref()
                .and_then(|state| state.terminated.as_ref())
                .is_some_and(|t| t.exit_code != 0)
        })
}

/// One condition before its transition time is known.
struct Verdict {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self {
            kind,
            status: true,
            reason: None,
            message: None,
        }
    }

    fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self {
            kind,
            status: false,
            reason: Some(reason),
            message,
        }
    }
}

fn conditions(input: &Input<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let old = input
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    let containers_ready = containers_ready(input, status);
    let verdicts = [
        if input.view.ready_sandbox().is_some() && !input.terminal {
            Verdict::yes("PodReadyToStartContainers")
        } else {
            Verdict {
                kind: "PodReadyToStartContainers",
                status: false,
                reason: None,
                message: None,
            }
        },
        initialized(input, status),
        pod_ready(input, &old, &containers_ready),
        containers_ready,
    ];
    let mut result = Vec::with_capacity(old.len() + verdicts.len());
    for verdict in verdicts {
        let text = if verdict.status { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == verdict.kind);
        let since = before
            .filter(|c| c.status == text)
            .and_then(|c| c.last_transition_time.clone())
            .unwrap_or(Time(whole_seconds(input.now)));
        result.push(PodCondition {
            type_: verdict.kind.to_owned(),
            status: text.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_transition_time: Some(since),
            last_probe_time: None,
            observed_generation: input.pod.metadata.generation,
        });
    }
    // Conditions of others (PodScheduled, readiness gates) stay as they are.
    let own: Vec<String> = result.iter().map(|c| c.type_.clone()).collect();
    result.extend(old.into_iter().filter(|c| !own.contains(&c.type_)));
    if !result.iter().any(|c| c.type_ == "PodScheduled") {
        result.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(Time(whole_seconds(input.now))),
            observed_generation: input.pod.metadata.generation,
            ..Default::default()
        });
    }
    result
}

fn initialized(input: &Input<'_>, status: &PodStatus) -> Verdict {
    const KIND: &str = "Initialized";
    let mains = status.container_statuses.as_deref().unwrap_or_default();
    let begun = mains.iter().any(|s| s.container_id.is_some());
    if begun || status.phase.as_deref() == Some("Succeeded") {
        return Verdict::yes(KIND);
    }
    let statuses = status
        .init_container_statuses
        .as_deref()
        .unwrap_or_default();
    let unfinished: Vec<&str> = info::spec(input.pod)
        .init_containers()
        .iter()
        .zip(statuses)
        .filter(|(c, s)| {
            if info::is_sidecar(c) {
                s.started != Some(true)
            } else {
                !s.ready
            }
        })
        .map(|(c, _)| c.name.as_str())
        .collect();
    if unfinished.is_empty() {
        return Verdict::yes(KIND);
    }
    let message = format!(
        "containers with incomplete status: [{}]",
        unfinished.join(" ")
    );
    Verdict::no(KIND, "ContainersNotInitialized", Some(message))
}

fn containers_ready(input: &Input<'_>, status: &PodStatus) -> Verdict {
    const KIND: &str = "ContainersReady";
    match status.phase.as_deref() {
        Some("Succeeded") => return Verdict::no(KIND, "PodCompleted", None),
        Some("Failed") => return Verdict::no(KIND, "PodFailed", None),
        _ => {}
    }
    let sidecars = info::spec(input.pod)
        .init_containers()
        .iter()
        .zip(status.init_container_statuses.iter().flatten())
        .filter(|(c, _)| info::is_sidecar(c))
        .map(|(_, s)| s);
    let unready: Vec<&str> = sidecars
        .chain(status.container_statuses.iter().flatten())
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::yes(KIND);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::no(KIND, "ContainersNotReady", Some(message))
}

fn pod_ready(input: &Input<'_>, old: &[PodCondition], containers: &Verdict) -> Verdict {
    const KIND: &str = "Ready";
    if !containers.status {
        return Verdict {
            kind: KIND,
            status: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let gates = input
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.readiness_gates.as_deref());
    let mut unmet = Vec::new();
    for gate in gates.unwrap_or_default() {
        let name = &gate.condition_type;
        match old.iter().find(|c| c.type_ == *name) {
            None => unmet.push(format!(
                "corresponding condition of pod readiness gate \"{name}\" does not exist."
            )),
            Some(c) if c.status != "True" => unmet.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if unmet.is_empty() {
        return Verdict::yes(KIND);
    }
    Verdict::no(KIND, "ReadinessGatesNotReady", Some(unmet.join(", ")))
}

/// The JSON merge patch (RFC 7386) that turns `old` into `new`; `None` if
/// they are equal.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        let before = from.get(key).unwrap_or(&Value::Null);
        if let Some(change) = merge_patch(before, value) {
            patch.insert(key.clone(), change);
        }
    }
    Some(Value::Object(patch))
}
