//! Child processes that are kept running.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::requirements;
use crate::Error;

/// The first pause before a program that ended is started again.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause before a program that ended is started again.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A program that ran this long is healthy: the next pause is the first again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a program may take to end before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A log file is put aside (one generation is kept) at this size in bytes.
const MAX_LOG: u64 = 8 << 20;

/// How to start a program.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is called in logs and errors.
    pub name: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// Keeps a program running until `shutdown`, then stops it. Returns once it
/// has ended.
pub async fn keep(program: Program, shutdown: CancellationToken) {
    let mut backoff = FIRST_BACKOFF;
    while !shutdown.is_cancelled() {
        let started = Instant::now();
        match start(&program) {
            Ok(mut child) => {
                tokio::select! {
                    status = child.wait() => {
                        tracing::warn!(program = program.name, ?status, "ended; starting again");
                    }
                    () = shutdown.cancelled() => {
                        stop(&mut child).await;
                        return;
                    }
                }
            }
            Err(error) => tracing::error!(program = program.name, %error, "cannot start"),
        }
        if started.elapsed() >= HEALTHY_AFTER {
            backoff = FIRST_BACKOFF;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = shutdown.cancelled() => return,
        }
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

fn start(program: &Program) -> Result<Child, Error> {
    let supervisor = nix::unistd::getpid();
    let mut command = std::process::Command::new(&program.file);
    command
        .args(&program.arguments)
        .env("PATH", requirements::search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Signals of the terminal are the supervisor's to pass on, in order.
        .process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are made
    // (prctl, getppid).
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // The supervisor may have died before the line above.
            if nix::unistd::getppid() != supervisor {
                return Err(std::io::Error::other("the supervisor is gone"));
            }
            Ok(())
        });
    }
    let mut child = Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::Program {
            program: program.name.to_owned(),
            why: error.to_string(),
        })?;
    let outputs: [Option<Box<dyn AsyncRead + Send + Unpin>>; 2] = [
        child.stdout.take().map(|out| Box::new(out) as _),
        child.stderr.take().map(|out| Box::new(out) as _),
    ];
    for output in outputs.into_iter().flatten() {
        tokio::spawn(copy_log(output, program.log.clone()));
    }
    Ok(child)
}

async fn stop(child: &mut Child) {
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    if tokio::time::timeout(STOP_GRACE, child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

/// Appends a program's output to its log file, which stays bounded.
async fn copy_log(mut output: Box<dyn AsyncRead + Send + Unpin>, path: PathBuf) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        if let Err(error) = append(&path, &buffer[..count]).await {
            tracing::warn!(path = %path.display(), %error, "cannot write a log");
        }
    }
}

async fn append(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = tokio::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await?;
    file.write_all(text).await?;
    file.flush().await?;
    if file.metadata().await?.len() > MAX_LOG {
        tokio::fs::rename(path, path.with_extension("log.1")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(directory: &Path, script: &str) -> Program {
        Program {
            name: "test",
            file: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: directory.join("test.log"),
        }
    }

    /// Waits until `done` holds; the bound is for a loaded machine.
    async fn until(mut done: impl FnMut() -> bool) {
        for _ in 0..2000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("did not happen within 20 s");
    }

    #[tokio::test]
    async fn a_program_that_ends_is_started_again_and_its_output_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let program = program(directory.path(), "echo hello");
        let log = program.log.clone();
        let kept = tokio::spawn(keep(program, shutdown.clone()));
        until(|| std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 2)).await;
        shutdown.cancel();
        kept.await.unwrap();
    }

    #[tokio::test]
    async fn a_stop_asks_first() {
        let directory = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let program = program(directory.path(), script);
        let log = program.log.clone();
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        let kept = tokio::spawn(keep(program, shutdown.clone()));
        until(|| text().contains("up")).await;
        shutdown.cancel();
        kept.await.unwrap();
        until(|| text().contains("bye")).await;
    }
}
