//! The control-plane role: store, API server, controllers, scheduler and DNS,
//! in one process, talking to each other without sockets.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::access::UserInfo;
use coracle_apiserver::aggregation::Aggregator;
use coracle_apiserver::custom_kinds::CustomKinds;
use coracle_apiserver::listener::{ListenerLimits, Security};
use coracle_apiserver::{ApiServer, listener};
use coracle_controllers::{KUBELET_SERVING, SchedulerOptions, Signing};
use coracle_machinery::addresses::AddressRange;
use coracle_pki::tls::{self, ClientAuthority, Identity};
use coracle_pki::{CertificateAuthority, KeyCert};
use coracle_store::sqlite::{SqliteOptions, SqliteStore};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::api;
use crate::clients::in_process;
use crate::pki_dir::{PkiDir, write_pair, write_private};
use crate::renewal;
use crate::signing::RequestSigner;

/// How long connections may take to end once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// The user name of a virtual cluster's syncer.
pub(crate) const SYNCER: &str = "system:coracle-syncer";

/// Settings of a control plane.
#[derive(Clone, Debug)]
pub struct ControlPlaneOptions {
    /// Where objects and keys are kept.
    pub data_dir: PathBuf,
    /// Addresses of the API.
    pub listen: Vec<SocketAddr>,
    /// The address that pods reach it at.
    pub advertise: SocketAddr,
    /// Further names and addresses in the API's certificate.
    pub sans: Vec<String>,
    /// Who gives services their addresses.
    pub service_addresses: ServiceAddresses,
    /// Addresses that it never connects to for its users, as proxies and
    /// webhooks would.
    pub unreachable: Vec<IpAddr>,
    /// The one endpoint of all nodes, whatever Node objects say; without it,
    /// each node is where it says.
    pub kubelet: Option<SocketAddr>,
    /// The domain of services.
    pub cluster_domain: String,
    /// Where DNS is answered, if it is.
    pub dns_listen: Option<SocketAddr>,
    /// Ask the host's DNS for names of the cluster's domain that are unknown.
    pub dns_fallback: bool,
    /// The address of the kube-dns service, where this control plane chooses.
    pub dns_service_ip: Option<IpAddr>,
    /// Run a scheduler.
    pub scheduler: bool,
    /// Run the controllers that watch over nodes.
    pub node_lifecycle: bool,
    /// Addresses for services of type LoadBalancer.
    pub load_balancer_addresses: Option<AddressRange>,
    /// An administrator's kubeconfig to write.
    pub write_kubeconfig: Option<PathBuf>,
    /// Where a syncer finds its credentials.
    pub credentials_dir: Option<PathBuf>,
    /// The context's name in written kubeconfigs.
    pub context: String,
    /// How long the certificates that it issues are valid. They are renewed
    /// well before.
    pub certificate_validity: Duration,
}

/// Who gives services their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddresses {
    /// This control plane, from a range.
    Allocate {
        /// The range, as in `10.96.0.0/16`.
        cidr: String,
    },
    /// The host cluster; the syncer writes them.
    FromHost,
}

