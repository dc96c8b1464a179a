//! Which numbered pods to make and remove next: pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::context::{sooner, until};
use crate::intstr::{Round, resolve};
use crate::objects::apps::{StatefulSet, StatefulSetStatus};
use crate::objects::pod::Pod;
use crate::revisions::{HASH_LABEL, Revision};

use super::identity::ordinal;

/// What is known.
pub(super) struct View<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    pub current: &'a Revision,
    pub update: &'a Revision,
    /// Whether the pod's deletion was asked for, though the cache does not
    /// show it yet.
    pub is_deleted: &'a (dyn Fn(&Pod) -> bool + Sync),
    pub now: Timestamp,
}

/// One write.
#[derive(Debug)]
pub(super) enum Step {
    /// Make the pod of this number, of the updated template or the current.
    Create { ordinal: i32, update: bool },
    /// Remove a pod; one that ended is recreated.
    Delete { pod: Arc<Pod>, recreate: bool },
}

/// What to do, and the status as of now.
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub status: StatefulSetStatus,
    pub look_again: Option<Duration>,
}

/// The numbers that the set wants.
pub(super) fn range(set: &StatefulSet) -> Range<i32> {
    let start = set
        .spec
        .ordinals
        .as_ref()
        .map_or(0, |ordinals| ordinals.start);
    let replicas = set.spec.replicas.unwrap_or(1).max(0);
    start..start.saturating_add(replicas)
}

/// Decides the next writes.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut planner = Planner {
        view,
        by_ordinal: view
            .pods
            .iter()
            .filter_map(|pod| Some((ordinal(&view.set.metadata.name, &pod.metadata.name)?, pod)))
            .collect(),
        steps: Vec::new(),
    };
    if !view.set.metadata.is_deleting() {
        planner.act();
    }
    let look_again = planner.look_again();
    Plan {
        steps: planner.steps,
        status: status(view),
        look_again,
    }
}

