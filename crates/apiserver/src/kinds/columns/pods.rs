//! The columns of pods.

use std::sync::Arc;

use coracle_machinery::object::{self, is_terminating, items};
use coracle_machinery::time;
use serde_json::Value;

use super::{KindName, NONE, age, condition, name, number, table, text_or};
use crate::kind::TableConvertor;

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    (kind == ("", "Pod")).then(|| {
        table(
            &[
                ("Name", "string", 0),
                ("Ready", "string", 0),
                ("Status", "string", 0),
                ("Restarts", "string", 0),
                ("Age", "string", 0),
                ("IP", "string", 1),
                ("Node", "string", 1),
                ("Nominated Node", "string", 1),
                ("Readiness Gates", "string", 1),
            ],
            cells,
        )
    })
}

fn cells(pod: &Value, now: i64) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match (summary.restarts, summary.last_restart) {
        (restarts, Some(then)) if restarts != 0 => {
            let ago = time::human_duration(now.saturating_sub(then));
            format!("{restarts} ({ago} ago)")
        }
        (restarts, _) => restarts.to_string(),
    };
    let ip = match object::text(pod, "/status/podIPs/0/ip") {
        "" => text_or(pod, "/status/podIP", NONE),
        ip => ip.into(),
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        ip,
        text_or(pod, "/spec/nodeName", NONE),
        text_or(pod, "/status/nominatedNodeName", NONE),
        gates(pod).into(),
    ]
}

fn gates(pod: &Value) -> String {
    let gates = items(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let open = gates
        .iter()
        .filter(|g| condition(pod, object::text(g, "/conditionType")));
    format!("{}/{}", open.count(), gates.len())
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    /// Seconds since the epoch.
    last_restart: Option<i64>,
}

/// Restarts of containers and when the last one ended.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count = self.count.saturating_add(number(status, "/restartCount"));
        let ended = object::text(status, "/lastState/terminated/finishedAt");
        self.last = self.last.max(time::parse_seconds(ended));
    }
}

/// What the pod is doing, in upstream's words.
fn summarise(pod: &Value) -> Summary {
    let mut reason = match object::text(pod, "/status/reason") {
        "" => object::text(pod, "/status/phase").to_owned(),
        reason => reason.to_owned(),
    };
    let gated = items(pod, "/status/conditions").iter().any(|c| {
        object::text(c, "/type") == "PodScheduled"
            && object::text(c, "/reason") == "SchedulingGated"
    });
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    let init = initialisation(pod);
    let sidecars = items(pod, "/spec/initContainers")
        .iter()
        .filter(|c| is_sidecar(c));
    let mut summary = Summary {
        ready: init.ready,
        total: items(pod, "/spec/containers").len() + sidecars.count(),
        reason: init.reason.clone().unwrap_or(reason),
        restarts: init.all.count,
        last_restart: init.all.last,
    };
    if init.reason.is_none() || condition(pod, "Initialized") {
        running(pod, init.sidecars, &mut summary);
    }
    let finished = matches!(object::text(pod, "/status/phase"), "Failed" | "Succeeded");
    if is_terminating(pod) && object::text(pod, "/status/reason") == "NodeLost" {
        summary.reason = "Unknown".to_owned();
    } else if is_terminating(pod) && !finished {
        summary.reason = "Terminating".to_owned();
    }
    summary
}

/// An init container that goes on running beside the others.
fn is_sidecar(container: &Value) -> bool {
    object::text(container, "/restartPolicy") == "Always"
}

struct Initialisation {
    ready: usize,
    /// Given while init containers are not done.
    reason: Option<String>,
    all: Restarts,
    sidecars: Restarts,
}

fn initialisation(pod: &Value) -> Initialisation {
    let containers = items(pod, "/spec/initContainers");
    let mut found = Initialisation {
        ready: 0,
        reason: None,
        all: Restarts::default(),
        sidecars: Restarts::default(),
    };
    for (index, status) in items(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        let name = object::text(status, "/name");
        let mut named = containers
            .iter()
            .filter(|c| object::text(c, "/name") == name);
        let sidecar = named.next().is_some_and(is_sidecar);
        found.all.add(status);
        if sidecar {
            found.sidecars.add(status);
        }
        let terminated = &status["state"]["terminated"];
        let waiting = object::text(status, "/state/waiting/reason");
        if terminated["exitCode"] == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            found.ready += usize::from(status["ready"] == true);
            continue;
        }
        found.reason = Some(if terminated.is_object() {
            format!("Init:{}", ending(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", containers.len())
        });
        break;
    }
    found
}

/// Why a container ended: its reason, signal or exit code.
fn ending(terminated: &Value) -> String {
    match (
        object::text(terminated, "/reason"),
        number(terminated, "/signal"),
    ) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Fills in what the containers proper do.
fn running(pod: &Value, sidecars: Restarts, summary: &mut Summary) {
    let mut restarts = sidecars;
    let mut any = false;
    for status in items(pod, "/status/containerStatuses").iter().rev() {
        restarts.add(status);
        let state = &status["state"];
        let waiting = object::text(state, "/waiting/reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = ending(&state["terminated"]);
        } else if status["ready"] == true && state["running"].is_object() {
            any = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && any {
        let ready = condition(pod, "Ready");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
    summary.restarts = restarts.count;
    summary.last_restart = restarts.last;
}
