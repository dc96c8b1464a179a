//! Starting and stopping the controllers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::addresses::AddressRange;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::certificates::Signing;
use crate::context::{Context, Task};
use crate::error::Error;
use crate::events::Recorder;
use crate::informer::Informers;
use crate::objects::apps::ReplicaSet;
use crate::objects::core::ReplicationController;
use crate::scheduler::{self, SchedulerOptions};
use crate::{
    binder, certificates, cronjob, daemonset, deployment, disruption, endpoints, gc, job,
    loadbalancer, namespace, nodelifecycle, podgc, protection, replicaset, statefulset, tenancy,
    tokens,
};

/// Which controllers to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    #[default]
    All,
    /// Those of these names.
    Only(BTreeSet<String>),
}

impl Selection {
    fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// Settings of the controllers.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which controllers run.
    pub controllers: Selection,
    /// Certificate authority published to every namespace, PEM.
    pub cluster_ca_pem: String,
    /// Silence after which a node counts as unreachable.
    pub node_monitor_grace: Duration,
    /// Finished pods kept in the whole cluster; beyond, the oldest are deleted.
    /// Zero keeps all.
    pub terminated_pod_threshold: usize,
    /// Addresses for services of type LoadBalancer; without them, such services
    /// are somebody else's.
    pub load_balancer_addresses: Option<AddressRange>,
    /// Who signs certificates; without, requests stay as they are.
    pub signing: Option<Signing>,
    /// Runs a scheduler too, on the same caches.
    pub scheduler: Option<SchedulerOptions>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: Selection::All,
            cluster_ca_pem: String::new(),
            node_monitor_grace: Duration::from_secs(40),
            terminated_pod_threshold: 12_500,
            load_balancer_addresses: None,
            signing: None,
            scheduler: None,
        }
    }
}

type Start = fn(&Context) -> Task;

/// Every controller by its name.
const CONTROLLERS: &[(&str, Start)] = &[
    ("namespace", namespace::start),
    ("serviceaccount", tenancy::start_service_account),
    ("root-ca-certificate-publisher", tenancy::start_root_ca),
    ("serviceaccount-token", tokens::start),
    ("deployment", deployment::start),
    ("replicaset", replicaset::start::<ReplicaSet>),
    (
        "replicationcontroller",
        replicaset::start::<ReplicationController>,
    ),
    ("statefulset", statefulset::start),
    ("daemonset", daemonset::start),
    ("job", job::start),
    ("job-orphan", job::start_orphans),
    ("ttl-after-finished-controller", job::start_ttl),
    ("cronjob", cronjob::start),
    ("disruption", disruption::start),
    ("endpointslice", endpoints::start_slices),
    ("endpoints", endpoints::start_endpoints),
    ("endpointslicemirroring", endpoints::start_mirror),
    ("service-lb-controller", loadbalancer::start),
    ("node-lifecycle", nodelifecycle::start),
    ("taint-eviction-controller", nodelifecycle::start_eviction),
    ("pod-garbage-collector", podgc::start),
    (
        "persistentvolumeclaim-protection-controller",
        protection::start_claims,
    ),
    (
        "persistentvolume-protection-controller",
        protection::start_volumes,
    ),
    ("persistentvolume-binder", binder::start),
    ("csrapproving", certificates::start_approving),
    ("csrsigning", certificates::start_signing),
    ("csrcleaner", certificates::start_cleaner),
    // Last: it follows the caches that the others registered.
    ("garbage-collector", gc::start),
];

/// The names of all controllers, for a [`Selection`].
pub fn names() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|(name, _)| *name)
}

/// Runs the selected controllers until `shutdown`.
///
/// # Errors
/// Only for a selection that names no existing controller; failures at work
/// are retried with back-off, for ever.
pub async fn run(
    client: kube::Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    if let Selection::Only(names) = &options.controllers
        && let Some(unknown) = names
            .iter()
            .find(|name| !CONTROLLERS.iter().any(|(known, _)| known == name))
    {
        return Err(Error::UnknownController(unknown.clone()));
    }
    run_all(client, options, shutdown).await;
    Ok(())
}

/// Runs a scheduler alone until `shutdown`; beside controllers, let
/// [`Options::scheduler`] share their caches instead.
pub async fn run_scheduler(
    client: kube::Client,
    options: SchedulerOptions,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let options = Options {
        controllers: Selection::Only(BTreeSet::new()),
        scheduler: Some(options),
        ..Options::default()
    };
    run_all(client, options, shutdown).await;
    Ok(())
}

async fn run_all(client: kube::Client, mut options: Options, shutdown: CancellationToken) {
    let scheduler = options.scheduler.take();
    let api = Api::new(client);
    let informers = Arc::new(Informers::new(api.clone(), shutdown.clone()));
    let (events, write_events) = Recorder::new(api.clone(), shutdown.clone());
    let context = Context {
        api,
        informers,
        events,
        options: Arc::new(options),
        shutdown,
    };
    let mut tasks: Vec<Task> = vec![Box::pin(write_events)];
    // Before the controllers, the last of which follows all caches there are.
    tasks.extend(scheduler.map(|options| scheduler::start(&context, options)));
    let selected = CONTROLLERS
        .iter()
        .filter(|(name, _)| context.options.controllers.includes(name));
    tasks.extend(selected.map(|(_, start)| start(&context)));
    context.informers.start();
    // Each in its own task: a long reconciliation of one never delays another.
    for ended in join_all(tasks.into_iter().map(tokio::spawn)).await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
    context.informers.stopped().await;
}
