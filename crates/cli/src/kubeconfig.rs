//! Kubeconfig files: reading them as kubectl does, and changing single entries
//! while every other entry stays as it was, also when several programs do so
//! at once.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::error::{CliError, Result};

/// How long to wait for another program that holds the lock of the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to look whether the lock is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The files that make up the configuration, in order of precedence.
#[derive(Clone, Debug)]
pub struct Files(Vec<PathBuf>);

/// A context to write: one cluster, one user, one context of the same name.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name of all three.
    pub name: String,
    /// The `cluster` value.
    pub cluster: Value,
    /// The `user` value.
    pub user: Value,
}

impl Entry {
    /// The one context of a single-context kubeconfig, under another name.
    ///
    /// # Errors
    /// If the text is no kubeconfig with a cluster and a user.
    pub fn from_kubeconfig(text: &str, name: &str) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|e| CliError::failure("the kubeconfig cannot be read").because(e))?;
        let part = |list: &str, key: &str| {
            value
                .pointer(&format!("/{list}/0/{key}"))
                .cloned()
                .ok_or_else(|| CliError::failure(format!("the kubeconfig has no {list}")))
        };
        Ok(Self {
            name: name.to_owned(),
            cluster: part("clusters", "cluster")?,
            user: part("users", "user")?,
        })
    }

    /// A kubeconfig with this entry alone.
    pub fn to_yaml(&self) -> String {
        let mut config = Map::new();
        put(&mut config, self);
        config.insert("current-context".into(), json!(self.name));
        to_yaml(&Value::Object(config))
    }
}

impl Files {
    /// `--kubeconfig`, else `$KUBECONFIG`, else `~/.kube/config`.
    ///
    /// # Errors
    /// If there is no home directory to look in.
    pub fn locate(flag: Option<&Path>) -> Result<Self> {
        if let Some(path) = flag {
            return Ok(Self(vec![path.to_owned()]));
        }
        let listed: Vec<PathBuf> = std::env::var_os("KUBECONFIG")
            .map(|value| {
                std::env::split_paths(&value)
                    .filter(|p| !p.as_os_str().is_empty())
                    .collect()
            })
            .unwrap_or_default();
        if !listed.is_empty() {
            return Ok(Self(listed));
        }
        let home = std::env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .ok_or_else(|| {
                CliError::failure("no kubeconfig: neither KUBECONFIG nor HOME is set")
                    .hint("name a file with --kubeconfig")
            })?;
        Ok(Self(vec![Path::new(&home).join(".kube/config")]))
    }

    /// The files themselves.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// All files merged, by the rules of kubectl: the first one that has an
    /// entry wins.
    ///
    /// # Errors
    /// If a file cannot be read or parsed. A missing one is empty.
    pub fn read(&self) -> Result<Value> {
        let mut merged = Map::new();
        for path in &self.0 {
            let file = read_file(path)?;
            for key in ["clusters", "users", "contexts"] {
                let known = merged.entry(key).or_insert_with(|| json!([]));
                for entry in list(&file, key) {
                    if find(known, name(entry)).is_none() {
                        known
                            .as_array_mut()
                            .expect("made a list above")
                            .push(entry.clone());
                    }
                }
            }
            if let Some(context) = file.get("current-context").filter(|c| **c != json!("")) {
                merged
                    .entry("current-context")
                    .or_insert_with(|| context.clone());
            }
        }
        Ok(Value::Object(merged))
    }

    /// The name of the current context.
    ///
    /// # Errors
    /// As for `read`.
    pub fn current_context(&self) -> Result<Option<String>> {
        Ok(self
            .read()?
            .get("current-context")
            .and_then(Value::as_str)
            .map(str::to_owned))
    }

    /// The cluster entry of that name.
    ///
    /// # Errors
    /// As for `read`.
    pub fn cluster(&self, cluster: &str) -> Result<Option<Value>> {
        let all = self.read()?;
        let found = find(all.get("clusters").unwrap_or(&Value::Null), cluster);
        Ok(found.and_then(|entry| entry.get("cluster").cloned()))
    }

