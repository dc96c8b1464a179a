//! What containerd has lost track of. Killed at a bad moment, it leaves shims,
//! addresses and network namespaces of sandboxes that it has no record of, and
//! does not find them again when it starts anew.
//!
//! Its record of a container is written before the shim starts and removed
//! after the shim has ended, so a shim without a record is left over. So is one
//! that has no process to look after although its sandbox counts as stopped.
//! Address and namespace come before the record: they are left over if they are
//! older than the containerd that runs, or older than any call may take.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use coracle_node::cri::{CONTAINERD_NAMESPACE, Cri, CriError, Recorded};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;

use super::nodes::NodeLayout;
use super::processes;

/// How often shims are looked at. One that seems to be left over in two looks
/// in a row is.
const INTERVAL: Duration = Duration::from_secs(10);
/// How old an address without a record must be if it was made since containerd
/// started: the calls that make sandboxes are given up after two minutes.
const LONGEST_CALL: Duration = Duration::from_secs(150);
/// How long after a start of containerd addresses and namespaces are looked
/// at: plugins that outlived an earlier containerd have ended by then.
const SETTLING: Duration = Duration::from_secs(200);
/// How long a shim's own clean-up may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long shims may take to end by themselves when the host stops.
const GRACE: Duration = Duration::from_secs(5);
/// How often to look whether they have ended.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// The program of all shims.
const SHIM: &str = "containerd-shim-runc-v2";

/// A shim that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shim {
    pid: i32,
    program: String,
    /// The id of its sandbox.
    id: String,
}

/// Ends and removes what is left over, until `stop`.
pub(super) async fn remove(layout: NodeLayout, stop: CancellationToken) {
    let mut work = Work {
        cri: Cri::new(&layout.cri_socket()),
        layout,
        looks: Looks::default(),
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Err(error) = work.look().await {
            tracing::debug!(%error, "the runtime is not looked at");
            work.looks = Looks::default();
        }
    }
}

struct Work {
    layout: NodeLayout,
    cri: Cri,
    looks: Looks,
}

impl Work {
    async fn look(&mut self) -> Result<(), CriError> {
        // Before the records are read: what has one by then is no leftover.
        let shims = find_shims(&self.layout);
        // Fails until containerd has read what an earlier one left.
        let sandboxes = self.cri.sandbox_states().await?;
        let is_ready = |shim: &Shim| sandboxes.get(&shim.id) == Some(&true);
        let is_stopped = |shim: &Shim| sandboxes.get(&shim.id) == Some(&false);
        let now = SystemTime::now();
        let started = modified(&self.layout.cri_socket());
        let settling = started.is_some_and(|at| age(at, now) < SETTLING);
        if !settling && shims.iter().all(is_ready) {
            self.looks = Looks::default();
            return Ok(());
        }
        let records = self.cri.recorded_containers().await?;
        let ids: HashSet<&str> = records.iter().map(|r| r.id.as_str()).collect();
        let is_left = |shim: &Shim| {
            let idle = is_stopped(shim) && processes::children(shim.pid).is_empty();
            idle || !ids.contains(shim.id.as_str())
        };
        let left = shims.into_iter().filter(is_left).collect();
        for (shim, end) in self.looks.judge(left) {
            end_shim(&self.layout, &shim, end).await;
        }
        if let Some(started) = started.filter(|_| settling) {
            let is_old = |at: SystemTime| at < started || age(at, now) > LONGEST_CALL;
            remove_namespaces(&self.layout, &records, is_old);
            remove_addresses(&self.layout, &ids, is_old);
        }
        Ok(())
    }
}

/// How a shim that is left over is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is asked to.
    Asked,
    /// It was asked and did not.
    Killed,
}

/// How often in a row each shim seemed to be left over, by process.
#[derive(Debug, Default)]
struct Looks(BTreeMap<i32, u32>);

impl Looks {
    /// Notes a look at shims that seem to be left over; tells which are to end.
    fn judge(&mut self, left: Vec<Shim>) -> Vec<(Shim, End)> {
        let mut looks = BTreeMap::new();
        let mut ends = Vec::new();
        for shim in left {
            let seen = self.0.get(&shim.pid).map_or(1, |seen| seen + 1);
            looks.insert(shim.pid, seen);
            match seen {
                1 => {}
                2 => ends.push((shim, End::Asked)),
                _ => ends.push((shim, End::Killed)),
            }
        }
        self.0 = looks;
        ends
    }
}

