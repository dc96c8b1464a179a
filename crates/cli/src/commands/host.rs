//! `coracle host`: the embedded host cluster of this machine.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use coracle_image::{ImageStore, Reference};
use coracle_machinery::addresses::{AddressRange, AddressRangeError};
use coracle_machinery::names::dns1123_subdomain_errors;
use coracle_server::host::{
    self, CONTEXT, DEFAULT_DATA_DIR, DEFAULT_POOL, DEFAULT_PORT, Extras, HostOptions,
    INGRESS_CLASS, Layout, Progress,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Environment;
use crate::error::{CliError, Result};
use crate::kubeconfig::Entry;
use crate::output::data;

/// How long a host may take to stop all its pods.
const DOWN_TIMEOUT: Duration = Duration::from_secs(90);
/// How often to look whether it has stopped.
const DOWN_INTERVAL: Duration = Duration::from_millis(50);

/// Where archives that can be loaded come from.
const ARCHIVES: &str =
    "`docker save` (since Docker 25) and `podman save --format oci-archive` write such archives";

/// Run a host cluster on this machine
#[derive(Args, Debug)]
pub struct HostCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Start the host cluster and switch the kubeconfig to it (needs root)
    #[command(
        after_help = "Examples:\n  coracle host up\n  coracle host up --port 7443
  coracle host up --nodes 3
  coracle host up --load-balancer-addresses 172.18.255.200-172.18.255.250
  coracle host up --ingress"
    )]
    Up(Settings),
    /// Stop the host cluster with all its pods; its data stays
    #[command(after_help = "Examples:\n  coracle host down\n  coracle host down --purge")]
    Down(Down),
    /// Show whether the host cluster runs
    Status(Status),
    /// Load an image, so that pods of the host can use it
    #[command(after_help = "Examples:
  coracle host load-image app.tar
  coracle host load-image app.tar --name docker.io/library/app:1")]
    LoadImage(LoadImage),
    /// Run the host cluster in the foreground (`up` does this in the background)
    #[command(hide = true)]
    Run(Settings),
}

#[derive(Args, Clone, Debug)]
struct DataDir {
    /// Where the host keeps its data
    #[arg(long, default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
struct Settings {
    #[command(flatten)]
    data: DataDir,
    /// The port of the API server on loopback
    #[arg(long, default_value_t = DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The name of the node [default: the machine's host name]; further ones
    /// are NAME-2, NAME-3 and so on
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// How many nodes there are, all on this machine [default: as many as there
    /// were, or 1]
    #[arg(long, value_name = "NUMBER",
        value_parser = clap::value_parser!(u8).range(1..=i64::from(host::MAX_NODES)))]
    nodes: Option<u8>,
    /// Give services of type LoadBalancer addresses from this range, or `none`
    /// [default: as it was, or none]
    #[arg(long, value_name = "FROM-TO", value_parser = pool)]
    load_balancer_addresses: Option<Pool>,
    /// Run an ingress controller for ingresses of the class `nginx`, or stop
    /// doing so with --ingress=false [default: as it was, or none]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        require_equals = true)]
    ingress: Option<bool>,
}

/// A choice of addresses for load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool(Option<AddressRange>);

fn pool(text: &str) -> std::result::Result<Pool, AddressRangeError> {
    match text {
        "none" => Ok(Pool(None)),
        range => range.parse().map(|range| Pool(Some(range))),
    }
}

impl Settings {
    /// What the host is to offer, given what it offered before.
    fn extras(&self, before: &Extras) -> Result<Extras> {
        let chosen = self.load_balancer_addresses;
        let mut extras = Extras {
            load_balancer_addresses: chosen.map_or(before.load_balancer_addresses, |p| p.0),
            ingress: self.ingress.unwrap_or(before.ingress),
        };
        if extras.ingress && extras.load_balancer_addresses.is_none() {
            if chosen.is_some() {
                return Err(CliError::usage("an ingress controller needs an address")
                    .hint("name some with --load-balancer-addresses, or give --ingress=false"));
            }
            let default = DEFAULT_POOL.parse().expect("the default is a range");
            extras.load_balancer_addresses = Some(default);
        }
        Ok(extras)
    }
}

