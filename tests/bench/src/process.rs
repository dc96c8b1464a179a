//! Memory and CPU time of processes, from /proc.

use std::fs;
use std::time::Duration;

use nix::sys::time::TimeValLike as _;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::Result;

/// Bytes in a MiB.
pub const MIB: f64 = 1024.0 * 1024.0;

/// Memory of processes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Pages in memory, each divided by the number of processes that share it.
    pub proportional: f64,
    /// The same of pages that are no file's: heap and stacks.
    pub anonymous: f64,
}

/// What several processes take together.
pub fn memory(pids: &[i32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        sum.proportional += field(&text, "Pss:").ok_or(format!("{file}: no Pss"))?;
        sum.anonymous += field(&text, "Pss_Anon:").unwrap_or_default();
    }
    Ok(sum)
}

/// The value of a line such as `Pss:  12 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024.0)
}

/// CPU time that several processes have used.
pub fn cpu_time(pids: &[i32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in pids {
        let failed = |error: nix::Error| format!("CPU time of process {pid}: {error}");
        let clock = clock_getcpuclockid(Pid::from_raw(*pid)).map_err(failed)?;
        let time = clock_gettime(clock).map_err(failed)?;
        sum += Duration::from_nanos(time.num_nanoseconds().unsigned_abs());
    }
    Ok(sum)
}

/// The peaks of processes' resident memory since a moment.
pub struct Peaks<'a> {
    pids: &'a [i32],
    before: f64,
}

impl<'a> Peaks<'a> {
    /// Starts to watch from now on.
    pub fn start(pids: &'a [i32]) -> Result<Self> {
        for pid in pids {
            // The kernel's word for "forget the peak".
            let file = format!("/proc/{pid}/clear_refs");
            fs::write(&file, "5").map_err(|e| format!("{file}: {e}"))?;
        }
        Ok(Self {
            pids,
            before: resident(pids, "VmRSS:")?,
        })
    }

    /// How far memory has grown at most, in bytes.
    pub fn growth(&self) -> Result<f64> {
        Ok(resident(self.pids, "VmHWM:")? - self.before)
    }
}

fn resident(pids: &[i32], name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for pid in pids {
        let file = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
        sum += field(&text, name).ok_or(format!("{file}: no {name}"))?;
    }
    Ok(sum)
}

/// Processes whose words (program first) satisfy `wanted`.
pub fn find(wanted: impl Fn(&[&str]) -> bool) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
        wanted(&words)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time() {
        let me = [i32::try_from(std::process::id()).unwrap()];
        let memory = memory(&me).unwrap();
        assert!(memory.proportional >= memory.anonymous && memory.anonymous > 0.0);
        assert!(cpu_time(&me).unwrap() > Duration::ZERO);
        assert!(find(|words| words[0].contains("coracle_bench")).contains(&me[0]));
    }

    #[test]
    fn peaks_are_seen_after_they_have_passed() {
        let me = [i32::try_from(std::process::id()).unwrap()];
        let peaks = Peaks::start(&me).unwrap();
        drop(std::hint::black_box(vec![1_u8; 64 << 20]));
        assert!(peaks.growth().unwrap() > 32.0 * MIB);
    }
}
