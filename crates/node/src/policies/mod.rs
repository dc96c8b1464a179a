//! Network policies: who may talk to pods, and to whom pods may talk, as rules
//! of nftables.
//!
//! [`model`] reads what policies say of pods, [`ruleset`] says it in nftables'
//! terms, and this module keeps the kernel's table in step. One agent does so
//! for all pods of a network. Without a policy there is no table, and pods and
//! namespaces are not watched.
//!
//! Rules are made on a thread that may block, and no more often than their
//! making leaves most of the time to others: a tenant who changes policies in a
//! loop delays those of others by a few times what one change takes.

pub mod bounds;
pub mod facts;
mod held;
pub mod model;
pub mod part;
pub mod ranges;
mod report;
pub mod ruleset;

use std::net::SocketAddrV4;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher::Event;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::NodeConfig;
use crate::events::Recorder;
use crate::network::delete_table;
use crate::nft::{self, ApplyError, Ruleset};
use crate::watched::{Watched, watch_edited, watch_parts};
use model::{Cache, Model, Observed};
use report::{Report, Too};
use ruleset::Settings;

/// How long to wait for more changes: bursts become one write. Short, since a
/// new pod talks to nobody until its address is in the rules.
const COALESCE: Duration = Duration::from_millis(20);
/// Of the time, at most one part in this many goes into making and writing
/// rules, so that changes without end leave the machine to its pods.
const SHARE: u32 = 4;
/// Longest pause for the sake of [`SHARE`]: new pods wait for it.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Pause after a failed write; the next one replaces the whole table.
const RETRY: Duration = Duration::from_secs(2);
/// Policies are read again no sooner than this after they were read, if rules
/// that were dropped are needed: whoever has too many policies and fewer again
/// must not keep the API server busy.
const READ_AGAIN: Duration = Duration::from_secs(15);
/// Most named ports of a pod that count: no pod has that many, but for one that
/// wants to fill this memory. Names beyond are found by no policy.
const MAX_NAMED_PORTS: usize = 256;

/// What enforcing policies needs.
#[derive(Clone)]
pub struct PolicyConfig {
    /// Reads policies, namespaces and pods: more than a node may.
    pub client: kube::Client,
    /// Where the cluster's DNS answers, if no pod serves it. To policies it is
    /// the pod that serves it elsewhere: labelled `k8s-app: kube-dns` in
    /// `kube-system`, at port 53.
    pub dns: Option<SocketAddrV4>,
}

impl std::fmt::Debug for PolicyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyConfig")
            .field("dns", &self.dns)
            .finish_non_exhaustive()
    }
}

/// The table of policies beside an agent's table of services.
pub fn table_name(rules_table: &str) -> String {
    format!("{rules_table}-policies")
}

/// Lets nothing pass from pods or to them until an agent knows the policies,
/// unless the kernel has rules of `rules_table` already. Pods that start
/// before that would be filtered by nothing, and what they open stays open.
///
/// `pod_cidr` are the addresses of all pods; `bridge` is the name of one of
/// their bridges.
///
/// # Errors
/// If the rules cannot be written.
pub async fn close(rules_table: &str, pod_cidr: &str, bridge: &str) -> Result<(), ApplyError> {
    let settings = settings(pod_cidr, bridge, None);
    let closed = ruleset::build(&Model::default(), &settings);
    let table = format!("inet {}", table_name(rules_table));
    match nft::apply(&nft::creation(&closed, &table)).await {
        Err(ApplyError::Refused(why)) if why.contains("File exists") => Ok(()),
        result => result,
    }
}

fn settings(pod_cidr: &str, bridge: &str, dns: Option<SocketAddrV4>) -> Settings {
    Settings {
        pod_cidr: pod_cidr.to_owned(),
        // The bridges of other nodes of the machine differ in their number.
        bridges: format!("{}*", bridge.trim_end_matches(char::is_numeric)),
        dns: dns.map(|at| (*at.ip(), at.port())),
    }
}

