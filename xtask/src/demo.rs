//! `cargo xtask demo`: the tutorial's first walk-through, for real.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::shell::{Result, quiet, run, say, target_dir, work_dir};
use crate::{images, install};

/// Plays the walk-through and leaves the host cluster running.
pub fn run_demo() -> Result {
    install::require_root("the demo")?;
    install::debian_packages()?;
    let tools = install::kubernetes_tools()?;
    let coracle = build_release()?;
    let nginx = images::nginx()?;
    let started = Instant::now();
    Walkthrough {
        coracle: coracle.clone(),
        kubectl: tools.kubectl,
        kubeconfig: kubeconfig(),
    }
    .play(&nginx)?;
    println!();
    println!(
        "The walk-through took {:.1} s.",
        started.elapsed().as_secs_f64()
    );
    println!("A host cluster is left for you to play with:");
    println!("  export KUBECONFIG={}", kubeconfig().display());
    println!(
        "  export PATH={}:$PATH",
        coracle.parent().unwrap_or(Path::new("/")).display()
    );
    println!("  coracle create my-cluster");
    println!("Remove it, with everything in it:");
    println!("  coracle host down --purge");
    Ok(())
}

/// Builds the program as users get it.
pub fn build_release() -> Result<PathBuf> {
    say("building coracle (the first time takes some minutes)");
    run(cargo()
        .args(["build", "--release", "--package", "coracle"])
        .current_dir(crate::shell::root()))?;
    Ok(target_dir().join("x86_64-unknown-linux-gnu/release/coracle"))
}

/// The cargo that runs this task, as if it had been called by hand. What it has set for this very
/// program would pass for settings of what is built: crates whose build scripts
/// look at it would be built anew, and with them all that use them.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn kubeconfig() -> PathBuf {
    work_dir().join("demo.kubeconfig")
}

struct Walkthrough {
    coracle: PathBuf,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
}

impl Walkthrough {
    fn play(&self, nginx: &Path) -> Result {
        let archive = nginx.display().to_string();
        self.show("coracle host up")?;
        self.show(&format!("coracle host load-image {archive}"))?;
        self.show("coracle create testcluster --namespace demo --connect=false")?;
        self.show("kubectl get pods -n demo")?;
        self.show("coracle connect testcluster -n demo")?;
        self.show("kubectl get nodes")?;
        self.show("kubectl get pods -A")?;
        self.show("kubectl get ns")?;
        self.show("kubectl create deployment frontend --image nginx --replicas 3")?;
        self.show("kubectl rollout status deployment frontend --timeout 120s")?;
        self.show("kubectl get pods -A")?;
        self.show("coracle disconnect")?;
        self.show("kubectl get pods -n demo")?;
        self.show("coracle delete testcluster -n demo")?;
        self.show("kubectl get all -n demo")?;
        self.expect_empty("get pods,services,secrets,statefulsets,roles -n demo -o name")
    }

    /// Shows a command and its real output.
    fn show(&self, line: &str) -> Result {
        println!("\n$ {line}");
        run(&mut self.command(line)?)
    }

    fn expect_empty(&self, arguments: &str) -> Result {
        let left = quiet(&mut self.command(&format!("kubectl {arguments}"))?)?;
        if left.trim().is_empty() {
            return Ok(());
        }
        Err(format!("something was left in the namespace demo:\n{left}"))
    }

    fn command(&self, line: &str) -> Result<Command> {
        let mut words = line.split_whitespace();
        let program = match words.next() {
            Some("coracle") => &self.coracle,
            Some("kubectl") => &self.kubectl,
            other => return Err(format!("{other:?} is no program of the walk-through")),
        };
        let mut command = Command::new(program);
        command.args(words).env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }
}