    /// True if a context of that name exists.
    ///
    /// # Errors
    /// As for `read`.
    pub fn has_context(&self, context: &str) -> Result<bool> {
        Ok(find(
            self.read()?.get("contexts").unwrap_or(&Value::Null),
            context,
        )
        .is_some())
    }

    /// Adds or replaces one entry and, with `switch`, makes it current.
    ///
    /// # Errors
    /// If the file is locked for too long, or cannot be read or written.
    pub fn put(&self, entry: &Entry, switch: bool) -> Result {
        let home = self.file_with(|file| find(&file["contexts"], &entry.name).is_some())?;
        edit(&home, |config| put(config, entry))?;
        if switch {
            self.switch_to(&entry.name)
        } else {
            Ok(())
        }
    }

    /// Makes a context current.
    ///
    /// # Errors
    /// As for `put`.
    pub fn switch_to(&self, context: &str) -> Result {
        let holds = |file: &Value| file.get("current-context").is_some_and(|c| *c != json!(""));
        edit(&self.file_with(holds)?, |config| {
            config.insert("current-context".into(), json!(context));
        })
    }

    /// Removes an entry; if it was current, `fallback` becomes current.
    ///
    /// # Errors
    /// As for `put`.
    pub fn remove(&self, entry: &str, fallback: Option<&str>) -> Result {
        for path in &self.0 {
            let file = read_file(path)?;
            let current = file.get("current-context").and_then(Value::as_str) == Some(entry);
            let listed = ["clusters", "users", "contexts"]
                .iter()
                .any(|key| list(&file, key).iter().any(|e| name(e) == entry));
            if !current && !listed {
                continue;
            }
            edit(path, |config| {
                for key in ["clusters", "users", "contexts"] {
                    if let Some(entries) = config.get_mut(key).and_then(Value::as_array_mut) {
                        entries.retain(|e| name(e) != entry);
                    }
                }
                if config.get("current-context").and_then(Value::as_str) == Some(entry) {
                    config.insert(
                        "current-context".into(),
                        json!(fallback.unwrap_or_default()),
                    );
                }
            })?;
        }
        Ok(())
    }

    /// The first file for which `holds`, or else the first one that exists, or
    /// else the last one, as kubectl has it.
    fn file_with(&self, holds: impl Fn(&Value) -> bool) -> Result<PathBuf> {
        for path in &self.0 {
            if holds(&read_file(path)?) {
                return Ok(path.clone());
            }
        }
        let existing = self.0.iter().find(|path| path.exists());
        Ok(existing
            .or(self.0.last())
            .expect("located files are never empty")
            .clone())
    }
}

fn put(config: &mut Map<String, Value>, entry: &Entry) {
    config.entry("apiVersion").or_insert_with(|| json!("v1"));
    config.entry("kind").or_insert_with(|| json!("Config"));
    let context = json!({"cluster": entry.name, "user": entry.name});
    for (key, field, value) in [
        ("clusters", "cluster", &entry.cluster),
        ("users", "user", &entry.user),
        ("contexts", "context", &context),
    ] {
        let entries = config.entry(key).or_insert_with(|| json!([]));
        if !entries.is_array() {
            *entries = json!([]);
        }
        let entries = entries.as_array_mut().expect("made a list above");
        let new = json!({"name": entry.name, field: value});
        match entries.iter_mut().find(|e| name(e) == entry.name) {
            Some(old) => *old = new,
            None => entries.push(new),
        }
    }
}

fn list<'a>(file: &'a Value, key: &str) -> &'a [Value] {
    file.get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn find<'a>(entries: &'a Value, wanted: &str) -> Option<&'a Value> {
    entries
        .as_array()?
        .iter()
        .find(|entry| name(entry) == wanted)
}

fn name(entry: &Value) -> &str {
    entry
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn read_file(path: &Path) -> Result<Value> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(json!({})),
        Err(error) => return Err(file_error("read", path, error)),
    };
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    match serde_saphyr::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(file_error("read", path, "it is not a kubeconfig")),
        Err(error) => Err(file_error("read", path, error)),
    }
}