/// Keeps the rules in step with the policies until shutdown. The rules stay
/// when the agent stops, and are left alone by the next one until it knows
/// what they should be. Namespaces with too many policies are told by events.
pub(crate) async fn run(
    node: &NodeConfig,
    config: PolicyConfig,
    events: Recorder,
    shutdown: CancellationToken,
) {
    let Some(policies) = Policies::read(&config.client, &shutdown).await else {
        return;
    };
    let mut enforcer = Enforcer {
        policies,
        settings: settings(&node.cluster_cidr, &node.bridge, config.dns),
        table: table_name(&node.rules_table),
        written: None,
        report: Report::new(events),
        again: false,
        client: config.client,
    };
    while !shutdown.is_cancelled() {
        if !enforcer.policies.watched.store.is_empty() {
            enforcer.enforce(&shutdown).await;
            continue;
        }
        enforcer.remove().await;
        tokio::select! {
            () = enforcer.policies.watched.changed.notified() => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// All policies, as much of them as is kept.
struct Policies {
    watched: Watched<NetworkPolicy>,
    since: Instant,
    /// Ends the watch.
    _term: DropGuard,
}

impl Policies {
    /// Reads and watches them; `None` if `shutdown` comes first.
    async fn read(client: &kube::Client, shutdown: &CancellationToken) -> Option<Self> {
        let term = shutdown.child_token();
        let mut lengths = held::Lengths::default();
        let edit = move |event: &mut Event<NetworkPolicy>| lengths.trim(event);
        let watched = watch_edited::<NetworkPolicy>(client, &term, edit);
        tokio::select! {
            _ = watched.store.wait_until_ready() => {}
            () = shutdown.cancelled() => return None,
        }
        Some(Self {
            watched,
            since: Instant::now(),
            _term: term.drop_guard(),
        })
    }
}

struct Enforcer {
    client: kube::Client,
    policies: Policies,
    settings: Settings,
    /// The table's name.
    table: String,
    /// What it holds and what that was made of, as far as that is known.
    written: Option<(Model, Ruleset)>,
    report: Report,
    /// There are policies that have to be read again.
    again: bool,
}

impl Enforcer {
    /// Watches pods and namespaces, and keeps the table in step, until no
    /// policy is left.
    async fn enforce(&mut self, shutdown: &CancellationToken) {
        let term = shutdown.child_token();
        let _end = term.clone().drop_guard();
        let pods = watch_parts::<Pod>(&self.client, &term, keep_of_pod);
        let namespaces = watch_parts::<Namespace>(&self.client, &term, |namespace| {
            namespace.spec = None;
            namespace.status = None;
            namespace.metadata.annotations = None;
        });
        let ready = async {
            tokio::join!(
                pods.store.wait_until_ready(),
                namespaces.store.wait_until_ready()
            )
        };
        tokio::select! {
            _ = ready => {}
            () = shutdown.cancelled() => return,
        }
        let mut cache = Cache::default();
        while !self.policies.watched.store.is_empty() {
            let started = Instant::now();
            let observed = Observed {
                policies: self.policies.watched.store.state(),
                pods: pods.store.state(),
                namespaces: namespaces.store.state(),
            };
            let Some(back) = self.step(observed, cache).await else {
                cache = Cache::default();
                tokio::select! {
                    () = tokio::time::sleep(RETRY.max(pause(started.elapsed()))) => continue,
                    () = shutdown.cancelled() => return,
                }
            };
            cache = back;
            let rested = Instant::now() + pause(started.elapsed());
            let again = self.again.then(|| self.policies.since + READ_AGAIN);
            let again = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                () = self.policies.watched.changed.notified() => false,
                () = pods.changed.notified() => false,
                () = namespaces.changed.notified() => false,
                () = again => true,
                () = shutdown.cancelled() => return,
            };
            if read {
                let Some(policies) = Policies::read(&self.client, shutdown).await else {
                    return;
                };
                self.policies = policies;
            }
            tokio::select! {
                () = tokio::time::sleep_until(rested.max(Instant::now() + COALESCE)) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Brings the table in step with what is observed, and gives the cache
    /// back; `None` if that failed.
    async fn step(&mut self, observed: Observed, mut cache: Cache) -> Option<Cache> {
        let table = format!("inet {}", self.table);
        let (settings, last) = (self.settings.clone(), self.written.take());
        let made = tokio::task::spawn_blocking(move || {
            let model = cache.build(&observed, settings.dns.map(|(ip, _)| ip));
            let (rules, text) = match last {
                Some((before, rules)) if before.is_like(&model) => (rules, String::new()),
                last => {
                    let rules = ruleset::build(&model, &settings);
                    let last = last.as_ref().map(|(_, rules)| rules);
                    let text = nft::transition(last, &rules, &table);
                    (rules, text)
                }
            };
            let parts = model.namespaces.values();
            let mut excess = parts.filter_map(|part| part.excess.as_ref());
            let again = excess.any(|excess| excess.is_over);
            let too = model.namespaces.iter();
            let too: Vec<Too> = too.filter_map(|(name, part)| Too::of(name, part)).collect();
            (cache, (model, rules), text, too, again)
        });
        let (cache, wanted, text, too, again) = match made.await {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%error, "rules of network policies not made");
                return None;
            }
        };
        self.again = again;
        self.report.tell(too, std::time::Instant::now());
        if !text.is_empty()
            && let Err(error) = nft::apply(&text).await
        {
            tracing::error!(%error, "rules of network policies not written");
            return None;
        }
        self.written = Some(wanted);
        Some(cache)
    }

    async fn remove(&mut self) {
        self.written = None;
        if let Err(error) = delete_table("inet", &self.table).await {
            tracing::error!(%error, "rules of network policies not removed");
        }
    }
}

/// How long nothing is done after rules took a time to make and write.
fn pause(spent: Duration) -> Duration {
    spent.saturating_mul(SHARE - 1).min(MAX_PAUSE)
}

/// Leaves of a pod what policies look at.
fn keep_of_pod(pod: &mut Pod) {
    let ports = facts::containers(pod).flat_map(|c| c.ports.iter().flatten());
    let ports = ports.filter(|port| port.name.is_some());
    let ports = ports.take(MAX_NAMED_PORTS).cloned().collect();
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    let spec = pod.spec.take().unwrap_or_default();
    pod.spec = Some(PodSpec {
        host_network: spec.host_network,
        containers: vec![Container {
            ports: Some(ports),
            ..Container::default()
        }],
        ..PodSpec::default()
    });
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        ..PodStatus::default()
    });
}

#[cfg(test)]
mod tests;
