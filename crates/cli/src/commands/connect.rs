//! `coracle connect`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use coracle_config::names;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Environment, pause};
use crate::error::{CliError, Result};
use crate::expiry;
use crate::host::{Host, virtual_context};
use crate::kubeconfig::Entry;
use crate::output::data;
use crate::tenants;

/// How long a paused virtual cluster may take until it is ready: it starts on a
/// node that may have to fetch its image first.
const RESUME_TIMEOUT: Duration = Duration::from_secs(120);
/// How long to wait for the credentials of a virtual cluster that is starting.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection to the Service's address may take: where there is no
/// route, nothing answers, and a forwarded port is used in its place.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const DIRECT_INTERVAL: Duration = Duration::from_millis(20);
/// How long the API may take to answer on a connection that was accepted.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a forwarded port may take until the API answers through it.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const FORWARD_INTERVAL: Duration = Duration::from_millis(50);
/// The port of the virtual API server in its pod.
const API_PORT: u16 = 8443;
/// The port of the Service in front of it.
const HTTPS: u16 = 443;
/// The key of the published kubeconfig in its Secret.
const KUBECONFIG_KEY: &str = "config";
/// The extension of a cluster entry that remembers its forwarding process.
const FORWARD_EXTENSION: &str = "coracle.dev/port-forward";

/// Switch to a virtual cluster, or run a command against it
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle connect team-a
  coracle connect team-a -- kubectl get pods -A
  coracle connect team-a --print > team-a.kubeconfig

The credentials end a year after the virtual cluster made them. Connecting again
renews those in the kubeconfig; `coracle list` tells when it is time.")]
pub struct Connect {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Print a kubeconfig and change nothing
    #[arg(long, conflicts_with = "command")]
    print: bool,
    /// The server's URL to write, in place of one that is found to work
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Forward this local port to the virtual cluster until stopped
    #[arg(long, hide = true, value_name = "PORT")]
    forward_on: Option<u16>,
    /// A command to run with a temporary kubeconfig; its exit code is returned
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Connect {
    /// Runs the command; with `-- COMMAND`, the exit status is the command's.
    ///
    /// # Errors
    /// If the virtual cluster is not there or does not answer.
    pub async fn run(self, environment: &Environment) -> Result<Option<ExitStatus>> {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        if found.status() == "Paused" {
            pause::resume(environment, &host, &found, RESUME_TIMEOUT).await?;
        }
        if let Some(port) = self.forward_on {
            return forward_until_gone(&host, &self.name, &found.namespace, port)
                .await
                .map(|()| None);
        }
        if self.print || !self.command.is_empty() {
            let mut entry = credentials(&host, &self.name, &found.namespace).await?;
            let forward = self
                .route(&host, &found.namespace, &mut entry, !self.print)
                .await?;
            if self.print {
                data(&entry.to_yaml());
                return Ok(None);
            }
            let status = run_with(&entry, &self.command).await;
            drop(forward);
            return status.map(Some);
        }
        match &self.server {
            None => switch(environment, &host, &self.name, &found.namespace).await?,
            Some(url) => {
                let mut entry = credentials(&host, &self.name, &found.namespace).await?;
                entry.cluster["server"] = json!(url);
                finish(environment, &entry)?;
            }
        }
        Ok(None)
    }

    /// Sets the server of an entry that is not kept: the URL given, the direct
    /// one, or (with `forward`) a port forwarded by this very process.
    async fn route(
        &self,
        host: &Host,
        namespace: &str,
        entry: &mut Entry,
        forward: bool,
    ) -> Result<Option<tokio::task::JoinHandle<()>>> {
        if let Some(url) = &self.server {
            entry.cluster["server"] = json!(url);
            return Ok(None);
        }
        if let Some(reached) = reach(host, &self.name, namespace, entry).await {
            reached.write(entry);
            return Ok(None);
        }
        if !forward {
            return Ok(None);
        }
        let listener = listen(0).await?;
        let port = listener.local_addr().map_or(0, |address| address.port());
        let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
        let task = tokio::spawn(forward_connections(listener, pods, names::pod(&self.name)));
        entry.cluster["server"] = json!(format!("https://127.0.0.1:{port}"));
        Ok(Some(task))
    }
}

/// Writes the context of a virtual cluster and makes it current.
///
/// # Errors
/// If its credentials do not appear or its API does not answer.
pub async fn switch(environment: &Environment, host: &Host, name: &str, namespace: &str) -> Result {
    let progress = environment
        .output
        .progress(&format!("Connecting to virtual cluster {name}"));
    let mut entry = credentials(host, name, namespace).await?;
    match reach(host, name, namespace, &entry).await {
        Some(reached) => reached.write(&mut entry),
        None => start_forward(environment, host, name, namespace, &mut entry).await?,
    }
    drop(progress);
    finish(environment, &entry)
}

fn finish(environment: &Environment, entry: &Entry) -> Result {
    let files = environment.files()?;
    if let Some(old) = forward_pid(&files.read()?, &entry.name)
        && forward_pid_of(&entry.cluster) != Some(old)
    {
        stop_forward(old);
    }
    files.put(entry, true)?;
    let output = &environment.output;
    // Those that are there are as new as the virtual cluster has them.
    let end = expiry::of_user(&entry.user);
    let warning = end.and_then(|end| expiry::warning(&entry.name, end, Timestamp::now()));
    if let Some(warning) = warning {
        output.hint(&format!("{warning}: `coracle connect` again renews them"));
    }
    output.done(&format!("Switched active kube context to {}", entry.name));
    output.hint("`coracle disconnect` returns to the previous kube context");
    output.hint("`kubectl get namespaces` accesses the virtual cluster");
    Ok(())
}

/// The published credentials, as the entry that `connect` writes.
async fn credentials(host: &Host, name: &str, namespace: &str) -> Result<Entry> {
    let secrets: Api<Secret> = Api::namespaced(host.client.clone(), namespace);
    let secret_name = names::kubeconfig_secret(name);
    let missing = || {
        CliError::failure(format!(
            "the virtual cluster {name} has published no credentials"
        ))
        .because(format!(
            "the secret {secret_name} in namespace {namespace} is not there"
        ))
        .hint(format!(
            "`kubectl logs {} -c syncer -n {namespace}` may tell why",
            names::pod(name)
        ))
    };
    let waiting = async {
        let mut seen = std::pin::pin!(watcher::watch_object(secrets.clone(), &secret_name));
        while let Some(secret) = seen.try_next().await? {
            let text = secret.and_then(|s| s.data?.remove(KUBECONFIG_KEY));
            if let Some(text) = text {
                return Ok(Some(text.0));
            }
        }
        Ok::<_, watcher::Error>(None)
    };
    let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, waiting)
        .await
        .map_err(|_| missing())?;
    let bytes = found
        .map_err(|error| {
            CliError::failure(format!("cannot read the secret {secret_name}")).because(error)
        })?
        .ok_or_else(missing)?;
    let context = virtual_context(name, namespace, &host.context);
    Entry::from_kubeconfig(&String::from_utf8_lossy(&bytes), &context)
}