/// Removes what is left of a containerd that has stopped all containers and
/// has ended. Blocks.
pub(super) fn end(layout: &NodeLayout) {
    end_shims(layout);
    let state = layout.containerd().state;
    if let Err(error) = coracle_node::unmount_below(&state) {
        tracing::warn!(path = %state.display(), %error, "not unmounted");
    }
}

fn end_shims(layout: &NodeLayout) {
    let started = Instant::now();
    let mut asked = false;
    loop {
        let shims = find_shims(layout);
        if shims.is_empty() || started.elapsed() > GRACE * 2 {
            return;
        }
        let end = if started.elapsed() > GRACE {
            End::Killed
        } else {
            End::Asked
        };
        for shim in shims {
            if !asked || end == End::Killed {
                signal(&shim, end);
            }
        }
        asked = true;
        std::thread::sleep(END_INTERVAL);
    }
}

async fn end_shim(layout: &NodeLayout, shim: &Shim, end: End) {
    tracing::warn!(
        id = shim.id,
        pid = shim.pid,
        ?end,
        "ending a shim that the runtime has lost"
    );
    let bundle = layout.task_state().join(&shim.id);
    if end == End::Asked && bundle.is_dir() {
        delete(layout, shim, &bundle).await;
    }
    signal(shim, end);
}

/// Has the shim's program remove what it made of the container.
async fn delete(layout: &NodeLayout, shim: &Shim, bundle: &Path) {
    let ended = tokio::process::Command::new(&shim.program)
        .args(["-namespace", CONTAINERD_NAMESPACE, "-id", &shim.id])
        .arg("-address")
        .arg(layout.cri_socket())
        .arg("-bundle")
        .arg(bundle)
        .args(["-publish-binary", "containerd", "delete"])
        .current_dir(bundle)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(DELETE_TIMEOUT, ended).await {
        Ok(Ok(output)) if output.status.success() => {}
        // There was less to remove than it thinks; the rest is done here.
        other => tracing::debug!(id = shim.id, ?other, "the shim's own clean-up failed"),
    }
}

fn signal(shim: &Shim, end: End) {
    // Its containers first: without it nobody would end them.
    for child in processes::children(shim.pid) {
        let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    }
    let signal = match end {
        End::Asked => Signal::SIGTERM,
        End::Killed => Signal::SIGKILL,
    };
    // It may have ended meanwhile.
    let _ = kill(Pid::from_raw(shim.pid), signal);
}

fn find_shims(layout: &NodeLayout) -> Vec<Shim> {
    let address = layout.cri_socket().display().to_string();
    let found = processes::find(|words| shim_id(words, &address).is_some());
    found
        .into_iter()
        .filter_map(|process| {
            let id = shim_id(&process.words, &address)?.to_owned();
            let program = process.words.first()?.clone();
            Some(Shim {
                pid: process.pid,
                program,
                id,
            })
        })
        .collect()
}

/// The sandbox that a command line is the shim of, for the containerd at
/// `address`.
fn shim_id<'a>(words: &'a [String], address: &str) -> Option<&'a str> {
    let program = words.first()?;
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).map(String::as_str)
    };
    let ours = Path::new(program).file_name()? == SHIM
        && after("-namespace") == Some(CONTAINERD_NAMESPACE)
        && after("-address") == Some(address);
    // It becomes a part of a path. With a command, it is no shim but a helper.
    let id = after("-id").filter(|id| !id.is_empty() && !id.contains(['/', '.']));
    let is_helper = words.iter().any(|word| word == "start" || word == "delete");
    id.filter(|_| ours && !is_helper)
}

