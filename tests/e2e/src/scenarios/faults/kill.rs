//! Finding processes by their command lines, and killing them.

use std::collections::BTreeSet;
use std::fmt;

use super::node::Node;
use crate::process::Process;
use crate::world::{Result, World, ensure};

/// A kind of process that dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control plane of a virtual cluster.
    ControlPlane(&'static str),
    /// The syncer of a virtual cluster.
    Syncer(&'static str),
    /// The agent of a node of the host.
    NodeAgent(Node),
    /// A node's container runtime; containers run on under their shims.
    Containerd(Node),
    /// All of a node, as when its power fails for a moment.
    Node(Node),
    /// The host's control plane.
    HostControlPlane,
    /// The parent of the host's processes, which end with it.
    Supervisor,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane(name) => write!(f, "control-plane({name})"),
            Self::Syncer(name) => write!(f, "syncer({name})"),
            Self::NodeAgent(node) => write!(f, "agent({node})"),
            Self::Containerd(node) => write!(f, "containerd({node})"),
            Self::Node(node) => write!(f, "node({node})"),
            Self::HostControlPlane => write!(f, "host-control-plane"),
            Self::Supervisor => write!(f, "supervisor"),
        }
    }
}

/// Every process that is started again by itself.
pub fn all(clusters: &[&'static str], nodes: u8) -> Vec<Fault> {
    let mut faults = vec![Fault::HostControlPlane];
    for node in Node::first(nodes) {
        faults.extend([Fault::NodeAgent(node), Fault::Containerd(node)]);
    }
    for name in clusters {
        faults.extend([Fault::ControlPlane(name), Fault::Syncer(name)]);
    }
    faults
}

impl Fault {
    /// Kills every process of the kind; returns how many there were.
    pub fn kill(&self, world: &World) -> Result<usize> {
        let pids = self.pids(world)?;
        self.signal(world, "KILL")?;
        if *self == Self::Supervisor {
            // It lets go of its locks when the kernel is done with it.
            world.eventually("the end of the supervisor", || {
                ensure(self.pids(world)?.is_empty(), "it runs")
            })?;
        }
        Ok(pids.len())
    }

    /// Sends a signal to every process of the kind.
    pub fn signal(&self, world: &World, signal: &str) -> Result {
        let pids: Vec<String> = self.pids(world)?.iter().map(u32::to_string).collect();
        // Any of them may have ended by itself meanwhile.
        world.shell(&format!("kill -{signal} {}", pids.join(" ")));
        Ok(())
    }

    /// Waits until a process of the kind runs.
    pub fn wait_until_back(&self, world: &World) -> Result {
        world.eventually(&format!("a new {self}"), || {
            ensure(!self.pids(world)?.is_empty(), "it does not run")
        })
    }

    /// The container that ends with the process, as `pod/container`.
    pub fn container(&self) -> Option<String> {
        match self {
            Self::ControlPlane(name) => Some(format!("{name}-0/control-plane")),
            Self::Syncer(name) => Some(format!("{name}-0/syncer")),
            _ => None,
        }
    }

    fn matches(&self, command: &[String], world: &World) -> bool {
        let data = world.data_dir();
        let role = command.get(1).map(String::as_str).unwrap_or_default();
        let has = |argument: String| command.contains(&argument);
        match self {
            Self::ControlPlane(name) => role == "control-plane" && has(format!("--context={name}")),
            Self::Syncer(name) => role == "syncer" && has(format!("--name={name}")),
            Self::NodeAgent(node) => {
                role == "node" && has(format!("--data-dir={}/node", node.root(world)))
            }
            Self::Containerd(node) => {
                let config = format!("{}/containerd/config.toml", node.root(world));
                command[0].ends_with("/containerd") && has(config)
            }
            Self::Node(node) => {
                Self::NodeAgent(*node).matches(command, world)
                    || Self::Containerd(*node).matches(command, world)
                    || is_shim(command) && has(node.socket(world))
            }
            Self::HostControlPlane => {
                role == "control-plane" && has(format!("--data-dir={data}/control-plane"))
            }
            Self::Supervisor => role == "host" && has("run".into()) && has(data),
        }
    }

    fn pids(&self, world: &World) -> Result<BTreeSet<u32>> {
        let processes = Process::all()?;
        let mut found: BTreeSet<u32> = processes
            .iter()
            .filter(|process| self.matches(&process.command, world))
            .map(|process| process.pid)
            .collect();
        while let Self::Node(_) = self {
            // What runs in containers are children of shims.
            let children = processes
                .iter()
                .filter(|process| found.contains(&process.parent) && !found.contains(&process.pid));
            let children: Vec<u32> = children.map(|process| process.pid).collect();
            if children.is_empty() {
                break;
            }
            found.extend(children);
        }
        Ok(found)
    }
}

/// True for the process that looks after the containers of a pod.
pub fn is_shim(command: &[String]) -> bool {
    command[0].ends_with("containerd-shim-runc-v2")
}
