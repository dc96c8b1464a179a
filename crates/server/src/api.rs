//! Puts the API server together: kinds, who may do what, admission, streams
//! and documents; and makes the objects that a fresh cluster has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::admission::{
    Ipv4Cidr, KubernetesService, ServiceAddressing, ensure_kubernetes_service,
};
use coracle_apiserver::builtin::{Builtin, BuiltinOptions, install};
use coracle_apiserver::connect::Reach;
use coracle_apiserver::documents::Documents;
use coracle_apiserver::objects::Objects;
use coracle_apiserver::{ApiServer, connect, kinds};
use coracle_controllers::Selection;
use coracle_machinery::{ApiError, GroupResource};
use coracle_pki::TokenSigner;
use coracle_pki::tls::Identity;
use coracle_store::Store;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::control_plane::{ControlPlaneOptions, SYNCER, ServiceAddresses};
use crate::pki_dir::FRONT_PROXY;

/// The issuer in service-account tokens, before the cluster's domain.
const ISSUER: &str = "https://kubernetes.default.svc";

/// The API server over a store, not yet bootstrapped.
///
/// # Errors
/// If a key cannot be used or the service range is none.
pub fn build(
    store: Arc<dyn Store>,
    tokens: &TokenSigner,
    kubelet_tls: Arc<rustls::ClientConfig>,
    front_proxy: Identity,
    options: &ControlPlaneOptions,
) -> Result<(ApiServer, Builtin), Error> {
    let builder = ApiServer::builder(store).kinds(kinds::builtin());
    let reach = Arc::new(reach(options));
    let identity = BuiltinOptions {
        signer: Arc::new(TokenSigner::from_pem(tokens.to_pem())?),
        issuer: format!("{ISSUER}.{}", options.cluster_domain),
        anonymous: true,
        addressing: addressing(options)?,
        callouts: None,
        front_proxy: Some(front_proxy),
        reach: reach.clone(),
    };
    let (mut builder, builtin) = install(builder, identity);
    let registry = builder.registry();
    let documents = Documents::new(registry, Arc::new(|_| None));
    let documents = documents.aggregating(builtin.aggregation.clone());
    builder = builder.route(Arc::new(documents));
    Ok((
        connect::register(builder, kubelet_tls, reach).build(),
        builtin,
    ))
}

/// Where this server goes for its users. That of a virtual cluster stands in
/// the network of the host, which is not its users' to look around in.
fn reach(options: &ControlPlaneOptions) -> Reach {
    let mut reach = Reach::default().without(options.unreachable.iter().copied());
    if options.service_addresses == ServiceAddresses::FromHost {
        reach = reach.standing_at(options.advertise.ip());
    }
    match options.kubelet {
        Some(kubelet) => reach.with_kubelet(kubelet),
        None => reach,
    }
}

fn addressing(options: &ControlPlaneOptions) -> Result<ServiceAddressing, Error> {
    Ok(match range(options)? {
        Some(cidr) => ServiceAddressing::allocate(cidr),
        None => ServiceAddressing::FromHost {
            syncer: SYNCER.to_owned(),
        },
    })
}

fn range(options: &ControlPlaneOptions) -> Result<Option<Ipv4Cidr>, Error> {
    let ServiceAddresses::Allocate { cidr } = &options.service_addresses else {
        return Ok(None);
    };
    cidr.parse()
        .map(Some)
        .map_err(|error| Error::Setting(format!("--service-cidr {cidr:?}: {error}")))
}

/// The address of the `kubernetes` service, if this control plane chooses it.
pub fn first_service_ip(options: &ControlPlaneOptions) -> Option<Ipv4Addr> {
    range(options).ok().flatten().map(|cidr| cidr.first())
}

/// The controllers of this control plane.
pub fn controllers(options: &ControlPlaneOptions) -> Selection {
    // Somebody else watches over the nodes: the syncer, or nobody.
    let nodes = !options.node_lifecycle;
    // Claims of a cluster with a syncer are bound on the host.
    let claims = options.credentials_dir.is_some();
    let names = coracle_controllers::names().filter(|name| match *name {
        "node-lifecycle" => !nodes,
        "persistentvolume-binder" => !claims,
        _ => true,
    });
    Selection::Only(names.map(str::to_owned).collect::<BTreeSet<_>>())
}

/// How often the control plane's own services are looked at, as upstream.
const SERVICES_PERIOD: Duration = Duration::from_secs(10);

/// The authorities that servers which extend this one have to know, as PEM.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Of clients.
    pub clients: String,
    /// Of the API server that names a client in headers.
    pub front_proxy: String,
}

