//! Processes of this machine by their command lines.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its id.
    pub(super) pid: i32,
    /// The words of its command line.
    pub(super) words: Vec<String>,
}

/// Those that `choose` wants, of this process's own PID namespace: a host in a
/// container of this machine may have the same paths, and is not ours.
pub(super) fn find(choose: impl Fn(&[String]) -> bool) -> Vec<Process> {
    let own = namespace(Path::new("/proc/self"));
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            // A process that has ended has no words, whoever waits for it.
            let text = fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<String> = text
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            let chosen = choose(&words) && namespace(&entry.path()) == own;
            chosen.then_some(Process { pid, words })
        })
        .collect()
}

fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/pid")).ok()
}

/// The processes that a process has started, or that were left to it.
pub(super) fn children(parent: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name: OsString = entry.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent_in(&stat) == Some(parent)).then_some(pid)
        })
        .collect()
}

/// The parent in the text of `/proc/PID/stat`.
fn parent_in(stat: &str) -> Option<i32> {
    // State and parent follow the name in parentheses, which may hold any
    // character.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_after_any_name() {
        assert_eq!(parent_in("7 (a) b) 1 2) S 4 7 7"), Some(4));
        assert_eq!(parent_in("7 (a"), None);
    }

    #[test]
    fn a_child_is_found_by_its_parent_and_by_its_words() {
        let mut child = std::process::Command::new("sleep")
            .arg("1234.5")
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = std::process::id().cast_signed();
        assert!(children(own).contains(&pid));
        // Its words are this test's own until it has become another program.
        let found = || find(|words| words.get(1).is_some_and(|word| word == "1234.5"));
        while found().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(found()[0].pid, pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
