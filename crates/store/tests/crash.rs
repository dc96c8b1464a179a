//! Kills a process that writes, again and again, over one database, and
//! checks each time that nothing that was acknowledged is lost and nothing
//! half-written is found.
//!
//! The child is this test itself, started anew with the database's path in its
//! environment. It says on its standard output what it is about to write and,
//! when the store has acknowledged it, at which revision.

#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use coracle_store::{
    Event, Expect, KeyValue, ListRequest, Outcome, Retention, Revision, SqliteOptions, SqliteStore,
    Store, StoreError, WatchMessage, Write,
};
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const KILLS: u32 = 200;

/// Tasks that write in the child, each its own keys.
const TASKS: u32 = 4;
const KEYS_PER_TASK: u32 = 6;

const DATABASE: &str = "CORACLE_STORE_CRASH_DATABASE";
const ROUND: &str = "CORACLE_STORE_CRASH_ROUND";

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match std::env::var_os(DATABASE) {
        Some(path) => runtime.block_on(write_until_killed(Path::new(&path))),
        None => kill_and_check(&runtime),
    }
}

/// Little history, so that sweeping is interrupted as well.
fn open(path: &Path) -> SqliteStore {
    let retention = Retention {
        age: Duration::ZERO,
        revisions: 60,
        bytes: 1024 * 1024,
    };
    let options = SqliteOptions {
        retention,
        ..SqliteOptions::default()
    };
    SqliteStore::open(path, options).unwrap()
}

/// What a key's `number`th value is: its size and every byte of it follow from
/// the key and the number, so a torn value cannot go unnoticed.
fn value(key: &str, number: u64) -> Bytes {
    let seed = key.bytes().fold(number, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let size = match seed % 20 {
        0 => seed % 100_000,
        _ => seed % 3000,
    };
    let mut bytes = number.to_le_bytes().to_vec();
    for word in 0..size / 8 {
        bytes.extend_from_slice(&seed.wrapping_add(word).to_le_bytes());
    }
    Bytes::from(bytes)
}

/// The number of a value that is whole.
fn number_of(kv: &KeyValue) -> u64 {
    let number = u64::from_le_bytes(kv.value[..8].try_into().unwrap());
    assert_eq!(kv.value, value(&kv.key, number), "{} is torn", kv.key);
    number
}

// --- the child ---

async fn write_until_killed(path: &Path) {
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = Arc::new(open(path));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(write_own_keys(Arc::clone(&store), round, task)))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn write_own_keys(store: Arc<SqliteStore>, round: u64, task: u32) {
    let mut random = StdRng::seed_from_u64(round * u64::from(TASKS) + u64::from(task));
    for step in 1.. {
        let key = format!("{task}/{}", random.random_range(0..KEYS_PER_TASK));
        let current = store.get(&key).await.unwrap();
        let number = round * 1_000_000 + step;
        let (expect, write, intent) = match &current {
            Some(kv) if random.random_range(0..4) == 0 => {
                (Expect::Revision(kv.mod_revision), Write::Delete, 0)
            }
            found => {
                let put = Write::Put {
                    value: value(&key, number),
                    ttl_seconds: None,
                };
                let revision = found.as_ref().map(|kv| kv.mod_revision);
                let expect = revision.map_or(Expect::Absent, Expect::Revision);
                (expect, put, number)
            }
        };
        say(&format!("try {task} {key} {intent}"));
        match store.write(&key, expect, write).await.unwrap() {
            Outcome::Done { revision, .. } => say(&format!("done {task} {revision}")),
            Outcome::Mismatch { current } => {
                let found = current.map(|kv| kv.mod_revision);
                panic!("nobody else writes {key}, found at {found:?}")
            }
        }
    }
}

/// One line in one write, past the test harness's capture.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@ {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

// --- the parent ---

/// What the parent knows of a key. Number 0 is its absence.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    number: u64,
    revision: Revision,
    /// What was being written when the process was killed.
    attempt: Option<u64>,
}

fn kill_and_check(runtime: &tokio::runtime::Runtime) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let copies = directory.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let mut random = StdRng::seed_from_u64(7);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut latest = 0;
    let mut acknowledged = 0;
    for round in 1..=KILLS {
        // Sometimes while it opens the database, usually while it writes.
        let life = match round % 5 {
            0 => Duration::from_micros(random.random_range(0..8_000)),
            _ => Duration::from_micros(random.random_range(1_000..40_000)),
        };
        let lines = run_child(&path, round, life, round % 5 != 0);
        acknowledged += learn(&lines, &mut known, latest);
        if !path.exists() {
            continue;
        }
        // The next child finds the files as this one left them: what is
        // checked, and repaired by that, is a copy.
        copy_database(&path, &copies);
        let copy = copies.join("state.db");
        latest = runtime.block_on(check(&copy, &mut known, latest));
        if round % 20 == 0 {
            check_integrity(&copy);
        }
    }
    assert!(
        acknowledged > u64::from(KILLS),
        "only {acknowledged} writes"
    );
    println!("{KILLS} kills, {acknowledged} acknowledged writes, revision {latest}");
}

