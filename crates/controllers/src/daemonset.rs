//! Daemon sets: one pod on each node that suits.

mod plan;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Delete;
use crate::claim::claim;
use crate::context::{Context, Task, Written, enqueue_owner, enqueue_self, next};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::apps::{ControllerRevision, DaemonSet, DaemonSetStatus, template};
use crate::objects::core::Node;
use crate::objects::pod::Pod;
use crate::objects::{Kind, controller_reference};
use crate::pods::{from_template, slow_start};
use crate::queue::{Key, Next, Queue};
use crate::revisions::{HASH_LABEL, Revision, Revisions, Subject};
use crate::selector;
use plan::{View, pin, plan, with_daemon_tolerations};

const COMPONENT: &str = "daemonset-controller";
/// Daemon sets that are worked on at once.
const WORKERS: usize = 4;
/// Pods created or deleted by one reconciliation at most.
const BURST: usize = 250;

struct Controller {
    context: Context,
    sets: Arc<Store<DaemonSet>>,
    nodes: Arc<Store<Node>>,
    pods: Arc<Store<Pod>>,
    revisions: Revisions,
    own: Written<DaemonSet>,
    written: Written<Pod>,
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let sets = context.store::<DaemonSet>();
    let nodes = context.store::<Node>();
    let pods = context.store::<Pod>();
    let revisions = context.store::<ControllerRevision>();
    enqueue_self(&sets, &queue);
    enqueue_owner(&pods, "DaemonSet", &queue);
    enqueue_owner(&revisions, "DaemonSet", &queue);
    {
        let (sets, queue) = (sets.clone(), queue.clone());
        nodes.subscribe(move |change| {
            if let (Some(old), Some(new)) = (change.old, change.new) {
                // Heartbeats change nothing.
                let same = old.metadata.labels == new.metadata.labels
                    && old.spec.taints == new.spec.taints
                    && old.spec.unschedulable == new.spec.unschedulable;
                if same {
                    return;
                }
            }
            sets.all()
                .iter()
                .for_each(|set| queue.add(set.metadata.key()));
        });
    }
    let controller = Arc::new(Controller {
        context: context.clone(),
        own: Written::new(sets.clone()),
        written: Written::new(pods.clone()),
        revisions: Revisions::new(context.api.clone(), revisions),
        sets,
        nodes,
        pods,
    });
    context.work(COMPONENT, WORKERS, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(set) = self.sets.by_key(&key) else {
            self.written.keep_deleted(&key, &[]);
            return Ok(Next::Wait);
        };
        let seen =
            self.own.is_seen(&key) && self.written.is_seen(&key) && self.revisions.is_seen(&key);
        if !seen {
            return Ok(Next::Wait);
        }
        if selector::is_empty(&set.spec.selector) {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            self.record(&set, Severity::Warning, "SelectingAll", message.to_owned());
            return Ok(Next::Wait);
        }
        let about = (DaemonSet::RESOURCE, &set.metadata);
        let pods = claim(&self.context.api, about, &self.pods, |meta| {
            selector::matches(&set.spec.selector, &meta.labels)
        })
        .await?;
        self.written.keep_deleted(&key, &pods);
        let wanted = template(set.spec.template.as_deref())?;
        let subject = Subject {
            resource: DaemonSet::RESOURCE,
            meta: &set.metadata,
            selector: &set.spec.selector,
            template: &wanted,
            limit: set.spec.revision_history_limit,
        };
        let (all, update) = self.revisions.sync(&key, &subject).await?;
        let nodes = self.nodes.all();
        let now = Timestamp::now();
        let spec = with_daemon_tolerations(&wanted)?;
        let plan = plan(&View {
            set: &set,
            spec: &spec,
            nodes: &nodes,
            pods: &pods,
            hash: &update.hash,
            is_deleted: &|pod| self.written.is_deleted(&key, &pod.metadata.uid),
            now,
        });
        let mut result = Ok(());
        if !set.metadata.is_deleting() {
            result = self.delete(&key, &set, &plan.delete).await;
            if result.is_ok() {
                result = self
                    .create(&key, &set, &wanted, &update, &plan.create)
                    .await;
            }
        }
        self.write_status(&key, &set, &plan.status).await?;
        result?;
        let used = |it: &Revision| {
            it.name == update.name
                || pods
                    .iter()
                    .any(|pod| pod.metadata.label(HASH_LABEL) == Some(it.hash.as_str()))
        };
        self.revisions.truncate(&subject, &all, used).await?;
        Ok(next(plan.look_again))
    }