/// Where the API answers, and under which name its certificate is checked.
struct Reached {
    url: String,
    server_name: Option<String>,
}

impl Reached {
    fn write(&self, entry: &mut Entry) {
        entry.cluster["server"] = json!(self.url);
        if let Some(name) = &self.server_name {
            entry.cluster["tls-server-name"] = json!(name);
        }
    }
}

/// The first address of the Service at which the API answers from this machine.
async fn reach(host: &Host, name: &str, namespace: &str, entry: &Entry) -> Option<Reached> {
    let services: Api<Service> = Api::namespaced(host.client.clone(), namespace);
    let service = services.get(&names::service(name)).await.ok()?;
    let mut places = addresses(&service);
    if let Some(port) = node_port(&service) {
        let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
        let pod = pods.get(&names::pod(name)).await.ok();
        let node = pod.and_then(|pod| pod.status?.host_ip);
        places.extend(node.map(|node| (at(&node, port), true)));
    }
    // Checked under a name that its certificate has: addresses that the host
    // gave it later are not in there.
    let own_name = format!("{}.{namespace}.svc", names::service(name));
    let tried = places.into_iter().map(|(address, foreign)| {
        let reached = Reached {
            url: format!("https://{address}"),
            server_name: foreign.then(|| own_name.clone()),
        };
        let mut entry = entry.clone();
        reached.write(&mut entry);
        async move {
            tokio::time::timeout(DIRECT_TIMEOUT, accepted(&address))
                .await
                .ok()?
                .ok()?;
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, answers(&entry)).await;
            answered.ok()?.then_some(reached)
        }
    });
    let tried: Vec<_> = tried.collect();
    let at_once = tried.len().max(1);
    let mut tried = futures::stream::iter(tried).buffered(at_once);
    while let Some(one) = tried.next().await {
        if one.is_some() {
            return one;
        }
    }
    None
}

