//! The task that follows APIServices: has an object for every group and version
//! that is served here, keeps the table of those that are served elsewhere, and
//! writes into their status whether they can be used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, GroupResource, object, time};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::check::{Told, Verdict, locate};
use super::{Aggregation, MAX_REQUESTS, MAX_SERVICES, Remote, is_builtin, is_remote};
use crate::auth::named;
use crate::callout::Endpoint;
use crate::discovery::{CUSTOM_GROUP_PRIORITY, CUSTOM_VERSION_PRIORITY, Elsewhere};
use crate::objects::Objects;
use crate::server::ApiServer;

const API_SERVICES: GroupResource = named("apiregistration.k8s.io", "apiservices");
const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// Says that an APIService was made, and is kept up to date, by this server.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// How often a server that answers is asked again, and one that does not at the
/// least, as upstream.
const PERIOD: Duration = Duration::from_secs(30);
/// Pause after the first failure; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Servers asked at once.
const MAX_CHECKS: usize = 32;
/// How often it is looked whether services or their endpoints changed, while
/// anything is served elsewhere: a comparison of two numbers.
const LOOK: Duration = Duration::from_millis(250);
/// Pause before another try after a failure of this server's own.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps APIServices and the [`Aggregation`] of a server up to date.
pub struct Aggregator {
    server: ApiServer,
    aggregation: Arc<Aggregation>,
    states: Mutex<HashMap<String, State>>,
}

/// What is known of one APIService that names a service.
struct State {
    spec: Value,
    remote: Arc<Remote>,
    /// What stood behind its service when it was last looked at.
    place: Option<Result<String, Verdict>>,
    verdict: Option<Verdict>,
    next: Instant,
    failures: u32,
}

impl Aggregator {
    /// Follows the APIServices of `server`, whose requests go by `aggregation`.
    pub fn new(server: ApiServer, aggregation: Arc<Aggregation>) -> Self {
        Self {
            server,
            aggregation,
            states: Mutex::default(),
        }
    }

    /// Knows what is served elsewhere, as stored. To be run before requests are
    /// served, so that a restart does not hide it.
    ///
    /// # Errors
    /// If APIServices cannot be read.
    pub async fn load(&self) -> Result<(), ApiError> {
        let services = self.server.objects().list(&API_SERVICES, "").await?;
        let mut states = self.states.lock().await;
        self.take_in(&services, &mut states);
        Ok(())
    }

