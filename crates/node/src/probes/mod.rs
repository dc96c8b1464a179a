//! Probes of running containers: startup, readiness, liveness.

pub mod action;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::Notify;

use crate::cri::Cri;
use crate::events::{Kind, Recorder};
use crate::pod::status::Health;
use action::{Action, Outcome};

/// Which question a probe answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Has it started?
    Startup,
    /// Can it serve?
    Readiness,
    /// Should it be restarted?
    Liveness,
}

impl ProbeKind {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The kind in lower case, as messages write it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
        }
    }
}

/// A container that has to be killed because a probe failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The probe that failed.
    pub kind: ProbeKind,
    /// Seconds that the container gets to stop, if the probe says.
    pub grace_seconds: Option<i64>,
}

#[derive(Debug)]
struct State {
    health: Health,
    failed: Option<Failed>,
}

struct Entry {
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The probes of one pod's running containers.
#[derive(Default)]
pub struct ProbeSet {
    entries: HashMap<String, Entry>,
}

/// What is needed to probe a container.
pub struct Target {
    /// The runtime.
    pub cri: Cri,
    /// The pod, for events.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Container,
    /// Its id in the runtime.
    pub id: String,
    /// The pod's address.
    pub pod_ip: String,
    /// When the container started.
    pub started_at: Timestamp,
    /// Where events go.
    pub events: Recorder,
    /// Told when a result changes.
    pub changed: Arc<Notify>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProbeSet {
    /// Starts probing a container unless that is under way. `before` is what
    /// was last known of it: an agent that restarts does not unready a pod.
    pub fn start(&mut self, target: Target, before: Option<Health>) {
        if self.entries.contains_key(&target.id) {
            return;
        }
        let container = &target.container;
        let health = before.unwrap_or(Health {
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
        });
        let state = Arc::new(Mutex::new(State {
            health,
            failed: None,
        }));
        let id = target.id.clone();
        let task = tokio::spawn(run(target, Arc::clone(&state)));
        self.entries.insert(id, Entry { state, task });
    }

    /// Stops probing all but the containers with these ids.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|id, _| keep(id));
    }

    /// Health by container id.
    pub fn health(&self) -> HashMap<String, Health> {
        self.entries
            .iter()
            .map(|(id, entry)| (id.clone(), lock(&entry.state).health))
            .collect()
    }

    /// Whether the container must be killed.
    pub fn failed(&self, id: &str) -> Option<Failed> {
        lock(&self.entries.get(id)?.state).failed
    }

    /// Stops all probing; health stays readable.
    pub fn stop(&mut self) {
        for entry in self.entries.values() {
            entry.task.abort();
        }
    }
}

async fn run(target: Target, state: Arc<Mutex<State>>) {
    let container = &target.container;
    if let Some(probe) = &container.startup_probe
        && !lock(&state).health.started
    {
        cycle(&target, &state, ProbeKind::Startup, probe).await;
    }
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            cycle(&target, &state, ProbeKind::Readiness, probe).await;
        }
    };
    let liveness = async {
        if let Some(probe) = &container.liveness_probe {
            cycle(&target, &state, ProbeKind::Liveness, probe).await;
        }
    };
    tokio::join!(readiness, liveness);
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let seconds = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Duration::from_secs(seconds.unwrap_or(default))
}

/// Probes until a startup probe succeeds or a probe has failed for good.
async fn cycle(target: &Target, state: &Mutex<State>, kind: ProbeKind, probe: &Probe) {
    let Some(action) = Action::of_probe(probe, &target.container) else {
        return;
    };
    let timeout = seconds(probe.timeout_seconds, 1);
    let period = seconds(probe.period_seconds, 10);
    let need_successes = probe.success_threshold.unwrap_or(1).max(1);
    let need_failures = probe.failure_threshold.unwrap_or(3).max(1);
    let delay = seconds(probe.initial_delay_seconds, 0);
    let running = Duration::try_from(Timestamp::now().duration_since(target.started_at));
    tokio::time::sleep(delay.saturating_sub(running.unwrap_or_default())).await;
    let (mut successes, mut failures) = (0, 0);
    loop {
        let outcome = action
            .run(&target.cri, &target.id, &target.pod_ip, timeout)
            .await;
        match outcome {
            Outcome::Success => {
                successes += 1;
                failures = 0;
            }
            Outcome::Failure(message) => {
                failures += 1;
                successes = 0;
                let text = format!("{} probe failed: {message}", kind.title());
                let name = &target.container.name;
                target
                    .events
                    .container(&target.pod, name, Kind::Warning, "Unhealthy", text);
            }
            Outcome::Unknown(message) => {
                let text = format!(
                    "{} probe errored and resulted in unknown state: {message}",
                    kind.title()
                );
                let name = &target.container.name;
                target
                    .events
                    .container(&target.pod, name, Kind::Warning, "Unhealthy", text);
            }
        }
        let grace_seconds = probe.termination_grace_period_seconds;
        let failed = Failed {
            kind,
            grace_seconds,
        };
        if apply(
            state,
            failed,
            successes >= need_successes,
            failures >= need_failures,
        ) {
            target.changed.notify_one();
        }
        let over = match kind {
            ProbeKind::Startup => successes >= need_successes || failures >= need_failures,
            ProbeKind::Liveness => failures >= need_failures,
            ProbeKind::Readiness => false,
        };
        if over {
            return;
        }
        tokio::time::sleep(period).await;
    }
}

/// Notes a verdict; whether it changes anything.
fn apply(state: &Mutex<State>, probe: Failed, good: bool, bad: bool) -> bool {
    let mut state = lock(state);
    match probe.kind {
        ProbeKind::Readiness if good && !state.health.ready => state.health.ready = true,
        ProbeKind::Readiness if bad && state.health.ready => state.health.ready = false,
        ProbeKind::Startup if good && !state.health.started => state.health.started = true,
        ProbeKind::Startup | ProbeKind::Liveness if bad && state.failed.is_none() => {
            state.failed = Some(probe);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let state = Mutex::new(State {
            health: Health {
                started: false,
                ready: false,
            },
            failed: None,
        });
        let probe = |kind| Failed {
            kind,
            grace_seconds: None,
        };
        assert!(apply(&state, probe(ProbeKind::Startup), true, false));
        assert!(!apply(&state, probe(ProbeKind::Startup), true, false));
        assert!(apply(&state, probe(ProbeKind::Readiness), true, false));
        assert!(!apply(&state, probe(ProbeKind::Readiness), false, false));
        assert!(apply(&state, probe(ProbeKind::Readiness), false, true));
        assert!(!apply(&state, probe(ProbeKind::Liveness), true, false));
        assert!(apply(&state, probe(ProbeKind::Liveness), false, true));
        let state = state.into_inner().unwrap();
        assert_eq!(
            state.health,
            Health {
                started: true,
                ready: false
            }
        );
        assert_eq!(state.failed.unwrap().kind, ProbeKind::Liveness);
    }
}
