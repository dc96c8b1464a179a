//! The `sandbox` role, a pod's first process: holds a pod's namespaces and reaps orphans, in as little
//! memory as can be. Runs before anything else of the program is set up.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Sleeps until SIGTERM or SIGINT.
pub fn run() -> std::process::ExitCode {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return std::process::ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) | Err(_) => return std::process::ExitCode::SUCCESS,
        }
    }
}

/// With a shared process namespace, orphans of all containers come here.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
