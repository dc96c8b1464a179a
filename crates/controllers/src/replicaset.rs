//! Replica sets and replication controllers: as many pods as asked for.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::value::RawValue;

use crate::api::{Delete, Resource};
use crate::claim::claim;
use crate::context::{Context, Task, Written, enqueue_owner, enqueue_self, next};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::informer::{Change, Store};
use crate::objects::apps::{ReplicaSet, ReplicaSetStatus, template};
use crate::objects::core::ReplicationController;
use crate::objects::pod::Pod;
use crate::objects::{Kind, Meta, controller_reference};
use crate::pods::{from_template, rank_for_deletion, slow_start};
use crate::queue::{Key, Next, Queue};
use crate::selector;
use plan::{Failure, observe, status_patch};

/// Replica sets that are worked on at once.
const WORKERS: usize = 8;
/// Pods created or deleted by one reconciliation at most.
const BURST: usize = 500;

/// A kind that keeps a number of equal pods.
pub(crate) trait Replicated: Kind {
    const COMPONENT: &'static str;
    fn spec(&self) -> Spec<'_>;
    fn status(&self) -> &ReplicaSetStatus;
}

/// What is wanted.
pub(crate) struct Spec<'a> {
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub selector: std::borrow::Cow<'a, LabelSelector>,
    pub template: Option<&'a RawValue>,
}

impl Replicated for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";

    fn spec(&self) -> Spec<'_> {
        Spec {
            replicas: self.spec.replicas.unwrap_or(1),
            min_ready_seconds: self.spec.min_ready_seconds,
            selector: std::borrow::Cow::Borrowed(&self.spec.selector),
            template: self.spec.template.as_deref(),
        }
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

impl Replicated for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";

    fn spec(&self) -> Spec<'_> {
        let selector = LabelSelector {
            match_labels: Some(self.spec.selector.clone()),
            match_expressions: None,
        };
        Spec {
            replicas: self.spec.replicas.unwrap_or(1),
            min_ready_seconds: self.spec.min_ready_seconds,
            selector: std::borrow::Cow::Owned(selector),
            template: self.spec.template.as_deref(),
        }
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

/// The controller of one replicated kind.
struct Controller<T> {
    context: Context,
    store: Arc<Store<T>>,
    pods: Arc<Store<Pod>>,
    written: Written<Pod>,
}

/// Registers the controller and returns its work.
pub(crate) fn start<T: Replicated>(context: &Context) -> Task {
    let queue = Queue::new();
    let store = context.store::<T>();
    let pods = context.store::<Pod>();
    enqueue_self(&store, &queue);
    enqueue_owner(&pods, kind_name::<T>(), &queue);
    enqueue_matching(&pods, &store, &queue);
    let controller = Arc::new(Controller {
        context: context.clone(),
        written: Written::new(pods.clone()),
        store,
        pods,
    });
    context.work(T::COMPONENT, WORKERS, queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
}

fn kind_name<T: Kind>() -> &'static str {
    match T::RESOURCE.kind {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "",
    }
}

/// Pods without a controller may be adopted by whoever selects them.
fn enqueue_matching<T: Replicated>(pods: &Store<Pod>, store: &Arc<Store<T>>, queue: &Arc<Queue>) {
    let (store, queue) = (store.clone(), queue.clone());
    pods.subscribe(move |change: Change<'_, Pod>| {
        let Some(pod) = change.new else { return };
        if pod.metadata.controller().is_some() || pod.metadata.is_deleting() {
            return;
        }
        for owner in store.in_namespace(&pod.metadata.namespace) {
            let selector = owner.spec().selector;
            if !selector::is_empty(&selector) && selector::matches(&selector, &pod.metadata.labels)
            {
                queue.add(owner.meta().key());
            }
        }
    });
}

