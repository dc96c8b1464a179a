//! Whether a job has succeeded or failed: pure, from counts.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::context::plus_seconds;
use crate::objects::batch::Job;

use super::indexes;

/// What is known of a job's pods.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub active: i32,
    pub succeeded: i32,
    pub failed: i32,
    /// Restarts of containers in pods that restart by themselves.
    pub restarts: i32,
    pub completed: BTreeSet<i32>,
    pub failed_indexes: BTreeSet<i32>,
    /// Why a failure policy gives the job up.
    pub given_up: Option<String>,
}

/// A reason and a message.
pub(super) type Cause = (&'static str, String);

/// Ended, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Succeeded(Cause),
    Failed(Cause),
}

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode.as_deref() == Some("Indexed")
}

/// Decides; `None` while the job goes on.
pub(super) fn decide(job: &Job, tally: &Tally, now: Timestamp) -> Option<Outcome> {
    let spec = &job.spec;
    if let Some(cause) = &tally.given_up {
        return Some(Outcome::Failed(("PodFailurePolicy", cause.clone())));
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts_count = tally.restarts > 0 && tally.restarts >= limit;
    if tally.failed > limit || restarts_count {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(Outcome::Failed(("BackoffLimitExceeded", message)));
    }
    let start = job.status.start_time.filter(|_| !spec.suspend);
    if let (Some(seconds), Some(start)) = (spec.active_deadline_seconds, start)
        && plus_seconds(start, seconds) <= now
    {
        let message = "Job was active longer than specified deadline".to_owned();
        return Some(Outcome::Failed(("DeadlineExceeded", message)));
    }
    if let (true, Some(completions)) = (is_indexed(job), spec.completions) {
        return decide_indexed(job, tally, completions);
    }
    let reached = match spec.completions {
        Some(completions) => tally.succeeded >= completions,
        // A work queue: the first success means that the work is done, and
        // the others finish what they are at.
        None => tally.succeeded > 0 && tally.active == 0,
    };
    let message = "Reached expected number of succeeded pods".to_owned();
    reached.then_some(Outcome::Succeeded(("CompletionsReached", message)))
}

fn decide_indexed(job: &Job, tally: &Tally, completions: i32) -> Option<Outcome> {
    let failed = i32::try_from(tally.failed_indexes.len()).unwrap_or(i32::MAX);
    let completed = i32::try_from(tally.completed.len()).unwrap_or(i32::MAX);
    if job
        .spec
        .max_failed_indexes
        .is_some_and(|most| failed > most)
    {
        let message = "Job has exceeded the specified maximal number of failed indexes".to_owned();
        return Some(Outcome::Failed(("MaxFailedIndexesExceeded", message)));
    }
    if let Some(rule) = matched_success_rule(job, tally, completions) {
        let message = format!("Matched rules at index {rule}");
        return Some(Outcome::Succeeded(("SuccessPolicy", message)));
    }
    if completed >= completions {
        let message = "Reached expected number of succeeded pods".to_owned();
        return Some(Outcome::Succeeded(("CompletionsReached", message)));
    }
    if failed > 0 && completed.saturating_add(failed) >= completions {
        let message = "Job has failed indexes".to_owned();
        return Some(Outcome::Failed(("FailedIndexes", message)));
    }
    None
}

fn matched_success_rule(job: &Job, tally: &Tally, completions: i32) -> Option<usize> {
    let rules = &job.spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| {
        let wanted = rule
            .succeeded_indexes
            .as_deref()
            .map(|it| indexes::parse(it, completions));
        let done = match &wanted {
            Some(wanted) => wanted.intersection(&tally.completed).count(),
            None => tally.completed.len(),
        };
        match (rule.succeeded_count, &wanted) {
            (Some(count), _) => i32::try_from(done).unwrap_or(i32::MAX) >= count,
            (None, Some(wanted)) => done == wanted.len(),
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    fn reason(spec: Value, tally: &Tally) -> Option<&'static str> {
        let job: Job = object(json!({
            "spec": spec, "status": {"startTime": "2026-01-01T00:00:00Z"}}));
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        decide(&job, tally, now).map(|outcome| match outcome {
            Outcome::Succeeded((reason, _)) | Outcome::Failed((reason, _)) => reason,
        })
    }

    #[test]
    fn outcomes() {
        let counts = |succeeded, failed, active| Tally {
            succeeded,
            failed,
            active,
            ..Tally::default()
        };
        let indexed = |completed: &[i32], failed: &[i32]| Tally {
            completed: completed.iter().copied().collect(),
            failed_indexes: failed.iter().copied().collect(),
            ..Tally::default()
        };
        let indexes = |extra: Value| {
            let mut spec = json!({"completions": 4, "completionMode": "Indexed"});
            for (key, value) in extra.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        for (spec, tally, expected) in [
            (json!({"completions": 2}), counts(1, 0, 1), None),
            (
                json!({"completions": 2}),
                counts(2, 0, 0),
                Some("CompletionsReached"),
            ),
            (json!({}), counts(1, 0, 1), None),
            (json!({}), counts(1, 0, 0), Some("CompletionsReached")),
            (
                json!({"completions": 1, "backoffLimit": 1}),
                counts(0, 1, 0),
                None,
            ),
            (
                json!({"completions": 1, "backoffLimit": 1}),
                counts(0, 2, 0),
                Some("BackoffLimitExceeded"),
            ),
            (
                json!({"completions": 0}),
                counts(0, 0, 0),
                Some("CompletionsReached"),
            ),
            (
                json!({"completions": 1, "activeDeadlineSeconds": 60}),
                counts(0, 0, 1),
                Some("DeadlineExceeded"),
            ),
            (
                indexes(json!({})),
                indexed(&[0, 1, 2, 3], &[]),
                Some("CompletionsReached"),
            ),
            (
                indexes(json!({})),
                indexed(&[0, 1, 2], &[3]),
                Some("FailedIndexes"),
            ),
            (
                indexes(json!({"maxFailedIndexes": 1})),
                indexed(&[], &[0, 1]),
                Some("MaxFailedIndexesExceeded"),
            ),
            (
                indexes(json!({"successPolicy": {"rules": [{"succeededIndexes": "0-1"}]}})),
                indexed(&[0, 1], &[]),
                Some("SuccessPolicy"),
            ),
            (
                indexes(json!({"successPolicy": {"rules": [{"succeededCount": 3}]}})),
                indexed(&[0, 1], &[]),
                None,
            ),
        ] {
            assert_eq!(reason(spec.clone(), &tally), expected, "{spec} {tally:?}");
        }
    }
}
