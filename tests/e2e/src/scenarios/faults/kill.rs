//! Finding processes by their command lines, and killing them.

use std::fmt;

use crate::world::{Result, World, ensure};

/// A kind of process that dies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control plane of a virtual cluster.
    ControlPlane(&'static str),
    /// The syncer of a virtual cluster.
    Syncer(&'static str),
    /// The host's node agent.
    NodeAgent,
    /// The host's container runtime; containers run on under their shims.
    Containerd,
    /// The host's control plane.
    HostControlPlane,
    /// The parent of the three above, which end with it.
    Supervisor,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane(name) => write!(f, "control-plane({name})"),
            Self::Syncer(name) => write!(f, "syncer({name})"),
            Self::NodeAgent => write!(f, "node"),
            Self::Containerd => write!(f, "containerd"),
            Self::HostControlPlane => write!(f, "host-control-plane"),
            Self::Supervisor => write!(f, "supervisor"),
        }
    }
}

/// Every process that is started again by itself.
pub fn all(clusters: &[&'static str]) -> Vec<Fault> {
    let mut faults = vec![Fault::NodeAgent, Fault::Containerd, Fault::HostControlPlane];
    for name in clusters {
        faults.push(Fault::ControlPlane(name));
        faults.push(Fault::Syncer(name));
    }
    faults
}

impl Fault {
    /// Kills every process of the kind; returns how many there were.
    pub fn kill(&self, world: &World) -> Result<usize> {
        let pids = self.pids(world)?;
        for pid in &pids {
            // It may have ended by itself meanwhile.
            world.shell(&format!("kill -9 {pid}"));
        }
        if *self == Self::Supervisor {
            // It lets go of its locks when the kernel is done with it.
            world.eventually("the end of the supervisor", || {
                ensure(self.pids(world)?.is_empty(), "it runs")
            })?;
        }
        Ok(pids.len())
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

    fn matches(&self, command: &[String], data: &str) -> bool {
        let role = command.get(1).map(String::as_str).unwrap_or_default();
        let has = |argument: String| command.contains(&argument);
        match self {
            Self::ControlPlane(name) => role == "control-plane" && has(format!("--context={name}")),
            Self::Syncer(name) => role == "syncer" && has(format!("--name={name}")),
            Self::NodeAgent => role == "node" && has(format!("--data-dir={data}/node")),
            Self::Containerd => {
                command[0].ends_with("/containerd") && has(format!("{data}/containerd/config.toml"))
            }
            Self::HostControlPlane => {
                role == "control-plane" && has(format!("--data-dir={data}/control-plane"))
            }
            Self::Supervisor => role == "host" && has("run".into()) && has(data.to_owned()),
        }
    }

    fn pids(&self, world: &World) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        let data = world.data_dir();
        for entry in std::fs::read_dir("/proc").map_err(|e| e.to_string())? {
            let Some(pid) = entry
                .ok()
                .and_then(|entry| entry.file_name().to_string_lossy().parse().ok())
            else {
                continue;
            };
            // Ended processes that nobody has waited for have no words.
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command: Vec<String> = text
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            if !text.is_empty() && self.matches(&command, &data) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}
