//! Reconciles a virtual cluster with its host namespace and serves the virtual
//! kubelet.
//!
//! The syncer is a client of two API servers. It watches both sides, and for
//! each virtual object that changed on either side brings the two together by
//! the rules of `coracle-translate`. It is the only holder of host credentials,
//! and they reach no further than the host namespace.

mod api;
mod cache;
mod engine;
mod kinds;
mod kubelet;
mod queue;
mod sync;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use coracle_config::Config;
use coracle_config::model::TokenAccount;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

pub use kubelet::KubeletConfig;

/// What a syncer needs.
pub struct SyncerConfig {
    /// The name of the virtual cluster.
    pub vc_name: String,
    /// The host namespace that it lives in.
    pub host_namespace: String,
    /// The image of this program, whose command `rewrite-hosts` runs first in
    /// pods with a full name of their own.
    pub image: String,
    /// What the user chose.
    pub config: Config,
    /// The virtual API server, as a caller that may do anything.
    pub virtual_client: kube::Client,
    /// The host API server, with the rights of
    /// [`coracle_config::host_rules`].
    pub host_client: kube::Client,
    /// The host API server once more, over a client that lets a response be
    /// upgraded (HTTP/1.1, as `kube::Client::try_from` makes them): for exec,
    /// attach and port-forward. May be a clone of `host_client`.
    pub host_tunnel_client: kube::Client,
    /// The address of the pod that the syncer runs in: the nodes' address
    /// inside, and that of the virtual API server.
    pub pod_ip: IpAddr,
    /// The kubelet endpoint.
    pub kubelet: KubeletConfig,
    /// Host Secrets to publish: the kubeconfig
    /// ([`coracle_config::names::kubeconfig_secret`]), the certificates
    /// ([`coracle_config::names::certs_secret`]), and what the values ask for.
    pub published: Vec<Published>,
}

/// A host Secret by which users reach the virtual cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its name.
    pub name: String,
    /// Its host namespace.
    pub namespace: String,
    /// One that the values ask for, under a name of the user's choice.
    pub additional: bool,
    /// Its content.
    pub data: BTreeMap<String, Vec<u8>>,
    /// Whose token is to be in it: as `token`, and as the only user of the
    /// kubeconfig `config` (JSON).
    pub account: Option<TokenAccount>,
}

/// Why a syncer cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// The kubelet endpoint cannot be opened.
    #[error("cannot listen on {address} for the kubelet endpoint: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates of the kubelet endpoint are no good.
    #[error("cannot use the certificates of the kubelet endpoint: {0}")]
    Certificates(#[from] coracle_pki::PkiError),
}

/// Runs until `shutdown` is cancelled. Objects on both sides stay as they are
/// then; the next run takes up from there.
///
/// # Errors
/// If the kubelet endpoint cannot be opened. Unreachable API servers are
/// waited for.
pub async fn run(config: SyncerConfig, shutdown: CancellationToken) -> Result<(), Error> {
    engine::run(config, shutdown).await
}
