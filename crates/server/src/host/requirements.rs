//! What the machine must offer before a host can be started.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::nodes::MAX_NODES;
use super::{Layout, claim, orphans};
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

/// The longest path of a socket, in bytes: an address has room for 108, and
/// the last one ends it.
const MAX_SOCKET_PATH: usize = 107;

/// Checks that this is root on a machine with all programs, no other host and
/// a free port. What an earlier host of this data directory left running ends
/// first.
///
/// # Errors
/// Names everything that is missing at once.
pub fn check(layout: &Layout, port: u16) -> Result<(), Error> {
    // Room for all nodes that there may be one day.
    let sockets = layout.nodes(MAX_NODES).into_iter();
    let sockets = sockets.map(|node| node.containerd().ttrpc_socket());
    let length = sockets.map(|s| s.as_os_str().len()).max().unwrap_or(0);
    if length > MAX_SOCKET_PATH {
        return Err(Error::PathTooLong {
            path: layout.root().to_owned(),
            over: length - MAX_SOCKET_PATH,
        });
    }
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
    claim::check_machine()?;
    orphans::end(layout);
    free(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CLOSING)
}

/// How long a port may still be taken. The kernel forgets the command line of a
/// process that ends before it closes its sockets, so an earlier host may have
/// gone by all appearances and hold its port for a moment more.
const CLOSING: Duration = Duration::from_secs(2);
/// How often to look whether it is free.
const INTERVAL: Duration = Duration::from_millis(20);

/// Fails unless the address is free within some time. Blocks.
fn free(address: SocketAddr, patience: Duration) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::AddrInUse && started.elapsed() < patience => {
                std::thread::sleep(INTERVAL);
            }
            Err(source) => return Err(Error::Listen { address, source }),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_take_a_moment_to_become_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(free(address, INTERVAL), Err(Error::Listen { .. })));
        let waiting = std::thread::spawn(move || free(address, CLOSING * 30));
        drop(listener);
        assert!(waiting.join().unwrap().is_ok());
    }
}
