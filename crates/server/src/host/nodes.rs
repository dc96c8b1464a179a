//! The nodes of an embedded host: where each keeps its things, and which
//! addresses are its own.
//!
//! All share the machine's network and its service rules. What makes a node of
//! its own is a containerd, a node agent, a bridge with a range of addresses,
//! and data. The first keeps its things where a host of one node has them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::containerd::ContainerdPaths;
use super::{Layout, requirements};
use crate::Error;

/// Most nodes of a host. Each takes some 70 MiB, and one byte of the pods'
/// addresses.
pub const MAX_NODES: u8 = 16;

/// One node of a host.
#[derive(Clone, Debug)]
pub struct NodeLayout {
    host: Layout,
    /// From 1 on.
    number: u8,
}

impl Layout {
    /// The first nodes of the host.
    pub(super) fn nodes(&self, count: u8) -> Vec<NodeLayout> {
        let numbers = 1..=count.clamp(1, MAX_NODES);
        numbers
            .map(|number| NodeLayout {
                host: self.clone(),
                number,
            })
            .collect()
    }

    /// The nodes that have ever been started.
    pub(super) fn known_nodes(&self) -> Vec<NodeLayout> {
        let mut nodes = self.nodes(MAX_NODES);
        nodes.retain(|node| node.number == 1 || node.root().exists());
        nodes
    }

    fn count_file(&self) -> PathBuf {
        self.root().join("node-count")
    }

    /// How many nodes the host had when it ran last; one if it never did.
    pub fn node_count(&self) -> u8 {
        let text = fs::read_to_string(self.count_file()).unwrap_or_default();
        text.trim().parse().unwrap_or(1).clamp(1, MAX_NODES)
    }

    pub(super) fn remember_node_count(&self, count: u8) -> Result<(), Error> {
        let path = self.count_file();
        fs::write(&path, count.to_string()).map_err(Error::file(&path))
    }
}

impl NodeLayout {
    fn root(&self) -> PathBuf {
        match self.number {
            1 => self.host.root().to_owned(),
            number => self.host.root().join(format!("nodes/{number}")),
        }
    }

    /// True for the node that serves services for all.
    pub fn is_first(&self) -> bool {
        self.number == 1
    }

    /// The node's name, after that of the first.
    pub fn name(&self, first: &str) -> String {
        match self.number {
            1 => first.to_owned(),
            number => format!("{first}-{number}"),
        }
    }

    /// The pod network's gateway on the machine, which is also the node's
    /// address: the machine may have no other.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number - 1, 1)
    }

    /// The range of the node's pods.
    pub fn pod_cidr(&self) -> String {
        format!("10.244.{}.0/24", self.number - 1)
    }

    /// The bridge that its pods are attached to.
    pub fn bridge(&self) -> String {
        format!("coracle{}", self.number - 1)
    }

    /// The table of rules that its agent keeps.
    pub fn rules_table(&self) -> String {
        match self.number {
            1 => "coracle-node".to_owned(),
            number => format!("coracle-node-{number}"),
        }
    }

    /// Data of the node agent.
    pub fn data(&self) -> PathBuf {
        self.root().join("node")
    }

    /// The node agent's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubelet.kubeconfig")
    }

    /// The volumes of claims.
    pub fn volumes(&self) -> PathBuf {
        self.root().join("volumes")
    }

    /// The log file of one of its programs.
    pub fn log(&self, program: &str) -> PathBuf {
        self.host.logs().join(match self.number {
            1 => format!("{program}.log"),
            number => format!("{program}-{number}.log"),
        })
    }

    /// Where its pods' logs go.
    pub fn pod_logs(&self) -> PathBuf {
        self.host.logs().join(match self.number {
            1 => "pods".to_owned(),
            number => format!("pods-{number}"),
        })
    }

    pub(super) fn containerd(&self) -> ContainerdPaths {
        let base = self.root().join("containerd");
        ContainerdPaths {
            root: base.join("root"),
            state: self.root().join("run"),
            cni_conf_dir: base.join("cni"),
            cni_bin_dir: PathBuf::from(requirements::CNI_BIN_DIR),
            certs_dir: base.join("certs.d"),
        }
    }

    pub(super) fn containerd_config(&self) -> PathBuf {
        self.root().join("containerd/config.toml")
    }

    /// Where its containerd keeps the running state of shims, by container.
    pub(super) fn task_state(&self) -> PathBuf {
        let state = self.containerd().state;
        let runtime = state.join("io.containerd.runtime.v2.task");
        runtime.join(coracle_node::cri::CONTAINERD_NAMESPACE)
    }

    /// Where its containerd mounts the network namespaces of sandboxes.
    pub(super) fn network_namespaces(&self) -> PathBuf {
        let cri = self.containerd().state.join("io.containerd.grpc.v1.cri");
        cri.join("netns")
    }

    /// Where the addresses of sandboxes are noted, a directory for each
    /// network.
    pub(super) fn addresses(&self) -> PathBuf {
        self.data().join(coracle_node::ADDRESSES)
    }

    /// The socket of its container runtime.
    pub fn cri_socket(&self) -> PathBuf {
        self.containerd().socket()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn nodes_share_nothing_of_their_own() {
        let nodes = Layout::new(Path::new("/data")).nodes(MAX_NODES);
        assert_eq!(nodes.len(), usize::from(MAX_NODES));
        let own: HashSet<String> = nodes
            .iter()
            .flat_map(|node| {
                [
                    node.data().display().to_string(),
                    node.volumes().display().to_string(),
                    node.cri_socket().display().to_string(),
                    node.containerd().root.display().to_string(),
                    node.containerd().cni_conf_dir.display().to_string(),
                    node.log("node").display().to_string(),
                    node.pod_logs().display().to_string(),
                    node.ip().to_string(),
                    node.pod_cidr(),
                    node.bridge(),
                    node.rules_table(),
                    node.name("a"),
                ]
            })
            .collect();
        assert_eq!(own.len(), nodes.len() * 12);
    }

    #[test]
    fn the_number_of_nodes_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        assert_eq!(layout.node_count(), 1);
        layout.remember_node_count(3).unwrap();
        assert_eq!(layout.node_count(), 3);
        assert_eq!(layout.known_nodes().len(), 1);
        fs::create_dir_all(directory.path().join("nodes/3")).unwrap();
        let names: Vec<String> = layout.known_nodes().iter().map(|n| n.name("a")).collect();
        assert_eq!(names, ["a", "a-3"]);
    }
}
