//! The roles that run as processes of their own: `control-plane`, `syncer`,
//! `node`, `ingress`. `coracle host up` and the pods of virtual clusters start them.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use coracle_machinery::addresses::AddressRange;
use coracle_server::control_plane::{self, ControlPlaneOptions, ServiceAddresses};
use coracle_server::hosts_file::{self, RewriteOptions};
use coracle_server::ingress::{self, IngressOptions};
use coracle_server::node::{self, NodeOptions};
use coracle_server::pki_dir::LEAF_VALIDITY;
use coracle_server::syncer::{self, SyncerOptions};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::error::{CliError, Result};

/// Threads of a role: enough for two cores; more would only cost memory.
const WORKER_THREADS: usize = 2;

/// The shortest validity of certificates: a syncer must have time to take over
/// the renewed ones.
const MIN_VALIDITY: Duration = Duration::from_secs(60);

/// Run a control plane: API server, controllers, DNS
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle control-plane --data-dir ./data --listen 127.0.0.1:6443 --write-kubeconfig ./kubeconfig")]
pub struct ControlPlane {
    /// Where objects and keys are kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of the API; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Address that pods reach the API at [default: the first --listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    advertise: Option<SocketAddr>,
    /// Further names and addresses in the API's certificate
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// Who gives services their addresses
    #[arg(long, value_enum, default_value_t = Addressing::Allocate)]
    service_addressing: Addressing,
    /// The range of service addresses, if this control plane gives them
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    service_cidr: String,
    /// Never connect there for users, as proxies and webhooks would; what is
    /// neither an address nor a known name is passed over
    #[arg(long, value_name = "ADDRESS")]
    unreachable: Vec<String>,
    /// Reach all nodes here, whatever their objects say
    #[arg(long, value_name = "ADDRESS:PORT")]
    kubelet: Option<SocketAddr>,
    /// The domain of services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// Address to answer DNS at; without it, there is no DNS
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_listen: Option<SocketAddr>,
    /// Ask the DNS of this machine for names of the domain that are unknown
    #[arg(long)]
    dns_fallback: bool,
    /// Address of the kube-dns service, if this control plane gives addresses
    #[arg(long, value_name = "ADDRESS")]
    dns_service_ip: Option<IpAddr>,
    /// Run a scheduler
    #[arg(long)]
    scheduler: bool,
    /// Run the controllers that watch over nodes
    #[arg(long)]
    node_lifecycle: bool,
    /// Give services of type LoadBalancer addresses from this range
    #[arg(long, value_name = "FROM-TO")]
    load_balancer_addresses: Option<AddressRange>,
    /// Write an administrator's kubeconfig to this file
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: Option<PathBuf>,
    /// Hand a syncer its credentials in this directory
    #[arg(long, value_name = "DIR")]
    credentials_dir: Option<PathBuf>,
    /// The name of the context in written kubeconfigs
    #[arg(long, default_value = "coracle", value_name = "NAME")]
    context: String,
    /// How long issued certificates are valid, as in 90m or 720h; they are
    /// renewed well before
    #[arg(long, default_value = "8760h", value_parser = validity, value_name = "DURATION")]
    certificate_validity: Duration,
}

/// Reads a whole number of seconds, minutes or hours.
fn validity(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write a number and s, m or h, as in 720h");
    let (number, unit) = text
        .split_at_checked(text.len().wrapping_sub(1))
        .ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    let chosen = Duration::from_secs(seconds);
    if (MIN_VALIDITY..=LEAF_VALIDITY).contains(&chosen) {
        return Ok(chosen);
    }
    Err(format!(
        "{text:?} is out of range: from {} s to {} h",
        MIN_VALIDITY.as_secs(),
        LEAF_VALIDITY.as_secs() / 3600
    ))
}

/// The addresses of hosts. Some hosts know their API server by a name.
async fn addresses(hosts: &[String]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for host in hosts {
        match tokio::net::lookup_host((host.as_str(), 0)).await {
            Ok(addresses) => found.extend(addresses.map(|address| address.ip())),
            Err(error) => tracing::warn!(%host, %error, "no address to keep users away from"),
        }
    }
    found
}

