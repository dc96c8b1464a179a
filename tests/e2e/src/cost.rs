//! What the two processes of a virtual cluster take of the machine.

use std::path::Path;
use std::time::Duration;

use crate::process::Process;

/// The kernel counts processor time in hundredths of a second towards programs,
/// on every architecture that Rust's standard library knows.
const TICK: Duration = Duration::from_millis(10);

/// Of both processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Proportional set size, in bytes: pages that processes share are counted
    /// in parts.
    pub memory: u64,
    /// Processor time since they started.
    pub processor: Duration,
}

/// The cost of a virtual cluster on this machine; `None` unless both of its
/// processes run.
pub fn of(name: &str) -> Option<Cost> {
    let (mut processes, mut sum) = (0, Cost::default());
    for process in Process::all().ok()? {
        if is_of(&process.command, name)
            && let Some(cost) = read(process.pid)
        {
            processes += 1;
            sum.memory += cost.memory;
            sum.processor += cost.processor;
        }
    }
    (processes == 2).then_some(sum)
}

fn is_of(command: &[String], name: &str) -> bool {
    let has = |argument: String| command.contains(&argument);
    match command.get(1).map(String::as_str) {
        Some("control-plane") => has(format!("--context={name}")),
        Some("syncer") => has(format!("--name={name}")),
        _ => false,
    }
}

fn read(process: u32) -> Option<Cost> {
    let directory = Path::new("/proc").join(process.to_string());
    let maps = std::fs::read_to_string(directory.join("smaps_rollup")).ok()?;
    let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
    Some(Cost {
        memory: memory(&maps)?,
        processor: processor(&stat)?,
    })
}

fn memory(maps: &str) -> Option<u64> {
    let line = maps.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Fields 14 and 15 of `stat`, counted from behind the name, which may hold
/// anything.
fn processor(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(TICK * (ticks(11)? + ticks(12)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            memory("Rss:  900 kB\nPss:   12 kB\nPss_Anon: 3 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(memory("Rss: 900 kB\n"), None);
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 9 0 77";
        assert_eq!(processor(stat), Some(Duration::from_secs(2)));
        let is_of = |words: [&str; 3]| is_of(&words.map(str::to_owned), "a");
        assert!(is_of(["coracle", "syncer", "--name=a"]));
        assert!(!is_of(["coracle", "syncer", "--name=ab"]));
        assert!(!is_of(["coracle", "connect", "--name=a"]));
    }
}
