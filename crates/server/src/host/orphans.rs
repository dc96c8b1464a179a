//! Processes of a supervisor that was killed: the kernel has told them to end,
//! and they may still be at it when the next one starts.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::nodes::{MAX_NODES, NodeLayout};
use super::{Layout, processes};

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
    let found = processes::find(|words| is_ours(layout, words));
    found.into_iter().map(|process| process.pid).collect()
}

/// True for containerd, the control plane and the node agent of a data
/// directory; false for the shims of its containers, which run on.
fn is_ours(layout: &Layout, words: &[String]) -> bool {
    let has = |word: String| words.contains(&word);
    let nodes = layout.nodes(MAX_NODES);
    let any = |word: &dyn Fn(&NodeLayout) -> String| nodes.iter().any(|node| has(word(node)));
    let role = words.get(1).map(String::as_str).unwrap_or_default();
    match role {
        "--config" => any(&|node| node.containerd_config().display().to_string()),
        "control-plane" => has(format!("--data-dir={}", layout.control_plane().display())),
        "node" => any(&|node| format!("--data-dir={}", node.data().display())),
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
                "/coracle node --name=a-2 --data-dir=/data/nodes/2/node",
                true,
            ),
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
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(is_ours(&layout, &words), ours, "{line}");
        }
    }
}
