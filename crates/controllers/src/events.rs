//! Events: recorded without waiting, merged when they repeat, limited in rate.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Resource};
use crate::objects::{Meta, object_reference, time};

const EVENTS: &Resource = &Resource::new("", "v1", "Event", "events", true);

/// Events that wait to be written; further ones are dropped.
const WAITING: usize = 1024;
/// Events that are remembered so that repetitions raise a count.
const REMEMBERED: usize = 1024;
/// Events of one object that may come at once, and how many seconds earn one
/// more: a pod that cannot be placed must not fill the store.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Longest message, in bytes; the API allows 1,024.
const MAX_MESSAGE: usize = 1024;

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

struct Record {
    component: &'static str,
    reference: Value,
    namespace: String,
    name: String,
    uid: String,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Takes events from controllers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Record>,
}

impl Recorder {
    /// A recorder, and the task that writes its events.
    pub(crate) fn new(
        api: Api,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender }, write_all(api, receiver, shutdown))
    }

    /// Records an event about an object, in the name of a controller.
    pub(crate) fn record(
        &self,
        component: &'static str,
        (resource, meta): (&Resource, &Meta),
        severity: Severity,
        reason: &'static str,
        mut message: String,
    ) {
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        let record = Record {
            component,
            reference: object_reference(resource, meta),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            severity,
            reason,
            message,
        };
        if self.sender.try_send(record).is_err() {
            tracing::debug!(reason, "dropped an event");
        }
    }
}

#[derive(Default)]
struct Memory {
    /// Name and count of the stored event, by what makes events equal.
    known: HashMap<(String, &'static str, String), (String, u32)>,
    order: VecDeque<(String, &'static str, String)>,
    /// Tokens left and when they were counted, by object uid.
    tokens: HashMap<String, (f64, Timestamp)>,
}

impl Memory {
    /// Takes a token of the object; false if it has none left.
    fn admit(&mut self, uid: &str, now: Timestamp) -> bool {
        if self.tokens.len() >= REMEMBERED {
            self.tokens
                .retain(|_, (left, at)| refill(*left, *at, now) < BURST);
        }
        if self.tokens.len() >= REMEMBERED {
            self.tokens.clear();
        }
        let (left, at) = self.tokens.entry(uid.to_owned()).or_insert((BURST, now));
        *left = refill(*left, *at, now);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    fn remember(&mut self, key: (String, &'static str, String), name: String, count: u32) {
        if self.known.insert(key.clone(), (name, count)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn refill(left: f64, at: Timestamp, now: Timestamp) -> f64 {
    let elapsed = now.duration_since(at).as_secs_f64().max(0.0);
    (left + elapsed / REFILL_SECONDS).min(BURST)
}

async fn write_all(api: Api, mut receiver: mpsc::Receiver<Record>, shutdown: CancellationToken) {
    let mut memory = Memory::default();
    loop {
        let record = tokio::select! {
            record = receiver.recv() => record,
            () = shutdown.cancelled() => return,
        };
        let Some(record) = record else { return };
        let now = Timestamp::now();
        if memory.admit(&record.uid, now) {
            write(&api, &mut memory, record, now).await;
        }
    }
}

async fn write(api: &Api, memory: &mut Memory, record: Record, now: Timestamp) {
    // Events about objects without a namespace live in `default`.
    let namespace = if record.namespace.is_empty() {
        "default"
    } else {
        record.namespace.as_str()
    };
    let key = (record.uid.clone(), record.reason, record.message.clone());
    if let Some((name, count)) = memory.known.get(&key).cloned() {
        let count = count.saturating_add(1);
        let patch = json!({"count": count, "lastTimestamp": time(now)});
        match api.patch(EVENTS, namespace, &name, "", &patch).await {
            Ok(_) => return memory.remember(key, name, count),
            // It expired: write a new one.
            Err(error) if error.is_not_found() => {}
            Err(error) => return tracing::debug!(%error, "cannot count an event"),
        }
    }
    let name = format!("{}.{:x}", record.name, now.as_nanosecond());
    let body = json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": record.reference,
        "type": format!("{:?}", record.severity),
        "reason": record.reason,
        "message": record.message,
        "source": {"component": record.component},
        "reportingComponent": record.component,
        "firstTimestamp": time(now),
        "lastTimestamp": time(now),
        "count": 1,
    });
    match api.create(EVENTS, namespace, body).await {
        Ok(_) => memory.remember(key, name, 1),
        Err(error) => tracing::debug!(%error, "cannot write an event"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_may_burst_and_then_waits() {
        let mut memory = Memory::default();
        let now = Timestamp::UNIX_EPOCH;
        let admitted = (0..100).filter(|_| memory.admit("u", now)).count();
        assert_eq!(admitted, 25);
        let later = now + jiff::SignedDuration::from_secs(300);
        assert!(memory.admit("u", later) && !memory.admit("u", later));
        assert!(memory.admit("other", later));
    }
}
