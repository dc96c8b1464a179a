//! What to do about a job: pure, from what was observed.
//!
//! Each pod is counted exactly once. A pod that ended is first put on the list
//! of uncounted pods in the status; then it loses its finalizer; and when it is
//! seen without, it moves from the list into the count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::context::{plus_seconds, sooner, until};
use crate::objects::batch::{Job, JobStatus};
use crate::objects::pod::Pod;
use crate::objects::{Condition, condition};
use crate::pods::rank_for_deletion;

use super::outcome::{Cause, Outcome, Tally, decide, is_indexed};
use super::policy::{Verdict, judge};
use super::{INDEX, INDEX_FAILURES, TRACKING, indexes};

/// First and longest pause before failed pods are replaced, in seconds.
const FIRST_PAUSE: i64 = 10;
const MAX_PAUSE: i64 = 600;

/// What is known.
pub(super) struct View<'a> {
    pub job: &'a Job,
    pub pods: &'a [Arc<Pod>],
    pub is_deleted: &'a (dyn Fn(&Pod) -> bool + Sync),
    pub now: Timestamp,
}

/// A pod to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub index: Option<i32>,
    /// Failures of the index so far, where they are limited per index.
    pub failures: Option<i32>,
}

/// What to write, in this order: status, releases, deletions, creations.
pub(super) struct Plan {
    pub status: JobStatus,
    /// Uids of pods whose end the status records.
    pub counted: BTreeSet<String>,
    pub delete: Vec<Arc<Pod>>,
    pub create: Vec<Wanted>,
    pub look_again: Option<Duration>,
}

/// Reasons of failure, as event reasons.
pub(super) fn failure_reason(reason: &str) -> &'static str {
    match reason {
        "BackoffLimitExceeded" => "BackoffLimitExceeded",
        "DeadlineExceeded" => "DeadlineExceeded",
        "PodFailurePolicy" => "PodFailurePolicy",
        "FailedIndexes" => "FailedIndexes",
        "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
        _ => "Failed",
    }
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata
        .annotation(INDEX)?
        .parse()
        .ok()
        .filter(|index| *index >= 0)
}

/// Decides the next writes.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut planner = Planner {
        view,
        active: Vec::new(),
        counted: BTreeSet::new(),
        tally: Tally::default(),
        status: view.job.status.clone(),
        last_failure: None,
    };
    planner.count();
    planner.run()
}

struct Planner<'a> {
    view: &'a View<'a>,
    active: Vec<Arc<Pod>>,
    counted: BTreeSet<String>,
    tally: Tally,
    status: JobStatus,
    last_failure: Option<Timestamp>,
}