struct Planner<'a> {
    view: &'a View<'a>,
    by_ordinal: BTreeMap<i32, &'a Arc<Pod>>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn is_ordered(&self) -> bool {
        self.view.set.spec.pod_management_policy != "Parallel"
    }

    fn is_leaving(&self, pod: &Pod) -> bool {
        pod.metadata.is_deleting() || (self.view.is_deleted)(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_up(pod)
            && !self.is_leaving(pod)
            && pod.is_available(self.view.set.spec.min_ready_seconds, self.view.now)
    }

    fn delete(&mut self, pod: &Arc<Pod>, recreate: bool) {
        self.steps.push(Step::Delete {
            pod: pod.clone(),
            recreate,
        });
    }

    fn act(&mut self) {
        if self.fill() && self.shrink() {
            self.roll();
        }
    }

    /// Makes what is missing. Returns whether the next stage may begin.
    fn fill(&mut self) -> bool {
        for ordinal in range(self.view.set) {
            let pod = self.by_ordinal.get(&ordinal).copied();
            match pod {
                None => {
                    let update = !self.needs_current(ordinal);
                    self.steps.push(Step::Create { ordinal, update });
                    if self.is_ordered() {
                        return false;
                    }
                }
                Some(pod) if self.is_leaving(pod) => {
                    if self.is_ordered() {
                        return false;
                    }
                }
                Some(pod) if pod.is_finished() => {
                    self.delete(pod, true);
                    if self.is_ordered() {
                        return false;
                    }
                }
                Some(pod) => {
                    if self.is_ordered() && !self.is_available(pod) {
                        // This holds up even an update that would mend the
                        // pod. As upstream, the user has to delete it: it may
                        // hold data.
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Whether a missing pod is to be made from the current template because
    /// the update has not reached its number.
    fn needs_current(&self, ordinal: i32) -> bool {
        let set = self.view.set;
        if self.view.current.name == self.view.update.name {
            return false;
        }
        if set.spec.update_strategy.kind == "OnDelete" {
            return false;
        }
        let start = range(set).start;
        match partition(set) {
            0 => ordinal < start.saturating_add(status(self.view).current_replicas),
            partition => ordinal < start.saturating_add(partition),
        }
    }

    /// Removes pods beyond the wanted numbers, highest first. Returns whether
    /// the next stage may begin.
    fn shrink(&mut self) -> bool {
        let wanted = range(self.view.set);
        let condemned: Vec<Arc<Pod>> = self
            .by_ordinal
            .iter()
            .rev()
            .filter(|(ordinal, _)| !wanted.contains(ordinal))
            .map(|(_, pod)| Arc::clone(pod))
            .collect();
        for pod in &condemned {
            if self.is_leaving(pod) {
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            self.delete(pod, false);
            if self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Replaces pods of old templates, highest number first, as many at a time
    /// as may be unavailable.
    fn roll(&mut self) {
        let set = self.view.set;
        if set.spec.update_strategy.kind == "OnDelete" {
            return;
        }
        let wanted = range(set);
        let first = wanted.start.saturating_add(partition(set));
        let rolling = set.spec.update_strategy.rolling_update.as_ref();
        let most = rolling
            .and_then(|rolling| rolling.max_unavailable.as_ref())
            .map_or(1, |value| {
                resolve(value, set.spec.replicas.unwrap_or(1), Round::Up)
                    .unwrap_or(1)
                    .max(1)
            });
        let unavailable = wanted
            .clone()
            .filter(|ordinal| {
                self.by_ordinal
                    .get(ordinal)
                    .is_none_or(|pod| !self.is_available(pod))
            })
            .count();
        let mut budget = usize::try_from(most)
            .unwrap_or(1)
            .saturating_sub(unavailable);
        for ordinal in (first..wanted.end).rev() {
            let Some(pod) = self.by_ordinal.get(&ordinal).copied() else {
                continue;
            };
            let old = pod.metadata.label(HASH_LABEL) != Some(self.view.update.name.as_str());
            if old && !self.is_leaving(pod) {
                // A pod that is down already costs nothing.
                let down = !self.is_available(pod);
                if !down && budget == 0 {
                    return;
                }
                if !down {
                    budget -= 1;
                }
                self.delete(pod, false);
                if most == 1 {
                    return;
                }
            } else if most == 1 && !self.is_available(pod) {
                return;
            }
        }
    }

    /// When a pod that is ready becomes available.
    fn look_again(&self) -> Option<Duration> {
        let seconds = self.view.set.spec.min_ready_seconds;
        self.view.pods.iter().fold(None, |soonest, pod| {
            let at = pod.available_at(seconds).filter(|at| *at > self.view.now);
            sooner(soonest, at.map(|at| until(at, self.view.now)))
        })
    }
}

fn partition(set: &StatefulSet) -> i32 {
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    rolling
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0)
        .max(0)
}

/// Running and ready.
fn is_up(pod: &Pod) -> bool {
    pod.status.phase == "Running" && pod.is_ready()
}

/// Counts pods, and notes an update that is complete.
fn status(view: &View<'_>) -> StatefulSetStatus {
    let set = view.set;
    let live: Vec<&Arc<Pod>> = view
        .pods
        .iter()
        .filter(|pod| !(view.is_deleted)(pod))
        .collect();
    let count = |matches: &dyn Fn(&Pod) -> bool| {
        i32::try_from(live.iter().filter(|pod| matches(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |pod: &Pod, revision: &Revision| {
        !pod.metadata.is_deleting()
            && pod.metadata.label(HASH_LABEL) == Some(revision.name.as_str())
    };
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: count(&is_up),
        available_replicas: count(&|pod| {
            is_up(pod) && pod.is_available(set.spec.min_ready_seconds, view.now)
        }),
        current_replicas: count(&|pod| of(pod, view.current)),
        updated_replicas: count(&|pod| of(pod, view.update)),
        current_revision: view.current.name.clone(),
        update_revision: view.update.name.clone(),
        collision_count: set.status.collision_count.or(Some(0)),
    };
    let complete = set.spec.update_strategy.kind != "OnDelete"
        && status.replicas == set.spec.replicas.unwrap_or(1)
        && status.updated_replicas == status.replicas
        && status.ready_replicas == status.replicas
        && partition(set) == 0;
    if complete {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    /// A set whose pods come up at once, unless they are told not to.
    struct World {
        set: Value,
        pods: BTreeMap<i32, Value>,
        update: String,
        stuck: Vec<i32>,
        log: Vec<String>,
    }

    impl World {
        fn new(replicas: i32, spec: Value) -> Self {
            let mut set = json!({
                "metadata": {"name": "web", "namespace": "a", "uid": "s", "generation": 1},
                "spec": {"replicas": replicas},
            });
            for (key, value) in spec.as_object().unwrap() {
                set["spec"][key] = value.clone();
            }
            Self {
                set,
                pods: BTreeMap::new(),
                update: "r1".into(),
                stuck: vec![],
                log: vec![],
            }
        }

        fn round(&mut self) -> usize {
            let set: StatefulSet = object(self.set.clone());
            let pods: Vec<Arc<Pod>> = self
                .pods
                .values()
                .map(|pod| Arc::new(object(pod.clone())))
                .collect();
            let revision = |name: &str| Revision {
                name: name.to_owned(),
                uid: String::new(),
                number: 1,
                hash: String::new(),
                template: json!({}),
            };
            let update = revision(&self.update);
            let current = match set.status.current_revision.as_str() {
                "" => update.clone(),
                name => revision(name),
            };
            let plan = plan(&View {
                set: &set,
                pods: &pods,
                current: &current,
                update: &update,
                is_deleted: &|_| false,
                now: Timestamp::UNIX_EPOCH,
            });
            let count = plan.steps.len();
            for step in plan.steps {
                match step {
                    Step::Create {
                        ordinal,
                        update: is_update,
                    } => {
                        let revision = if is_update {
                            &update.name
                        } else {
                            &current.name
                        };
                        self.log.push(format!("+{ordinal}:{revision}"));
                        let ready = if self.stuck.contains(&ordinal) {
                            "False"
                        } else {
                            "True"
                        };
                        self.pods.insert(
                            ordinal,
                            json!({
                                "metadata": {"name": format!("web-{ordinal}"), "namespace": "a",
                                    "uid": format!("{ordinal}"), "labels": {HASH_LABEL: revision}},
                                "status": {"phase": "Running",
                                    "conditions": [{"type": "Ready", "status": ready}]},
                            }),
                        );
                    }
                    Step::Delete { pod, .. } => {
                        let ordinal = ordinal("web", &pod.metadata.name).unwrap();
                        self.log.push(format!("-{ordinal}"));
                        self.pods.remove(&ordinal);
                    }
                }
            }
            let mut status = super::super::status_patch(&plan.status);
            status
                .as_object_mut()
                .unwrap()
                .retain(|_, value| !value.is_null());
            self.set["status"] = status;
            count
        }

        fn settle(&mut self) -> Vec<String> {
            self.log.clear();
            for _ in 0..50 {
                let before = self.set.clone();
                if self.round() == 0 && before == self.set {
                    return self.log.clone();
                }
            }
            panic!("does not settle: {:?}", self.log);
        }
    }

    #[test]
    fn ordered_sets_go_one_by_one() {
        let mut world = World::new(3, json!({}));
        assert_eq!(world.round(), 1);
        world.settle();
        assert_eq!(world.pods.len(), 3);
        world.set["spec"]["replicas"] = 1.into();
        assert_eq!(world.settle(), ["-2", "-1"]);
    }

    #[test]
    fn an_unready_pod_holds_up_its_successors_in_order_only() {
        let mut world = World::new(3, json!({}));
        world.stuck = vec![1];
        assert_eq!(world.settle(), ["+0:r1", "+1:r1"]);
        let mut world = World::new(3, json!({"podManagementPolicy": "Parallel"}));
        world.stuck = vec![1];
        assert_eq!(world.settle(), ["+0:r1", "+1:r1", "+2:r1"]);
    }

    #[test]
    fn updates_go_from_the_top_down_to_the_partition() {
        let mut world = World::new(3, json!({}));
        world.settle();
        assert_eq!(world.set["status"]["currentRevision"], "r1");
        world.update = "r2".into();
        assert_eq!(
            world.settle(),
            ["-2", "+2:r2", "-1", "+1:r2", "-0", "+0:r2"]
        );
        assert_eq!(world.set["status"]["currentRevision"], "r2");
        world.set["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 2}});
        world.update = "r3".into();
        assert_eq!(world.settle(), ["-2", "+2:r3"]);
        assert_eq!(world.set["status"]["currentRevision"], "r2");
        assert_eq!(world.set["status"]["updatedReplicas"], 1);
        // A pod below the partition that vanishes comes back as it was.
        world.pods.remove(&0);
        assert_eq!(world.settle(), ["+0:r2"]);
    }

    #[test]
    fn updates_on_delete_wait_for_the_user() {
        let mut world = World::new(2, json!({"updateStrategy": {"type": "OnDelete"}}));
        world.settle();
        world.update = "r2".into();
        assert!(world.settle().is_empty());
        world.pods.remove(&1);
        assert_eq!(world.settle(), ["+1:r2"]);
    }

    #[test]
    fn finished_pods_are_made_again_and_numbers_may_start_higher() {
        let mut world = World::new(2, json!({"ordinals": {"start": 5}}));
        assert_eq!(world.settle(), ["+5:r1", "+6:r1"]);
        world.pods.get_mut(&5).unwrap()["status"]["phase"] = "Failed".into();
        assert_eq!(world.settle(), ["-5", "+5:r1"]);
    }
}