/// Addresses of a Service, those for the outside first, and whether the host
/// gave them only after the certificate was made.
fn addresses(service: &Service) -> Vec<(String, bool)> {
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let outside = balancer
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone()));
    let own = service.spec.as_ref().and_then(|s| s.cluster_ip.clone());
    let own = own.filter(|ip| !ip.is_empty() && ip != "None");
    outside
        .map(|address| (at(&address, HTTPS), true))
        .chain(own.map(|address| (at(&address, HTTPS), false)))
        .collect()
}

fn node_port(service: &Service) -> Option<u16> {
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.node_port?;
    u16::try_from(port).ok()
}

/// `address:port`, with brackets where the address has colons.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Waits until an address of a Service accepts a connection. It refuses until the
/// host's service proxy has heard of the pod behind it, which has only just
/// become ready.
async fn accepted(address: &str) -> std::io::Result<()> {
    loop {
        match tokio::net::TcpStream::connect(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                tokio::time::sleep(DIRECT_INTERVAL).await;
            }
            result => return result.map(drop),
        }
    }
}

/// A client of a virtual cluster, with its admin's credentials.
///
/// # Errors
/// If it has published no credentials or does not answer.
pub async fn inside(host: &Host, name: &str, namespace: &str) -> Result<Client> {
    let mut entry = credentials(host, name, namespace).await?;
    // A connection through the host ends with the last copy of the client.
    if let Some(reached) = reach(host, name, namespace, &entry).await {
        reached.write(&mut entry);
        if let Some(client) = client(&entry).await {
            return Ok(client);
        }
    }
    let listener = listen(0).await?;
    let port = listener.local_addr().map_or(0, |address| address.port());
    let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    tokio::spawn(forward_connections(listener, pods, names::pod(name)));
    entry.cluster["server"] = json!(format!("https://127.0.0.1:{port}"));
    client(&entry).await.ok_or_else(|| {
        CliError::failure(format!(
            "the credentials of virtual cluster {name} cannot be used"
        ))
    })
}

async fn client(entry: &Entry) -> Option<Client> {
    let kubeconfig = Kubeconfig::from_yaml(&entry.to_yaml()).ok()?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .ok()?;
    Client::try_from(config).ok()
}

/// True if the virtual API server, and none other, answers at a URL.
async fn answers(entry: &Entry) -> bool {
    let Some(client) = client(entry).await else {
        return false;
    };
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .expect("a constant request");
    client.request_text(request).await.is_ok()
}

/// Starts a process of its own that forwards a port, and remembers it.
async fn start_forward(
    environment: &Environment,
    host: &Host,
    name: &str,
    namespace: &str,
    entry: &mut Entry,
) -> Result {
    let failed =
        |error: std::io::Error| CliError::failure("cannot start forwarding a port").because(error);
    let port = listen(0).await?.local_addr().map_err(failed)?.port();
    let mut command = std::process::Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["connect", name, "-n", namespace, "--context", &host.context]);
    command.arg(format!("--forward-on={port}"));
    if let Some(file) = &environment.global.kubeconfig {
        command.arg("--kubeconfig").arg(file);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let child = command.spawn().map_err(failed)?;
    let url = format!("https://127.0.0.1:{port}");
    entry.cluster["server"] = json!(url);
    let ready = async {
        while !answers(entry).await {
            tokio::time::sleep(FORWARD_INTERVAL).await;
        }
    };
    if tokio::time::timeout(FORWARD_TIMEOUT, ready).await.is_err() {
        stop_forward(child.id());
        return Err(CliError::failure(format!(
            "the virtual cluster {name} does not answer through a forwarded port"
        ))
        .hint(format!(
            "`kubectl get pod {} -n {namespace}` shows its state",
            names::pod(name)
        )));
    }
    entry.cluster["extensions"] =
        json!([{"name": FORWARD_EXTENSION, "extension": {"pid": child.id()}}]);
    Ok(())
}

/// The forwarding process of a context, if it has one.
pub fn forward_pid(kubeconfig: &serde_json::Value, context: &str) -> Option<u32> {
    let clusters = kubeconfig.get("clusters")?.as_array()?;
    let entry = clusters
        .iter()
        .find(|c| c.get("name").is_some_and(|n| n == context))?;
    forward_pid_of(entry.get("cluster")?)
}

