//! A role whose supervisor has died, and with it whoever read its log, still
//! ends when it is told to.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far above what an orderly end takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_control_plane_ends_although_nobody_reads_its_log() {
    let data = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args([
            "control-plane",
            "--listen=127.0.0.1:0",
            "--advertise=127.0.0.1:6443",
        ])
        .arg("--data-dir")
        .arg(data.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let serving = log
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("is serving"));
    assert!(serving, "it did not start");
    // The reading end of the pipe is closed by now.
    let told = Command::new("kill").arg(child.id().to_string()).status();
    assert!(told.unwrap().success());
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it still runs after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
