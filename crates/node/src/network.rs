//! The node's own network: forwarding, the pods' bridge and its CNI
//! configuration, and the route that keeps service addresses on the machine.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;
use tokio::process::Command;

use crate::agent::{NodeConfig, Proxied};

/// Why the network could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An address range is malformed.
    #[error("{what} {text:?} is not an IPv4 range such as 10.244.0.0/24")]
    Range {
        /// Which setting.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// A command failed.
    #[error("{command}: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// A file could not be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub network: Ipv4Addr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl Range {
    /// Parses `ADDRESS/PREFIX`.
    pub fn parse(what: &'static str, text: &str) -> Result<Self, NetworkError> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let network: Ipv4Addr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 30)?;
            Some(Self { network, prefix })
        });
        parsed.ok_or_else(|| NetworkError::Range {
            what,
            text: text.to_owned(),
        })
    }

    /// The first usable address: the bridge's own.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network).wrapping_add(1))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Prepares the network of this network namespace. Repeatable.
pub async fn prepare(config: &NodeConfig) -> Result<(), NetworkError> {
    let pods = Range::parse("pod CIDR", &config.pod_cidr)?;
    let services = Range::parse("service CIDR", &config.service_cidr)?;
    sysctl("net/ipv4/ip_forward", true)?;
    let bridge = config.bridge.as_str();
    if !Path::new("/sys/class/net").join(bridge).exists() {
        // Two agents may race, and /sys may show another namespace.
        let added = ip(&["link", "add", "name", bridge, "type", "bridge"]).await;
        if let Err(error) = added
            && !error.to_string().contains("exists")
        {
            return Err(error);
        }
    }
    let gateway = pods.gateway();
    let [a, b, c, d] = gateway.octets();
    let mac = format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    ip(&["link", "set", bridge, "address", &mac]).await?;
    ip(&[
        "address",
        "replace",
        &format!("{gateway}/{}", pods.prefix),
        "dev",
        bridge,
    ])
    .await?;
    ip(&["link", "set", bridge, "up"]).await?;
    bridged_packets_are_filtered().await;
    if config.proxy == Proxied::HostPorts {
        return write_cni(config, pods);
    }
    let route = services.to_string();
    ip(&[
        "route",
        "replace",
        &route,
        "dev",
        bridge,
        "src",
        &gateway.to_string(),
    ])
    .await?;
    write_cni(config, pods)
}

/// Has packets between the pods of a bridge pass the rules of services and
/// policies, as routed ones do.
async fn bridged_packets_are_filtered() {
    const CALLS: [&str; 2] = [
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ];
    if !Path::new("/proc/sys/net/bridge").exists() {
        // A module of its own in most kernels, part of others.
        if let Err(error) = run("modprobe", &["br_netfilter"]).await {
            tracing::debug!(%error, "module not loaded");
        }
    }
    if CALLS.iter().any(|call| sysctl(call, false).is_err()) {
        tracing::error!(
            "packets between pods of one node bypass the rules (the kernel has no br_netfilter): \
             network policies do not hold among them, and services may fail"
        );
    }
}

fn sysctl(name: &str, required: bool) -> Result<(), NetworkError> {
    let path = format!("/proc/sys/{name}");
    let now = std::fs::read_to_string(&path).unwrap_or_default();
    if now.trim() == "1" {
        return Ok(());
    }
    std::fs::write(&path, "1").map_err(|source| {
        if required {
            tracing::error!(%path, %source, "cannot be set");
        }
        NetworkError::File { path, source }
    })
}

/// Removes a table of rules; one that is not there is removed already.
pub async fn delete_table(family: &str, name: &str) -> Result<(), NetworkError> {
    match run("nft", &["delete", "table", family, name]).await {
        Err(error) if !error.to_string().contains("No such file") => Err(error),
        _ => Ok(()),
    }
}

async fn ip(arguments: &[&str]) -> Result<(), NetworkError> {
    run("ip", arguments).await
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), NetworkError> {
    let failed = |message: String| NetworkError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        message,
    };
    let output = Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// Where the addresses of pods are noted, below the agent's data directory.
pub const ADDRESSES: &str = "cni";

/// The CNI configuration list of the pods' network.
fn cni_config(config: &NodeConfig, pods: Range) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": format!("{}-pods", config.bridge),
        "plugins": [{
            "type": "bridge",
            "bridge": config.bridge,
            "isGateway": true,
            "isDefaultGateway": true,
            // Masquerading is the service proxy's, in nftables.
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pods.to_string()}]],
                "dataDir": config.data_dir.join(ADDRESSES),
            },
        }],
    })
}

fn write_cni(config: &NodeConfig, pods: Range) -> Result<(), NetworkError> {
    let failed = |source: std::io::Error| NetworkError::File {
        path: config.cni_conf_dir.display().to_string(),
        source,
    };
    std::fs::create_dir_all(&config.cni_conf_dir).map_err(failed)?;
    let path = config.cni_conf_dir.join("10-coracle.conflist");
    let text = format!("{:#}\n", cni_config(config, pods));
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    // The runtime watches the directory: it must never see half a file.
    let fresh = config.cni_conf_dir.join(".10-coracle.conflist.new");
    std::fs::write(&fresh, text).map_err(failed)?;
    std::fs::rename(&fresh, &path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = Range::parse("x", "10.244.3.0/24").unwrap();
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(range.to_string(), "10.244.3.0/24");
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/31", "::/64", "a/8"] {
            assert!(Range::parse("x", text).is_err(), "{text}");
        }
    }
}
