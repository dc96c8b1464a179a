//! The pod network's bridge, whose address is the node's: the API server
//! listens on it, so that pods reach it, before the first pod exists.

use std::process::Stdio;

use tokio::process::Command;

use super::{NODE_IP, POD_CIDR, requirements};
use crate::Error;

/// The bridge that pods are attached to.
pub const BRIDGE: &str = "coracle0";

/// Makes the bridge with its address, if it is not there.
pub async fn create() -> Result<(), Error> {
    let prefix = POD_CIDR.rsplit_once('/').map_or("24", |(_, length)| length);
    let address = format!("{NODE_IP}/{prefix}");
    // "File exists" is the answer for what an earlier run left.
    let _ = ip(&["link", "add", BRIDGE, "type", "bridge"]).await;
    ip(&["addr", "replace", &address, "dev", BRIDGE]).await?;
    ip(&["link", "set", BRIDGE, "up"]).await?;
    ip(&["link", "set", "lo", "up"]).await
}

/// True while the bridge is there, and with it perhaps pods.
pub fn exists() -> bool {
    // Not below /sys: that shows the namespace of whoever mounted it.
    nix::net::if_::if_nametoindex(BRIDGE).is_ok()
}

/// Removes the bridge.
pub async fn remove() -> Result<(), Error> {
    ip(&["link", "del", BRIDGE]).await
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
