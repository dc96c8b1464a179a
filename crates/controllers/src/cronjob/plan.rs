//! What is due: pure, from a cron job, its jobs and the time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::context::until;
use crate::objects::apps::created;
use crate::objects::batch::{ActiveJob, CronJob, CronJobStatus, Job};
use crate::objects::condition;

use super::schedule::Schedule;

/// Missed times that are counted one by one; beyond, the clock or the schedule
/// is off, and only the last matters.
const MAX_MISSED: usize = 10_000;
/// Missed times that are worth a warning.
const MANY_MISSED: usize = 100;

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    Unparseable(String),
    UnknownZone(String),
    Missed,
    TooManyMissed(usize),
    StillActive,
    Finished(String),
    /// A job that someone else made.
    Unexpected(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unparseable(why) => f.write_str(why),
            Self::UnknownZone(zone) => write!(f, "invalid timeZone: {zone:?}"),
            Self::Missed => f.write_str("Missed scheduled time to start a job"),
            Self::TooManyMissed(count) => write!(
                f,
                "too many missed start times: {count}. Set or decrease \
                 .spec.startingDeadlineSeconds or check clock skew"
            ),
            Self::StillActive => f.write_str(
                "Not starting job because prior execution is running and concurrency policy is \
                 Forbid",
            ),
            Self::Finished(text) => f.write_str(text),
            Self::Unexpected(job) => write!(
                f,
                "Saw a job that the controller did not create or forgot: {job}"
            ),
        }
    }
}

/// What to write, in this order: deletions, the new job, the status.
pub(super) struct Plan {
    pub notes: Vec<Note>,
    pub delete: Vec<Arc<Job>>,
    /// The time whose job is to be made.
    pub run: Option<Timestamp>,
    pub status: CronJobStatus,
    pub look_again: Option<Duration>,
}

/// The name of the job of one run. It is made of the time, so that the same
/// run is never made twice.
pub(super) fn job_name(cron_job: &str, at: Timestamp) -> String {
    format!("{cron_job}-{}", at.as_second() / 60)
}

/// True if the name is one of [`job_name`]: of a job that was made and not yet
/// written down.
fn is_job_name(name: &str, cron_job: &str) -> bool {
    let minute = name
        .strip_prefix(cron_job)
        .and_then(|rest| rest.strip_prefix('-'));
    minute.is_some_and(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit()))
}

/// Decides the next writes.
pub(super) fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan {
        notes: Vec::new(),
        delete: surplus(cron, jobs),
        run: None,
        status: cron.status.clone(),
        look_again: None,
    };
    note_ended(cron, jobs, &mut plan);
    if cron.spec.suspend {
        return plan;
    }
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            plan.notes.push(Note::Unparseable(error.to_string()));
            return plan;
        }
    };
    let zone = match cron.spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(_) => {
                plan.notes
                    .push(Note::UnknownZone(name.chars().take(100).collect()));
                return plan;
            }
        },
    };
    let (due, missed) = last_due(cron, &schedule, &zone, now);
    plan.look_again = schedule.next(now, &zone).map(|at| until(at, now));
    if missed > MANY_MISSED {
        plan.notes.push(Note::TooManyMissed(missed));
    }
    let Some(due) = due else { return plan };
    let deadline = cron.spec.starting_deadline_seconds;
    let late = deadline
        .is_some_and(|seconds| now.duration_since(due) > SignedDuration::from_secs(seconds));
    if late {
        plan.notes.push(Note::Missed);
        return plan;
    }
    let running: Vec<&Arc<Job>> = jobs
        .iter()
        .filter(|job| is_active(&plan.status, job) && !job.metadata.is_deleting())
        .collect();
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if !running.is_empty() => {
            plan.notes.push(Note::StillActive);
            return plan;
        }
        "Replace" => {
            let replaced: Vec<Arc<Job>> = running.into_iter().cloned().collect();
            plan.status
                .active
                .retain(|active| !replaced.iter().any(|job| job.metadata.uid == active.uid));
            plan.delete.extend(replaced);
        }
        _ => {}
    }
    plan.run = Some(due);
    plan
}

