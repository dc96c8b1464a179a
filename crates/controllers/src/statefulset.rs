//! Stateful sets: numbered pods, each with claims of its own, made and removed
//! in order.

mod identity;
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
use crate::objects::apps::{ControllerRevision, StatefulSet, StatefulSetStatus, template};
use crate::objects::pod::Pod;
use crate::objects::storage::Claim;
use crate::objects::{Kind, OwnerReference, controller_reference};
use crate::queue::{Key, Next, Queue};
use crate::revisions::{HASH_LABEL, Revision, Revisions, Subject};
use crate::selector;
use identity::{claim_name, claims, ordinal, pod_body};
use plan::{Plan, Step, View, plan};

const COMPONENT: &str = "statefulset-controller";
/// Stateful sets that are worked on at once.
const WORKERS: usize = 8;

struct Controller {
    context: Context,
    sets: Arc<Store<StatefulSet>>,
    pods: Arc<Store<Pod>>,
    claims: Arc<Store<Claim>>,
    revisions: Revisions,
    own: Written<StatefulSet>,
    written: Written<Pod>,
}

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let sets = context.store::<StatefulSet>();
    let pods = context.store::<Pod>();
    let revisions = context.store::<ControllerRevision>();
    enqueue_self(&sets, &queue);
    enqueue_owner(&pods, "StatefulSet", &queue);
    enqueue_owner(&revisions, "StatefulSet", &queue);
    {
        let (sets, queue) = (sets.clone(), queue.clone());
        pods.subscribe(move |change| {
            let Some(pod) = change.new.filter(|pod| pod.metadata.controller().is_none()) else {
                return;
            };
            for set in sets.in_namespace(&pod.metadata.namespace) {
                if selector::matches(&set.spec.selector, &pod.metadata.labels) {
                    queue.add(set.metadata.key());
                }
            }
        });
    }
    let controller = Arc::new(Controller {
        context: context.clone(),
        own: Written::new(sets.clone()),
        written: Written::new(pods.clone()),
        revisions: Revisions::new(context.api.clone(), revisions),
        claims: context.store::<Claim>(),
        sets,
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
        if !seen || selector::is_empty(&set.spec.selector) {
            return Ok(Next::Wait);
        }
        let about = (StatefulSet::RESOURCE, &set.metadata);
        let mut pods = claim(&self.context.api, about, &self.pods, |meta| {
            selector::matches(&set.spec.selector, &meta.labels)
                && ordinal(&set.metadata.name, &meta.name).is_some()
        })
        .await?;
        pods.retain(|pod| ordinal(&set.metadata.name, &pod.metadata.name).is_some());
        self.written.keep_deleted(&key, &pods);
        let wanted = template(set.spec.template.as_deref())?;
        let subject = Subject {
            resource: StatefulSet::RESOURCE,
            meta: &set.metadata,
            selector: &set.spec.selector,
            template: &wanted,
            limit: set.spec.revision_history_limit,
        };
        let (all, update) = self.revisions.sync(&key, &subject).await?;
        let current = all
            .iter()
            .find(|it| it.name == set.status.current_revision)
            .unwrap_or(&update);
        let now = Timestamp::now();
        let view = View {
            set: &set,
            pods: &pods,
            current,
            update: &update,
            is_deleted: &|pod| self.written.is_deleted(&key, &pod.metadata.uid),
            now,
        };
        let mut plan = plan(&view);
        let mut failure = None;
        for step in std::mem::take(&mut plan.steps) {
            let revision = |is_update| if is_update { &update } else { current };
            let result = match step {
                Step::Create { ordinal, update } => {
                    self.create(&key, &set, ordinal, revision(update)).await
                }
                Step::Delete { pod, recreate } => self.delete(&key, &set, &pod, recreate).await,
            };
            if let Err(error) = result {
                failure = Some(error);
                break;
            }
        }
        self.retain_claims(&set, &pods).await?;
        self.write_status(&key, &set, &plan).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        let used = |it: &Revision| {
            it.name == current.name
                || it.name == update.name
                || pods
                    .iter()
                    .any(|pod| pod.metadata.label(HASH_LABEL) == Some(it.name.as_str()))
        };
        self.revisions.truncate(&subject, &all, used).await?;
        Ok(next(plan.look_again))
    }

    async fn create(
        &self,
        key: &Key,
        set: &StatefulSet,
        ordinal: i32,
        revision: &Revision,
    ) -> Result<(), Error> {
        let meta = &set.metadata;
        let name = format!("{}-{ordinal}", meta.name);
        for mut claim in claims(set, ordinal)? {
            let claim_name = claim["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if let Some(existing) = self.claims.get(&meta.namespace, &claim_name) {
                if existing.metadata.is_deleting() {
                    // A pod must not start on a claim that is going away.
                    return Err(Error::Stale);
                }
                continue;
            }
            if deletes_with_set(set) {
                claim["metadata"]["ownerReferences"] = json!([set_owner(set).to_value()]);
            }
            let created = self
                .context
                .api
                .create(Claim::RESOURCE, &meta.namespace, claim)
                .await;
            match created {
                Ok(_) => self.record(
                    set,
                    Severity::Normal,
                    "SuccessfulCreate",
                    format!(
                        "create Claim {claim_name} Pod {name} in StatefulSet {} success",
                        meta.name
                    ),
                ),
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    self.record(set, Severity::Warning, "FailedCreate", format!(
                        "create Claim {claim_name} for Pod {name} in StatefulSet {} failed error: \
                         {}", meta.name, error.message()
                    ));
                    return Err(error);
                }
            }
        }
        let body = pod_body(set, ordinal, revision)?;
        match self
            .context
            .api
            .create(Pod::RESOURCE, &meta.namespace, body)
            .await
        {
            Ok(pod) => {
                self.written.note(key, &pod);
                let message = format!("create Pod {name} in StatefulSet {} successful", meta.name);
                self.record(set, Severity::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            // The cache is behind, or a stranger has the name: look again.
            Err(error) if error.is_already_exists() => Err(Error::Stale),
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!(
                        "create Pod {name} in StatefulSet {} failed error: {}",
                        meta.name,
                        error.message()
                    );
                    self.record(set, Severity::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    async fn delete(
        &self,
        key: &Key,
        set: &StatefulSet,
        pod: &Pod,
        recreate: bool,
    ) -> Result<(), Error> {
        let meta = &pod.metadata;
        if recreate {
            let message = format!(
                "StatefulSet {}/{} is recreating {} Pod {}",
                meta.namespace,
                set.metadata.name,
                if pod.status.phase == "Failed" {
                    "failed"
                } else {
                    "terminated"
                },
                meta.name
            );
            self.record(set, Severity::Warning, "RecreatingTerminatedPod", message);
        }
        let options = Delete::exactly(&meta.uid);
        let api = &self.context.api;
        found(
            api.delete(Pod::RESOURCE, &meta.namespace, &meta.name, &options)
                .await,
        )?;
        self.written.note_deleted(key, &meta.uid);
        let message = format!(
            "delete Pod {} in StatefulSet {} successful",
            meta.name, set.metadata.name
        );
        self.record(set, Severity::Normal, "SuccessfulDelete", message);
        Ok(())
    }

    /// Claims of pods beyond the wanted number follow their pod, if the set
    /// says so; claims of wanted pods do not.
    async fn retain_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), Error> {
        if set.spec.volume_claim_templates.is_empty() {
            return Ok(());
        }
        let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
        let scaled = policy.is_some_and(|policy| policy.when_scaled == "Delete");
        for pod in pods {
            let Some(number) = ordinal(&set.metadata.name, &pod.metadata.name) else {
                continue;
            };
            let condemned = !plan::range(set).contains(&number);
            for raw in &set.spec.volume_claim_templates {
                let name = claim_name(raw, &set.metadata.name, number)?;
                let Some(claim) = self.claims.get(&set.metadata.namespace, &name) else {
                    continue;
                };
                let mut owners = claim.metadata.owner_references.clone();
                owners
                    .retain(|owner| owner.uid != set.metadata.uid && owner.uid != pod.metadata.uid);
                if scaled && condemned {
                    owners.push(pod_owner(pod));
                } else if deletes_with_set(set) {
                    owners.push(set_owner(set));
                }
                if owners == claim.metadata.owner_references {
                    continue;
                }
                let owners: Vec<Value> = owners.iter().map(OwnerReference::to_value).collect();
                let patch = json!({"metadata": {
                    "uid": claim.metadata.uid,
                    "resourceVersion": claim.metadata.resource_version,
                    "ownerReferences": owners,
                }});
                let namespace = &set.metadata.namespace;
                let patched = self
                    .context
                    .api
                    .patch(Claim::RESOURCE, namespace, &name, "", &patch)
                    .await;
                found(patched)?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, key: &Key, set: &StatefulSet, plan: &Plan) -> Result<(), Error> {
        if plan.status == set.status {
            return Ok(());
        }
        let meta = &set.metadata;
        let patch = json!({
            "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": status_patch(&plan.status),
        });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patched = self
            .context
            .api
            .patch(StatefulSet::RESOURCE, namespace, name, "status", &patch)
            .await;
        if let Some(answer) = found(patched)? {
            self.own.note(key, &answer);
        }
        Ok(())
    }

    fn record(&self, set: &StatefulSet, severity: Severity, reason: &'static str, text: String) {
        let about = (StatefulSet::RESOURCE, &set.metadata);
        self.context
            .events
            .record(COMPONENT, about, severity, reason, text);
    }
}

fn deletes_with_set(set: &StatefulSet) -> bool {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    policy.is_some_and(|policy| policy.when_deleted == "Delete")
}

fn set_owner(set: &StatefulSet) -> OwnerReference {
    controller_reference(StatefulSet::RESOURCE, &set.metadata)
}

fn pod_owner(pod: &Pod) -> OwnerReference {
    controller_reference(Pod::RESOURCE, &pod.metadata)
}

fn status_patch(status: &StatefulSetStatus) -> Value {
    let some = |count: i32| {
        if count == 0 {
            Value::Null
        } else {
            count.into()
        }
    };
    json!({
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "readyReplicas": some(status.ready_replicas),
        "currentReplicas": some(status.current_replicas),
        "updatedReplicas": some(status.updated_replicas),
        "availableReplicas": status.available_replicas,
        "currentRevision": status.current_revision,
        "updateRevision": status.update_revision,
        "collisionCount": status.collision_count.unwrap_or(0),
    })
}
