//! Why a role could not start or went down.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a role. The text says what was wrong and where; `hint` says
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory of keys holds a certificate without its key.
    #[error("{}: ca.crt is there but ca.key is missing", .0.display())]
    Keys(PathBuf),
    /// A key or certificate could not be made or read.
    #[error(transparent)]
    Pki(#[from] coracle_pki::PkiError),
    /// The data could not be opened.
    #[error("cannot open the datastore: {0}")]
    Store(#[from] coracle_store::StoreError),
    /// An image could not be made or stored.
    #[error(transparent)]
    Image(#[from] coracle_image::ImageError),
    /// An address to listen on is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The role needs root.
    #[error("this needs root")]
    NotRoot,
    /// Programs that the role needs are missing.
    #[error("missing on this machine: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// A program that was started ended or could not be started.
    #[error("{program}: {why}")]
    Program {
        /// Which program.
        program: String,
        /// What happened.
        why: String,
    },
    /// Something was not ready in time.
    #[error("{what} was not ready after {seconds} s{detail}")]
    NotReady {
        /// What.
        what: String,
        /// How long was waited, in seconds.
        seconds: u64,
        /// What was seen last, or empty.
        detail: String,
    },
    /// A host already runs with this data directory.
    #[error("a host is already running here (process {0})")]
    AlreadyRunning(i32),
    /// Another host, with another data directory, runs on this machine.
    #[error("another host is running on this machine (process {0})")]
    AnotherHost(i32),
    /// A data directory is so deep that sockets below it have no address.
    #[error("the data directory {} is too long by {over} characters", path.display())]
    PathTooLong {
        /// The data directory.
        path: PathBuf,
        /// By how many bytes.
        over: usize,
    },
    /// A directory is not what a host keeps its data in.
    #[error("{} is no host's data directory", .0.display())]
    NoData(PathBuf),
    /// Addresses for load balancers are taken.
    #[error("services cannot be given {pool}: {why}")]
    Pool {
        /// The addresses.
        pool: coracle_machinery::addresses::AddressRange,
        /// Who has one of them.
        why: String,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
    /// A fresh cluster's objects could not be made.
    #[error("cannot prepare the cluster: {0}")]
    Bootstrap(#[from] coracle_machinery::ApiError),
    /// An API server refused or failed.
    #[error(transparent)]
    Client(#[from] Box<kube::Error>),
}

impl Error {
    /// Wraps an I/O error with the file it is about.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// What the user can do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRoot => "run it as root, for example with sudo".into(),
            Self::Missing(_) => "apt-get install --no-install-recommends containerd runc \
                 containernetworking-plugins nftables iptables conntrack iproute2"
                .into(),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                format!(
                    "something else listens on port {0}: stop it (`ss -ltnp 'sport = :{0}'` \
                     shows it), or choose another port",
                    address.port()
                )
            }
            Self::AlreadyRunning(_) => {
                "`coracle host status` shows it; `coracle host down` stops it".into()
            }
            Self::AnotherHost(pid) => format!(
                "a machine has room for one host: `ps -fp {pid}` shows its --data-dir, by which \
                 `coracle host down --data-dir DIR` stops it"
            ),
            Self::PathTooLong { .. } => {
                "sockets lie below it; choose a shorter one with --data-dir".into()
            }
            Self::Pool { .. } => "choose others with --load-balancer-addresses".into(),
            Self::NoData(_) => {
                "name the directory with --data-dir; `coracle host up` makes one".into()
            }
            Self::Keys(path) => format!(
                "restore {0}/ca.key from a backup; without it the cluster's certificates \
                 cannot be renewed",
                path.display()
            ),
            _ => return None,
        })
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Client(Box::new(error))
    }
}