    async fn create(
        &self,
        key: &Key,
        set: &DaemonSet,
        template: &Value,
        revision: &Revision,
        nodes: &[String],
    ) -> Result<(), Error> {
        let meta = &set.metadata;
        let owner = controller_reference(DaemonSet::RESOURCE, meta);
        let mut body = from_template(template, &owner);
        body["metadata"]["generateName"] = format!("{}-", meta.name).into();
        body["metadata"]["labels"][HASH_LABEL] = revision.hash.as_str().into();
        plan::add_tolerations(&mut body["spec"]);
        let body = &body;
        let count = nodes.len().min(BURST);
        let (_, error) = slow_start(count, |n| async move {
            let mut body = body.clone();
            pin(&mut body["spec"], &nodes[n]);
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
                    self.record(set, Severity::Normal, "SuccessfulCreate", message);
                    Ok(())
                }
                Err(error) if error.is_namespace_terminating() => Ok(()),
                Err(error) => {
                    let message = format!("Error creating: {}", error.message());
                    self.record(set, Severity::Warning, "FailedCreate", message);
                    Err(error)
                }
            }
        })
        .await;
        error.map_or(Ok(()), Err)
    }

    async fn delete(&self, key: &Key, set: &DaemonSet, pods: &[Arc<Pod>]) -> Result<(), Error> {
        for pod in pods.iter().take(BURST) {
            let meta = &pod.metadata;
            if pod.status.phase == "Failed" {
                let message = format!(
                    "Found failed daemon pod {}/{} on node {}, will try to kill it",
                    meta.namespace, meta.name, pod.spec.node_name
                );
                self.record(set, Severity::Warning, "FailedDaemonPod", message);
            }
            let options = Delete::exactly(&meta.uid);
            let api = &self.context.api;
            found(
                api.delete(Pod::RESOURCE, &meta.namespace, &meta.name, &options)
                    .await,
            )?;
            self.written.note_deleted(key, &meta.uid);
            let message = format!("Deleted pod: {}", meta.name);
            self.record(set, Severity::Normal, "SuccessfulDelete", message);
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &DaemonSet,
        status: &DaemonSetStatus,
    ) -> Result<(), Error> {
        if *status == set.status {
            return Ok(());
        }
        let meta = &set.metadata;
        let some = |count: i32| {
            if count == 0 {
                Value::Null
            } else {
                count.into()
            }
        };
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {
                "currentNumberScheduled": status.current_number_scheduled,
                "numberMisscheduled": status.number_misscheduled,
                "desiredNumberScheduled": status.desired_number_scheduled,
                "numberReady": status.number_ready,
                "observedGeneration": status.observed_generation,
                "updatedNumberScheduled": some(status.updated_number_scheduled),
                "numberAvailable": some(status.number_available),
                "numberUnavailable": some(status.number_unavailable),
            },
        });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patched = self
            .context
            .api
            .patch(DaemonSet::RESOURCE, namespace, name, "status", &patch)
            .await;
        if let Some(answer) = found(patched)? {
            self.own.note(key, &answer);
        }
        Ok(())
    }

    fn record(&self, set: &DaemonSet, severity: Severity, reason: &'static str, text: String) {
        let about = (DaemonSet::RESOURCE, &set.metadata);
        self.context
            .events
            .record(COMPONENT, about, severity, reason, text);
    }
}