/// Makes what every cluster has from the start.
///
/// # Errors
/// If the store fails.
pub async fn bootstrap(
    server: &ApiServer,
    builtin: &Builtin,
    authorities: &Authorities,
    options: &ControlPlaneOptions,
) -> Result<(), Error> {
    builtin.prepare(None).await?;
    let objects = server.objects();
    ensure_authentication_config(&*objects, authorities).await?;
    Ok(ensure_services(&*objects, options).await?)
}

/// Makes the control plane's own services again where somebody deleted them,
/// until cancelled.
pub async fn keep_services(
    server: ApiServer,
    authorities: Authorities,
    options: ControlPlaneOptions,
    cancel: CancellationToken,
) {
    let objects = server.objects();
    while cancel
        .run_until_cancelled(tokio::time::sleep(SERVICES_PERIOD))
        .await
        .is_some()
    {
        let made = async {
            ensure_authentication_config(&*objects, &authorities).await?;
            ensure_services(&*objects, &options).await
        };
        if let Err(error) = made.await {
            tracing::warn!(%error, "the control plane's own services are not up to date");
        }
    }
}

/// Tells servers that extend this one whom to believe.
async fn ensure_authentication_config(
    objects: &dyn Objects,
    authorities: &Authorities,
) -> Result<(), ApiError> {
    let (name, namespace) = ("extension-apiserver-authentication", "kube-system");
    let data = json!({
        "client-ca-file": authorities.clients,
        "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
        "requestheader-client-ca-file": authorities.front_proxy,
        "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
        "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
        "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
    });
    let maps = GroupResource::new("", "configmaps");
    match objects.get(&maps, namespace, name).await? {
        Some(present) if present["data"] == data => Ok(()),
        Some(present) => {
            let mut updated = (*present).clone();
            updated["data"] = data;
            objects.update(&maps, updated).await.map(drop)
        }
        None => {
            let map = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace},
                "data": data,
            });
            objects.create(&maps, map).await.map(drop)
        }
    }
}

async fn ensure_services(
    objects: &dyn Objects,
    options: &ControlPlaneOptions,
) -> Result<(), ApiError> {
    let kubernetes = match options.advertise.ip() {
        IpAddr::V4(endpoint_ip) => Some(KubernetesService {
            cluster_ip: first_service_ip(options),
            endpoint_ip,
            endpoint_port: options.advertise.port(),
        }),
        IpAddr::V6(_) => None,
    };
    if let Some(kubernetes) = &kubernetes {
        ensure_kubernetes_service(objects, kubernetes).await?;
    }
    if let Some(dns) = options.dns_listen {
        ensure_dns_service(objects, options, dns.port()).await?;
    }
    Ok(())
}

/// The service by which pods find DNS, without a selector: the control plane
/// itself is its endpoint.
async fn ensure_dns_service(
    objects: &dyn Objects,
    options: &ControlPlaneOptions,
    port: u16,
) -> Result<(), ApiError> {
    let (name, namespace) = ("kube-dns", "kube-system");
    let ports = |number: u16| {
        json!([
            {"name": "dns", "port": number, "protocol": "UDP"},
            {"name": "dns-tcp", "port": number, "protocol": "TCP"},
        ])
    };
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {"type": "ClusterIP", "ports": ports(53)},
    });
    if let Some(address) = options.dns_service_ip {
        service["spec"]["clusterIP"] = json!(address);
        service["spec"]["clusterIPs"] = json!([address]);
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace, "labels": {
            "kubernetes.io/service-name": name,
            "endpointslice.kubernetes.io/managed-by": "coracle",
        }},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [options.advertise.ip()], "conditions": {"ready": true}}],
        "ports": ports(port),
    });
    let services = GroupResource::new("", "services");
    if objects.get(&services, namespace, name).await?.is_none() {
        objects.create(&services, service).await?;
    }
    if options.advertise.ip().is_loopback() {
        // A server for this machine alone: no pod would find it there.
        return Ok(());
    }
    let slices = GroupResource::new("discovery.k8s.io", "endpointslices");
    match objects.get(&slices, namespace, name).await? {
        None => objects.create(&slices, slice).await.map(drop),
        Some(present) if differs(&present, &slice) => {
            objects.update(&slices, slice).await.map(drop)
        }
        Some(_) => Ok(()),
    }
}

fn differs(present: &Value, wanted: &Value) -> bool {
    present["endpoints"][0]["addresses"] != wanted["endpoints"][0]["addresses"]
        || present["ports"] != wanted["ports"]
}
