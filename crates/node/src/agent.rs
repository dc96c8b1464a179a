//! The agent as a whole: settings, start and stop.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use coracle_machinery::addresses::AddressRange;
use k8s_openapi::api::core::v1::Service;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cri::Cri;
use crate::downward::NodeFacts;
use crate::events::Recorder;
use crate::local_volumes::LocalVolumes;
use crate::network::{self, NetworkError};
use crate::node_object;
use crate::pod::manager::{Manager, PodIndex};
use crate::pod::sandbox::SandboxSettings;
use crate::pod::worker::Shared;
use crate::policies::{self, PolicyConfig};
use crate::volumes::Volumes;
use crate::watched::{Watched, watch};
use crate::{kubelet, proxy};

/// Most sandboxes made at the same time: each runs CNI plugins and runc.
const SANDBOXES_AT_ONCE: usize = 8;

/// Settings of a node agent.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the node object.
    pub node_name: String,
    /// Address under which the node is reached. May be the bridge's own
    /// (first address of `pod_cidr`), which the agent makes.
    pub node_ip: IpAddr,
    /// Addresses of this node's pods, as in `10.244.0.0/24`.
    pub pod_cidr: String,
    /// Addresses of the pods of all nodes: traffic among them keeps its source.
    pub cluster_cidr: String,
    /// Addresses of services, as in `10.96.0.0/16`.
    pub service_cidr: String,
    /// Cluster DNS server that pods are told of.
    pub cluster_dns: Option<IpAddr>,
    /// Cluster DNS domain, as in `cluster.local`.
    pub cluster_domain: String,
    /// Socket of the container runtime.
    pub cri_socket: PathBuf,
    /// Directory in which the runtime looks for CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Directory of pods' volumes and files.
    pub data_dir: PathBuf,
    /// Directory of containers' logs.
    pub log_dir: PathBuf,
    /// Where the kubelet endpoint listens.
    pub kubelet_listen: SocketAddr,
    /// Serving certificate of the kubelet endpoint; must name `node_ip`.
    pub server_cert_pem: String,
    /// Its key.
    pub server_key_pem: String,
    /// Certificate authority of the callers' certificates.
    pub cluster_ca_pem: String,
    /// Cgroup under which pods' cgroups are made, as in `/kubepods`.
    pub cgroup_parent: String,
    /// Further labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Most pods that run at once.
    pub max_pods: u32,
    /// What the agent's rules serve (nftables).
    pub proxy: Proxied,
    /// Name of the table of these rules.
    pub rules_table: String,
    /// Enforces network policies for all pods of this network, if given.
    pub policies: Option<PolicyConfig>,
    /// Name of the pods' bridge, at most 15 characters.
    pub bridge: String,
    /// Directory of the volumes that are made for claims; none are made
    /// without it.
    pub local_volumes: Option<PathBuf>,
    /// Addresses of load balancers that lead to this machine: what no service
    /// takes of them is refused.
    pub load_balancer_addresses: Option<AddressRange>,
}

/// What the service proxy of an agent serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// Services, and the host ports of its own pods.
    Services,
    /// Those host ports alone: another agent of the same network serves
    /// services.
    HostPorts,
}

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network could not be prepared.
    #[error("cannot prepare the node's network: {0}")]
    Network(#[from] NetworkError),
    /// The kubelet endpoint could not be opened.
    #[error("cannot serve the kubelet endpoint on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate or key is unusable.
    #[error("cannot use the kubelet's certificate: {0}")]
    Tls(#[from] coracle_pki::PkiError),
    /// A directory could not be made.
    #[error("cannot make {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the agent until `shutdown`. Pods keep running afterwards, and an
/// agent started later with the same settings takes them over.
///
/// # Errors
/// When the agent cannot start. Once it runs, failures of the API server or
/// the runtime are waited out.
pub async fn run(
    config: NodeConfig,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    for directory in [&config.data_dir, &config.log_dir] {
        std::fs::create_dir_all(directory).map_err(|source| Error::Directory {
            path: directory.display().to_string(),
            source,
        })?;
    }
    network::prepare(&config).await?;
    let cri = Cri::new(&config.cri_socket);
    let machine = node_object::Machine::read(&config.data_dir);
    let facts = NodeFacts {
        node_name: config.node_name.clone(),
        node_ip: config.node_ip.to_string(),
        cpu_milli: machine.cpus.saturating_mul(1000),
        memory_bytes: machine.memory_bytes,
        storage_bytes: machine.storage_bytes,
    };
    let stop = shutdown.child_token();
    let _stop_all = stop.clone().drop_guard();
    let Watched {
        store: services,
        changed: services_changed,
        task: service_task,
    } = watch::<Service>(&client, &stop);
    let shared = Arc::new(Shared {
        volumes: Volumes::new(&config.data_dir, client.clone(), facts.clone()),
        events: Recorder::start(client.clone(), config.node_name.clone(), stop.clone()),
        sandbox: SandboxSettings {
            cluster_dns: config.cluster_dns,
            cluster_domain: config.cluster_domain.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            log_dir: config.log_dir.clone(),
        },
        index: PodIndex::default(),
        sandbox_slots: Semaphore::new(SANDBOXES_AT_ONCE),
        config: Arc::new(config.clone()),
        client: client.clone(),
        cri,
        facts,
        services: services.clone(),
    });
    let server = kubelet::Server::bind(Arc::clone(&shared)).await?;
    let node = node_object::Keeper::new(Arc::clone(&shared), machine, server.port());
    let proxy = async {
        proxy::run(
            Arc::clone(&shared),
            services.clone(),
            services_changed,
            stop.clone(),
        )
        .await;
    };
    let policies = async {
        if let Some(enforced) = config.policies.clone() {
            let events = shared.events.clone();
            policies::run(&config, enforced, events, stop.clone()).await;
        }
    };
    let local_volumes = async {
        if let Some(directory) = config.local_volumes.clone() {
            let volumes = LocalVolumes {
                node: config.node_name.clone(),
                directory,
                client: client.clone(),
                events: shared.events.clone(),
            };
            volumes.run(stop.clone()).await;
        }
    };
    let manager = async {
        // Pods learn of services by their environment: those must be known.
        tokio::select! {
            _ = services.wait_until_ready() => {}
            () = stop.cancelled() => return,
        }
        Manager::new(Arc::clone(&shared), stop.clone()).run().await;
    };
    tokio::join!(
        server.run(stop.clone()),
        node.run(stop.clone()),
        proxy,
        policies,
        local_volumes,
        manager,
        async {
            // The service watch ends with the token as well.
            let _ = service_task.await;
        }
    );
    Ok(())
}
