//! Deployments: replica sets that replace one another.

mod history;
mod plan;
mod rollout;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Delete;
use crate::claim::claim;
use crate::context::{Context, Task, Written, enqueue_owner, enqueue_self, next};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::Store;
use crate::objects::Kind;
use crate::objects::apps::{Deployment, ReplicaSet, template};
use crate::queue::{Key, Next, Queue};
use crate::selector;
use plan::{Plan, Step, plan, same_template};

const COMPONENT: &str = "deployment-controller";
/// Deployments that are worked on at once.
const WORKERS: usize = 8;

struct Controller {
    context: Context,
    deployments: Arc<Store<Deployment>>,
    replica_sets: Arc<Store<ReplicaSet>>,
    own: Written<Deployment>,
    written: Written<ReplicaSet>,
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let deployments = context.store::<Deployment>();
    let replica_sets = context.store::<ReplicaSet>();
    enqueue_self(&deployments, &queue);
    enqueue_owner(&replica_sets, "Deployment", &queue);
    {
        // A replica set without an owner may be adopted by who selects it.
        let (deployments, queue) = (deployments.clone(), queue.clone());
        replica_sets.subscribe(move |change| {
            let Some(set) = change.new.filter(|set| set.metadata.controller().is_none()) else {
                return;
            };
            for deployment in deployments.in_namespace(&set.metadata.namespace) {
                if selector::matches(&deployment.spec.selector, &set.metadata.labels) {
                    queue.add(deployment.metadata.key());
                }
            }
        });
    }
    let controller = Arc::new(Controller {
        context: context.clone(),
        own: Written::new(deployments.clone()),
        written: Written::new(replica_sets.clone()),
        deployments,
        replica_sets,
    });
    context.work(COMPONENT, WORKERS, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.by_key(&key) else {
            return Ok(Next::Wait);
        };
        if !self.own.is_seen(&key) || !self.written.is_seen(&key) {
            return Ok(Next::Wait);
        }
        let meta = &deployment.metadata;
        if selector::is_empty(&deployment.spec.selector) {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            self.record(
                &deployment,
                Severity::Warning,
                "SelectingAll",
                message.to_owned(),
            );
            return Ok(Next::Wait);
        }
        let about = (Deployment::RESOURCE, meta);
        let sets = claim(&self.context.api, about, &self.replica_sets, |meta| {
            selector::matches(&deployment.spec.selector, &meta.labels)
        })
        .await?;
        let template = template(deployment.spec.template.as_deref())?;
        let now = Timestamp::now();
        let mut plan = plan(&deployment, &template, &sets, now)?;
        let mut failure = None;
        for step in std::mem::take(&mut plan.steps) {
            if let Err(error) = self
                .step(&key, &deployment, &template, step, &mut plan)
                .await
            {
                failure = Some(error);
                break;
            }
        }
        if let Some(error) = failure.as_ref().filter(|error| !error.is_routine()) {
            plan.fail(&error.message(), now);
        }
        self.write(&key, &deployment, &plan).await?;
        failure.map_or(Ok(next(plan.look_again)), Err)
    }

    async fn step(
        &self,
        key: &Key,
        deployment: &Deployment,
        template: &Value,
        step: Step,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let (api, namespace) = (&self.context.api, deployment.metadata.namespace.as_str());
        match step {
            Step::Create {
                name,
                body,
                message,
            } => match api.create(ReplicaSet::RESOURCE, namespace, body).await {
                Ok(set) => {
                    self.written.note(key, &set);
                    if let Some(message) = message {
                        self.record(deployment, Severity::Normal, "ScalingReplicaSet", message);
                    }
                    Ok(())
                }
                Err(error) if error.is_already_exists() => {
                    self.collide(deployment, template, &name, plan).await
                }
                Err(error) => {
                    if !error.is_routine() {
                        let message = format!(
                            "Failed to create new replica set {name:?}: {}",
                            error.message()
                        );
                        let reason = "ReplicaSetCreateError";
                        self.record(deployment, Severity::Warning, reason, message);
                    }
                    Err(error)
                }
            },
            Step::Patch {
                name,
                patch,
                message,
            } => {
                let set = api
                    .patch(ReplicaSet::RESOURCE, namespace, &name, "", &patch)
                    .await?;
                self.written.note(key, &set);
                if let Some(message) = message {
                    self.record(deployment, Severity::Normal, "ScalingReplicaSet", message);
                }
                Ok(())
            }
            Step::Delete { name, uid } => {
                let options = Delete::exactly(&uid);
                found(
                    api.delete(ReplicaSet::RESOURCE, namespace, &name, &options)
                        .await,
                )
                .map(drop)
            }
        }
    }

    /// The new replica set's name is taken: by itself, which the cache does
    /// not know yet, or by another template, which calls for another name.
    async fn collide(
        &self,
        deployment: &Deployment,
        template: &Value,
        name: &str,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let namespace = &deployment.metadata.namespace;
        let existing = self
            .context
            .api
            .get(ReplicaSet::RESOURCE, namespace, name)
            .await?;
        let uid = deployment.metadata.uid.as_str();
        let owned = existing["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|owners| {
                owners
                    .iter()
                    .any(|owner| owner["controller"] == true && owner["uid"] == uid)
            });
        if !(owned && same_template(&existing["spec"]["template"], template)) {
            let count = plan.status.collision_count.unwrap_or(0);
            plan.status.collision_count = Some(count.saturating_add(1));
        }
        Err(Error::Stale)
    }

    /// Writes the revision annotation and the status if they changed.
    async fn write(&self, key: &Key, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        let (api, meta) = (&self.context.api, &deployment.metadata);
        let mut version = Value::from(meta.resource_version.as_str());
        if let Some(revision) = plan.revision.as_deref()
            && meta.annotation(history::REVISION) != Some(revision)
        {
            let patch = json!({"metadata": {
                "uid": meta.uid, "resourceVersion": version,
                "annotations": {history::REVISION: revision},
            }});
            let answer = api
                .patch(
                    Deployment::RESOURCE,
                    &meta.namespace,
                    &meta.name,
                    "",
                    &patch,
                )
                .await;
            let Some(answer) = found(answer)? else {
                return Ok(());
            };
            self.own.note(key, &answer);
            version = answer["metadata"]["resourceVersion"].clone();
        }
        if plan.status == deployment.status {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": version},
            "status": status::to_patch(&plan.status),
        });
        let answer = api
            .patch(
                Deployment::RESOURCE,
                &meta.namespace,
                &meta.name,
                "status",
                &patch,
            )
            .await;
        if let Some(answer) = found(answer)? {
            self.own.note(key, &answer);
        }
        Ok(())
    }

    fn record(
        &self,
        deployment: &Deployment,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let about = (Deployment::RESOURCE, &deployment.metadata);
        self.context
            .events
            .record(COMPONENT, about, severity, reason, message);
    }
}
