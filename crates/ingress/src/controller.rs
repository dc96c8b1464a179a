//! Watches the cluster, makes a table of it after each change, and tells users
//! what became of their Ingresses.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::build::{Builder, Complaint, Objects};
use crate::table::Table;
use crate::{CONTROLLER, Options};

/// How long to wait for more after a change: bursts become one table.
const COALESCE: Duration = Duration::from_millis(20);
/// Least time between two tables.
const BETWEEN_TABLES: Duration = Duration::from_millis(200);
/// Pause before what could not be told is told again.
const RETRY: Duration = Duration::from_secs(5);
/// Most bytes of an event's text.
const MAX_NOTE: usize = 1000;

/// What users are to be told.
#[derive(Clone, Default)]
struct Report {
    ours: Vec<Arc<Ingress>>,
    /// Where Ingresses are reached.
    addresses: Vec<Value>,
    complaints: Vec<Complaint>,
}

/// Works until `shutdown`.
pub async fn run(
    client: Client,
    options: &Options,
    tables: watch::Sender<Arc<Table>>,
    ready: watch::Sender<bool>,
    shutdown: CancellationToken,
) {
    let changed = Arc::new(Notify::new());
    let all = watcher::Config::default;
    // Only these: other secrets are none of an ingress controller's business.
    let of_tls = all().fields("type=kubernetes.io/tls");
    let ingresses = follow::<Ingress>(&client, all(), &changed, &shutdown);
    let classes = follow::<IngressClass>(&client, all(), &changed, &shutdown);
    let services = follow::<Service>(&client, all(), &changed, &shutdown);
    let slices = follow::<EndpointSlice>(&client, all(), &changed, &shutdown);
    let secrets = follow::<Secret>(&client, of_tls, &changed, &shutdown);
    let filled = async {
        tokio::join!(
            ingresses.wait_until_ready(),
            classes.wait_until_ready(),
            services.wait_until_ready(),
            slices.wait_until_ready(),
            secrets.wait_until_ready(),
        )
    };
    tokio::select! {
        _ = filled => {}
        () = shutdown.cancelled() => return,
    }
    // In a task of its own: routes do not wait until everything is told.
    let (reports, report) = watch::channel(Report::default());
    let telling = tokio::spawn(tell_all(client, report, shutdown.clone()));
    let mut builder = Builder::default();
    loop {
        let objects = Objects {
            ingresses: ingresses.state(),
            classes: classes.state(),
            services: services.state(),
            slices: slices.state(),
            secrets: secrets.state(),
        };
        let built = builder.build(&objects);
        tables.send_replace(Arc::new(built.table));
        ready.send_replace(true);
        reports.send_replace(Report {
            ours: built.ours,
            addresses: addresses(&objects.services, &options.service),
            complaints: built.complaints,
        });
        let next = async {
            tokio::time::sleep(BETWEEN_TABLES).await;
            changed.notified().await;
            tokio::time::sleep(COALESCE).await;
        };
        tokio::select! {
            () = next => {}
            () = shutdown.cancelled() => break,
        }
    }
    if let Err(error) = telling.await {
        tracing::error!(%error, "telling ended");
    }
}

/// All objects of a kind, kept up to date through interruptions.
fn follow<K>(
    client: &Client,
    config: watcher::Config,
    changed: &Arc<Notify>,
    shutdown: &CancellationToken,
) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync,
    K: 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    let (changed, shutdown) = (changed.clone(), shutdown.clone());
    tokio::spawn(async move {
        futures::pin_mut!(stream);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = shutdown.cancelled() => return,
            };
            match event {
                Some(Ok(_)) => changed.notify_one(),
                Some(Err(error)) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
                }
                None => return,
            }
        }
    });
    store
}

/// Where a Service is reached from outside.
fn addresses(services: &[Arc<Service>], (namespace, name): &(String, String)) -> Vec<Value> {
    let is = |s: &&Arc<Service>| s.namespace().as_ref() == Some(namespace) && s.name_any() == *name;
    let status = services.iter().find(is).and_then(|s| s.status.as_ref());
    let shown = status.and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    shown
        .into_iter()
        .flatten()
        .map(|at| match (&at.ip, &at.hostname) {
            (Some(ip), _) => json!({"ip": ip}),
            (None, name) => json!({"hostname": name}),
        })
        .collect()
}

/// Tells what the newest report says, until `shutdown`.
async fn tell_all(
    client: Client,
    mut report: watch::Receiver<Report>,
    shutdown: CancellationToken,
) {
    let reporter = Reporter::from(CONTROLLER);
    let recorder = Recorder::new(client.clone(), reporter);
    let mut told = HashSet::new();
    loop {
        let newest = report.borrow_and_update().clone();
        let done = tokio::select! {
            done = tell(&client, &recorder, &newest, &mut told) => done,
            () = shutdown.cancelled() => return,
        };
        let pause = async {
            if done {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            changed = report.changed() => if changed.is_err() { return },
            () = pause => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Shows addresses and complaints; false if something is to be tried again.
async fn tell(
    client: &Client,
    recorder: &Recorder,
    report: &Report,
    told: &mut HashSet<(String, String)>,
) -> bool {
    let mut done = true;
    for ingress in &report.ours {
        done &= show_addresses(client, ingress, &report.addresses).await;
    }
    let mut current = HashSet::new();
    for complaint in &report.complaints {
        let key = (
            complaint.ingress.uid().unwrap_or_default(),
            complaint.message.clone(),
        );
        if told.contains(&key) || complain(recorder, complaint).await {
            current.insert(key);
        } else {
            done = false;
        }
    }
    *told = current;
    done
}

async fn show_addresses(client: &Client, ingress: &Ingress, addresses: &[Value]) -> bool {
    let status = ingress
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let shown: Vec<Value> = status
        .and_then(|l| l.ingress.as_ref())
        .into_iter()
        .flatten()
        .map(|at| match (&at.ip, &at.hostname) {
            (Some(ip), _) => json!({"ip": ip}),
            (None, name) => json!({"hostname": name}),
        })
        .collect();
    if shown == addresses {
        return true;
    }
    let api: Api<Ingress> =
        Api::namespaced(client.clone(), &ingress.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({
        "metadata": {"uid": ingress.uid()},
        "status": {"loadBalancer": {"ingress": addresses}},
    }));
    let name = ingress.name_any();
    match api
        .patch_status(&name, &PatchParams::default(), &patch)
        .await
    {
        // Gone, or another of its name, which is still to be seen.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
        Err(error) => {
            tracing::warn!(ingress = name, %error, "cannot show the addresses");
            false
        }
        Ok(_) => true,
    }
}

async fn complain(recorder: &Recorder, complaint: &Complaint) -> bool {
    let mut end = complaint.message.len().min(MAX_NOTE);
    while !complaint.message.is_char_boundary(end) {
        end -= 1;
    }
    let event = Event {
        type_: EventType::Warning,
        reason: complaint.reason.to_owned(),
        note: Some(complaint.message[..end].to_owned()),
        action: "Route".to_owned(),
        secondary: None,
    };
    let about = complaint.ingress.object_ref(&());
    match recorder.publish(&event, &about).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
            // Its namespace is going.
            tracing::debug!(message = status.message, "an event is not taken");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "cannot write an event");
            false
        }
        Ok(()) => true,
    }
}