/// The last time that is due and has no job yet, and how many there were.
fn last_due(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> (Option<Timestamp>, usize) {
    let mut from = cron
        .status
        .last_schedule_time
        .unwrap_or_else(|| created(&cron.metadata));
    if let Some(seconds) = cron.spec.starting_deadline_seconds {
        let earliest = now
            .checked_sub(SignedDuration::from_secs(seconds))
            .unwrap_or(from);
        from = from.max(earliest);
    }
    let mut due = None;
    let mut count = 0;
    while let Some(at) = schedule.next(from, zone).filter(|at| *at <= now) {
        due = Some(at);
        from = at;
        count += 1;
        if count >= MAX_MISSED {
            // Start afresh shortly before now.
            from = from.max(
                now.checked_sub(SignedDuration::from_hours(1))
                    .unwrap_or(from),
            );
            count = MANY_MISSED + 1;
        }
    }
    (due, count)
}

fn is_active(status: &CronJobStatus, job: &Job) -> bool {
    status
        .active
        .iter()
        .any(|active| active.uid == job.metadata.uid)
}

/// Brings the list of active jobs up to date. Jobs that someone else made for
/// this cron job (`kubectl create job --from`) are none of them, and so hold
/// up no run.
fn note_ended(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) {
    let status = &mut plan.status;
    for job in jobs.iter().filter(|job| job.status.is_finished()) {
        if is_active(status, job) {
            let outcome = if job.status.has("Complete") {
                "Complete"
            } else {
                "Failed"
            };
            let text = format!(
                "Saw completed job: {}, condition: {outcome}",
                job.metadata.name
            );
            plan.notes.push(Note::Finished(text));
        }
        if let Some(at) = job
            .status
            .completion_time
            .filter(|_| job.status.has("Complete"))
        {
            status.last_successful_time = status.last_successful_time.max(Some(at));
        }
    }
    let find = |uid: &str| jobs.iter().find(|job| job.metadata.uid == uid);
    status
        .active
        .retain(|active| find(&active.uid).is_some_and(|job| !job.status.is_finished()));
    for job in jobs.iter().filter(|job| !job.status.is_finished()) {
        if is_active(status, job) {
            continue;
        }
        let name = job.metadata.name.clone();
        if is_job_name(&name, &cron.metadata.name) {
            let uid = job.metadata.uid.clone();
            status.active.push(ActiveJob { name, uid });
        } else {
            plan.notes.push(Note::Unexpected(name));
        }
    }
}

/// Finished jobs beyond the history limits, oldest first.
fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut surplus = Vec::new();
    for (kind, limit) in [
        (
            "Complete",
            cron.spec.successful_jobs_history_limit.unwrap_or(3),
        ),
        ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<&Arc<Job>> = jobs
            .iter()
            .filter(|job| !job.metadata.is_deleting())
            .filter(|job| condition(&job.status.conditions, kind).is_some_and(|it| it.is_true()))
            .collect();
        ended.sort_by_key(|job| (job.status.start_time, job.metadata.name.clone()));
        let keep = usize::try_from(limit).unwrap_or(0);
        surplus.extend(
            ended
                .iter()
                .take(ended.len().saturating_sub(keep))
                .map(|it| Arc::clone(it)),
        );
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::{Value, json};

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut body = json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/10 * * * *"}, "status": status,
        });
        for (key, value) in spec.as_object().unwrap() {
            body["spec"][key] = value.clone();
        }
        object(body)
    }

    fn job(name: &str, outcome: Option<&str>) -> Arc<Job> {
        let conditions: Vec<Value> = outcome
            .iter()
            .map(|it| json!({"type": it, "status": "True"}))
            .collect();
        Arc::new(object(json!({
            "metadata": {"name": name, "uid": name}, "status": {"conditions": conditions},
        })))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_due_time_runs_once() {
        let now = at("2026-01-01T00:35:00Z");
        let fresh = plan(&cron(json!({}), json!({})), &[], now);
        assert_eq!(fresh.run, Some(at("2026-01-01T00:30:00Z")));
        assert_eq!(fresh.look_again, Some(Duration::from_secs(300)));
        let status = json!({"lastScheduleTime": "2026-01-01T00:30:00Z"});
        assert_eq!(plan(&cron(json!({}), status), &[], now).run, None);
    }

    #[test]
    fn deadlines_suspension_and_bad_schedules() {
        let now = at("2026-01-01T00:35:00Z");
        let run = |spec: Value| plan(&cron(spec, json!({})), &[], now);
        assert_eq!(run(json!({"startingDeadlineSeconds": 60})).run, None);
        assert!(run(json!({"startingDeadlineSeconds": 301})).run.is_some());
        assert_eq!(run(json!({"suspend": true})).run, None);
        let bad = run(json!({"schedule": "whenever"}));
        assert!(matches!(bad.notes[..], [Note::Unparseable(_)]));
        let bad = run(json!({"timeZone": "Nowhere/City"}));
        assert!(matches!(bad.notes[..], [Note::UnknownZone(_)]));
    }

    #[test]
    fn concurrency() {
        let now = at("2026-01-01T00:30:00Z");
        let active = json!({"active": [{"name": "c-1", "uid": "c-1"}]});
        let jobs = [job("c-1", None)];
        let with = |policy: &str| {
            plan(
                &cron(json!({"concurrencyPolicy": policy}), active.clone()),
                &jobs,
                now,
            )
        };
        assert!(with("Allow").run.is_some());
        let forbidden = with("Forbid");
        assert_eq!(
            (forbidden.run, &forbidden.notes[..]),
            (None, &[Note::StillActive][..])
        );
        let replaced = with("Replace");
        assert!(replaced.run.is_some() && replaced.status.active.is_empty());
        assert_eq!(replaced.delete[0].metadata.name, "c-1");
    }

    #[test]
    fn jobs_of_others_are_not_counted() {
        let now = at("2026-01-01T00:30:00Z");
        let forbid = cron(json!({"concurrencyPolicy": "Forbid"}), json!({}));
        let by_hand = plan(&forbid, &[job("c-by-hand", None)], now);
        assert!(by_hand.run.is_some() && by_hand.status.active.is_empty());
        assert_eq!(by_hand.notes, [Note::Unexpected("c-by-hand".to_owned())]);
        // One that was made just before a crash is known by its name.
        let made = job(&job_name("c", at("2026-01-01T00:20:00Z")), None);
        let forgotten = plan(&forbid, &[made], now);
        assert_eq!(forgotten.run, None);
        assert_eq!(forgotten.status.active.len(), 1);
    }

    #[test]
    fn history_is_limited_and_ends_are_noted() {
        let jobs: Vec<Arc<Job>> = ["a", "b", "c", "d"]
            .iter()
            .map(|name| job(name, Some("Complete")))
            .chain([job("x", Some("Failed")), job("y", Some("Failed"))])
            .collect();
        let active = json!({"active": [{"name": "d", "uid": "d"}]});
        let plan = plan(
            &cron(json!({"suspend": true}), active),
            &jobs,
            Timestamp::UNIX_EPOCH,
        );
        let names: Vec<&str> = plan
            .delete
            .iter()
            .map(|it| it.metadata.name.as_str())
            .collect();
        assert_eq!(names, ["a", "x"]);
        assert!(plan.status.active.is_empty());
        let text = "Saw completed job: d, condition: Complete";
        assert_eq!(plan.notes, [Note::Finished(text.to_owned())]);
    }

    #[test]
    fn a_long_absence_is_survived() {
        let status = json!({"lastScheduleTime": "2000-01-01T00:00:00Z"});
        let now = at("2026-01-01T00:35:00Z");
        let plan = plan(&cron(json!({"schedule": "* * * * *"}), status), &[], now);
        assert_eq!(plan.run, Some(now));
        assert!(matches!(plan.notes[..], [Note::TooManyMissed(_)]));
    }
}
