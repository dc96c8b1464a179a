//! The nodes of the host, and where each keeps its things.

use std::fmt;

use crate::world::World;

/// A node, by its number from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(u8);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => write!(f, "node-1"),
            number => write!(f, "node-1-{number}"),
        }
    }
}

impl Node {
    /// The one that every host has.
    pub const FIRST: Self = Self(1);

    /// The first nodes.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    /// Where it keeps its things.
    pub fn root(self, world: &World) -> String {
        match self.0 {
            1 => world.data_dir(),
            number => format!("{}/nodes/{number}", world.data_dir()),
        }
    }

    /// The socket of its containerd.
    pub fn socket(self, world: &World) -> String {
        format!("{}/run/containerd.sock", self.root(world))
    }

    /// Where the logs of its pods are.
    pub fn pod_logs(self, world: &World) -> String {
        match self.0 {
            1 => format!("{}/log/pods", world.data_dir()),
            number => format!("{}/log/pods-{number}", world.data_dir()),
        }
    }
}
