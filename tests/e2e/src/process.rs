//! The processes of the machine.

use crate::world::Result;

/// A process that runs.
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// Its command line, of at least one word.
    pub command: Vec<String>,
}

impl Process {
    /// All that there are.
    pub fn all() -> Result<Vec<Self>> {
        let entries = std::fs::read_dir("/proc").map_err(|e| e.to_string())?;
        Ok(entries
            .flatten()
            .filter_map(|entry| Self::read(&entry.path()))
            .collect())
    }

    fn read(directory: &std::path::Path) -> Option<Self> {
        let pid = directory.file_name()?.to_str()?.parse().ok()?;
        // Ended processes that nobody has waited for have no words.
        let text = std::fs::read(directory.join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        let words = text.split(|byte| *byte == 0);
        (!text.is_empty()).then(|| Self {
            pid,
            parent,
            command: words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        })
    }
}