#[derive(Args, Debug)]
struct Down {
    #[command(flatten)]
    data: DataDir,
    /// Remove all data too: the cluster's objects, images and keys
    #[arg(long)]
    purge: bool,
}

#[derive(Args, Debug)]
struct Status {
    #[command(flatten)]
    data: DataDir,
    /// The form of output
    #[arg(short, long, value_enum, default_value_t)]
    output: StatusFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum StatusFormat {
    /// Lines for people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[derive(Args, Debug)]
struct LoadImage {
    #[command(flatten)]
    data: DataDir,
    /// An OCI image archive
    file: PathBuf,
    /// The image's name, in place of the one in the archive
    #[arg(long)]
    name: Option<String>,
}

impl HostCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// With nothing left running if the host cannot be started.
    pub async fn run(self, environment: &Environment) -> Result {
        match self.action {
            Action::Up(settings) => up(environment, &settings),
            Action::Down(arguments) => down(environment, &arguments).await,
            Action::Status(arguments) => status(environment, &arguments),
            Action::LoadImage(arguments) => load_image(environment, &arguments),
            Action::Run(settings) => run(&settings).await,
        }
    }
}

fn up(environment: &Environment, settings: &Settings) -> Result {
    let started = Instant::now();
    let layout = Layout::new(&absolute(&settings.data.data_dir)?);
    if let Some(pid) = host::running(&layout) {
        environment
            .output
            .info(&format!("the host is running already (process {pid})"));
        if settings.nodes.is_some_and(|n| n != layout.node_count()) {
            return Err(CliError::failure(format!(
                "the running host has another number of nodes: {}",
                layout.node_count()
            ))
            .hint("`coracle host down` stops it and keeps its data; then start it again"));
        }
        if settings.extras(&layout.extras())? != layout.extras() {
            return Err(
                CliError::failure("the running host was started with other options")
                    .hint("`coracle host down` stops it and keeps its data; then start it again"),
            );
        }
        return write_context(environment, &layout);
    }
    // What cannot be written once the host is ready must not start it.
    environment.files()?.read()?;
    node_name(settings)?;
    settings.extras(&layout.extras())?.check()?;
    host::check_requirements(&layout, settings.port)?;
    let mut progress = environment.output.progress("Starting the host cluster");
    let failed = |error: std::io::Error| CliError::failure("cannot start the host").because(error);
    std::fs::create_dir_all(layout.logs()).map_err(|error| {
        CliError::failure(format!("cannot make {}", layout.logs().display()))
            .because(error)
            .hint("--data-dir chooses another directory")
    })?;
    let log = layout.logs().join("supervisor.log");
    let log_file = std::fs::File::create(&log).map_err(failed)?;
    let mut child = supervisor(settings, &layout, log_file).map_err(failed)?;
    let output = child.stdout.take().expect("standard output was piped");
    let mut failure = None;
    let mut ready = false;
    for line in BufReader::new(output)
        .lines()
        .map_while(std::io::Result::ok)
    {
        match serde_json::from_str::<Value>(&line) {
            Ok(message) if message.get("ready").is_some() => {
                ready = true;
                break;
            }
            Ok(message) if message.get("error").is_some() => failure = Some(message),
            Ok(message) => progress.set(message["step"].as_str().unwrap_or_default()),
            Err(_) => {}
        }
    }
    drop(progress);
    if !ready {
        let _ = child.wait();
        return Err(startup_failure(failure, &log));
    }
    write_context(environment, &layout)?;
    environment.output.done(&format!(
        "The host cluster is ready after {:.1} s; kubeconfig context {CONTEXT}",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn supervisor(
    settings: &Settings,
    layout: &Layout,
    log: std::fs::File,
) -> std::io::Result<std::process::Child> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .args(["host", "run", "--data-dir"])
        .arg(layout.root());
    command.arg(format!("--port={}", settings.port));
    if let Some(name) = &settings.node_name {
        command.arg(format!("--node-name={name}"));
    }
    if let Some(nodes) = settings.nodes {
        command.arg(format!("--nodes={nodes}"));
    }
    if let Some(Pool(pool)) = &settings.load_balancer_addresses {
        let pool = pool.map_or("none".to_owned(), |pool| pool.to_string());
        command.arg(format!("--load-balancer-addresses={pool}"));
    }
    if let Some(ingress) = settings.ingress {
        command.arg(format!("--ingress={ingress}"));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/");
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()
                .map(drop)
                .map_err(std::io::Error::from)
        });
    }
    command.spawn()
}

fn startup_failure(message: Option<Value>, log: &Path) -> CliError {
    let Some(message) = message else {
        return CliError::failure("the host ended while it was starting")
            .hint(format!("{} may tell why", log.display()));
    };
    let mut error = CliError::failure(message["error"].as_str().unwrap_or_default());
    for hint in message["hints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        error = error.hint(hint);
    }
    error.hint(format!(
        "the logs are in {}",
        log.with_file_name("").display()
    ))
}

fn write_context(environment: &Environment, layout: &Layout) -> Result {
    let path = layout.admin_kubeconfig();
    let text = std::fs::read_to_string(&path).map_err(|error| {
        CliError::failure(format!("cannot read {}", path.display())).because(error)
    })?;
    environment
        .files()?
        .put(&Entry::from_kubeconfig(&text, CONTEXT)?, true)
}

/// The supervisor itself. Tells its progress on standard output, which `up`
/// reads until the host is ready.
async fn run(settings: &Settings) -> Result {
    let tell = |message: Value| {
        use std::io::Write as _;
        // Nobody reads any more once the host is ready.
        let _ = writeln!(std::io::stdout(), "{message}");
    };
    super::roles::start_logging()?;
    let data_dir = absolute(&settings.data.data_dir)?;
    let layout = Layout::new(&data_dir);
    let options = HostOptions {
        nodes: settings.nodes.unwrap_or(layout.node_count()),
        extras: settings.extras(&layout.extras())?,
        data_dir,
        port: settings.port,
        node_name: node_name(settings)?,
        program: std::env::current_exe()
            .map_err(|e| CliError::failure("cannot find this program's file").because(e))?,
    };
    let shutdown = CancellationToken::new();
    crate::signals::cancel_on_signal(shutdown.clone())?;
    let progress = |progress| match progress {
        Progress::Step(step) => tell(json!({"step": step})),
        Progress::Ready => tell(json!({"ready": true})),
    };
    host::run(options, progress, shutdown)
        .await
        .map_err(|error| {
            let error = CliError::from(error);
            tell(json!({"error": error.message, "hints": error.hints}));
            error
        })
}

fn node_name(settings: &Settings) -> Result<String> {
    let name = match &settings.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .map_err(|e| CliError::failure("this machine has no host name").because(e))?
            .to_string_lossy()
            .to_lowercase(),
    };
    match dns1123_subdomain_errors(&name).into_iter().next() {
        None => Ok(name),
        Some(why) => Err(
            CliError::usage(format!("{name:?} cannot be the name of a node"))
                .because(why)
                .hint("choose another name with --node-name"),
        ),
    }
}