    /// Follows changes until cancelled. Sleeps while nothing changes and nothing
    /// is served elsewhere.
    pub async fn run(self, cancel: CancellationToken) {
        while cancel.run_until_cancelled(self.follow()).await.is_some() {
            let pause = tokio::time::sleep(RETRY);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Reconciles at every change until the watch ends or something fails.
    async fn follow(&self) {
        let Some(mut changes) = self
            .server
            .ask_itself(Method::GET, &format!("{PATH}?watch=true"))
            .await
        else {
            return;
        };
        let mut served = self.server.registry().changes();
        loop {
            served.borrow_and_update();
            let seen = self.generation();
            let due = match self.reconcile().await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(%error, "APIServices could not be brought up to date");
                    return;
                }
            };
            let timer = async {
                match due {
                    Some(due) => tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.endpoints_change(seen) => {}
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = changes.frame() => {
                    if !matches!(frame, Some(Ok(_))) {
                        return;
                    }
                    // What came together is looked at together.
                    while let Some(frame) = changes.frame().now_or_never() {
                        if !matches!(frame, Some(Ok(_))) {
                            return;
                        }
                    }
                }
                changed = served.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = timer => {}
            }
        }
    }

    fn generation(&self) -> (u64, u64) {
        let objects = self.server.objects();
        (
            objects.generation(&named("", "services")),
            objects.generation(&named("discovery.k8s.io", "endpointslices")),
        )
    }

    async fn endpoints_change(&self, seen: (u64, u64)) {
        while self.generation() == seen {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Brings all up to date. When to do so again, if anything is served
    /// elsewhere.
    async fn reconcile(&self) -> Result<Option<Instant>, ApiError> {
        let objects = self.server.objects();
        let services = objects.list(&API_SERVICES, "").await?;
        let mut complete = self.register(&services).await;
        let mut states = self.states.lock().await;
        self.take_in(&services, &mut states);
        self.check(&mut states).await;
        for service in &services {
            let spec = &service["spec"];
            let verdict = if is_remote(spec) {
                match states.get(object::name(service)) {
                    Some(state) => state.verdict.clone(),
                    None => Some(Verdict::down(
                        "FailedDiscoveryCheck",
                        format!("more than {MAX_SERVICES} APIServices name a service"),
                    )),
                }
            } else {
                Some(Verdict::local())
            };
            if let Some(updated) = verdict.and_then(|verdict| with_condition(service, &verdict)) {
                complete &= written(objects.update(&API_SERVICES, updated).await);
            }
        }
        let again = (!complete).then(|| Instant::now() + RETRY);
        Ok(states.values().map(|state| state.next).chain(again).min())
    }

    /// Makes, corrects and removes the objects of groups of custom resources.
    /// False if something is left to be done.
    async fn register(&self, services: &[Arc<Value>]) -> bool {
        let mut complete = true;
        let kinds = self.server.registry().kinds();
        let wanted: BTreeMap<String, Value> = kinds
            .iter()
            .map(|kind| (kind.gvk.group.as_ref(), kind.gvk.version.as_ref()))
            .filter(|(group, version)| !is_builtin(group, version))
            .map(|(group, version)| (format!("{version}.{group}"), local_spec(group, version)))
            .collect();
        let objects = self.server.objects();
        let mut present = HashSet::new();
        for service in services {
            let name = object::name(service);
            present.insert(name);
            if object::label(service, AUTOMANAGED) != Some("true") {
                continue;
            }
            match wanted.get(name) {
                Some(spec) if service["spec"] != *spec => {
                    let mut updated = (**service).clone();
                    updated["spec"] = spec.clone();
                    complete &= written(objects.update(&API_SERVICES, updated).await);
                }
                Some(_) => {}
                None => {
                    let target = format!("{PATH}/{name}");
                    complete &= self
                        .server
                        .ask_itself(Method::DELETE, &target)
                        .await
                        .is_some();
                }
            }
        }
        for (name, spec) in wanted {
            if present.contains(name.as_str()) {
                continue;
            }
            let service = json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": name, "labels": {AUTOMANAGED: "true"}},
                "spec": spec,
            });
            let service = with_condition(&service, &Verdict::local()).unwrap_or(service);
            complete &= written(objects.create(&API_SERVICES, service).await);
        }
        complete
    }

    /// Makes the table of those that name a service.
    fn take_in(&self, services: &[Arc<Value>], states: &mut HashMap<String, State>) {
        let remote = services.iter().filter(|s| is_remote(&s["spec"]));
        let remote: BTreeMap<&str, &Arc<Value>> = remote
            .map(|service| (object::name(service), service))
            .take(MAX_SERVICES)
            .collect();
        states.retain(|name, _| remote.contains_key(name.as_str()));
        for (name, service) in remote {
            let spec = &service["spec"];
            let known = states.get(name);
            if known.is_some_and(|state| state.spec == *spec) {
                continue;
            }
            let listed = Elsewhere {
                group: object::text(spec, "/group").to_owned(),
                version: object::text(spec, "/version").to_owned(),
                group_priority: number(spec, "groupPriorityMinimum"),
                version_priority: number(spec, "versionPriority"),
                ..Elsewhere::default()
            };
            let (Ok((endpoint, _)), tls) = (Endpoint::of(spec), self.aggregation.tls(spec)) else {
                continue;
            };
            let state = State {
                spec: spec.clone(),
                remote: Arc::new(Remote {
                    listed,
                    endpoint,
                    tls,
                    // As it was found before this server started.
                    available: known.is_none() && is_available(service),
                    requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
                }),
                place: None,
                verdict: None,
                next: Instant::now(),
                failures: 0,
            };
            states.insert(name.to_owned(), state);
        }
        self.publish(states);
    }

    fn publish(&self, states: &HashMap<String, State>) {
        let table = states.values().map(|state| Arc::clone(&state.remote));
        self.aggregation.set(table.collect());
    }

    /// Asks those whose time has come, or whose endpoints changed.
    async fn check(&self, states: &mut HashMap<String, State>) {
        let objects = self.server.objects();
        let checks = states.values_mut();
        let checks: Vec<BoxFuture<'_, bool>> = checks
            .map(|state| self.check_one(&*objects, state).boxed())
            .collect();
        let checks = stream::iter(checks).buffer_unordered(MAX_CHECKS);
        let asked = checks.filter(|asked| std::future::ready(*asked)).count();
        if asked.await > 0 {
            self.publish(states);
        }
    }

    /// True if it was time.
    async fn check_one(&self, objects: &dyn Objects, state: &mut State) -> bool {
        let place = locate(objects, &state.remote.endpoint).await;
        if state.place.as_ref() == Some(&place) && Instant::now() < state.next {
            return false;
        }
        let outcome = match &place {
            Ok(_) => self.aggregation.ask(&state.remote).await,
            Err(verdict) => Err(verdict.clone()),
        };
        let waits_for_objects = place.is_err();
        state.place = Some(place);
        state.conclude(outcome, waits_for_objects);
        true
    }
}

impl State {
    fn conclude(&mut self, outcome: Result<Told, Verdict>, waits_for_objects: bool) {
        let before = &self.remote;
        let mut listed = before.listed.clone();
        let available = outcome.is_ok();
        listed.fresh = available;
        self.verdict = Some(match outcome {
            Ok(told) => {
                self.failures = 0;
                listed.resources = told.resources;
                listed.openapi = told.openapi;
                Verdict::passed()
            }
            Err(verdict) => {
                self.failures = self.failures.saturating_add(1);
                verdict
            }
        });
        let pause = if available || waits_for_objects {
            PERIOD
        } else {
            let doubled = 1_u32 << (self.failures - 1).min(16);
            FIRST_RETRY.saturating_mul(doubled).min(PERIOD)
        };
        self.next = Instant::now() + pause;
        self.remote = Arc::new(Remote {
            listed,
            endpoint: before.endpoint.clone(),
            tls: before.tls.clone(),
            available,
            requests: Arc::clone(&before.requests),
        });
    }
}

/// False for an object that could not be written, which keeps no other from it.
fn written(outcome: Result<Value, ApiError>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, "an APIService is not up to date");
            false
        }
    }
}

