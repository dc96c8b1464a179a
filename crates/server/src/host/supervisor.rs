//! The supervisor of the embedded host: one process that starts everything in
//! order, keeps it running, and stops it in the reverse order.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use coracle_image::{Image, ImageSpec, ImageStore, Layer, Reference};
use coracle_node::cri::Cri;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::containerd::{self, PAUSE_IMAGE};
use super::nodes::NodeLayout;
use super::process::{Program, keep};
use super::{
    CLUSTER_CIDR, CLUSTER_DOMAIN, CONTEXT, CORACLE_IMAGE, DNS_PORT, DNS_SERVICE_IP, HostOptions,
    KUBELET_PORT, Layout, NODE_IP, SERVICE_CIDR, ingress, leftovers, mirror, network, orphans,
    policies, requirements, storage,
};
use crate::pki_dir::{LEAF_VALIDITY, PkiDir, write_pair};
use crate::{Error, clients, pki_dir, renewal};

/// How long each part may take to become ready. A healthy one takes under a
/// second; a loaded machine may need many.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How often an unready part is asked again, at start only.
const READY_INTERVAL: Duration = Duration::from_millis(25);

/// What the supervisor tells while it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step has begun.
    Step(&'static str),
    /// Everything is ready.
    Ready,
}

/// Runs the host until `shutdown`, then stops everything it started.
///
/// # Errors
/// If a part cannot be started; what had been started is stopped first.
pub async fn run(
    options: HostOptions,
    progress: impl Fn(Progress),
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let layout = Layout::new(&options.data_dir);
    requirements::check(&layout, options.port)?;
    options.extras.check()?;
    let nodes = layout.nodes(options.nodes);
    prepare_directories(&layout, &nodes)?;
    let _claim = Claim::take(&layout)?;
    layout.remember_node_count(options.nodes)?;
    layout.remember_extras(&options.extras)?;

    let mut host = Running {
        layout: layout.clone(),
        nodes,
        parts: Vec::new(),
    };
    let result = tokio::select! {
        result = host.start(&options, &progress) => result,
        () = shutdown.cancelled() => Ok(()),
    };
    if result.is_ok() && !shutdown.is_cancelled() {
        progress(Progress::Ready);
        shutdown.cancelled().await;
    }
    result.and(host.stop().await)
}

/// Removes what a supervisor that was killed left on the machine: pods, their
/// mounts, service rules and the bridge. Does nothing where nothing is left.
///
/// # Errors
/// If another supervisor runs, or what is left cannot be removed.
pub async fn clean_up(layout: &Layout) -> Result<(), Error> {
    let nodes = layout.known_nodes();
    if !nodes.iter().any(network::exists) || !layout.control_plane().exists() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let _claim = Claim::take(layout)?;
    orphans::end(layout);
    let mut host = Running {
        layout: layout.clone(),
        nodes,
        parts: Vec::new(),
    };
    // Pods are containerd's, so it has to run for a moment. Nothing is pulled.
    let started = host.start_runtimes(0).await;
    started.and(host.stop().await)
}