async fn down(environment: &Environment, arguments: &Down) -> Result {
    let layout = Layout::new(&absolute(&arguments.data.data_dir)?);
    let running = host::running(&layout);
    if let Some(pid) = running {
        let _progress = environment
            .output
            .progress("Stopping the host cluster and its pods");
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|e| {
            CliError::failure(format!("cannot stop the host (process {pid})"))
                .because(e)
                .hint("run it as root, for example with sudo")
        })?;
        let started = Instant::now();
        while host::is_alive(pid) {
            if started.elapsed() > DOWN_TIMEOUT {
                return Err(CliError::failure(format!(
                    "the host (process {pid}) has not stopped after {} s",
                    DOWN_TIMEOUT.as_secs()
                ))
                .hint(format!("the logs are in {}", layout.logs().display())));
            }
            tokio::time::sleep(DOWN_INTERVAL).await;
        }
    } else {
        environment.output.info("no host cluster is running");
        // It may have been killed, and its pods run on.
        host::clean_up(&layout).await?;
    }
    forget(environment, &layout)?;
    if arguments.purge && layout.root().exists() {
        host::remove_data(&layout)?;
        environment
            .output
            .done(&format!("Removed {}", layout.root().display()));
    } else if running.is_some() {
        environment
            .output
            .done("The host cluster is stopped; its data is kept");
        environment.output.hint(
            "`coracle host up` starts it again, `coracle host down --purge` removes its data",
        );
    }
    Ok(())
}