fn forward_pid_of(cluster: &serde_json::Value) -> Option<u32> {
    let extensions = cluster.get("extensions")?.as_array()?;
    let ours = extensions
        .iter()
        .find(|e| e.get("name").is_some_and(|n| n == FORWARD_EXTENSION))?;
    u32::try_from(ours.pointer("/extension/pid")?.as_u64()?).ok()
}

/// Stops a forwarding process, if that number still is one.
pub fn stop_forward(pid: u32) {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ours = command
        .split(|b| *b == 0)
        .any(|a| a.starts_with(b"--forward-on="));
    if let (true, Ok(pid)) = (ours, i32::try_from(pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address)
        .await
        .map_err(|error| CliError::failure(format!("cannot listen on {address}")).because(error))
}

/// Forwards until the virtual cluster is deleted.
async fn forward_until_gone(host: &Host, name: &str, namespace: &str, port: u16) -> Result {
    let listener = listen(port).await?;
    let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(host.client.clone(), namespace);
    let lost = |error: String| CliError::failure("lost the host cluster").because(error);
    let service = names::service(name);
    let object = services
        .get(&service)
        .await
        .map_err(|e| lost(e.to_string()))?;
    let uid = object.metadata.uid.unwrap_or_default();
    let deleted = kube::runtime::wait::conditions::is_deleted(&uid);
    let gone = kube::runtime::wait::await_condition(services, &service, deleted);
    tokio::select! {
        () = forward_connections(listener, pods, names::pod(name)) => Ok(()),
        result = gone => result.map(drop).map_err(|e| lost(e.to_string())),
    }
}

async fn forward_connections(listener: TcpListener, pods: Api<Pod>, pod: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (pods, pod) = (pods.clone(), pod.clone());
        tokio::spawn(async move {
            let mut forwarder = match pods.portforward(&pod, &[API_PORT]).await {
                Ok(forwarder) => forwarder,
                Err(error) => {
                    tracing::debug!(%error, "cannot forward");
                    return;
                }
            };
            if let Some(mut remote) = forwarder.take_stream(API_PORT) {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut remote).await;
            }
        });
    }
}

/// Runs a command with a kubeconfig of this entry alone.
async fn run_with(entry: &Entry, command: &[String]) -> Result<ExitStatus> {
    let failed = |error: std::io::Error| {
        CliError::failure("cannot write a temporary kubeconfig").because(error)
    };
    // Readable by its owner only, and gone with the value.
    let directory = tempfile::Builder::new()
        .prefix("coracle-")
        .tempdir()
        .map_err(failed)?;
    let file = directory.path().join("kubeconfig");
    std::fs::write(&file, entry.to_yaml()).map_err(failed)?;
    let (program, arguments) = command.split_first().expect("clap gives at least one word");
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", &file)
        .spawn()
        .map_err(|error| {
            CliError::usage(format!("cannot run {program:?}"))
                .because(error)
                .hint("after `--` stands a program on your PATH, or its file, and its arguments")
        })?;
    // The child decides what a signal means, and its end is ours.
    let caught = |error: std::io::Error| CliError::failure("cannot catch signals").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(caught)?;
    // A terminal sends it to the child as well.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(caught)?;
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| {
                    CliError::failure(format!("cannot wait for {program:?}")).because(error)
                });
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(&child, Signal::SIGTERM),
        }
    }
}

fn pass_on(child: &tokio::process::Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_for_the_outside_come_first() {
        let service = json!({
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 443, "nodePort": 30443}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "fd00::1"}, {"hostname": "lb.example"}]}},
        });
        let service: Service = serde_json::from_value(service).unwrap();
        assert_eq!(
            addresses(&service),
            [
                ("[fd00::1]:443".to_owned(), true),
                ("lb.example:443".to_owned(), true),
                ("10.0.0.1:443".to_owned(), false),
            ]
        );
        assert_eq!(node_port(&service), Some(30443));
        let headless: Service =
            serde_json::from_value(json!({"spec": {"clusterIP": "None"}})).unwrap();
        assert!(addresses(&headless).is_empty() && node_port(&headless).is_none());
    }

    #[tokio::test]
    async fn an_address_that_refuses_at_first_is_tried_again() {
        let free = listen(0).await.unwrap().local_addr().unwrap();
        let address = free.to_string();
        let mut waiting = std::pin::pin!(accepted(&address));
        let early = tokio::time::timeout(DIRECT_INTERVAL * 2, &mut waiting).await;
        assert!(early.is_err(), "{early:?}");
        let _listener = listen(free.port()).await.unwrap();
        waiting.await.unwrap();
    }
}
