//! Processes of a supervisor that was killed: the kernel has told them to end,
//! and they may still be at it when the next one starts.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Layout;

/// How long they may take to end by themselves before they are killed, as
/// under a supervisor.
const GRACE: Duration = Duration::from_secs(10);
/// How often to look whether they have ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until no process of a host without a supervisor runs any more; kills
/// what does not end. Blocks.
pub(super) fn end(layout: &Layout) {
    let started = Instant::now();
    let mut killed = false;
    loop {
        let left = find(layout);
        // A killed process is gone once the kernel has taken it apart; what
        // then still is there cannot be helped from here.
        if left.is_empty() || started.elapsed() > GRACE * 2 {
            return;
        }
        if started.elapsed() > GRACE && !killed {
            killed = true;
            for pid in left {
                tracing::warn!(pid, "a process of an earlier host does not end; killing it");
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(INTERVAL);
    }
}

fn find(layout: &Layout) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // A process that has ended has no words, whoever waits for it.
            let text = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
            is_ours(layout, &words).then_some(pid)
        })
        .collect()
}

/// True for containerd, the control plane and the node agent of a data
/// directory; false for the shims of its containers, which run on.
fn is_ours(layout: &Layout, words: &[&[u8]]) -> bool {
    let has = |word: String| words.contains(&word.as_bytes());
    let role = words.get(1).copied().unwrap_or_default();
    match role {
        b"--config" => has(layout.containerd_config().display().to_string()),
        b"control-plane" => has(format!("--data-dir={}", layout.control_plane().display())),
        b"node" => has(format!("--data-dir={}", layout.node().display())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_host_knows_its_own_processes() {
        let layout = Layout::new(Path::new("/data"));
        for (line, ours) in [
            (
                "/usr/bin/containerd --config /data/containerd/config.toml",
                true,
            ),
            (
                "/coracle control-plane --data-dir=/data/control-plane --listen=x",
                true,
            ),
            ("/coracle node --name=a --data-dir=/data/node", true),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -address /data/run/c.sock",
                false,
            ),
            (
                "/usr/bin/containerd --config /other/containerd/config.toml",
                false,
            ),
            ("/coracle control-plane --data-dir=/data", false),
            ("/coracle host run --data-dir /data", false),
            ("grep /data/node", false),
            ("", false),
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert_eq!(is_ours(&layout, &words), ours, "{line}");
        }
    }
}