/// Removes the context of this host, and of no other.
fn forget(environment: &Environment, layout: &Layout) -> Result {
    let Ok(text) = std::fs::read_to_string(layout.admin_kubeconfig()) else {
        return Ok(());
    };
    let authority = |cluster: &Value| cluster.get("certificate-authority-data").cloned();
    let own = authority(&Entry::from_kubeconfig(&text, CONTEXT)?.cluster);
    let files = environment.files()?;
    if files.cluster(CONTEXT)?.as_ref().and_then(authority) == own {
        files.remove(CONTEXT, None)?;
    }
    Ok(())
}

fn status(environment: &Environment, arguments: &Status) -> Result {
    let layout = Layout::new(&absolute(&arguments.data.data_dir)?);
    let pid = host::running(&layout);
    let extras = layout.extras();
    let value = json!({
        "running": pid.is_some(),
        "pid": pid,
        "nodes": layout.node_count(),
        "loadBalancerAddresses": extras.load_balancer_addresses.map(|pool| pool.to_string()),
        "ingressClass": extras.ingress.then_some(INGRESS_CLASS),
        "dataDir": layout.root(),
        "context": CONTEXT,
        "kubeconfig": layout.admin_kubeconfig(),
        "logs": layout.logs(),
    });
    match arguments.output {
        StatusFormat::Json => data(&format!("{value:#}\n")),
        StatusFormat::Yaml => {
            data(&serde_saphyr::to_string(&value).expect("a JSON value always serialises"));
        }
        StatusFormat::Text => match pid {
            Some(pid) => {
                data(&format!("The host cluster is running (process {pid})\n"));
                data(&format!(
                    "  context  {CONTEXT}\n  data     {}\n",
                    layout.root().display()
                ));
                data(&format!("  nodes    {}\n", layout.node_count()));
                if let Some(pool) = extras.load_balancer_addresses {
                    data(&format!("  balancer {pool}\n"));
                }
                if extras.ingress {
                    data(&format!("  ingress  class {INGRESS_CLASS}\n"));
                }
                data(&format!("  logs     {}\n", layout.logs().display()));
            }
            None => {
                data("The host cluster is not running\n");
                environment.output.hint("`coracle host up` starts it");
            }
        },
    }
    Ok(())
}

fn load_image(environment: &Environment, arguments: &LoadImage) -> Result {
    let layout = Layout::new(&absolute(&arguments.data.data_dir)?);
    let failed = |error: coracle_image::ImageError| {
        CliError::failure(format!("cannot load {}", arguments.file.display())).because(error)
    };
    let name = arguments.name.as_deref().map(Reference::parse).transpose();
    let name = name.map_err(|error| {
        CliError::usage("--name does not name an image")
            .because(error)
            .hint("names are like docker.io/library/app:1")
    })?;
    if !arguments.file.is_file() {
        return Err(
            CliError::usage(format!("there is no file {}", arguments.file.display()))
                .hint(ARCHIVES),
        );
    }
    if !layout.images().is_dir() {
        return Err(CliError::failure(format!(
            "{} is no host's data directory",
            layout.root().display()
        ))
        .hint("`coracle host up` makes a host; --data-dir names another directory"));
    }
    let images = ImageStore::open(layout.images())
        .map_err(|error| failed(error).hint("the images belong to root: run it with sudo"))?;
    let loaded = images
        .load(&arguments.file, name.as_ref())
        .map_err(|error| failed(error).hint(ARCHIVES))?;
    for reference in loaded {
        environment.output.done(&format!("Loaded {reference}"));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|e| CliError::usage(format!("{} is no path", path.display())).because(e))
}