/// Who gives services their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Addressing {
    /// This control plane, from --service-cidr.
    Allocate,
    /// The host cluster, through the syncer.
    FromHost,
}

impl ControlPlane {
    /// Runs until a signal.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn run(self) -> Result {
        let shutdown = start_role()?;
        let advertise = self.advertise.unwrap_or(self.listen[0]);
        let options = ControlPlaneOptions {
            data_dir: self.data_dir,
            listen: self.listen,
            advertise,
            sans: self.san,
            service_addresses: match self.service_addressing {
                Addressing::Allocate => ServiceAddresses::Allocate {
                    cidr: self.service_cidr,
                },
                Addressing::FromHost => ServiceAddresses::FromHost,
            },
            unreachable: addresses(&self.unreachable).await,
            kubelet: self.kubelet,
            cluster_domain: self.cluster_domain,
            dns_listen: self.dns_listen,
            dns_fallback: self.dns_fallback,
            dns_service_ip: self.dns_service_ip,
            scheduler: self.scheduler,
            node_lifecycle: self.node_lifecycle,
            load_balancer_addresses: self.load_balancer_addresses,
            write_kubeconfig: self.write_kubeconfig,
            credentials_dir: self.credentials_dir,
            context: self.context,
            certificate_validity: self.certificate_validity,
        };
        Ok(control_plane::run(options, shutdown).await?)
    }
}

/// Run the syncer of a virtual cluster, in its pod
#[derive(Args, Debug)]
pub struct Syncer {
    /// The name of the virtual cluster
    #[arg(long)]
    name: String,
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where the control plane hands over credentials
    #[arg(long, value_name = "DIR")]
    credentials_dir: PathBuf,
    /// Address of the virtual kubelet
    #[arg(long, value_name = "ADDRESS:PORT")]
    kubelet_listen: SocketAddr,
    /// Address of the virtual cluster's host Service
    #[arg(long, value_name = "ADDRESS")]
    service_ip: IpAddr,
    /// Its own image, for what has to run in pods of the tenant
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Address of this pod
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pod_ip: IpAddr,
    /// The host namespace
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,
    /// The host node of this pod
    #[arg(long, env = "NODE_NAME", value_name = "NODE")]
    node_name: String,
}

impl Syncer {
    /// Runs until a signal.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn run(self) -> Result {
        let shutdown = start_role()?;
        let options = SyncerOptions {
            name: self.name,
            config_file: self.config,
            credentials_dir: self.credentials_dir,
            kubelet_listen: self.kubelet_listen,
            service_ip: self.service_ip,
            image: self.image,
            pod_ip: self.pod_ip,
            namespace: self.namespace,
            node_name: self.node_name,
        };
        Ok(syncer::run(options, shutdown).await?)
    }
}

/// Run a node agent: pods through CRI, and the service proxy
#[derive(Args, Debug)]
pub struct Node {
    /// Credentials of the node
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The node's name
    #[arg(long)]
    name: String,
    /// The node's address
    #[arg(long, value_name = "ADDRESS")]
    node_ip: IpAddr,
    /// The range of its pods' addresses
    #[arg(long, value_name = "CIDR")]
    pod_cidr: String,
    /// The range of all pods' addresses
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: String,
    /// The range of service addresses
    #[arg(long, value_name = "CIDR")]
    service_cidr: String,
    /// The address of cluster DNS
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Option<IpAddr>,
    /// The domain of services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// The socket of the container runtime
    #[arg(long, value_name = "FILE")]
    cri_socket: PathBuf,
    /// Where CNI configurations go
    #[arg(long, value_name = "DIR")]
    cni_conf_dir: PathBuf,
    /// The bridge that pods are attached to
    #[arg(long, value_name = "NAME")]
    bridge: String,
    /// The name of its table of rules
    #[arg(long, default_value = "coracle-node", value_name = "NAME")]
    rules_table: String,
    /// Leave services to another agent of this network
    #[arg(long)]
    host_ports_only: bool,
    /// Enforce network policies for all pods of this network, and read them
    /// with these credentials
    #[arg(long, value_name = "FILE")]
    policy_kubeconfig: Option<PathBuf>,
    /// Where cluster DNS answers, if no pod serves it
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_endpoint: Option<SocketAddrV4>,
    /// Where pods' volumes and the node's keys are (kubelet.crt, kubelet.key, ca.crt)
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Where pods' logs go
    #[arg(long, value_name = "DIR")]
    log_dir: PathBuf,
    /// Where volumes are made for claims of the class of local paths; none are
    /// made without it
    #[arg(long, value_name = "DIR")]
    local_volumes: Option<PathBuf>,
    /// Addresses of load balancers that lead to this machine
    #[arg(long, value_name = "FROM-TO")]
    load_balancer_addresses: Option<AddressRange>,
    /// Address of the node's own API
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

impl Node {
    /// Runs until a signal; pods stay.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn run(self) -> Result {
        let shutdown = start_role()?;
        let options = NodeOptions {
            kubeconfig: self.kubeconfig,
            name: self.name,
            node_ip: self.node_ip,
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            cri_socket: self.cri_socket,
            cni_conf_dir: self.cni_conf_dir,
            bridge: self.bridge,
            rules_table: self.rules_table,
            host_ports_only: self.host_ports_only,
            policy_kubeconfig: self.policy_kubeconfig,
            dns_endpoint: self.dns_endpoint,
            data_dir: self.data_dir,
            log_dir: self.log_dir,
            local_volumes: self.local_volumes,
            load_balancer_addresses: self.load_balancer_addresses,
            listen: self.listen,
        };
        Ok(node::run(options, shutdown).await?)
    }
}

