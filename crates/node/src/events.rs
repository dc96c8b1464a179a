//! Events about pods, claims, policies and the node, written in the background.
//!
//! Recording never waits and never fails: when the queue is full an event is
//! lost. Equal events are counted in one object.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Event, EventSource, Node, ObjectReference, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{Metadata, Resource};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::pod::info;

/// Most events waiting to be written.
const QUEUE: usize = 1024;
/// Most distinct events remembered for counting.
const REMEMBERED: usize = 4096;
/// Longest message, as the API allows.
const MAX_MESSAGE: usize = 1024;
/// An event is counted in the same object for this long.
const SAME_SECONDS: i64 = 600;

/// Weight of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something expected happened.
    Normal,
    /// Something is wrong.
    Warning,
}

struct Record {
    object: ObjectReference,
    kind: Kind,
    reason: &'static str,
    message: String,
}

/// Hands events to the writer; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// Starts the writer; it stops with `shutdown`.
    pub fn start(client: kube::Client, node_name: String, shutdown: CancellationToken) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            node_name,
            seen: HashMap::new(),
        };
        tokio::spawn(writer.run(receiver, shutdown));
        Self { queue }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: Kind, reason: &'static str, message: impl Into<String>) {
        self.send(pod_reference(pod, None), kind, reason, message.into());
    }

    /// An event about one of a pod's containers.
    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let spec = info::spec(pod);
        let list = if spec.init_containers().iter().any(|c| c.name == container) {
            "initContainers"
        } else if spec
            .ephemeral_containers()
            .iter()
            .any(|c| c.name == container)
        {
            "ephemeralContainers"
        } else {
            "containers"
        };
        let path = format!("spec.{list}{{{container}}}");
        self.send(pod_reference(pod, Some(path)), kind, reason, message.into());
    }

    /// An event about the node.
    pub fn node(&self, node: &Node, kind: Kind, reason: &'static str, message: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".to_owned()),
            api_version: Some("v1".to_owned()),
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            ..Default::default()
        };
        self.send(object, kind, reason, message.into());
    }

    /// An event about a claim.
    pub fn claim(
        &self,
        claim: &PersistentVolumeClaim,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let object = reference(claim);
        self.send(object, kind, reason, message.into());
    }

    /// An event about a network policy.
    pub fn policy(
        &self,
        policy: &NetworkPolicy,
        kind: Kind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let object = reference(policy);
        self.send(object, kind, reason, message.into());
    }

    fn send(&self, object: ObjectReference, kind: Kind, reason: &'static str, mut message: String) {
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE)
                .rev()
                .find(|i| message.is_char_boundary(*i))
                .unwrap_or(0);
            message.truncate(end);
        }
        let record = Record {
            object,
            kind,
            reason,
            message,
        };
        if self.queue.try_send(record).is_err() {
            tracing::debug!(reason, "event queue full, event lost");
        }
    }
}

/// An object, as an event names it.
fn reference<K>(object: &K) -> ObjectReference
where
    K: Resource + Metadata<Ty = ObjectMeta>,
{
    let metadata = object.metadata();
    ObjectReference {
        kind: Some(K::KIND.to_owned()),
        api_version: Some(K::API_VERSION.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        ..Default::default()
    }
}

fn pod_reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        api_version: Some("v1".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

type Key = (Option<String>, Option<String>, &'static str, String);

struct Seen {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Writer {
    client: kube::Client,
    node_name: String,
    seen: HashMap<Key, Seen>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Record>, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                record = queue.recv() => record,
                () = shutdown.cancelled() => return,
            };
            let Some(record) = record else { return };
            if let Err(error) = self.write(record).await {
                tracing::debug!(%error, "event not written");
            }
        }
    }

    async fn write(&mut self, record: Record) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        let namespace = record
            .object
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = (
            record.object.uid.clone(),
            record.object.field_path.clone(),
            record.reason,
            record.message.clone(),
        );
        if let Some(seen) = self.seen.get_mut(&key)
            && now.as_second() - seen.last.as_second() < SAME_SECONDS
        {
            seen.count = seen.count.saturating_add(1);
            seen.last = now;
            let patch = json!({"count": seen.count, "lastTimestamp": Time(now)});
            let done = api
                .patch(&seen.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match done {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        let name = format!(
            "{}.{:x}",
            record.object.name.as_deref().unwrap_or_default(),
            now.as_nanosecond()
        );
        let event = self.event(record, name.clone(), namespace, now);
        api.create(&PostParams::default(), &event).await?;
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(
            key,
            Seen {
                name,
                count: 1,
                last: now,
            },
        );
        Ok(())
    }

    fn event(&self, record: Record, name: String, namespace: String, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: record.object,
            type_: Some(match record.kind {
                Kind::Normal => "Normal".to_owned(),
                Kind::Warning => "Warning".to_owned(),
            }),
            reason: Some(record.reason.to_owned()),
            message: Some(record.message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Default::default()
        }
    }
}