impl Planner<'_> {
    fn job(&self) -> &Job {
        self.view.job
    }

    /// Whether a pod has failed for the job: it says so, or it is being
    /// deleted while it ran and its replacement need not wait.
    fn has_failed(&self, pod: &Pod) -> bool {
        pod.status.phase == "Failed"
            || (pod.metadata.is_deleting()
                && pod.status.phase != "Succeeded"
                && !self.waits_for_terminating())
    }

    fn waits_for_terminating(&self) -> bool {
        self.job().spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.job().spec.pod_failure_policy.is_some()
    }

    fn count(&mut self) {
        let (indexed, limit) = (
            is_indexed(self.job()),
            self.job().spec.completions.unwrap_or(0),
        );
        let mut completed = indexes::parse(&self.status.completed_indexes, limit);
        let failed = self.status.failed_indexes.clone().unwrap_or_default();
        let mut failed_indexes = indexes::parse(&failed, limit);
        let mut uncounted = self
            .status
            .uncounted_terminated_pods
            .clone()
            .unwrap_or_default();
        let tracked: BTreeSet<&str> = self
            .view
            .pods
            .iter()
            .filter(|pod| pod.metadata.has_finalizer(TRACKING))
            .map(|pod| pod.metadata.uid.as_str())
            .collect();
        let known = uncounted.clone();
        uncounted
            .succeeded
            .retain(|uid| tracked.contains(uid.as_str()));
        uncounted
            .failed
            .retain(|uid| tracked.contains(uid.as_str()));
        let settled = |before: usize, after: usize| i32::try_from(before - after).unwrap_or(0);
        if !indexed {
            self.status.succeeded += settled(known.succeeded.len(), uncounted.succeeded.len());
        }
        self.status.failed += settled(known.failed.len(), uncounted.failed.len());
        let (mut ready, mut terminating) = (0, 0);
        for pod in self.view.pods {
            let uid = &pod.metadata.uid;
            self.tally.restarts = self.tally.restarts.saturating_add(self.restarts(pod));
            let deleting = pod.metadata.is_deleting() || (self.view.is_deleted)(pod);
            if !pod.is_finished() {
                if deleting {
                    terminating += 1;
                } else {
                    ready += i32::from(pod.is_ready());
                    self.active.push(pod.clone());
                }
            }
            let tracked = pod.metadata.has_finalizer(TRACKING);
            if self.has_failed(pod) {
                let ended = self.ended_at(pod);
                self.last_failure = self.last_failure.max(ended);
            }
            if !tracked {
                continue;
            }
            if known.succeeded.contains(uid) || known.failed.contains(uid) {
                self.counted.insert(uid.clone());
            } else if pod.status.phase == "Succeeded" {
                self.counted.insert(uid.clone());
                match index_of(pod).filter(|index| *index < limit) {
                    Some(index) if indexed => {
                        completed.insert(index);
                    }
                    _ if indexed => {}
                    _ => uncounted.succeeded.push(uid.clone()),
                }
            } else if self.has_failed(pod) {
                self.counted.insert(uid.clone());
                if self.judge(pod, limit, &mut failed_indexes) {
                    uncounted.failed.push(uid.clone());
                }
            }
        }
        failed_indexes.retain(|index| !completed.contains(index));
        let length = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        if indexed {
            self.status.succeeded = length(completed.len());
            self.status.completed_indexes = indexes::format(&completed);
            if self.job().spec.backoff_limit_per_index.is_some() {
                self.status.failed_indexes = Some(indexes::format(&failed_indexes));
            }
        }
        self.tally.active = length(self.active.len());
        self.tally.succeeded = self.status.succeeded + length(uncounted.succeeded.len());
        self.tally.failed = self.status.failed + length(uncounted.failed.len());
        self.tally.completed = completed;
        self.tally.failed_indexes = failed_indexes;
        self.status.uncounted_terminated_pods = Some(uncounted);
        self.status.ready = Some(ready);
        self.status.terminating = Some(terminating);
    }

    /// Applies the failure policy; returns whether the failure counts.
    fn judge(&mut self, pod: &Pod, limit: i32, failed_indexes: &mut BTreeSet<i32>) -> bool {
        let policy = self.job().spec.pod_failure_policy.as_ref();
        let verdict = policy.map_or(Verdict::Count, |policy| judge(&policy.rules, pod));
        let index = index_of(pod).filter(|index| *index < limit);
        match verdict {
            Verdict::Ignore => return false,
            Verdict::FailJob(cause) => self.tally.given_up = Some(cause),
            Verdict::FailIndex => failed_indexes.extend(index),
            Verdict::Count => {
                if let Some(most) = self.job().spec.backoff_limit_per_index
                    && failures(pod) >= most
                {
                    failed_indexes.extend(index);
                }
            }
        }
        true
    }

    /// Restarts that count towards the limit.
    fn restarts(&self, pod: &Pod) -> i32 {
        let counts = pod.spec.restart_policy == "OnFailure"
            && matches!(pod.status.phase.as_str(), "Running" | "Pending");
        if !counts {
            return 0;
        }
        let status = &pod.status;
        let all = status
            .container_statuses
            .iter()
            .chain(&status.init_container_statuses);
        all.map(|it| it.restart_count).fold(0, i32::saturating_add)
    }

    fn ended_at(&self, pod: &Pod) -> Option<Timestamp> {
        let statuses = pod.status.container_statuses.iter();
        let ended = statuses
            .filter_map(|it| it.state.terminated.as_ref()?.finished_at)
            .max();
        ended
            .or(pod.metadata.deletion_timestamp)
            .or(Some(self.view.now))
    }

    fn run(mut self) -> Plan {
        let mut delete = Vec::new();
        let mut create = Vec::new();
        let mut look_again = None;
        let begun = self.begin();
        let outcome = self
            .standing_outcome()
            .or_else(|| decide(self.job(), &self.tally, self.view.now));
        if let Some(outcome) = outcome {
            delete = self.active.clone();
            self.conclude(&outcome);
        } else if self.job().spec.suspend {
            delete = self.active.clone();
        } else if begun {
            (delete, create, look_again) = self.manage();
            let deadline = self
                .job()
                .spec
                .active_deadline_seconds
                .zip(self.status.start_time);
            let at = deadline.map(|(seconds, start)| plus_seconds(start, seconds));
            look_again = sooner(look_again, at.map(|at| until(at, self.view.now)));
        }
        self.status.active = i32::try_from(self.active.len()).unwrap_or(i32::MAX);
        Plan {
            status: self.status,
            counted: self.counted,
            delete,
            create,
            look_again,
        }
    }

    /// Starts the clock, stops it while suspended, and shows which.
    fn begin(&mut self) -> bool {
        let suspended = self.view.job.spec.suspend;
        let told = condition(&self.status.conditions, "Suspended").cloned();
        if suspended {
            if !told.as_ref().is_some_and(Condition::is_true) {
                let cause = ("JobSuspended", "Job suspended".to_owned());
                self.set("Suspended", "True", cause);
            }
            self.status.start_time = None;
            return false;
        }
        if told.is_some_and(|it| it.is_true()) {
            self.set(
                "Suspended",
                "False",
                ("JobResumed", "Job resumed".to_owned()),
            );
        }
        if self.status.start_time.is_none() {
            self.status.start_time = Some(self.view.now);
        }
        true
    }

    fn set(&mut self, kind: &str, status: &str, (reason, message): Cause) {
        self.status.conditions.retain(|it| it.kind != kind);
        self.status.conditions.push(Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Some(self.view.now),
            last_probe_time: Some(self.view.now),
            ..Condition::default()
        });
    }

    /// What was decided before stands, whatever happens to pods since.
    fn standing_outcome(&self) -> Option<Outcome> {
        let find = |kind: &str| {
            condition(&self.status.conditions, kind)
                .filter(|it| it.is_true())
                .cloned()
        };
        let cause = |it: Condition| (reason(&it.reason), it.message);
        find("FailureTarget")
            .map(|it| Outcome::Failed(cause(it)))
            .or_else(|| find("SuccessCriteriaMet").map(|it| Outcome::Succeeded(cause(it))))
    }

    /// Announces the outcome, and makes it final once every pod has ended and
    /// is counted.
    fn conclude(&mut self, outcome: &Outcome) {
        let (target, kind, cause) = match outcome {
            Outcome::Failed(cause) => ("FailureTarget", "Failed", cause),
            Outcome::Succeeded(cause) => ("SuccessCriteriaMet", "Complete", cause),
        };
        if condition(&self.status.conditions, target).is_none() {
            self.set(target, "True", cause.clone());
        }
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let settled = uncounted.is_none_or(|it| it.succeeded.is_empty() && it.failed.is_empty());
        let over = self.active.is_empty() && self.status.terminating == Some(0) && settled;
        if over {
            self.set(kind, "True", cause.clone());
            if kind == "Complete" {
                self.status.completion_time = Some(self.view.now);
            }
        }
    }

    /// Pods to remove and to make, and when to look again.
    fn manage(&self) -> (Vec<Arc<Pod>>, Vec<Wanted>, Option<Duration>) {
        let spec = &self.job().spec;
        let parallelism = spec.parallelism.unwrap_or(1).max(0);
        let active = self.tally.active;
        let wanted = match spec.completions {
            Some(completions) => {
                let failed = i32::try_from(self.tally.failed_indexes.len()).unwrap_or(i32::MAX);
                let left = completions - self.tally.succeeded;
                let left = if is_indexed(self.job()) {
                    left - failed
                } else {
                    left
                };
                parallelism.min(left.max(0))
            }
            // Once one has succeeded, no more are started.
            None if self.tally.succeeded > 0 => active.min(parallelism),
            None => parallelism,
        };
        if active > wanted {
            let mut ranked = self.active.clone();
            rank_for_deletion(&mut ranked, &self.active);
            ranked.truncate(usize::try_from(active - wanted).unwrap_or(0));
            return (ranked, Vec::new(), None);
        }
        let mut duplicates = self.duplicates();
        let mut missing = wanted - active;
        if self.waits_for_terminating() {
            missing -= self.status.terminating.unwrap_or(0);
        }
        if missing <= 0 {
            return (std::mem::take(&mut duplicates), Vec::new(), None);
        }
        if let Some(pause) = self.pause() {
            return (duplicates, Vec::new(), Some(pause));
        }
        let count = usize::try_from(missing).unwrap_or(0);
        let create = if is_indexed(self.job()) {
            self.free_indexes(count)
        } else {
            vec![
                Wanted {
                    index: None,
                    failures: None
                };
                count
            ]
        };
        (duplicates, create, None)
    }

    /// Pods that share an index with an older one, or have none.
    fn duplicates(&self) -> Vec<Arc<Pod>> {
        if !is_indexed(self.job()) {
            return Vec::new();
        }
        let mut seen = BTreeSet::new();
        let surplus = self
            .active
            .iter()
            .filter(|pod| index_of(pod).is_none_or(|index| !seen.insert(index)));
        surplus.cloned().collect()
    }

    /// How long failures delay the next pod.
    fn pause(&self) -> Option<Duration> {
        if self.tally.failed == 0 {
            return None;
        }
        let doublings = u32::try_from(self.tally.failed - 1).unwrap_or(0).min(10);
        let seconds = (FIRST_PAUSE << doublings).min(MAX_PAUSE);
        let at = plus_seconds(self.last_failure?, seconds);
        (at > self.view.now).then(|| until(at, self.view.now))
    }

    fn free_indexes(&self, count: usize) -> Vec<Wanted> {
        let limit = self.job().spec.completions.unwrap_or(0);
        let per_index = self.job().spec.backoff_limit_per_index.is_some();
        let mut failed: BTreeMap<i32, i32> = BTreeMap::new();
        let mut taken: BTreeSet<i32> = BTreeSet::new();
        for pod in self.view.pods {
            let Some(index) = index_of(pod) else { continue };
            if self.has_failed(pod) {
                let entry = failed.entry(index).or_insert(0);
                *entry = (*entry).max(failures(pod) + 1);
            } else if !pod.is_finished() {
                taken.insert(index);
            }
        }
        (0..limit)
            .filter(|index| {
                !taken.contains(index)
                    && !self.tally.completed.contains(index)
                    && !self.tally.failed_indexes.contains(index)
            })
            .take(count)
            .map(|index| Wanted {
                index: Some(index),
                failures: per_index.then(|| failed.get(&index).copied().unwrap_or(0)),
            })
            .collect()
    }
}

fn failures(pod: &Pod) -> i32 {
    let count = pod.metadata.annotation(INDEX_FAILURES);
    count.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn reason(text: &str) -> &'static str {
    match text {
        "SuccessPolicy" => "SuccessPolicy",
        "CompletionsReached" => "CompletionsReached",
        other => failure_reason(other),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