/// Removes network namespaces that no record names. Their links go with them.
fn remove_namespaces(
    layout: &NodeLayout,
    records: &[Recorded],
    is_old: impl Fn(SystemTime) -> bool,
) {
    let named: HashSet<PathBuf> = records
        .iter()
        .filter_map(|record| record.network_namespace())
        .map(PathBuf::from)
        .collect();
    for path in entries(&layout.network_namespaces()) {
        if named.contains(&path) || !modified(&path).is_some_and(&is_old) {
            continue;
        }
        tracing::warn!(path = %path.display(), "removing a network namespace that the runtime has lost");
        // One that was being made or removed may not be mounted.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }
}

/// Gives back addresses of sandboxes that have no record.
fn remove_addresses(
    layout: &NodeLayout,
    recorded: &HashSet<&str>,
    is_old: impl Fn(SystemTime) -> bool,
) {
    let networks = entries(&layout.addresses());
    for path in networks.iter().flat_map(|network| entries(network)) {
        let is_address = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.parse::<IpAddr>().is_ok());
        let Some(text) = is_address.then(|| fs::read_to_string(&path).ok()).flatten() else {
            continue;
        };
        let owner = text.lines().next().unwrap_or_default().trim();
        if recorded.contains(owner) || !modified(&path).is_some_and(&is_old) {
            continue;
        }
        tracing::warn!(path = %path.display(), owner, "giving back an address that the runtime has lost");
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// Zero for a time to come: clocks are set.
fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_host_knows_the_shims_of_its_containerd() {
        let address = "/d/run/containerd.sock";
        for (line, want) in [
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id ab12 -address /d/run/containerd.sock",
                Some("ab12"),
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id ab12 -address /e/run/containerd.sock",
                None,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace moby -id ab12 -address /d/run/containerd.sock",
                None,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id ../x -address /d/run/containerd.sock",
                None,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -address /d/run/containerd.sock -id ab12 start",
                None,
            ),
            (
                "grep -namespace k8s.io -id ab12 -address /d/run/containerd.sock",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(shim_id(&words(line), address), want, "{line}");
        }
    }

    #[test]
    fn a_shim_ends_when_it_is_left_over_twice_in_a_row() {
        let shim = |pid, id: &str| Shim {
            pid,
            program: "shim".into(),
            id: id.into(),
        };
        let (a, b) = (shim(1, "a"), shim(2, "b"));
        let mut looks = Looks::default();
        assert_eq!(looks.judge(vec![a.clone()]), []);
        let ends = looks.judge(vec![a.clone(), b.clone()]);
        assert_eq!(ends, [(a.clone(), End::Asked)]);
        assert_eq!(looks.judge(vec![a.clone()]), [(a, End::Killed)]);
        // It was not in between: the count begins anew.
        assert_eq!(looks.judge(vec![b]), []);
        // Another process of the same id is another shim.
        assert_eq!(looks.judge(vec![shim(3, "b")]), []);
    }

    #[test]
    fn addresses_without_a_record_are_given_back_once_they_are_old() {
        let directory = tempfile::tempdir().unwrap();
        let layout = super::super::Layout::new(directory.path())
            .nodes(1)
            .remove(0);
        let network = layout.addresses().join("pods");
        fs::create_dir_all(&network).unwrap();
        for (name, text) in [
            ("10.0.0.2", "a\r\neth0"),
            ("10.0.0.3", "b\r\neth0"),
            ("last_reserved_ip.0", "10.0.0.3"),
            ("lock", ""),
        ] {
            fs::write(network.join(name), text).unwrap();
        }
        let left = || {
            let mut names: Vec<_> = entries(&network)
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        let recorded = HashSet::from(["a"]);
        remove_addresses(&layout, &recorded, |_| false);
        assert_eq!(left().len(), 4);
        remove_addresses(&layout, &recorded, |_| true);
        assert_eq!(left(), ["10.0.0.2", "last_reserved_ip.0", "lock"]);
    }

    #[test]
    fn namespaces_that_no_record_names_are_removed_once_they_are_old() {
        let directory = tempfile::tempdir().unwrap();
        let layout = super::super::Layout::new(directory.path())
            .nodes(1)
            .remove(0);
        fs::create_dir_all(layout.network_namespaces()).unwrap();
        let paths = ["cni-a", "cni-b"].map(|name| layout.network_namespaces().join(name));
        for path in &paths {
            fs::write(path, "").unwrap();
        }
        let spec = serde_json::json!({"linux": {"namespaces": [
            {"type": "pid"}, {"type": "network", "path": paths[0]}]}});
        let records = [Recorded {
            id: "a".into(),
            spec: spec.to_string().into_bytes(),
        }];
        remove_namespaces(&layout, &records, |_| false);
        assert!(paths[1].exists());
        remove_namespaces(&layout, &records, |_| true);
        assert!(paths[0].exists() && !paths[1].exists());
    }
}
