//! Tables of nftables as values: the step from one to the next, and the one
//! call that writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Stdio;

use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A table: chains with their rules, maps and sets with their elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Rules by chain.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Base chains' hooks by chain.
    pub hooks: BTreeMap<&'static str, &'static str>,
    /// Verdict maps: type and elements by name.
    pub maps: BTreeMap<&'static str, (&'static str, BTreeMap<String, String>)>,
    /// Sets: declaration and elements by name. Those that packets fill have
    /// none here. The declaration of a name never changes.
    pub sets: BTreeMap<String, (String, BTreeSet<String>)>,
}

impl Ruleset {
    /// Sets the rules of a chain.
    pub fn chain(&mut self, name: &str, rules: Vec<String>) {
        self.chains.insert(name.to_owned(), rules);
    }

    /// Adds an element to a map, unless its key is taken.
    pub fn element(&mut self, map: &'static str, key: String, value: String) {
        if let Some((_, elements)) = self.maps.get_mut(map) {
            elements.entry(key).or_insert(value);
        }
    }

    /// Adds a set with elements.
    pub fn set(&mut self, name: String, declaration: String, elements: BTreeSet<String>) {
        self.sets.insert(name, (declaration, elements));
    }
}

/// A short chain name that is the same for the same thing.
pub fn chain_name(kind: &str, text: &str) -> String {
    let digest = sha2::Sha256::digest(text.as_bytes());
    let hex: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{kind}-{hex}")
}

/// The transaction that turns `old` into `new`; empty if they are equal.
/// Without `old` the whole table is made anew. `table` is family and name.
pub fn transition(old: Option<&Ruleset>, new: &Ruleset, table: &str) -> String {
    if old == Some(new) {
        return String::new();
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    macro_rules! line {
        ($($part:tt)*) => {
            let _ = writeln!(text, $($part)*);
        };
    }
    if old.is_none() {
        // Added first so that deleting it never fails.
        line!("add table {table}");
        line!("delete table {table}");
        line!("add table {table}");
    }
    let empty = Ruleset::default();
    let old = old.unwrap_or(&empty);
    // 1. New things, empty, so that any order of references is fine.
    let fresh = new.sets.iter().filter(|(n, _)| !old.sets.contains_key(*n));
    for (name, (declaration, _)) in fresh {
        line!("add set {table} {name} {{ {declaration} }}");
    }
    for name in new.chains.keys().filter(|n| !old.chains.contains_key(*n)) {
        match new.hooks.get(name.as_str()) {
            Some(hook) => {
                line!("add chain {table} {name} {{ {hook} }}");
            }
            None => {
                line!("add chain {table} {name}");
            }
        }
    }
    for (name, (kind, _)) in new.maps.iter().filter(|(n, _)| !old.maps.contains_key(*n)) {
        line!("add map {table} {name} {{ {kind}; }}");
    }
    // 2. What is out of date goes, references before what they refer to.
    let none = BTreeMap::new();
    for (name, (_, elements)) in &old.maps {
        let wanted = new.maps.get(name).map_or(&none, |(_, e)| e);
        let stale = elements.iter().filter(|(k, v)| wanted.get(*k) != Some(*v));
        for chunk in chunks(stale.map(|(k, _)| k.clone())) {
            line!("delete element {table} {name} {{ {chunk} }}");
        }
    }
    let changed = |name: &String| old.chains.get(name) != new.chains.get(name);
    for name in old.chains.keys().filter(|n| changed(n)) {
        line!("flush chain {table} {name}");
    }
    let nobody = BTreeSet::new();
    let kept = |name: &String| new.sets.get(name).map(|(_, elements)| elements);
    for (name, (_, elements)) in &old.sets {
        // The elements of a set that goes, go with it.
        let stale = kept(name).map(|wanted| elements.difference(wanted));
        for chunk in chunks(stale.into_iter().flatten().cloned()) {
            line!("delete element {table} {name} {{ {chunk} }}");
        }
    }
    // 3. New contents.
    for (name, (_, elements)) in &new.sets {
        let present = old.sets.get(name).map_or(&nobody, |(_, e)| e);
        for chunk in chunks(elements.difference(present).cloned()) {
            line!("add element {table} {name} {{ {chunk} }}");
        }
    }
    for (name, rules) in new.chains.iter().filter(|(n, _)| changed(n)) {
        for rule in rules {
            line!("add rule {table} {name} {rule}");
        }
    }
    for (name, (_, elements)) in &new.maps {
        let present = old.maps.get(name).map_or(&none, |(_, e)| e);
        let fresh = elements.iter().filter(|(k, v)| present.get(*k) != Some(*v));
        for chunk in chunks(fresh.map(|(k, v)| format!("{k} : {v}"))) {
            line!("add element {table} {name} {{ {chunk} }}");
        }
    }
    // 4. What nothing refers to any more.
    for name in old.chains.keys().filter(|n| !new.chains.contains_key(*n)) {
        line!("delete chain {table} {name}");
    }
    for name in old.sets.keys().filter(|n| !new.sets.contains_key(*n)) {
        line!("delete set {table} {name}");
    }
    text
}

/// The transaction that makes a table, and is refused where it exists.
pub fn creation(new: &Ruleset, table: &str) -> String {
    let contents = transition(Some(&Ruleset::default()), new, table);
    format!("create table {table}\n{contents}")
}

/// Elements in lists of bounded length, as nft takes long lines badly.
fn chunks(elements: impl Iterator<Item = String>) -> Vec<String> {
    const LENGTH: usize = 500;
    let all: Vec<String> = elements.collect();
    all.chunks(LENGTH).map(|chunk| chunk.join(", ")).collect()
}

/// Why rules were not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The program could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[from] std::io::Error),
    /// It did not take them.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Hands one transaction to nft.
pub async fn apply(text: &str) -> Result<(), ApplyError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    /// How much of nft's complaint is kept.
    const SHOWN: usize = 600;
    let complaint: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(SHOWN)
        .collect();
    Err(ApplyError::Refused(complaint.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_set(name: &str, elements: &[&str]) -> Ruleset {
        let mut rules = Ruleset::default();
        rules.chain("c", vec![format!("ip saddr @{name} accept")]);
        let elements = elements.iter().map(|e| (*e).to_owned()).collect();
        rules.set(name.to_owned(), "type ipv4_addr;".to_owned(), elements);
        rules
    }

    #[test]
    fn of_sets_only_the_elements_that_differ_are_written() {
        let (one, two) = (with_set("s", &["a", "b"]), with_set("s", &["b", "c"]));
        let step = transition(Some(&one), &two, "inet t");
        assert_eq!(
            step,
            "delete element inet t s { a }\nadd element inet t s { c }\n"
        );
        let step = transition(Some(&two), &with_set("r", &["b"]), "inet t");
        assert_eq!(
            step,
            "add set inet t r { type ipv4_addr; }\nflush chain inet t c\n\
             add element inet t r { b }\nadd rule inet t c ip saddr @r accept\n\
             delete set inet t s\n"
        );
    }
}
