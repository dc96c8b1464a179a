//! Benchmarks. `cargo xtask bench` runs this in a sandbox and shows a table of
//! what was measured beside the goals and the figures of stock Kubernetes.
//!
//! With `--kubeconfig`, the same client load runs against any API server, so
//! that figures of the same machine can be compared.

mod client;
mod cluster;
mod footprint;
mod host;
mod kubeconfig;
mod list;
mod load;
mod pods;
mod process;
mod report;
mod server;
mod start;
mod stats;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use host::Host;
use load::Load;
use report::Report;
use server::Target;

/// What measurements return; the text is shown to the user.
pub type Result<T = ()> = std::result::Result<T, String>;

/// Measure figures and show them beside the goals
#[derive(Parser, Debug)]
#[command(name = "cargo xtask bench", version)]
struct Arguments {
    /// Measure only these (separated by spaces or commas)
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', value_name = "NAME")]
    only: Vec<Part>,
    /// Small counts: seconds in place of minutes, rougher figures
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Load this API server instead of one started here (writes, reads, list, watch)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A process of that API server or its datastore, for memory figures; may be given several times
    #[arg(long, requires = "kubeconfig", value_name = "PID")]
    pid: Vec<i32>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Process start to /readyz.
    Start,
    /// Creates a second.
    Writes,
    /// Gets a second.
    Reads,
    /// A list of many objects.
    List,
    /// Delay to many watchers.
    Watch,
    /// `coracle create` to the first answer.
    Create,
    /// Memory and CPU of an idle virtual cluster.
    Idle,
    /// Memory of the embedded host.
    Host,
    /// Virtual pod to host pod and back.
    Pods,
}

/// Parts that act on one API server, wherever it is.
const LOADS: &[Part] = &[Part::Writes, Part::Reads, Part::List, Part::Watch];
/// Parts that need an embedded host.
const ON_HOST: &[Part] = &[Part::Create, Part::Idle, Part::Host, Part::Pods];

/// Counts and durations of a run.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// True for rough figures.
    pub quick: bool,
}

impl Scale {
    /// `full`, or for a quick run a tenth of it, but at least `least`.
    pub fn count(&self, full: usize, least: usize) -> usize {
        if self.quick {
            (full / 10).max(least)
        } else {
            full
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result {
    let scale = Scale {
        quick: arguments.quick,
    };
    let mut report = Report::default();
    let result = measure(arguments, scale, &mut report).await;
    // What was measured before a failure is shown too.
    print!("{}", report.table());
    if scale.quick {
        println!("A quick run: counts are a tenth of those named, figures are rough.");
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, report.json()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    result
}

async fn measure(arguments: &Arguments, scale: Scale, report: &mut Report) -> Result {
    let wanted = |part: Part| {
        let foreign = arguments.kubeconfig.is_some() && !LOADS.contains(&part);
        !foreign && (arguments.only.is_empty() || arguments.only.contains(&part))
    };
    if wanted(Part::Start) {
        start::measure(scale, report).await?;
    }
    if LOADS.iter().copied().any(wanted) {
        let target = match &arguments.kubeconfig {
            Some(file) => Target::foreign(file, &arguments.pid)?,
            None => Target::own().await?,
        };
        let mut load = Load::start(&target, scale).await?;
        let result = load_parts(&mut load, &wanted, report).await;
        load.stop().await?;
        result?;
    }
    if ON_HOST.iter().copied().any(wanted) {
        let host = Host::start()?;
        let result = host_parts(&host, scale, &wanted, report).await;
        let stopped = host.stop();
        result?;
        stopped?;
    }
    Ok(())
}

async fn load_parts(
    load: &mut Load<'_>,
    wanted: &impl Fn(Part) -> bool,
    report: &mut Report,
) -> Result {
    if wanted(Part::Writes) || wanted(Part::Reads) || wanted(Part::List) {
        // Reads and lists need the objects that the writes make.
        load.writes(report).await?;
    }
    if wanted(Part::Reads) {
        load.reads(report).await?;
    }
    if wanted(Part::List) {
        list::measure(load, report).await?;
    }
    if wanted(Part::Watch) {
        watch::measure(load, report).await?;
    }
    if wanted(Part::Writes) {
        load.memory(report)?;
    }
    Ok(())
}

async fn host_parts(
    host: &Host,
    scale: Scale,
    wanted: &impl Fn(Part) -> bool,
    report: &mut Report,
) -> Result {
    if wanted(Part::Host) {
        footprint::host(host, report)?;
    }
    if !(wanted(Part::Create) || wanted(Part::Idle) || wanted(Part::Pods)) {
        return Ok(());
    }
    let rounds = if wanted(Part::Create) {
        scale.count(5, 1)
    } else {
        1
    };
    let cluster = cluster::create(host, rounds, report).await?;
    if wanted(Part::Idle) {
        footprint::idle(&cluster, scale, report).await?;
    }
    if wanted(Part::Pods) {
        pods::measure(host, &cluster, scale, report).await?;
    }
    Ok(())
}

/// Tells what is being done, on standard error.
pub fn say(text: &str) {
    eprintln!("bench {text}");
}