fn local_spec(group: &str, version: &str) -> Value {
    json!({
        "group": group,
        "version": version,
        "groupPriorityMinimum": CUSTOM_GROUP_PRIORITY,
        "versionPriority": CUSTOM_VERSION_PRIORITY,
    })
}

fn number(spec: &Value, key: &str) -> u32 {
    let number = spec[key].as_u64().and_then(|n| u32::try_from(n).ok());
    number.unwrap_or_default()
}

fn condition(service: &Value) -> Option<&Value> {
    let mut all = object::items(service, "/status/conditions").iter();
    all.find(|condition| condition["type"] == "Available")
}

fn is_available(service: &Value) -> bool {
    condition(service).is_some_and(|c| c["status"] == "True" && c["reason"] != "Local")
}

/// The APIService with that condition, `None` if it has it already.
fn with_condition(service: &Value, verdict: &Verdict) -> Option<Value> {
    let old = condition(service);
    let since = match old.filter(|c| c["status"] == verdict.status) {
        Some(old) => old["lastTransitionTime"].clone(),
        None => time::rfc3339(jiff::Timestamp::now().as_second()).into(),
    };
    let new = json!({
        "type": "Available",
        "status": verdict.status,
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since,
    });
    if old == Some(&new) {
        return None;
    }
    let mut updated = service.clone();
    let mut conditions = object::items(service, "/status/conditions").to_vec();
    match conditions.iter_mut().find(|c| c["type"] == "Available") {
        Some(condition) => *condition = new,
        None => conditions.push(new),
    }
    updated["status"]["conditions"] = conditions.into();
    Some(updated)
}
