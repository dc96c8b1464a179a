//! Cron jobs: jobs at times of a schedule.

mod plan;
mod schedule;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Delete, Propagation};
use crate::context::{Context, Task, Written, enqueue_owner, enqueue_self, next};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::apps::template;
use crate::objects::batch::{CronJob, CronJobStatus, Job};
use crate::objects::{Kind, controller_reference, owner_index, time};
use crate::queue::{Key, Next, Queue};
use plan::{Note, plan};

const COMPONENT: &str = "cronjob-controller";
/// Cron jobs that are worked on at once.
const WORKERS: usize = 4;
/// Annotation of a job with the time it was meant for.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    context: Context,
    crons: Arc<Store<CronJob>>,
    jobs: Arc<Store<Job>>,
    own: Written<CronJob>,
    written: Written<Job>,
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let crons = context.store::<CronJob>();
    let jobs = context.store::<Job>();
    enqueue_self(&crons, &queue);
    enqueue_owner(&jobs, "CronJob", &queue);
    let controller = Arc::new(Controller {
        context: context.clone(),
        own: Written::new(crons.clone()),
        written: Written::new(jobs.clone()),
        crons,
        jobs,
    });
    context.work(COMPONENT, WORKERS, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(cron) = self.crons.by_key(&key) else {
            self.written.keep_deleted(&key, &[]);
            return Ok(Next::Wait);
        };
        if !self.own.is_seen(&key) || !self.written.is_seen(&key) || cron.metadata.is_deleting() {
            return Ok(Next::Wait);
        }
        let mut jobs = self.jobs.indexed(&owner_index(&cron.metadata.uid));
        self.written.keep_deleted(&key, &jobs);
        jobs.retain(|job| !self.written.is_deleted(&key, &job.metadata.uid));
        let plan = plan(&cron, &jobs, Timestamp::now());
        for note in plan.notes {
            self.tell(&cron, note);
        }
        for job in &plan.delete {
            self.delete(&key, &cron, job).await?;
        }
        let mut status = plan.status;
        if let Some(at) = plan.run {
            self.run(&key, &cron, at, &mut status).await?;
        }
        self.write_status(&key, &cron, &status).await?;
        Ok(next(plan.look_again))
    }

    async fn run(
        &self,
        key: &Key,
        cron: &CronJob,
        at: Timestamp,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let meta = &cron.metadata;
        let template = template(cron.spec.job_template.as_deref())?;
        let name = plan::job_name(&meta.name, at);
        let mut annotations = template["metadata"]["annotations"].clone();
        if !annotations.is_object() {
            annotations = json!({});
        }
        annotations[SCHEDULED_AT] = time(at).into();
        let owner = controller_reference(CronJob::RESOURCE, meta);
        let mut metadata = json!({
            "name": name, "namespace": meta.namespace, "annotations": annotations,
            "ownerReferences": [owner.to_value()],
        });
        if template["metadata"]["labels"].is_object() {
            metadata["labels"] = template["metadata"]["labels"].clone();
        }
        let body = json!({"metadata": metadata, "spec": template["spec"]});
        match self
            .context
            .api
            .create(Job::RESOURCE, &meta.namespace, body)
            .await
        {
            Ok(job) => {
                self.written.note(key, &job);
                let uid = job["metadata"]["uid"].as_str().unwrap_or_default();
                let active = crate::objects::batch::ActiveJob {
                    name: name.clone(),
                    uid: uid.to_owned(),
                };
                status.active.push(active);
                status.last_schedule_time = Some(at);
                let message = format!("Created job {name}");
                self.record(cron, Severity::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) if error.is_already_exists() => {
                status.last_schedule_time = Some(at);
                Ok(())
            }
            Err(error) if error.is_namespace_terminating() => Ok(()),
            Err(error) => {
                let message = format!("Error creating job: {}", error.message());
                self.record(cron, Severity::Warning, "FailedCreate", message);
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &Key, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let meta = &job.metadata;
        let options = Delete {
            propagation: Some(Propagation::Background),
            ..Delete::exactly(&meta.uid)
        };
        let api = &self.context.api;
        found(
            api.delete(Job::RESOURCE, &meta.namespace, &meta.name, &options)
                .await,
        )?;
        self.written.note_deleted(key, &meta.uid);
        let message = format!("Deleted job {}", meta.name);
        self.record(cron, Severity::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        cron: &CronJob,
        status: &CronJobStatus,
    ) -> Result<(), Error> {
        if *status == cron.status {
            return Ok(());
        }
        let meta = &cron.metadata;
        let active: Vec<Value> = status
            .active
            .iter()
            .map(|job| {
                json!({
                    "apiVersion": Job::RESOURCE.api_version(), "kind": "Job",
                    "namespace": meta.namespace, "name": job.name, "uid": job.uid,
                })
            })
            .collect();
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {
                "active": if active.is_empty() { Value::Null } else { active.into() },
                "lastScheduleTime": status.last_schedule_time.map(time),
                "lastSuccessfulTime": status.last_successful_time.map(time),
            },
        });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patched = self
            .context
            .api
            .patch(CronJob::RESOURCE, namespace, name, "status", &patch)
            .await;
        if let Some(answer) = found(patched)? {
            self.own.note(key, &answer);
        }
        Ok(())
    }

    fn tell(&self, cron: &CronJob, note: Note) {
        let (severity, reason) = match &note {
            Note::Unparseable(_) => (Severity::Warning, "UnparseableSchedule"),
            Note::UnknownZone(_) => (Severity::Warning, "UnknownTimeZone"),
            Note::Missed => (Severity::Warning, "MissSchedule"),
            Note::TooManyMissed(_) => (Severity::Warning, "TooManyMissedTimes"),
            Note::StillActive => (Severity::Normal, "JobAlreadyActive"),
            Note::Finished(_) => (Severity::Normal, "SawCompletedJob"),
            Note::Unexpected(_) => (Severity::Warning, "UnexpectedJob"),
        };
        self.record(cron, severity, reason, note.to_string());
    }

    fn record(&self, cron: &CronJob, severity: Severity, reason: &'static str, message: String) {
        let about = (CronJob::RESOURCE, &cron.metadata);
        self.context
            .events
            .record(COMPONENT, about, severity, reason, message);
    }
}