/// Run an ingress controller, in a pod of its cluster
#[derive(Args, Debug)]
pub struct Ingress {
    /// Address of plain requests
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: SocketAddr,
    /// Address of requests over TLS
    #[arg(long, value_name = "ADDRESS:PORT")]
    https: SocketAddr,
    /// Address at which it tells whether it is ready
    #[arg(long, value_name = "ADDRESS:PORT")]
    health: SocketAddr,
    /// The Service by which it is reached: ingresses show its addresses
    #[arg(long, value_parser = place, value_name = "NAMESPACE/NAME")]
    service: (String, String),
}

/// Reads a namespace and a name.
fn place(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) => Ok((namespace.to_owned(), name.to_owned())),
        None => Err("write NAMESPACE/NAME".to_owned()),
    }
}

impl Ingress {
    /// Runs until a signal.
    ///
    /// # Errors
    /// If it cannot start.
    pub async fn run(self) -> Result {
        let shutdown = start_role()?;
        let options = IngressOptions {
            http: self.http,
            https: self.https,
            health: self.health,
            service: self.service,
        };
        Ok(ingress::run(options, shutdown).await?)
    }
}

/// Write a pod's hosts file anew with its full name, before its containers start
#[derive(Args, Debug)]
pub struct RewriteHosts {
    /// The pod's host name
    #[arg(long, value_name = "NAME")]
    hostname: String,
    /// Its full name
    #[arg(long)]
    name: String,
    /// The file that the kubelet wrote
    #[arg(long, default_value = "/etc/hosts", value_name = "FILE")]
    from: PathBuf,
    /// The new file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl RewriteHosts {
    /// Writes the file.
    ///
    /// # Errors
    /// If one cannot be read or the other not be written.
    pub fn run(self) -> Result {
        let options = RewriteOptions {
            from: self.from,
            to: self.to,
            hostname: self.hostname,
            name: self.name,
        };
        Ok(hosts_file::rewrite(&options)?)
    }
}

/// The runtime of a role.
///
/// # Errors
/// If threads cannot be started.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
}

/// Logging to standard error and signals, as every role has them.
fn start_role() -> Result<CancellationToken> {
    start_logging()?;
    let shutdown = CancellationToken::new();
    crate::signals::cancel_on_signal(shutdown.clone())?;
    Ok(shutdown)
}

/// Logging to standard error, with the levels of `CORACLE_LOG`.
///
/// # Errors
/// If this process logs already.
pub fn start_logging() -> Result {
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,hickory_server=warn,kube_client=warn,kube_runtime=warn")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would tell on standard error that standard error is closed, as it
        // is once the supervisor has died, and panic.
        .log_internal_errors(false)
        .try_init()
        .map_err(|e| CliError::failure("cannot start logging").because(e))
}
