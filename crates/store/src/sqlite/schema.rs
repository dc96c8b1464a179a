//! Tables, and how connections are opened.
//!
//! `log` has one row per change, by revision; rows that nobody can ask for any
//! more are swept. `current` has one row per existing key and points to its
//! last change. So a value is written once, at the end of a table, and reading
//! the present state never touches history.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::StoreError;

/// Marks a file as ours: "Crcl".
const APPLICATION_ID: i32 = 0x4372_636c;

/// The layout of the tables below. Counted up with every change.
const SCHEMA_VERSION: i32 = 1;

/// Bytes of pages that the writer may keep in memory. The kernel's page cache
/// holds the rest.
const WRITER_CACHE_KIB: i32 = 2048;

/// Bytes of pages that each reader may keep in memory: the upper levels of the
/// trees and what a list touches at a time.
const READER_CACHE_KIB: i32 = 512;

/// After a burst, the write-ahead log is cut back to this many bytes.
const WAL_KEEP_BYTES: i32 = 16 * 1024 * 1024;

/// How many compiled statements a connection keeps; more than the code has.
const STATEMENTS: usize = 32;

const TABLES: &str = "
    CREATE TABLE log (
        revision INTEGER PRIMARY KEY,
        key      BLOB NOT NULL,
        created  INTEGER NOT NULL, -- revision that created the key
        previous INTEGER NOT NULL, -- revision of the key's last change; 0: the key is new
        deleted  INTEGER NOT NULL,
        value    BLOB NOT NULL
    );
    CREATE TABLE current (
        key      BLOB PRIMARY KEY,
        revision INTEGER NOT NULL,
        expires  INTEGER           -- milliseconds since 1970
    ) WITHOUT ROWID;
    CREATE INDEX current_by_expiry ON current (expires) WHERE expires IS NOT NULL;
    CREATE TABLE progress (
        id        INTEGER PRIMARY KEY CHECK (id = 1),
        compacted INTEGER NOT NULL, -- older revisions cannot be read
        swept     INTEGER NOT NULL  -- up to here, rows without use are gone
    );
    INSERT INTO progress VALUES (1, 0, 0);
";

/// Opens the writer's connection and creates the tables if they are missing.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    create_private_file(path)
        .map_err(|error| StoreError::Backend(format!("cannot open {}: {error}", path.display())))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare_writer(&connection)?;
    Ok(connection)
}

/// A database that lives as long as the connection.
pub(super) fn open_in_memory() -> Result<Connection, StoreError> {
    let connection = Connection::open_in_memory()?;
    prepare_writer(&connection)?;
    Ok(connection)
}

/// Opens a connection that only reads a database that exists.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    set_common_options(&connection, READER_CACHE_KIB)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The file holds secrets: nobody else may read it. SQLite gives the files it
/// makes beside it the same permissions.
fn create_private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn prepare_writer(connection: &Connection) -> Result<(), StoreError> {
    set_common_options(connection, WRITER_CACHE_KIB)?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        // Both hold only for a database without tables.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    if tables == 0 {
        let transaction = connection.unchecked_transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
        return Ok(());
    }
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID || version != SCHEMA_VERSION {
        return Err(StoreError::Backend(format!(
            "the database has layout {version} of application {application:#x}; \
             this version reads layout {SCHEMA_VERSION} of {APPLICATION_ID:#x}"
        )));
    }
    Ok(())
}

/// Bytes of a page. Objects of a few KiB fit into one; a commit of a small
/// change still writes little.
const PAGE_BYTES: i32 = 8192;

/// Pages in the write-ahead log from which a commit also moves them into the
/// database file: a pause of some milliseconds.
const CHECKPOINT_PAGES: i32 = 512;

fn set_common_options(connection: &Connection, cache_kib: i32) -> Result<(), StoreError> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::Backend(error.to_string())
    }
}
