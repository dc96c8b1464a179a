//! Jobs: pods that run to their end, as often as asked for.

mod indexes;
mod outcome;
mod plan;
mod policy;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Delete};
use crate::claim::claim;
use crate::context::{
    Context, Task, Written, enqueue_owner, enqueue_self, next, plus_seconds, until,
};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::apps::template;
use crate::objects::batch::{Job, JobStatus};
use crate::objects::pod::Pod;
use crate::objects::{Condition, Kind, condition, controller_reference, time};
use crate::pods::{from_template, slow_start};
use crate::queue::{Key, Next, Queue};
use crate::selector;
use plan::{Plan, View, plan};

const COMPONENT: &str = "job-controller";
/// Jobs that are worked on at once.
const WORKERS: usize = 8;
/// Pods created or deleted by one reconciliation at most.
const BURST: usize = 500;
/// Keeps a pod until it is counted.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with a pod's index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with how often pods of this index failed before.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

struct Controller {
    context: Context,
    jobs: Arc<Store<Job>>,
    pods: Arc<Store<Pod>>,
    own: Written<Job>,
    written: Written<Pod>,
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let jobs = context.store::<Job>();
    let pods = context.store::<Pod>();
    enqueue_self(&jobs, &queue);
    enqueue_owner(&pods, "Job", &queue);
    let controller = Arc::new(Controller {
        context: context.clone(),
        own: Written::new(jobs.clone()),
        written: Written::new(pods.clone()),
        jobs,
        pods,
    });
    context.work(COMPONENT, WORKERS, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(job) = self.jobs.by_key(&key) else {
            self.release_orphans(&key).await?;
            self.written.keep_deleted(&key, &[]);
            return Ok(Next::Wait);
        };
        if !self.own.is_seen(&key) || !self.written.is_seen(&key) {
            return Ok(Next::Wait);
        }
        let others = job.spec.managed_by.as_deref();
        if others.is_some_and(|name| name != "kubernetes.io/job-controller")
            || selector::is_empty(&job.spec.selector)
        {
            return Ok(Next::Wait);
        }
        let about = (Job::RESOURCE, &job.metadata);
        let pods = claim(&self.context.api, about, &self.pods, |meta| {
            selector::matches(&job.spec.selector, &meta.labels)
        })
        .await?;
        self.written.keep_deleted(&key, &pods);
        if job.status.is_finished() || job.metadata.is_deleting() {
            // Whatever ended in the meantime need not be counted any more.
            return self
                .release(
                    pods.iter()
                        .filter(|pod| job.metadata.is_deleting() || pod.is_finished()),
                )
                .await
                .map(|()| Next::Wait);
        }
        let now = Timestamp::now();
        let plan = plan(&View {
            job: &job,
            pods: &pods,
            is_deleted: &|pod| self.written.is_deleted(&key, &pod.metadata.uid),
            now,
        });
        self.write_status(&key, &job, &plan.status).await?;
        // Only now that their end is on record may they go.
        let counted = pods
            .iter()
            .filter(|pod| plan.counted.contains(&pod.metadata.uid));
        self.release(counted).await?;
        self.tell(&job, &plan);
        self.delete(&key, &job, &plan.delete).await?;
        self.create(&key, &job, &plan).await?;
        Ok(next(plan.look_again))
    }

    /// Lets pods go.
    async fn release(&self, pods: impl Iterator<Item = &Arc<Pod>>) -> Result<(), Error> {
        for pod in pods {
            release(&self.context.api, pod).await?;
        }
        Ok(())
    }

    /// Pods of a job that is gone are counted by nobody.
    async fn release_orphans(&self, key: &Key) -> Result<(), Error> {
        let pods = self.pods.in_namespace(&key.namespace);
        let orphans = pods.iter().filter(|pod| {
            pod.metadata
                .controller()
                .is_some_and(|owner| owner.kind == "Job" && owner.name == key.name)
        });
        self.release(orphans).await
    }

