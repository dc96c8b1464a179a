//! What the machine must offer before a host can be started.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::Error;

/// Where Debian installs the CNI plugins.
pub const CNI_BIN_DIR: &str = "/usr/lib/cni";

/// Programs that the host calls.
const PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim-runc-v2",
    "runc",
    "nft",
    "ip",
    "conntrack",
];

/// CNI plugins that pods' networks use.
const PLUGINS: &[&str] = &["bridge", "host-local", "loopback"];

/// Checks that this is root on a machine with all programs and a free port.
///
/// # Errors
/// Names everything that is missing at once.
pub fn check(port: u16) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let mut missing: Vec<String> = PROGRAMS
        .iter()
        .filter(|program| find(program).is_none())
        .map(|program| (*program).to_owned())
        .collect();
    missing.extend(
        PLUGINS
            .iter()
            .map(|plugin| Path::new(CNI_BIN_DIR).join(plugin))
            .filter(|path| !path.exists())
            .map(|path| path.display().to_string()),
    );
    if !missing.is_empty() {
        return Err(Error::Missing(missing));
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).map_err(|source| Error::Listen { address, source })?;
    Ok(())
}

/// The file of a program on the PATH, or in the places where system programs
/// are even if the PATH leaves them out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}
