//! The behaviour suite against SQLite.

mod suite;

use std::time::Duration;

use coracle_store::{SqliteOptions, SqliteStore};

fn in_memory() -> SqliteStore {
    SqliteStore::open_in_memory_with(SqliteOptions {
        progress_interval: Duration::from_millis(20),
        ..SqliteOptions::default()
    })
    .unwrap()
}

store_suite!(in_memory);
