//! Who runs the host: a lock on the data directory, and one on the machine,
//! which has room for one bridge and one set of service rules.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::Layout;
use crate::Error;

/// The abstract socket that the machine's one supervisor holds. Such names
/// belong to a network namespace, as bridges and rules do.
const MACHINE: &str = "coracle-host";

/// Held by the supervisor while it runs. The kernel lets go of both locks when
/// the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Claim {
    _data: File,
    _machine: UnixListener,
}

impl Claim {
    /// Claims a data directory, which must exist, and the machine.
    ///
    /// # Errors
    /// If another supervisor has either.
    pub(super) fn take(layout: &Layout) -> Result<Self, Error> {
        let path = layout.pid_file();
        let failed = || Error::file(&path);
        let mut data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed())?;
        match fcntl(&data, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(Error::AlreadyRunning(read_pid(layout).unwrap_or_default()));
            }
            Err(error) => return Err(failed()(error.into())),
        }
        let machine = claim_machine()?;
        data.set_len(0).map_err(failed())?;
        data.write_all(std::process::id().to_string().as_bytes())
            .map_err(failed())?;
        Ok(Self {
            _data: data,
            _machine: machine,
        })
    }
}

/// The process id of the running supervisor of a data directory, if one runs.
pub fn running(layout: &Layout) -> Option<i32> {
    let file = File::open(layout.pid_file()).ok()?;
    let mut lock = whole(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return None;
    }
    read_pid(layout)
}

/// Fails if a supervisor, of whatever data directory, runs on this machine.
///
/// # Errors
/// With the process id of the other.
pub(super) fn check_machine() -> Result<(), Error> {
    claim_machine().map(drop)
}

fn claim_machine() -> Result<UnixListener, Error> {
    let failed = |error: io::Error| Error::Setting(format!("cannot claim this machine: {error}"));
    let address = SocketAddr::from_abstract_name(MACHINE).map_err(failed)?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::AnotherHost(holder(&address).unwrap_or_default()))
        }
        result => result.map_err(failed),
    }
}

/// The process that listens on a socket; zero if it cannot be seen from here.
fn holder(address: &SocketAddr) -> io::Result<i32> {
    let stream = UnixStream::connect_addr(address)?;
    Ok(getsockopt(&stream, PeerCredentials)?.pid())
}

fn read_pid(layout: &Layout) -> Option<i32> {
    let text = std::fs::read_to_string(layout.pid_file()).ok()?;
    text.trim().parse().ok()
}

/// A lock on a whole file.
fn whole(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_supervisor_has_the_data_and_the_machine() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (first, second) = (Layout::new(first.path()), Layout::new(second.path()));
        let own = std::process::id().cast_signed();
        // What a killed supervisor leaves says nothing.
        std::fs::write(first.pid_file(), own.to_string()).unwrap();
        assert_eq!(running(&first), None);
        let claim = Claim::take(&first).unwrap();
        assert_eq!(running(&first), Some(own));
        let error = Claim::take(&first).unwrap_err();
        assert!(
            matches!(error, Error::AlreadyRunning(pid) if pid == own),
            "{error}"
        );
        let error = Claim::take(&second).unwrap_err();
        assert!(
            matches!(error, Error::AnotherHost(pid) if pid == own),
            "{error}"
        );
        assert_eq!(running(&second), None);
        drop(claim);
        assert_eq!(running(&first), None);
        drop(Claim::take(&second).unwrap());
    }
}