    async fn create(&self, key: &Key, job: &Job, plan: &Plan) -> Result<(), Error> {
        if plan.create.is_empty() {
            return Ok(());
        }
        let meta = &job.metadata;
        let template = template(job.spec.template.as_deref())?;
        let labels = template["metadata"]["labels"].clone();
        let labels = serde_json::from_value(labels).unwrap_or_default();
        if !selector::matches(&job.spec.selector, &labels) {
            // The server refuses such a job: one of before is not worked on.
            let message = "the selector does not match the labels of the template".to_owned();
            self.record(job, Severity::Warning, "FailedCreate", message);
            return Ok(());
        }
        let owner = controller_reference(Job::RESOURCE, meta);
        let count = plan.create.len().min(BURST);
        let (template, owner) = (&template, &owner);
        let (_, error) = slow_start(count, |n| async move {
            let mut body = from_template(template, owner);
            let mut finalizers = body["metadata"]["finalizers"].as_array().cloned();
            finalizers.get_or_insert_default().push(TRACKING.into());
            body["metadata"]["finalizers"] = finalizers.into();
            body["metadata"]["generateName"] = format!("{}-", meta.name).into();
            if let Some(index) = plan.create[n].index {
                set_index(&mut body, &meta.name, index, plan.create[n].failures);
            }
            match self
                .context
                .api
                .create(Pod::RESOURCE, &meta.namespace, body)
                .await
            {
                Ok(pod) => {
                    self.written.note(key, &pod);
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    let message = format!("Created pod: {name}");
                    self.record(job, Severity::Normal, "SuccessfulCreate", message);
                    Ok(())
                }
                Err(error) if error.is_namespace_terminating() => Ok(()),
                Err(error) => {
                    let message = format!("Error creating: {}", error.message());
                    self.record(job, Severity::Warning, "FailedCreate", message);
                    Err(error)
                }
            }
        })
        .await;
        error.map_or(Ok(()), Err)
    }

    async fn delete(&self, key: &Key, job: &Job, pods: &[Arc<Pod>]) -> Result<(), Error> {
        for pod in pods.iter().take(BURST) {
            let meta = &pod.metadata;
            let options = Delete::exactly(&meta.uid);
            let api = &self.context.api;
            found(
                api.delete(Pod::RESOURCE, &meta.namespace, &meta.name, &options)
                    .await,
            )?;
            self.written.note_deleted(key, &meta.uid);
            let message = format!("Deleted pod: {}", meta.name);
            self.record(job, Severity::Normal, "SuccessfulDelete", message);
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, job: &Job, status: &JobStatus) -> Result<(), Error> {
        if *status == job.status {
            return Ok(());
        }
        let meta = &job.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": status_patch(status),
        });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patched = self
            .context
            .api
            .patch(Job::RESOURCE, namespace, name, "status", &patch)
            .await?;
        self.own.note(key, &patched);
        Ok(())
    }

    /// Events for conditions that are new.
    fn tell(&self, job: &Job, plan: &Plan) {
        for condition in plan.status.conditions.iter() {
            let before = crate::objects::condition(&job.status.conditions, &condition.kind);
            if before.is_some_and(|before| before.status == condition.status) {
                continue;
            }
            let message = condition.message.clone();
            match (condition.kind.as_str(), condition.is_true()) {
                ("Complete", true) => {
                    let message = "Job completed".to_owned();
                    self.record(job, Severity::Normal, "Completed", message);
                }
                ("Failed", true) => {
                    let reason = plan::failure_reason(&condition.reason);
                    self.record(job, Severity::Warning, reason, message);
                }
                ("Suspended", true) => {
                    self.record(
                        job,
                        Severity::Normal,
                        "Suspended",
                        "Job suspended".to_owned(),
                    );
                }
                ("Suspended", false) if before.is_some() => {
                    self.record(job, Severity::Normal, "Resumed", "Job resumed".to_owned());
                }
                _ => {}
            }
        }
    }

    fn record(&self, job: &Job, severity: Severity, reason: &'static str, message: String) {
        let about = (Job::RESOURCE, &job.metadata);
        self.context
            .events
            .record(COMPONENT, about, severity, reason, message);
    }
}

/// Tells a pod of its index: by annotation, label, name, and environment.
fn set_index(body: &mut Value, job: &str, index: i32, failures: Option<i32>) {
    let meta = &mut body["metadata"];
    meta["generateName"] = format!("{job}-{index}-").into();
    meta["annotations"][INDEX] = index.to_string().into();
    meta["labels"][INDEX] = index.to_string().into();
    if let Some(failures) = failures {
        meta["annotations"][INDEX_FAILURES] = failures.to_string().into();
    }
    let spec = &mut body["spec"];
    spec["hostname"] = format!("{job}-{index}").into();
    let source = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {
        "apiVersion": "v1", "fieldPath": format!("metadata.labels['{INDEX}']"),
    }}});
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let mut environment = container["env"].as_array().cloned().unwrap_or_default();
            if !environment.iter().any(|it| it["name"] == source["name"]) {
                environment.push(source.clone());
            }
            container["env"] = environment.into();
        }
    }
}