/// Starts a child, kills it after `life` (counted, if wanted, from its first
/// write), and returns what it said.
fn run_child(path: &Path, round: u32, life: Duration, from_first_write: bool) -> Vec<String> {
    let name = "kill_9_loses_nothing_that_was_acknowledged";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(DATABASE, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (first_write, wait_for_it) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        for line in output.lines() {
            // A pipe takes a short line as a whole or not at all.
            let Ok(line) = line else { break };
            if let Some(line) = line.strip_prefix("@ ") {
                said.push(line.to_owned());
                let _ = first_write.send(());
            }
        }
        said
    });
    if from_first_write {
        let _ = wait_for_it.recv_timeout(Duration::from_secs(20));
    }
    std::thread::sleep(life);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(9),
        "the child ended by itself: {status}"
    );
    reader.join().unwrap()
}

/// Takes note of what a child said; returns how many writes were
/// acknowledged.
fn learn(lines: &[String], known: &mut BTreeMap<String, Known>, latest: Revision) -> u64 {
    let mut trying: BTreeMap<&str, (&str, u64)> = BTreeMap::new();
    let mut acknowledged = 0;
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["try", task, key, number] => {
                trying.insert(task, (key, number.parse().unwrap()));
            }
            ["done", task, revision] => {
                let (key, number) = trying.remove(task).unwrap();
                let revision: Revision = revision.parse().unwrap();
                let entry = known.entry(key.to_owned()).or_default();
                assert!(revision > entry.revision && revision > latest);
                *entry = Known {
                    number,
                    revision,
                    attempt: None,
                };
                acknowledged += 1;
            }
            _ => panic!("the child said {line:?}"),
        }
    }
    for (key, number) in trying.into_values() {
        known.entry(key.to_owned()).or_default().attempt = Some(number);
    }
    acknowledged
}

fn copy_database(path: &Path, to: &Path) {
    // The shared memory file is an index of the log, made anew when missing.
    let _ = std::fs::remove_file(to.join("state.db-shm"));
    for suffix in ["", "-wal"] {
        let name = format!("state.db{suffix}");
        let (from, to) = (path.with_file_name(&name), to.join(&name));
        if from.exists() {
            std::fs::copy(from, to).unwrap();
        } else if to.exists() {
            std::fs::remove_file(to).unwrap();
        }
    }
}

/// Opens the database and compares it with what is known. What was being
/// written may have happened or not; from now on it is known which.
async fn check(
    path: &Path,
    known: &mut BTreeMap<String, Known>,
    latest_before: Revision,
) -> Revision {
    let store = open(path);
    let page = store.list(ListRequest::default()).await.unwrap();
    let latest = store.revision().await.unwrap();
    assert_eq!(page.revision, latest);
    let highest_known = known.values().map(|known| known.revision).max();
    assert!(latest >= latest_before.max(highest_known.unwrap_or(0)));

    let mut found: BTreeMap<String, KeyValue> = BTreeMap::new();
    for kv in page.items {
        assert!(kv.create_revision <= kv.mod_revision && kv.mod_revision <= latest);
        assert_eq!(store.get(&kv.key).await.unwrap().as_ref(), Some(&kv));
        found.insert(kv.key.clone(), kv);
    }
    for (key, known) in known.iter_mut() {
        let kv = found.remove(key);
        let number = kv.as_ref().map_or(0, number_of);
        let revision = kv.map_or(latest, |kv| kv.mod_revision);
        if number == known.number {
            assert!(
                number == 0 || revision == known.revision,
                "{key}: {known:?}"
            );
        } else {
            assert_eq!(Some(number), known.attempt, "{key}: {known:?}");
            assert!(revision > known.revision);
            known.number = number;
            known.revision = revision;
        }
        known.attempt = None;
    }
    assert!(found.is_empty(), "nobody wrote {found:?}");
    check_history(&store, latest).await;
    store.close().await;
    latest
}

/// The history that is kept has no gap and no torn value.
async fn check_history(store: &SqliteStore, latest: Revision) {
    let oldest = match store.watch("", 0).await {
        Err(StoreError::Compacted { oldest, .. }) => oldest,
        Err(error) => panic!("{error}"),
        Ok(_) => 0,
    };
    let mut stream = store.watch("", oldest).await.unwrap();
    let mut seen = oldest;
    while seen < latest {
        match stream.next().await {
            Some(Ok(WatchMessage::Events(events))) => {
                for event in events {
                    seen += 1;
                    check_event(&event, seen);
                }
            }
            Some(Ok(WatchMessage::Progress(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn check_event(event: &Event, revision: Revision) {
    assert_eq!(event.entry.mod_revision, revision);
    if !event.deleted {
        number_of(&event.entry);
    }
    assert!(!event.deleted || event.previous.is_some());
    if let Some(previous) = &event.previous {
        assert!(previous.mod_revision < revision);
        number_of(previous);
    }
}

fn check_integrity(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let healthy: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(healthy, "ok");
}