/// Runs until `shutdown`, or until a part fails.
///
/// # Errors
/// If a part cannot start.
pub async fn run(options: ControlPlaneOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let options = &options;
    let listeners = bind(&options.listen).await?;
    let pki = PkiDir::open(&options.data_dir.join("pki"))?
        .with_leaf_validity(options.certificate_validity);
    let certificates = Arc::new(Certificates::issue(pki, options.clone())?);
    let pki = &certificates.pki;
    let clients = ClientAuthority::new(pki.ca.cert_pem())?;
    let alpn = &["h2", "http/1.1"];
    let tls = tls::server_config_for_any_client(&certificates.serving, &clients, alpn)?;
    let security = Security { tls, clients };
    let database = options.data_dir.join("state.db");
    let store = Arc::new(SqliteStore::open(&database, SqliteOptions::default())?);
    let kubelet_tls = tls::client_config_for(pki.ca.cert_pem(), &certificates.calling)?;
    let front_proxy = certificates.vouching.clone();
    let (server, builtin) = api::build(store, &pki.tokens, kubelet_tls, front_proxy, options)?;
    let authorities = api::Authorities {
        clients: pki.ca.cert_pem().to_owned(),
        front_proxy: pki.front_proxy_ca.cert_pem().to_owned(),
    };
    api::bootstrap(&server, &builtin, &authorities, options).await?;
    let custom = CustomKinds::new(server.clone(), builtin.callouts.clone());
    custom.load().await?;
    let aggregator = Aggregator::new(server.clone(), builtin.aggregation.clone());
    aggregator.load().await?;

    let stop_serving = CancellationToken::new();
    let mut serving = JoinSet::new();
    for listener in listeners {
        let (server, security, stop) = (server.clone(), security.clone(), stop_serving.clone());
        let limits = ListenerLimits::default();
        serving.spawn(listener::serve(listener, security, server, limits, stop));
    }
    let mut clients = JoinSet::new();
    let stop = shutdown.clone();
    clients.spawn(async move {
        builtin.run(stop).await;
        Ok(())
    });
    let (kept, stop) = (server.clone(), shutdown.clone());
    let settings = options.clone();
    clients.spawn(async move {
        api::keep_services(kept, authorities, settings, stop).await;
        Ok(())
    });
    let stop = shutdown.clone();
    clients.spawn(async move {
        custom.run(stop).await;
        Ok(())
    });
    let stop = shutdown.clone();
    clients.spawn(async move {
        aggregator.run(stop).await;
        Ok(())
    });
    spawn_clients(&mut clients, &server, pki, options, &shutdown)?;
    write_credentials(pki, options)?;
    let (renewed, stop) = (certificates.clone(), shutdown.clone());
    clients.spawn(async move {
        let validity = renewed.options.certificate_validity;
        renewal::periodically(validity, stop, || renewed.renew()).await;
        Ok(())
    });
    tracing::info!(listen = ?options.listen, "the control plane is serving");

    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(ended) = clients.join_next() => match ended {
            Ok(Ok(())) if shutdown.is_cancelled() => Ok(()),
            Ok(Ok(())) => Err(Error::Setting("a controller ended by itself".into())),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(Error::Setting(error.to_string())),
        },
    };
    // Clients first: they may still write while they stop.
    shutdown.cancel();
    while clients.join_next().await.is_some() {}
    server.shut_down();
    stop_serving.cancel();
    let drained = async { while serving.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    result
}

/// What the control plane shows of itself, renewed in place: connections that
/// are open stay, and later ones see what is new.
struct Certificates {
    pki: PkiDir,
    options: ControlPlaneOptions,
    /// To clients.
    serving: Identity,
    /// To nodes.
    calling: Identity,
    /// To servers that extend the API.
    vouching: Identity,
}

impl Certificates {
    fn issue(pki: PkiDir, options: ControlPlaneOptions) -> Result<Self, Error> {
        Ok(Self {
            serving: Identity::new(&issue_serving(&pki, &options)?)?,
            calling: Identity::new(&issue_calling(&pki)?)?,
            vouching: Identity::new(&pki.issue_front_proxy()?)?,
            pki,
            options,
        })
    }

    fn renew(&self) -> Result<(), Error> {
        let serving = issue_serving(&self.pki, &self.options)?;
        self.serving.replace(&serving)?;
        self.calling.replace(&issue_calling(&self.pki)?)?;
        self.vouching.replace(&self.pki.issue_front_proxy()?)?;
        write_credentials(&self.pki, &self.options)
    }
}

fn issue_serving(pki: &PkiDir, options: &ControlPlaneOptions) -> Result<KeyCert, Error> {
    pki.issue_server("kube-apiserver", &server_names(options))
}

fn issue_calling(pki: &PkiDir) -> Result<KeyCert, Error> {
    pki.issue_client("kube-apiserver-kubelet-client", &["system:masters"])
}

async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen {
                address: *address,
                source,
            })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// All names and addresses by which clients may know the API server.
