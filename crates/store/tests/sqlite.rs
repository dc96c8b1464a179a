//! The behaviour suite against SQLite, and what only a database file has.

#![expect(clippy::unwrap_used, reason = "all of this is test code")]

#[macro_use]
mod suite;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coracle_store::{
    Expect, ListRequest, Outcome, Retention, Revision, SqliteOptions, SqliteStore, Store,
    StoreError, Write,
};
use futures::StreamExt;
use rusqlite::Connection;
use tempfile::TempDir;

fn impatient() -> SqliteOptions {
    SqliteOptions {
        progress_interval: Duration::from_millis(20),
        ..SqliteOptions::default()
    }
}

fn in_memory() -> (SqliteStore, ()) {
    let store = SqliteStore::open_in_memory_with(impatient()).unwrap();
    (store, ())
}

fn in_file() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = SqliteStore::open(&path, impatient()).unwrap();
    (store, directory)
}

mod memory {
    store_suite!(in_memory);
}

mod file {
    store_suite!(in_file);
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

fn put(value: impl Into<Bytes>, ttl_seconds: Option<u64>) -> Write {
    Write::Put {
        value: value.into(),
        ttl_seconds,
    }
}

async fn write(store: &SqliteStore, key: &str, write: Write) -> Revision {
    match store.write(key, Expect::Anything, write).await.unwrap() {
        Outcome::Done { revision, .. } => revision,
        Outcome::Mismatch { current } => panic!("mismatch with {current:?}"),
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = open(&path);
    write(&store, "a", put("1", None)).await;
    write(&store, "a", put("2", None)).await;
    write(&store, "b", put("3", None)).await;
    write(&store, "b", Write::Delete).await;
    let before = store.list(ListRequest::default()).await.unwrap();
    store.close().await;

    let store = open(&path);
    assert_eq!(store.revision().await.unwrap(), 4);
    let after = store.list(ListRequest::default()).await.unwrap();
    assert_eq!((before.items, 4), (after.items, after.revision));
    let history = suite::events_until(&mut store.watch("", 0).await.unwrap(), 4).await;
    assert_eq!(history.len(), 4);

    // The last revision was a delete. Its row goes; the revision stays.
    store.compact(4).await.unwrap();
    wait_for_rows(&path, 1).await;
    drop(store);
    let store = open(&path);
    assert_eq!(store.revision().await.unwrap(), 4);
    assert!(matches!(
        store.watch("", 3).await.err(),
        Some(StoreError::Compacted { oldest: 4, .. })
    ));
    assert_eq!(write(&store, "c", put("5", None)).await, 5);
}

#[tokio::test]
async fn keys_expire_although_the_store_was_closed_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = open(&path);
    write(&store, "a", put("x", Some(1))).await;
    drop(store);
    let store = open(&path);
    let events = suite::events_until(&mut store.watch("a", 0).await.unwrap(), 2).await;
    assert!(events[1].deleted);
}

#[tokio::test]
async fn a_database_has_one_user_and_no_readers() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = open(&path);
    write(&store, "a", put("secret", None)).await;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        let is_lock = entry.file_name() == "state.db-lock";
        assert!(is_lock || mode & 0o077 == 0, "{entry:?} has {mode:o}");
    }
    let second = SqliteStore::open(&path, SqliteOptions::default());
    let error = second.err().expect("opened twice").to_string();
    assert!(error.contains("another process uses it"), "{error}");
    drop(store);
    open(&path);
}

#[test]
fn what_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let store = SqliteStore::open(path, SqliteOptions::default());
        assert!(matches!(store.err(), Some(StoreError::Backend(_))));
    };
    refused(&directory.path().join("no/such/directory"));
    refused(directory.path());
    let text = directory.path().join("text");
    std::fs::write(&text, "not a database at all".repeat(100)).unwrap();
    refused(&text);
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("not a"));
    let other = directory.path().join("other.db");
    let connection = Connection::open(&other).unwrap();
    connection
        .execute_batch("CREATE TABLE mine (x); PRAGMA user_version = 1")
        .unwrap();
    refused(&other);
}

#[tokio::test]
async fn closing_ends_everything() {
    let (store, _directory) = in_file();
    let mut live = store.watch("", 0).await.unwrap();
    write(&store, "a", put("x", None)).await;
    let mut replayed = store.watch("", 0).await.unwrap();
    store.close().await;
    for stream in [&mut live, &mut replayed] {
        let mut last = None;
        while let Some(message) = stream.next().await {
            last = Some(message);
        }
        assert!(matches!(last, Some(Err(StoreError::Closed))), "{last:?}");
    }
}

#[tokio::test]
async fn history_is_forgotten_and_the_file_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let retention = Retention {
        age: Duration::ZERO,
        revisions: 100,
        bytes: 1024 * 1024,
    };
    let options = SqliteOptions {
        retention,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open(&path, options).unwrap();
    let value = Bytes::from(vec![7; 64 * 1024]);
    for number in 0..300 {
        let key = format!("key-{number}");
        write(&store, &key, put(value.clone(), None)).await;
    }
    let full = std::fs::metadata(&path).unwrap().len();
    assert!(full > 12 * 1024 * 1024, "{full}");
    for number in 0..300 {
        write(&store, &format!("key-{number}"), Write::Delete).await;
    }
    // 600 small changes: those above are beyond both bounds now.
    for number in 0..600 {
        write(&store, &format!("small-{}", number % 10), put("x", None)).await;
    }
    let connection = Connection::open(&path).unwrap();
    wait_until(|| {
        let pages: i64 = connection
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .unwrap();
        pages < 600
    })
    .await;
    let latest = store.revision().await.unwrap();
    assert!(matches!(
        store.watch("", 600).await.err(),
        Some(StoreError::Compacted { .. })
    ));
    let mut recent = store.watch("", latest - 100).await.unwrap();
    let events = suite::events_until(&mut recent, latest).await;
    assert_eq!(events.len(), 100);
    drop(store);
    let small = std::fs::metadata(&path).unwrap().len();
    assert!(small < full / 3, "{small} of {full}");
    let healthy: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(healthy, "ok");
}

/// A write that fails takes those of its commit with it and leaves no trace.
#[tokio::test]
async fn a_failed_commit_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let store = open(&path);
    let mut stream = store.watch("", 0).await.unwrap();
    write(&store, "a", put("1", None)).await;
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON current WHEN NEW.key = x'62'
             BEGIN SELECT RAISE(ABORT, 'no room'); END",
        )
        .unwrap();
    let failed = store.write("b", Expect::Anything, put("2", None)).await;
    assert!(
        matches!(&failed, Err(StoreError::Backend(why)) if why.contains("no room")),
        "{failed:?}"
    );
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(store.get("b").await.unwrap(), None);
    connection.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(write(&store, "b", put("3", None)).await, 2);
    let events = suite::events_until(&mut stream, 2).await;
    assert_eq!((events.len(), &events[1].entry.value[..]), (2, &b"3"[..]));
    let page = store.list(ListRequest::default()).await.unwrap();
    assert_eq!((page.items.len(), page.revision), (2, 2));
}

async fn wait_for_rows(path: &Path, rows: i64) {
    let connection = Connection::open(path).unwrap();
    wait_until(|| {
        let count: i64 = connection
            .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
            .unwrap();
        count == rows
    })
    .await;
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "waited in vain"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
