//! What an idle virtual cluster and its host take.

use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::host::Host;
use crate::process::{self, MIB};
use crate::report::Report;
use crate::{Result, Scale};

/// How long a cluster is left alone before it is called idle.
const SETTLE: Duration = Duration::from_secs(10);
/// The window of CPU time; of a quick run, a sixth of it.
const WINDOW: Duration = Duration::from_secs(60);

/// Memory and CPU time of the two containers.
pub async fn idle(cluster: &Cluster, scale: Scale, report: &mut Report) -> Result {
    crate::say("leaving the virtual cluster alone");
    tokio::time::sleep(SETTLE).await;
    let (control_plane, syncer) = cluster.processes()?;
    let window = if scale.quick { WINDOW / 6 } else { WINDOW };
    let times = || {
        Ok::<_, String>((
            process::cpu_time(&[control_plane])?,
            process::cpu_time(&[syncer])?,
        ))
    };
    let started = Instant::now();
    let before = times()?;
    tokio::time::sleep(window).await;
    let after = times()?;
    let elapsed = started.elapsed();
    let share = |time: Duration| 100.0 * time.as_secs_f64() / elapsed.as_secs_f64();
    let shares = (share(after.0 - before.0), share(after.1 - before.1));
    report.add("idle.cpu", shares.0 + shares.1);
    report.add("idle.cpu.control-plane", shares.0);
    report.add("idle.cpu.syncer", shares.1);
    let memory = (
        process::memory(&[control_plane])?,
        process::memory(&[syncer])?,
    );
    report.add(
        "idle.memory",
        (memory.0.proportional + memory.1.proportional) / MIB,
    );
    report.add("idle.memory.control-plane", memory.0.proportional / MIB);
    report.add("idle.memory.syncer", memory.1.proportional / MIB);
    report.add(
        "idle.memory.anonymous",
        (memory.0.anonymous + memory.1.anonymous) / MIB,
    );
    Ok(())
}

/// Memory of the embedded host, before any virtual cluster.
pub fn host(host: &Host, report: &mut Report) -> Result {
    let mut pids = host.own_processes();
    report.add("host.memory", process::memory(&pids)?.proportional / MIB);
    pids.extend(host.containerd_processes());
    report.add(
        "host.memory.all",
        process::memory(&pids)?.proportional / MIB,
    );
    Ok(())
}
