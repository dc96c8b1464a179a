//! `cargo xtask bench`: figures of the program as users get it.

use std::path::PathBuf;
use std::process::Command;

use crate::demo::cargo;
use crate::shell::{Result, root, run, say, target_dir, work_dir};
use crate::test::sandboxed;
use crate::{images, install};

/// Options that need neither the sandbox nor what runs in it.
const ELSEWHERE: &[&str] = &["--kubeconfig", "--help", "-h", "--version", "-V"];

/// Measures; the options are those of the crate `coracle-bench`.
pub fn run_bench(options: &[&str]) -> Result {
    install::debian_packages()?;
    say("building coracle and its benchmarks (the first time takes some minutes)");
    run(cargo()
        .args(["build", "--release", "--quiet"])
        .args(["--package", "coracle", "--package", "coracle-bench"])
        .current_dir(root()))?;
    let built = target_dir().join("x86_64-unknown-linux-gnu/release");
    let elsewhere = options.iter().any(|option| {
        let name = option.split('=').next().unwrap_or_default();
        ELSEWHERE.contains(&name)
    });
    let mut command = if elsewhere {
        Command::new(built.join("coracle-bench"))
    } else {
        install::require_root("the benchmark")?;
        let mut command = sandboxed(&built.join("coracle-bench"));
        command
            .env("IMAGES", images::busybox()?)
            .env("WORK_DIR", work_dir().join("bench"));
        command
    };
    run(command.args(options).env("CORACLE", program(built)))
}

/// The program under test: that of the environment, to compare builds, or
/// else the one just built.
fn program(built: PathBuf) -> PathBuf {
    std::env::var_os("CORACLE_BENCH_PROGRAM").map_or(built.join("coracle"), PathBuf::from)
}
