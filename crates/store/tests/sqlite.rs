//! The behaviour suite against SQLite, and what only SQLite promises.

mod suite;

use coracle_store::SqliteStore;

fn in_memory() -> SqliteStore {
    SqliteStore::open_in_memory().unwrap()
}

store_suite!(in_memory);
