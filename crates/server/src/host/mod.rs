//! The embedded host: a Kubernetes cluster of one machine, run by one
//! supervisor process that starts and restarts the control plane, and a
//! containerd and a node agent for each node.

mod claim;
mod containerd;
mod extras;
mod ingress;
mod leftovers;
mod mirror;
mod network;
mod nodes;
mod orphans;
mod policies;
mod process;
mod processes;
mod requirements;
mod storage;
mod supervisor;

pub use claim::running;
pub use extras::{DEFAULT_POOL, Extras};
pub use ingress::INGRESS_CLASS;
pub use nodes::MAX_NODES;
pub use requirements::check as check_requirements;
pub use supervisor::{Progress, clean_up, remove_data, run};

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The image of this very program, which virtual clusters run.
pub const CORACLE_IMAGE: &str = concat!("coracle.dev/coracle:", env!("CARGO_PKG_VERSION"));

/// Where the embedded host keeps its data unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/coracle/host";

/// The kubeconfig context of the embedded host.
pub const CONTEXT: &str = "coracle-host";

/// The port of the host's API server unless told otherwise.
pub const DEFAULT_PORT: u16 = 6443;

/// How an embedded host is laid out.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Everything that survives a restart.
    pub data_dir: PathBuf,
    /// The API server's port, on loopback and on the pod network's gateway.
    pub port: u16,
    /// The name of the first node; others add their number to it.
    pub node_name: String,
    /// How many nodes there are, at most [`MAX_NODES`].
    pub nodes: u8,
    /// What it offers besides.
    pub extras: Extras,
    /// This program's own file.
    pub program: PathBuf,
}

/// The pod networks of all nodes.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// The address of the first node, and with it of the API server.
pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The range of service addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The address of cluster DNS within it.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The port on which the control plane answers DNS; pods reach it through the
/// kube-dns service.
pub const DNS_PORT: u16 = 1053;
/// The domain of services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The port of the node agent's own API.
pub const KUBELET_PORT: u16 = 10250;

/// The files of an embedded host.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            root: data_dir.to_owned(),
        }
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The process id of the supervisor, which keeps it locked while it runs.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("host.pid")
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    /// Data of the control plane.
    pub fn control_plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// Loaded images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The directory of log files.
    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }
}

/// True while a process exists and has not ended; one that has ended but was
/// not waited for by its parent counts as ended.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name in parentheses, which may hold any character.
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}
