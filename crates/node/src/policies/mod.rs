//! Network policies: who may talk to pods, and to whom pods may talk, as rules
//! of nftables.
//!
//! [`model`] reads what policies say of pods, [`ruleset`] says it in nftables'
//! terms, and this module keeps the kernel's table in step. One agent does so
//! for all pods of a network. Without a policy there is no table, and pods and
//! namespaces are not watched.

pub mod model;
pub mod ranges;
pub mod ruleset;

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio_util::sync::CancellationToken;

use crate::agent::NodeConfig;
use crate::network::delete_table;
use crate::nft::{self, ApplyError, Ruleset};
use crate::watched::{Watched, watch, watch_parts};
use model::{Model, Observed};
use ruleset::Settings;

/// How long to wait for more changes: bursts become one write. Short, since a
/// new pod talks to nobody until its address is in the rules.
const COALESCE: Duration = Duration::from_millis(20);
/// Pause after a failed write; the next one replaces the whole table.
const RETRY: Duration = Duration::from_secs(2);

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
    let (closed, _) = ruleset::build(&Model::default(), &settings);
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
/// what they should be.
pub(crate) async fn run(node: &NodeConfig, config: PolicyConfig, shutdown: CancellationToken) {
    let settings = settings(&node.cluster_cidr, &node.bridge, config.dns);
    let policies = watch::<NetworkPolicy>(&config.client, &shutdown);
    tokio::select! {
        _ = policies.store.wait_until_ready() => {}
        () = shutdown.cancelled() => return,
    }
    let mut table = Table {
        name: table_name(&node.rules_table),
        written: None,
        exceeded: BTreeSet::new(),
    };
    while !shutdown.is_cancelled() {
        if !policies.store.is_empty() {
            enforce(&config, &policies, &settings, &mut table, &shutdown).await;
            continue;
        }
        table.remove().await;
        tokio::select! {
            () = policies.changed.notified() => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Watches pods and namespaces, and keeps the table in step, until no policy
/// is left.
async fn enforce(
    config: &PolicyConfig,
    policies: &Watched<NetworkPolicy>,
    settings: &Settings,
    table: &mut Table,
    shutdown: &CancellationToken,
) {
    let term = shutdown.child_token();
    let _end = term.clone().drop_guard();
    let pods = watch_parts::<Pod>(&config.client, &term, keep_of_pod);
    let namespaces = watch_parts::<Namespace>(&config.client, &term, |namespace| {
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
    while !policies.store.is_empty() {
        let observed = Observed {
            policies: policies.store.state(),
            pods: pods.store.state(),
            namespaces: namespaces.store.state(),
        };
        let model = model::build(&observed, settings.dns.map(|(ip, _)| ip));
        let (wanted, exceeded) = ruleset::build(&model, settings);
        table.report(exceeded);
        if !table.write(wanted).await {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => continue,
                () = shutdown.cancelled() => return,
            }
        }
        tokio::select! {
            () = policies.changed.notified() => {}
            () = pods.changed.notified() => {}
            () = namespaces.changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::time::sleep(COALESCE).await;
    }
}

/// Leaves of a pod what policies look at.
fn keep_of_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    let spec = pod.spec.take().unwrap_or_default();
    let keep = |container: Container| Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    };
    let beside = spec.init_containers.into_iter().flatten().map(keep);
    pod.spec = Some(PodSpec {
        host_network: spec.host_network,
        containers: spec.containers.into_iter().map(keep).collect(),
        init_containers: Some(beside.collect()),
        ..PodSpec::default()
    });
    let status = pod.status.take().unwrap_or_default();
    pod.status = Some(PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        ..PodStatus::default()
    });
}

/// The kernel's table, as far as it is known.
struct Table {
    name: String,
    written: Option<Ruleset>,
    /// Namespaces with too many rules, of which was told.
    exceeded: BTreeSet<String>,
}

impl Table {
    /// Writes what differs; false if that failed.
    async fn write(&mut self, wanted: Ruleset) -> bool {
        let table = format!("inet {}", self.name);
        let text = nft::transition(self.written.as_ref(), &wanted, &table);
        if !text.is_empty()
            && let Err(error) = nft::apply(&text).await
        {
            tracing::error!(%error, "rules of network policies not written");
            self.written = None;
            return false;
        }
        self.written = Some(wanted);
        true
    }

    async fn remove(&mut self) {
        self.written = None;
        if let Err(error) = delete_table("inet", &self.name).await {
            tracing::error!(%error, "rules of network policies not removed");
        }
    }

    fn report(&mut self, exceeded: BTreeSet<String>) {
        for namespace in exceeded.difference(&self.exceeded) {
            tracing::warn!(
                namespace,
                "too many network policies: some of them let nothing through"
            );
        }
        self.exceeded = exceeded;
    }
}
