//! From the start of a control plane's process to its readiness.

use crate::process::{self, MIB};
use crate::report::Report;
use crate::server::ControlPlane;
use crate::stats::Samples;
use crate::{Result, Scale};

/// Starts a control plane several times, each with fresh data.
pub async fn measure(scale: Scale, report: &mut Report) -> Result {
    crate::say("starting control planes");
    let (mut seconds, mut memory) = (Samples::default(), Samples::default());
    for _ in 0..scale.count(15, 3) {
        let control_plane = ControlPlane::start().await?;
        seconds.add(control_plane.ready.as_secs_f64());
        memory.add(process::memory(&[control_plane.pid()?])?.proportional / MIB);
    }
    report.add("start.ready", seconds.median());
    report.add("start.memory", memory.median());
    Ok(())
}
