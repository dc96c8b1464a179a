//! What the machine must offer before a host can be started.

use std::ffi::{OsStr, OsString};
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

/// Where system programs are even if the PATH leaves them out.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/bin"];

/// The file of a program on the PATH, or in the places of system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    places(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// The PATH for what the host starts, so that it finds what `find` has found.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // No place has a colon in its name: they come from a PATH, or from here.
    std::env::join_paths(places(&path)).unwrap_or(path)
}

fn places(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    // An empty entry of a PATH is the working directory: not for root.
    std::env::split_paths(path)
        .filter(|place| !place.as_os_str().is_empty())
        .chain(SYSTEM.map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_programs_are_found_whatever_the_path() {
        let found: Vec<PathBuf> = places(OsStr::new("/mine::/other")).collect();
        assert_eq!(found[..2], ["/mine", "/other"].map(PathBuf::from));
        assert_eq!(found[2..], SYSTEM.map(PathBuf::from));
    }

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