/// Removes the data directory of a host that does not run. What is mounted
/// below it is unmounted first, and never followed.
///
/// # Errors
/// If it is no data directory, or a file cannot be removed.
pub fn remove_data(layout: &Layout) -> Result<(), Error> {
    let root = layout.root();
    if !layout.control_plane().exists() && !layout.images().exists() {
        return Err(Error::NoData(root.to_owned()));
    }
    // One by one: the directory itself may be a mount of the user's.
    for entry in fs::read_dir(root).map_err(Error::file(root))? {
        let path = entry.map_err(Error::file(root))?.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            coracle_node::remove_tree(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(Error::file(&path))?;
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() != std::io::ErrorKind::ResourceBusy => {
            Err(Error::file(root)(error))
        }
        _ => Ok(()),
    }
}

fn prepare_directories(layout: &Layout, nodes: &[NodeLayout]) -> Result<(), Error> {
    let mut directories = vec![
        layout.root().to_owned(),
        layout.logs(),
        layout.control_plane(),
    ];
    for node in nodes {
        let paths = node.containerd();
        directories.extend([
            node.data(),
            paths.certs_dir.join("_default"),
            paths.root,
            paths.state,
            paths.cni_conf_dir,
        ]);
    }
    for directory in directories {
        fs::create_dir_all(&directory).map_err(Error::file(&directory))?;
    }
    Ok(())
}

/// A part that runs, with the switch that stops it.
struct Part {
    name: &'static str,
    /// The node whose pods end before it does: it is their runtime.
    runtime_of: Option<NodeLayout>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Running {
    layout: Layout,
    nodes: Vec<NodeLayout>,
    /// In the order of their start.
    parts: Vec<Part>,
}

impl Running {
    async fn start(
        &mut self,
        options: &HostOptions,
        progress: &impl Fn(Progress),
    ) -> Result<(), Error> {
        progress(Progress::Step("Storing coracle's own images"));
        store_own_images(&self.layout, &options.program)?;
        let mirror_port = self.start_mirror().await?;

        progress(Progress::Step("Starting containerd"));
        self.start_runtimes(mirror_port).await?;
        self.pull_own_images();
        for node in self.nodes.clone() {
            network::create(&node).await?;
            self.spawn("leftovers", |stop| leftovers::remove(node, stop));
        }
        network::create_pool(options.extras.load_balancer_addresses).await?;

        progress(Progress::Step("Starting the control plane"));
        self.spawn_program(control_plane(options, &self.layout));
        let client = wait_for_control_plane(&self.layout).await?;
        storage::install(&client).await?;
        policies::install(&client).await?;

        progress(Progress::Step("Starting the node agents"));
        let nodes = self.nodes.clone();
        if let Some(first) = nodes.first() {
            policies::close(&client, first).await?;
        }
        for node in &nodes {
            issue_node_credentials(options, &self.layout, node)?;
            self.spawn_program(agent(options, node));
        }
        let (renewed, layout, all) = (options.clone(), self.layout.clone(), nodes.clone());
        self.spawn("node credentials", |stop| {
            let renew = move || {
                let mut nodes = all.iter();
                nodes.try_for_each(|node| issue_node_credentials(&renewed, &layout, node))
            };
            renewal::periodically(LEAF_VALIDITY, stop, renew)
        });
        for node in &nodes {
            wait_for_node(&client, &node.name(&options.node_name)).await?;
        }
        if !options.extras.ingress {
            return ingress::remove(&client).await;
        }
        progress(Progress::Step("Starting the ingress controller"));
        ingress::install(&client, &options.node_name).await?;
        wait("the ingress controller", async || {
            ingress::check(&client).await
        })
        .await
    }

    async fn start_mirror(&mut self) -> Result<u16, Error> {
        let images = ImageStore::open(self.layout.images())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let port = listener.local_addr().map_err(listen)?.port();
        self.spawn("registry mirror", |stop| {
            mirror::serve(listener, images, stop)
        });
        Ok(port)
    }

    /// Starts the container runtimes of all nodes.
    async fn start_runtimes(&mut self, mirror_port: u16) -> Result<(), Error> {
        let nodes = self.nodes.clone();
        for node in &nodes {
            self.start_containerd(node, mirror_port)?;
        }
        for node in &nodes {
            let socket = node.cri_socket();
            wait("containerd", async || {
                UnixStream::connect(&socket).await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    fn start_containerd(&mut self, node: &NodeLayout, mirror_port: u16) -> Result<(), Error> {
        let paths = node.containerd();
        let config = node.containerd_config();
        let hosts = paths.certs_dir.join("_default/hosts.toml");
        fs::write(&hosts, containerd::mirror_hosts(mirror_port)).map_err(Error::file(&hosts))?;
        fs::write(&config, containerd::config(&paths)).map_err(Error::file(&config))?;
        let file = requirements::find("containerd")
            .ok_or_else(|| Error::Missing(vec!["containerd".into()]))?;
        self.spawn_program(Program {
            name: "containerd",
            file,
            arguments: vec!["--config".into(), config.display().to_string()],
            log: node.log("containerd"),
        });
        if let Some(part) = self.parts.last_mut() {
            part.runtime_of = Some(node.clone());
        }
        Ok(())
    }

    /// Has containerd unpack our own images while the rest starts, so that the
    /// first pod does not wait for it, and so that those of an older program
    /// are replaced. One node after the other: it takes a processor.
    fn pull_own_images(&mut self) {
        let sockets: Vec<_> = self.nodes.iter().map(NodeLayout::cri_socket).collect();
        self.spawn("own images", |stop| async move {
            for socket in sockets {
                let cri = Cri::new(&socket);
                for image in [PAUSE_IMAGE, CORACLE_IMAGE] {
                    let pulled = tokio::select! {
                        pulled = cri.pull_image(image, None) => pulled,
                        () = stop.cancelled() => return,
                    };
                    if let Err(error) = pulled {
                        tracing::warn!(image, %error, "not pulled; the first pod will try again");
                    }
                }
            }
        });
    }

    fn spawn_program(&mut self, program: Program) {
        self.spawn(program.name, |stop| keep(program, stop));
    }

    fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(part(stop.clone()));
        self.parts.push(Part {
            name,
            runtime_of: None,
            stop,
            task,
        });
    }

    /// Stops the node agents, then the pods, then everything else.
    ///
    /// # Errors
    /// If something of the pods is left; everything is stopped nonetheless.
    async fn stop(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(part) = self.parts.pop() {
            if let Some(node) = &part.runtime_of
                && let Err(error) =
                    coracle_node::teardown(&node.cri_socket(), &node.data(), &node.rules_table())
                        .await
            {
                tracing::warn!(%error, "cannot stop all pods");
                result = Err(Error::Program {
                    program: "containerd".into(),
                    why: format!("cannot stop all pods: {error}"),
                });
            }
            part.stop.cancel();
            if let Err(error) = part.task.await {
                tracing::warn!(part = part.name, %error, "ended badly");
            }
            if let Some(node) = part.runtime_of {
                let ended = tokio::task::spawn_blocking(move || leftovers::end(&node)).await;
                if let Err(error) = ended {
                    tracing::warn!(%error, "what the runtime left was not removed");
                }
            }
        }
        for node in &self.nodes {
            if let Err(error) = network::remove(node).await {
                tracing::warn!(%error, "cannot remove a bridge");
            }
        }
        if let Err(error) = network::remove_pool().await {
            tracing::warn!(%error, "cannot remove the load balancers' addresses");
        }
        result
    }
}

fn control_plane(options: &HostOptions, layout: &Layout) -> Program {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let mut arguments = vec![
        "control-plane".to_owned(),
        format!("--data-dir={}", layout.control_plane().display()),
        format!("--listen={local}"),
        format!("--listen={NODE_IP}:{}", options.port),
        format!("--advertise={NODE_IP}:{}", options.port),
        format!("--service-cidr={SERVICE_CIDR}"),
        format!("--dns-service-ip={DNS_SERVICE_IP}"),
        format!("--dns-listen={NODE_IP}:{DNS_PORT}"),
        format!("--cluster-domain={CLUSTER_DOMAIN}"),
        "--scheduler".to_owned(),
        "--node-lifecycle".to_owned(),
        format!("--context={CONTEXT}"),
        format!("--write-kubeconfig={}", layout.admin_kubeconfig().display()),
    ];
    arguments.extend(pool_argument(options));
    Program {
        name: "control-plane",
        file: options.program.clone(),
        arguments,
        log: layout.logs().join("control-plane.log"),
    }
}

fn agent(options: &HostOptions, node: &NodeLayout) -> Program {
    let mut arguments = vec![
        "node".to_owned(),
        format!("--kubeconfig={}", node.kubeconfig().display()),
        format!("--name={}", node.name(&options.node_name)),
        format!("--node-ip={}", node.ip()),
        format!("--pod-cidr={}", node.pod_cidr()),
        format!("--cluster-cidr={CLUSTER_CIDR}"),
        format!("--service-cidr={SERVICE_CIDR}"),
        format!("--cluster-dns={DNS_SERVICE_IP}"),
        format!("--cluster-domain={CLUSTER_DOMAIN}"),
        format!("--cri-socket={}", node.cri_socket().display()),
        format!(
            "--cni-conf-dir={}",
            node.containerd().cni_conf_dir.display()
        ),
        format!("--bridge={}", node.bridge()),
        format!("--rules-table={}", node.rules_table()),
        format!("--data-dir={}", node.data().display()),
        format!("--log-dir={}", node.pod_logs().display()),
        format!("--local-volumes={}", node.volumes().display()),
        format!("--listen={}:{KUBELET_PORT}", node.ip()),
    ];
    if node.is_first() {
        arguments.extend(pool_argument(options));
        let policies = policies::kubeconfig(node);
        arguments.push(format!("--policy-kubeconfig={}", policies.display()));
        arguments.push(format!("--dns-endpoint={NODE_IP}:{DNS_PORT}"));
    } else {
        // They share the machine's network, and with it one set of rules for
        // services and policies.
        arguments.push("--host-ports-only".to_owned());
    }
    Program {
        name: "node",
        file: options.program.clone(),
        arguments,
        log: node.log("node"),
    }
}

fn pool_argument(options: &HostOptions) -> Option<String> {
    let pool = options.extras.load_balancer_addresses?;
    Some(format!("--load-balancer-addresses={pool}"))
}

fn store_own_images(layout: &Layout, program: &Path) -> Result<(), Error> {
    let images = ImageStore::open(layout.images())?;
    let layer = Layer::Executable {
        source: program.to_owned(),
        target: "coracle",
    };
    for (name, arguments) in [
        (CORACLE_IMAGE, &["/coracle"][..]),
        (PAUSE_IMAGE, &["/coracle", "sandbox"]),
    ] {
        let spec = ImageSpec {
            entrypoint: arguments.iter().map(|a| (*a).to_owned()).collect(),
            user: "65532:65532".into(),
            ..ImageSpec::default()
        };
        images.put(&Reference::parse(name)?, &Image::build(&spec, &layer)?)?;
    }
    Ok(())
}

/// The node's credentials come from the keys of the control plane, which lie
/// on the same machine and belong to the same root.
fn issue_node_credentials(
    options: &HostOptions,
    layout: &Layout,
    node: &NodeLayout,
) -> Result<(), Error> {
    let pki = PkiDir::open(&layout.control_plane().join("pki"))?;
    let server = format!("https://{NODE_IP}:{}", options.port);
    let name = node.name(&options.node_name);
    let user = format!("system:node:{name}");
    let sans = [node.ip().to_string(), "127.0.0.1".to_owned(), name];
    let serving = pki.issue_server(&user, &sans)?;
    write_pair(&node.data(), "kubelet", &serving)?;
    pki_dir::write_private(&node.data().join("ca.crt"), pki.ca.cert_pem())?;
    if node.is_first() {
        let file = policies::kubeconfig(node);
        pki.write_kubeconfig(&file, "policies", &server, policies::USER, &[])?;
    }
    // Last: the node agent takes all of them when it sees this file change.
    pki.write_kubeconfig(
        &node.kubeconfig(),
        "node",
        &server,
        &user,
        &["system:nodes"],
    )
}

async fn wait_for_control_plane(layout: &Layout) -> Result<kube::Client, Error> {
    let path = layout.admin_kubeconfig();
    wait("the control plane", async || {
        let client = clients::from_file(&path, "coracle-host")
            .await
            .map_err(|e| e.to_string())?;
        let request = http::Request::get("/readyz")
            .body(Vec::new())
            .map_err(|e| e.to_string())?;
        client
            .request_text(request)
            .await
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(client)
    })
    .await
}

async fn wait_for_node(client: &kube::Client, name: &str) -> Result<(), Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    wait("the node", async || {
        let node = match nodes.get_opt(name).await {
            Ok(Some(node)) => node,
            Ok(None) => return Err("its agent has not registered it".to_owned()),
            Err(kube::Error::Api(status)) => return Err(status.message),
            Err(error) => return Err(error.to_string()),
        };
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        match conditions.iter().find(|c| c.type_ == "Ready") {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(ready.message.clone().unwrap_or_default()),
            None => Err("it has no Ready condition yet".to_owned()),
        }
    })
    .await
}

/// Asks again until `attempt` succeeds, for at most `READY_TIMEOUT`.
async fn wait<T, E: std::fmt::Display>(
    what: &str,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if started.elapsed() > READY_TIMEOUT {
            return Err(Error::NotReady {
                what: what.to_owned(),
                seconds: READY_TIMEOUT.as_secs(),
                detail: format!(": {error}"),
            });
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}