fn status_patch(status: &JobStatus) -> Value {
    let some = |count: i32| {
        if count == 0 {
            Value::Null
        } else {
            count.into()
        }
    };
    let text = |text: &str| {
        if text.is_empty() {
            Value::Null
        } else {
            text.into()
        }
    };
    let list = |uids: &[String]| {
        if uids.is_empty() {
            Value::Null
        } else {
            uids.into()
        }
    };
    let conditions: Vec<Value> = status.conditions.iter().map(Condition::to_value).collect();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    json!({
        "active": some(status.active),
        "succeeded": some(status.succeeded),
        "failed": some(status.failed),
        "ready": status.ready,
        "terminating": status.terminating,
        "startTime": status.start_time.map(time),
        "completionTime": status.completion_time.map(time),
        "completedIndexes": text(&status.completed_indexes),
        "failedIndexes": status.failed_indexes,
        "uncountedTerminatedPods": {
            "succeeded": list(&uncounted.succeeded), "failed": list(&uncounted.failed),
        },
        "conditions": if conditions.is_empty() { Value::Null } else { conditions.into() },
    })
}

/// Registers the controller that lets pods go whose job is not theirs any more:
/// it was deleted, or made anew, or no longer matches them.
pub(crate) fn start_orphans(context: &Context) -> Task {
    let queue = Queue::new();
    let (jobs, pods) = (context.store::<Job>(), context.store::<Pod>());
    {
        let queue = queue.clone();
        pods.subscribe(move |change| {
            if let Some(pod) = change
                .new
                .filter(|pod| pod.metadata.has_finalizer(TRACKING))
            {
                queue.add(pod.metadata.key());
            }
        });
    }
    let api = context.api.clone();
    context.work("job-orphan-controller", 1, queue, move |key| {
        let (api, jobs, pods) = (api.clone(), jobs.clone(), pods.clone());
        async move {
            let Some(pod) = pods.by_key(&key) else {
                return Ok(Next::Wait);
            };
            let owned = pod.metadata.controller().is_some_and(|owner| {
                let job = jobs.by_key(&Key::new(&key.namespace, &owner.name));
                // A job that is gone lets its pods go itself.
                owner.kind == "Job" && job.is_none_or(|job| job.metadata.uid == owner.uid)
            });
            if !owned {
                release(&api, &pod).await?;
            }
            Ok(Next::Wait)
        }
    })
}

/// Lets a pod go.
async fn release(api: &Api, pod: &Pod) -> Result<(), Error> {
    let meta = &pod.metadata;
    if !meta.has_finalizer(TRACKING) {
        return Ok(());
    }
    let others: Vec<&String> = meta
        .finalizers
        .iter()
        .filter(|name| *name != TRACKING)
        .collect();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": others,
    }});
    let patched = api.patch(Pod::RESOURCE, &meta.namespace, &meta.name, "", &patch);
    found(patched.await).map(drop)
}

/// Registers the controller that removes finished jobs after their time.
pub(crate) fn start_ttl(context: &Context) -> Task {
    let queue = Queue::new();
    let jobs = context.store::<Job>();
    {
        let queue = queue.clone();
        jobs.subscribe(move |change| {
            let mortal = change
                .new
                .filter(|job| job.spec.ttl_seconds_after_finished.is_some());
            if let Some(job) = mortal.filter(|job| job.status.is_finished()) {
                queue.add(job.metadata.key());
            }
        });
    }
    let api = context.api.clone();
    context.work("ttl-after-finished-controller", 4, queue, move |key| {
        let (api, jobs) = (api.clone(), jobs.clone());
        async move {
            let Some(job) = jobs.by_key(&key).filter(|job| !job.metadata.is_deleting()) else {
                return Ok(Next::Wait);
            };
            let Some(seconds) = job.spec.ttl_seconds_after_finished else {
                return Ok(Next::Wait);
            };
            let ended = ["Complete", "Failed"]
                .iter()
                .find_map(|kind| condition(&job.status.conditions, kind).filter(|it| it.is_true()));
            let Some(at) = ended.and_then(|it| it.last_transition_time) else {
                return Ok(Next::Wait);
            };
            let (due, now) = (plus_seconds(at, seconds), Timestamp::now());
            if due > now {
                return Ok(Next::After(until(due, now)));
            }
            let options = Delete {
                uid: Some(&job.metadata.uid),
                resource_version: Some(&job.metadata.resource_version),
                propagation: Some(crate::api::Propagation::Foreground),
                grace_seconds: None,
            };
            let deletion = api.delete(Job::RESOURCE, &key.namespace, &key.name, &options);
            found(deletion.await).map(|_| Next::Wait)
        }
    })
}