fn to_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("a JSON value always serialises")
}

fn file_error(doing: &str, path: &Path, cause: impl std::fmt::Display) -> CliError {
    CliError::failure(format!("cannot {doing} the kubeconfig {}", path.display()))
        .because(cause)
        .hint("--kubeconfig, or else the variable KUBECONFIG, names another file")
}

/// Changes a file under its lock, whole or not at all, keeping its mode.
fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result {
    let failed = |error: io::Error| file_error("write", path, error);
    // A link (as tools make for a file kept elsewhere) stays a link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(parent) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let _lock = Lock::take(&target)?;
    let Value::Object(mut config) = read_file(&target)? else {
        return Err(file_error("read", path, "it is not a kubeconfig"));
    };
    change(&mut config);
    let before = fs::metadata(&target).ok();
    let mode = before.as_ref().map_or(0o600, |meta| meta.mode() & 0o777);
    let incoming = sibling(&target, &format!("{}.tmp", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&incoming)?;
        if let Some(before) = &before {
            // Under sudo, the user's file stays the user's.
            std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.write_all(to_yaml(&Value::Object(config)).as_bytes())?;
        file.sync_all()?;
        fs::rename(&incoming, &target)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&incoming);
        failed(error)
    })
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

/// `FILE.lock`, the lock that kubectl uses as well.
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> Result<Self> {
        let path = sibling(file, "lock");
        let started = Instant::now();
        loop {
            match fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)
            {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(file_error("lock", file, error));
                }
                Err(_) if started.elapsed() > LOCK_TIMEOUT => {
                    return Err(CliError::failure(format!(
                        "the kubeconfig {} is locked by another program",
                        file.display()
                    ))
                    .hint(format!(
                        "if no kubectl or coracle runs, remove {}",
                        path.display()
                    )));
                }
                Err(_) => std::thread::sleep(LOCK_INTERVAL),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            cluster: json!({"server": format!("https://{name}:1")}),
            user: json!({"token": "t"}),
        }
    }

    #[test]
    fn other_entries_and_unknown_keys_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        let before = "apiVersion: v1\nkind: Config\npreferences: {colors: true}\nx-mine: {a: \"yes\"}\n\
            current-context: old\nclusters:\n- name: old\n  cluster: {server: 'https://old', \
            extensions: [{name: e, extension: {n: 1}}]}\nusers:\n- name: old\n  user: {token: \"0123\"}\n\
            contexts:\n- name: old\n  context: {cluster: old, user: old, namespace: n}\n";
        fs::write(&path, before).unwrap();
        let original = read_file(&path).unwrap();
        let files = Files(vec![path.clone()]);
        files.put(&entry("new"), true).unwrap();
        assert_eq!(files.current_context().unwrap().as_deref(), Some("new"));
        assert!(files.has_context("new").unwrap());
        files.remove("new", Some("old")).unwrap();
        assert_eq!(read_file(&path).unwrap(), original);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn entries_go_where_they_are_and_switches_where_the_current_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        let files = Files(vec![first.clone(), second.clone()]);
        Files(vec![second.clone()]).put(&entry("a"), true).unwrap();
        files.put(&entry("a"), true).unwrap();
        assert!(!first.exists());
        files.put(&entry("b"), false).unwrap();
        assert!(!first.exists());
        fs::write(&first, "").unwrap();
        files.put(&entry("c"), false).unwrap();
        assert_eq!(list(&read_file(&first).unwrap(), "contexts").len(), 1);
        assert_eq!(files.current_context().unwrap().as_deref(), Some("a"));
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files(vec![directory.path().join("config")]);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let files = &files;
                scope.spawn(move || files.put(&entry(&format!("c{number}")), true).unwrap());
            }
        });
        assert_eq!(list(&files.read().unwrap(), "contexts").len(), 8);
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        fs::write(&path, "- a\n").unwrap();
        let error = Files(vec![path.clone()])
            .put(&entry("a"), true)
            .unwrap_err();
        assert!(error.message.contains("config"), "{error:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "- a\n");
    }
}
