//! The bridge of the first node's pods, whose address is the node's: the API
//! server listens on it, so that pods reach it, before the first pod exists.
//! Further nodes have bridges that their agents make.

use std::process::Stdio;

use coracle_machinery::addresses::AddressRange;
use tokio::process::Command;

use super::nodes::NodeLayout;
use super::requirements;
use crate::Error;

/// Makes a node's bridge with its address, if it is not there.
pub async fn create(node: &NodeLayout) -> Result<(), Error> {
    let cidr = node.pod_cidr();
    let prefix = cidr.rsplit_once('/').map_or("24", |(_, length)| length);
    let (bridge, address) = (node.bridge(), format!("{}/{prefix}", node.ip()));
    // "File exists" is the answer for what an earlier run left.
    let _ = ip(&["link", "add", &bridge, "type", "bridge"]).await;
    ip(&["addr", "replace", &address, "dev", &bridge]).await?;
    ip(&["link", "set", &bridge, "up"]).await?;
    ip(&["link", "set", "lo", "up"]).await
}

/// True while a node's bridge is there, and with it perhaps pods.
pub fn exists(node: &NodeLayout) -> bool {
    // Not below /sys: that shows the namespace of whoever mounted it.
    nix::net::if_::if_nametoindex(node.bridge().as_str()).is_ok()
}

/// Removes a node's bridge, if it is there.
pub async fn remove(node: &NodeLayout) -> Result<(), Error> {
    if !exists(node) {
        return Ok(());
    }
    ip(&["link", "del", &node.bridge()]).await
}

/// The link that the addresses of load balancers belong to.
const POOL_LINK: &str = "coracle-lb";

/// Makes addresses this machine's own: it answers for them on its networks, and
/// the service proxy sees what comes. Those of an earlier run go.
pub async fn create_pool(pool: Option<AddressRange>) -> Result<(), Error> {
    remove_pool().await?;
    let Some(pool) = pool else {
        return Ok(());
    };
    ip(&["link", "add", POOL_LINK, "type", "bridge"]).await?;
    ip(&["link", "set", POOL_LINK, "up"]).await?;
    for (address, prefix) in pool.blocks() {
        let block = format!("{address}/{prefix}");
        let place = ["dev", POOL_LINK, "table", "local"];
        ip(&[&["route", "replace", "local", &block], &place[..]].concat()).await?;
    }
    Ok(())
}

/// Removes them, if they are there.
pub async fn remove_pool() -> Result<(), Error> {
    if nix::net::if_::if_nametoindex(POOL_LINK).is_err() {
        return Ok(());
    }
    ip(&["link", "del", POOL_LINK]).await
}

async fn ip(arguments: &[&str]) -> Result<(), Error> {
    let failed = |why: String| Error::Program {
        program: format!("ip {}", arguments.join(" ")),
        why,
    };
    let file = requirements::find("ip").ok_or_else(|| Error::Missing(vec!["ip".into()]))?;
    let output = Command::new(file)
        .args(arguments)
        .stdin(Stdio::null())
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
