//! `cargo xtask test`: every test, from the rules of the tree to the real
//! kubectl against real containers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::cargo;
use crate::shell::{Result, find, root, run, say, target_dir, work_dir};
use crate::{images, install, tidy};

/// The sandbox of end-to-end tests and benchmarks: namespaces of its own for processes,
/// mounts, network, host name and IPC, so that nothing can be left behind.
const SANDBOX: &[&str] = &[
    "--fork",
    "--pid",
    "--kill-child",
    "--mount",
    "--mount-proc",
    "--net",
    "--uts",
    "--ipc",
];

/// What is set up inside before anything runs: mounts that pods can share,
/// loopback, and places of its own for what would lie in /run and /var/lib.
const PREPARE: &str = "mount --make-rshared / && ip link set lo up && \
    sysctl -qw net.ipv4.ip_forward=1 && \
    mkdir -p /run/netns /run/containerd && mount -t tmpfs t /run/netns && \
    mount -t tmpfs t /run/containerd && hostname coracle-test && exec \"$@\"";

/// Runs everything.
pub fn run_all() -> Result {
    install::debian_packages()?;
    say("checking the form of the code");
    run(cargo()
        .args(["fmt", "--all", "--check"])
        .current_dir(root()))?;
    tidy::run_tidy()?;
    run(cargo()
        .args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
        .current_dir(root()))?;
    // Advisories change without the tree and are asked for over the network:
    // `cargo deny check advisories` is for whoever has it.
    say("checking licences and sources of dependencies");
    run(Command::new(install::cargo_deny()?)
        .args(["check", "bans", "licenses", "sources"])
        .current_dir(root()))?;
    say("running unit and integration tests");
    let nextest = find("cargo-nextest").is_some();
    let arguments: &[&str] = if nextest {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        &["test", "--workspace"]
    };
    run(cargo().args(arguments).current_dir(root()))?;
    run_e2e(&[])
}

/// Runs the end-to-end tests, or those scenarios whose names are given.
pub fn run_e2e(scenarios: &[&str]) -> Result {
    end_to_end(scenarios, &[])
}

fn end_to_end(scenarios: &[&str], variables: &[(&str, &str)]) -> Result {
    install::debian_packages()?;
    let tools = install::kubernetes_tools()?;
    let (nginx, busybox) = (images::nginx()?, images::busybox()?);
    say("building coracle for the end-to-end tests");
    // All of it: another choice of packages chooses other features of what they
    // depend on, which then is built anew.
    run(cargo().args(["build", "--workspace"]).current_dir(root()))?;
    let built = target_dir().join("x86_64-unknown-linux-gnu/debug");
    let program = strip(&built.join("coracle"))?;
    let operator = images::operator(&strip(&built.join("coracle-e2e-operator"))?)?;
    let mut command = if std::env::var_os("CORACLE_E2E_KUBECONFIG").is_some() {
        // A host of the caller's own is used as it is.
        Command::new(built.join("coracle-e2e"))
    } else {
        install::require_root("the end-to-end tests")?;
        sandboxed(&built.join("coracle-e2e"))
    };
    let ended = run(command
        .args(scenarios)
        .envs(variables.iter().copied())
        .env("CORACLE", program)
        .env("KUBECTL", tools.kubectl)
        .env("HELM", tools.helm)
        .env(
            "IMAGES",
            std::env::join_paths([nginx, busybox, operator]).map_err(|e| e.to_string())?,
        )
        .env("WORK_DIR", work_dir().join("e2e")));
    // They have told what went wrong; the command that made the sandbox has not.
    ended.map_err(|_| "the end-to-end tests failed, as told above".to_owned())
}

/// Plays one scenario of the end-to-end tests, and shows its commands with what
/// they print.
pub fn show_scenario(scenario: &str) -> Result {
    end_to_end(&[scenario], &[("CORACLE_E2E_SHOW", "1")])
}

/// A program that will run in a sandbox.
pub fn sandboxed(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(SANDBOX)
        .args(["sh", "-ec", PREPARE, "sandbox"])
        .arg(program);
    command
}

/// A copy without debugging information, an eighth of the size: it becomes the
/// content of an image.
fn strip(program: &Path) -> Result<PathBuf> {
    let stripped = work_dir().join(program.file_name().unwrap_or_default());
    run(Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&stripped)
        .arg(program))?;
    Ok(stripped)
}