fn server_names(options: &ControlPlaneOptions) -> Vec<String> {
    let domain = &options.cluster_domain;
    let mut names = vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        Ipv4Addr::LOCALHOST.to_string(),
        options.advertise.ip().to_string(),
    ];
    names.extend(
        options
            .listen
            .iter()
            .map(SocketAddr::ip)
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| ip.to_string()),
    );
    names.extend(api::first_service_ip(options).map(|ip| ip.to_string()));
    names.extend(options.sans.iter().filter(|san| !san.is_empty()).cloned());
    names.sort();
    names.dedup();
    names
}

fn spawn_clients(
    tasks: &mut JoinSet<Result<(), Error>>,
    server: &ApiServer,
    pki: &PkiDir,
    options: &ControlPlaneOptions,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let client = in_process(
        server,
        UserInfo::system_masters("system:kube-controller-manager"),
    );
    let controllers = coracle_controllers::Options {
        signing: Some(signing(pki, options)?),
        controllers: api::controllers(options),
        cluster_ca_pem: pki.ca.cert_pem().to_owned(),
        // Beside the controllers, so that both share their caches.
        scheduler: options.scheduler.then(SchedulerOptions::default),
        load_balancer_addresses: options.load_balancer_addresses,
        ..coracle_controllers::Options::default()
    };
    let stop = shutdown.clone();
    tasks.spawn(async move {
        coracle_controllers::run(client, controllers, stop)
            .await
            .map_err(|e| Error::Setting(e.to_string()))
    });
    if let Some(listen) = options.dns_listen {
        let client = in_process(server, UserInfo::system_masters("system:kube-dns"));
        let config = coracle_dns::DnsConfig {
            fallback: options.dns_fallback,
            ..coracle_dns::DnsConfig::new(listen, &options.cluster_domain)
        };
        let stop = shutdown.clone();
        tasks.spawn(async move {
            coracle_dns::run(client, config, stop)
                .await
                .map_err(|e| Error::Setting(e.to_string()))
        });
    }
    Ok(())
}

/// Which certificates are signed on request: those of clients, and on a cluster
/// with nodes of its own those that kubelets show. With a syncer there is one
/// kubelet, which gets its certificate from here without asking.
fn signing(pki: &PkiDir, options: &ControlPlaneOptions) -> Result<Signing, Error> {
    let authority = CertificateAuthority::from_pem(pki.ca.cert_pem(), pki.ca.key_pem())?;
    let mut signing = Signing::of_clients(Arc::new(RequestSigner { authority }));
    if options.credentials_dir.is_none() {
        signing.names.push(KUBELET_SERVING);
    }
    Ok(signing)
}

fn write_credentials(pki: &PkiDir, options: &ControlPlaneOptions) -> Result<(), Error> {
    let port = options.listen.first().map_or(0, SocketAddr::port);
    let local = format!("https://127.0.0.1:{port}");
    let masters = &["system:masters"];
    if let Some(file) = &options.write_kubeconfig {
        pki.write_kubeconfig(file, &options.context, &local, "kubernetes-admin", masters)?;
    }
    let Some(directory) = &options.credentials_dir else {
        return Ok(());
    };
    fs::create_dir_all(directory).map_err(Error::file(directory))?;
    let admin = directory.join("admin.kubeconfig");
    pki.write_kubeconfig(
        &admin,
        &options.context,
        &local,
        "kubernetes-admin",
        masters,
    )?;
    let sans = [
        options.advertise.ip().to_string(),
        Ipv4Addr::LOCALHOST.to_string(),
    ];
    let kubelet = pki.issue_server("coracle-virtual-kubelet", &sans)?;
    write_pair(directory, "kubelet", &kubelet)?;
    write_private(&directory.join("ca.crt"), pki.ca.cert_pem())?;
    // Last: the syncer starts, and starts again, when it sees this file.
    let syncer = directory.join("syncer.kubeconfig");
    pki.write_kubeconfig(&syncer, &options.context, &local, SYNCER, masters)
}
