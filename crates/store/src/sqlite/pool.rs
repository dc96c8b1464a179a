//! Connections that are shared, opened when used, and closed after a while
//! without use or with the store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Connection;

use super::schema;
use crate::StoreError;

/// A connection used by one at a time.
pub(super) struct Slot {
    /// The database, if it can be opened again.
    path: Option<PathBuf>,
    held: Mutex<Held>,
}

struct Held {
    state: State,
    /// When it was last used.
    used: Instant,
}

enum State {
    /// To be opened when it is used.
    Unopened,
    Open(Connection),
    Closed,
}

/// The right to use a connection for a while.
pub(super) struct Lease<'a> {
    path: Option<&'a Path>,
    held: MutexGuard<'a, Held>,
}

impl Slot {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Self::with(None, State::Open(connection))
    }

    fn reader(path: &Path) -> Arc<Self> {
        Self::with(Some(path.to_owned()), State::Unopened)
    }

    fn with(path: Option<PathBuf>, state: State) -> Arc<Self> {
        let used = Instant::now();
        let held = Mutex::new(Held { state, used });
        Arc::new(Self { path, held })
    }

    /// Waits until nobody else uses it.
    pub(super) fn lease(&self) -> Lease<'_> {
        self.leased(self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lease_if_idle(&self) -> Option<Lease<'_>> {
        self.held.try_lock().ok().map(|held| self.leased(held))
    }

    fn leased<'a>(&'a self, held: MutexGuard<'a, Held>) -> Lease<'a> {
        let path = self.path.as_deref();
        Lease { path, held }
    }

    pub(super) fn close(&self) {
        self.lease().held.state = State::Closed;
    }
}

impl Lease<'_> {
    /// The connection; [`StoreError::Closed`] once the store is closed.
    pub(super) fn connection(&mut self) -> Result<&Connection, StoreError> {
        self.held.used = Instant::now();
        if let (State::Unopened, Some(path)) = (&self.held.state, self.path) {
            self.held.state = State::Open(schema::open_reader(path)?);
        }
        match &self.held.state {
            State::Open(connection) => Ok(connection),
            State::Closed | State::Unopened => Err(StoreError::Closed),
        }
    }
}

/// Connections of the same kind.
pub(super) struct Pool {
    slots: Vec<Arc<Slot>>,
    turn: AtomicUsize,
}

impl Pool {
    /// At most `size` readers of a database.
    pub(super) fn of_readers(path: &Path, size: usize) -> Self {
        Self::new((0..size).map(|_| Slot::reader(path)).collect())
    }

    /// A pool of one, which others use as well.
    pub(super) fn of_shared(slot: &Arc<Slot>) -> Self {
        Self::new(vec![Arc::clone(slot)])
    }

    fn new(slots: Vec<Arc<Slot>>) -> Self {
        let turn = AtomicUsize::new(0);
        Self { slots, turn }
    }

    /// The first idle connection, so that no more are opened than are needed;
    /// if all are in use, waits for one of them.
    pub(super) fn lease(&self) -> Lease<'_> {
        let idle = self.slots.iter().find_map(|slot| slot.lease_if_idle());
        idle.unwrap_or_else(|| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            self.slots[turn % self.slots.len()].lease()
        })
    }

    /// Closes the readers that nobody has used since then; each takes a third
    /// of a MiB. They are opened again, in less than a millisecond, when they
    /// are needed.
    pub(super) fn close_unused(&self, since: Instant) {
        let readers = self.slots.iter().filter(|slot| slot.path.is_some());
        for mut lease in readers.filter_map(|slot| slot.lease_if_idle()) {
            if lease.held.used < since && matches!(lease.held.state, State::Open(_)) {
                lease.held.state = State::Unopened;
            }
        }
    }

    pub(super) fn close(&self) {
        self.slots.iter().for_each(|slot| slot.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(slot: &Slot) -> bool {
        matches!(slot.lease().held.state, State::Open(_))
    }

    #[test]
    fn readers_without_use_are_closed_and_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let writer = schema::open_writer(&path).unwrap();
        let pool = Pool::of_readers(&path, 2);
        let read = || {
            let mut lease = pool.lease();
            let connection = lease.connection().unwrap();
            connection.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, u32>(0))
        };
        assert_eq!(read(), Ok(0));
        let before = pool.slots[0].lease().held.used;
        pool.close_unused(before);
        assert!(is_open(&pool.slots[0]) && !is_open(&pool.slots[1]));
        pool.close_unused(Instant::now());
        assert!(!is_open(&pool.slots[0]));
        assert_eq!(read(), Ok(0));
        // Closed for good with the store, and no writer is a reader.
        pool.close();
        pool.close_unused(Instant::now());
        assert!(matches!(pool.lease().connection(), Err(StoreError::Closed)));
        let shared = Slot::new(writer);
        Pool::of_shared(&shared).close_unused(Instant::now());
        assert!(is_open(&shared));
    }
}
