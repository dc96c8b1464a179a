//! The node role.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use coracle_machinery::addresses::AddressRange;
use tokio_util::sync::CancellationToken;

use crate::{Error, clients, renewal};

/// Settings of a node agent.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Credentials of the node.
    pub kubeconfig: PathBuf,
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub node_ip: IpAddr,
    /// The range of its pods' addresses.
    pub pod_cidr: String,
    /// The range of all pods' addresses.
    pub cluster_cidr: String,
    /// The range of service addresses.
    pub service_cidr: String,
    /// The address of cluster DNS.
    pub cluster_dns: Option<IpAddr>,
    /// The domain of services.
    pub cluster_domain: String,
    /// The socket of the container runtime.
    pub cri_socket: PathBuf,
    /// Where CNI configurations go.
    pub cni_conf_dir: PathBuf,
    /// The bridge that pods are attached to.
    pub bridge: String,
    /// The name of its table of rules.
    pub rules_table: String,
    /// Another agent on this network serves services.
    pub host_ports_only: bool,
    /// Credentials with which network policies are read, and all that they
    /// name; none are enforced without them.
    pub policy_kubeconfig: Option<PathBuf>,
    /// Where the cluster's DNS answers, if no pod serves it.
    pub dns_endpoint: Option<SocketAddrV4>,
    /// Volumes of pods, and `kubelet.crt`, `kubelet.key`, `ca.crt`.
    pub data_dir: PathBuf,
    /// Where pods' logs go.
    pub log_dir: PathBuf,
    /// Directory of the volumes that are made for claims; none are made
    /// without it.
    pub local_volumes: Option<PathBuf>,
    /// Addresses of load balancers that lead to this machine.
    pub load_balancer_addresses: Option<AddressRange>,
    /// Address of the node's own API.
    pub listen: SocketAddr,
}

/// Most pods of the node, as kubelets have it by default.
const MAX_PODS: u32 = 110;

/// Runs until `shutdown`; pods stay.
///
/// # Errors
/// If the agent cannot start.
pub async fn run(options: NodeOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let due = || renewal::rewritten(&options.kubeconfig);
    let term = async |stop: CancellationToken| work(options.clone(), stop).await;
    renewal::in_terms(&shutdown, due, term).await
}

async fn work(options: NodeOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let client = clients::from_file(&options.kubeconfig, "kubelet").await?;
    let read = |name: &str| {
        let path = options.data_dir.join(name);
        std::fs::read_to_string(&path).map_err(Error::file(&path))
    };
    let policies = match &options.policy_kubeconfig {
        Some(file) => Some(coracle_node::PolicyConfig {
            client: clients::from_file(file, "network-policies").await?,
            dns: options.dns_endpoint,
        }),
        None => None,
    };
    let config = coracle_node::NodeConfig {
        policies,
        server_cert_pem: read("kubelet.crt")?,
        server_key_pem: read("kubelet.key")?,
        cluster_ca_pem: read("ca.crt")?,
        node_name: options.name,
        node_ip: options.node_ip,
        pod_cidr: options.pod_cidr,
        cluster_cidr: options.cluster_cidr,
        service_cidr: options.service_cidr,
        cluster_dns: options.cluster_dns,
        cluster_domain: options.cluster_domain,
        cri_socket: options.cri_socket,
        cni_conf_dir: options.cni_conf_dir,
        data_dir: options.data_dir,
        log_dir: options.log_dir,
        kubelet_listen: options.listen,
        cgroup_parent: "/kubepods".to_owned(),
        labels: BTreeMap::new(),
        max_pods: MAX_PODS,
        proxy: if options.host_ports_only {
            coracle_node::Proxied::HostPorts
        } else {
            coracle_node::Proxied::Services
        },
        rules_table: options.rules_table,
        bridge: options.bridge,
        local_volumes: options.local_volumes,
        load_balancer_addresses: options.load_balancer_addresses,
    };
    coracle_node::run(config, client, shutdown)
        .await
        .map_err(|e| Error::Setting(e.to_string()))
}
