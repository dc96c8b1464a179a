//! Node agent: pods through CRI, volumes, probes, streaming and the service proxy. Knows nothing of virtual clusters.
//!
//! [`run`] is the whole of it: it prepares the node's network, registers the
//! node, runs one worker per pod and stops when told, leaving pods running.

pub mod cri;
pub mod nft;
pub mod policies;
pub mod proxy;

mod agent;
mod downward;
mod env;
mod events;
mod kubelet;
mod local_volumes;
mod network;
mod node_object;
mod pod;
mod probes;
mod quantity;
mod teardown;
mod volumes;
mod watched;

pub use agent::{Error, NodeConfig, Proxied, run};
pub use local_volumes::PROVISIONER as LOCAL_PROVISIONER;
pub use network::ADDRESSES;
pub use policies::PolicyConfig;
pub use teardown::{TeardownError, teardown};
pub use volumes::mounts::{remove_tree, unmount_below};