impl<T: Replicated> Controller<T> {
    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(owner) = self.store.by_key(&key) else {
            self.written.keep_deleted(&key, &[]);
            return Ok(Next::Wait);
        };
        if !self.written.is_seen(&key) {
            return Ok(Next::Wait);
        }
        let spec = owner.spec();
        if selector::is_empty(&spec.selector) {
            return Ok(Next::Wait);
        }
        let pods = claim(
            &self.context.api,
            (T::RESOURCE, owner.meta()),
            &self.pods,
            |meta| selector::matches(&spec.selector, &meta.labels),
        )
        .await?;
        self.written.keep_deleted(&key, &pods);
        let gone = |pod: &Pod| self.written.is_deleted(&key, &pod.metadata.uid);
        let active: Vec<Arc<Pod>> = pods
            .iter()
            .filter(|pod| pod.is_active() && !gone(pod))
            .cloned()
            .collect();
        let failure = if owner.meta().is_deleting() {
            None
        } else {
            self.scale(&key, owner.as_ref(), &spec, &active).await
        };
        let now = Timestamp::now();
        let terminating = pods
            .iter()
            .filter(|pod| pod.metadata.is_deleting() && !pod.is_finished())
            .count();
        let labels = template_labels(spec.template)?;
        let mut observed = observe(&active, terminating, &labels, spec.min_ready_seconds, now);
        observed.status.observed_generation = owner.meta().generation;
        plan::set_failure(
            &mut observed.status,
            owner.status(),
            failure.as_ref().map(|(failure, _)| failure),
            now,
        );
        self.write_status(owner.as_ref(), &observed.status).await?;
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(next(observed.look_again)),
        }
    }

    /// Creates or deletes pods; returns what went wrong.
    async fn scale(
        &self,
        key: &Key,
        owner: &T,
        spec: &Spec<'_>,
        active: &[Arc<Pod>],
    ) -> Option<(Failure, Error)> {
        let wanted = usize::try_from(spec.replicas).unwrap_or(0);
        if active.len() < wanted {
            let count = (wanted - active.len()).min(BURST);
            let error = self.create(key, owner, spec, count).await.err()?;
            if error.is_namespace_terminating() {
                // Nothing more can be done in this namespace.
                return None;
            }
            let failure = Failure {
                reason: "FailedCreate",
                message: error.message(),
            };
            Some((failure, error))
        } else {
            let count = (active.len() - wanted).min(BURST);
            let error = self.delete(key, owner, spec, active, count).await.err()?;
            Some((
                Failure {
                    reason: "FailedDelete",
                    message: error.message(),
                },
                error,
            ))
        }
    }

    async fn create(
        &self,
        key: &Key,
        owner: &T,
        spec: &Spec<'_>,
        count: usize,
    ) -> Result<(), Error> {
        let meta = owner.meta();
        let template = template(spec.template)?;
        let mut body = from_template(&template, &controller_reference(T::RESOURCE, meta));
        body["metadata"]["generateName"] = format!("{}-", meta.name).into();
        let body = &body;
        let (_, error) = slow_start(count, |_| async move {
            let namespace = &meta.namespace;
            match self
                .context
                .api
                .create(Pod::RESOURCE, namespace, body.clone())
                .await
            {
                Ok(pod) => {
                    self.written.note(key, &pod);
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    self.record(
                        meta,
                        Severity::Normal,
                        "SuccessfulCreate",
                        format!("Created pod: {name}"),
                    );
                    Ok(())
                }
                Err(error) => {
                    if !error.is_namespace_terminating() {
                        let message = format!("Error creating: {}", error.message());
                        self.record(meta, Severity::Warning, "FailedCreate", message);
                    }
                    Err(error)
                }
            }
        })
        .await;
        error.map_or(Ok(()), Err)
    }

    async fn delete(
        &self,
        key: &Key,
        owner: &T,
        spec: &Spec<'_>,
        active: &[Arc<Pod>],
        count: usize,
    ) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        let meta = owner.meta();
        let mut ranked = active.to_vec();
        let related: Vec<Arc<Pod>> = self
            .pods
            .in_namespace(&meta.namespace)
            .into_iter()
            .filter(|pod| selector::matches(&spec.selector, &pod.metadata.labels))
            .collect();
        rank_for_deletion(&mut ranked, &related);
        ranked.truncate(count);
        let ranked = &ranked;
        let (_, error) = slow_start(count, |n| async move {
            let pod = &ranked[n].metadata;
            let options = Delete::exactly(&pod.uid);
            let deletion =
                self.context
                    .api
                    .delete(Pod::RESOURCE, &pod.namespace, &pod.name, &options);
            match found(deletion.await) {
                Ok(_) => {
                    self.written.note_deleted(key, &pod.uid);
                    let message = format!("Deleted pod: {}", pod.name);
                    self.record(meta, Severity::Normal, "SuccessfulDelete", message);
                    Ok(())
                }
                Err(error) => {
                    let message = format!("Error deleting: {}", error.message());
                    self.record(meta, Severity::Warning, "FailedDelete", message);
                    Err(error)
                }
            }
        })
        .await;
        error.map_or(Ok(()), Err)
    }

    async fn write_status(&self, owner: &T, status: &ReplicaSetStatus) -> Result<(), Error> {
        if owner.status() == status {
            return Ok(());
        }
        let meta = owner.meta();
        let patch = status_patch(meta, status);
        let resource: &Resource = T::RESOURCE;
        found(
            self.context
                .api
                .patch(resource, &meta.namespace, &meta.name, "status", &patch)
                .await,
        )
        .map(drop)
    }

    fn record(&self, meta: &Meta, severity: Severity, reason: &'static str, message: String) {
        let about = (T::RESOURCE, meta);
        self.context
            .events
            .record(T::COMPONENT, about, severity, reason, message);
    }
}

fn template_labels(
    raw: Option<&RawValue>,
) -> Result<std::collections::BTreeMap<String, String>, Error> {
    let template = template(raw)?;
    Ok(serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default())
}

/// When a pod that is ready becomes available, as a pause from now.
pub(crate) fn next_available(
    pods: &[Arc<Pod>],
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let times = pods
        .iter()
        .filter_map(|pod| pod.available_at(min_ready_seconds));
    times
        .filter(|at| *at > now)
        .min()
        .map(|at| crate::context::until(at, now))
}
