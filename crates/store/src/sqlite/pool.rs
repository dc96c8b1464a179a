//! Connections that are shared, opened when first used, and closed with the
//! store.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::schema;
use crate::StoreError;

/// A connection used by one at a time.
pub(super) struct Slot(Mutex<State>);

enum State {
    /// A reader of this database, to be opened.
    Unopened(PathBuf),
    Open(Connection),
    Closed,
}

/// The right to use a connection for a while.
pub(super) struct Lease<'a>(MutexGuard<'a, State>);

impl Slot {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Open(connection))))
    }

    fn reader(path: &Path) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State::Unopened(path.to_owned()))))
    }

    /// Waits until nobody else uses it.
    pub(super) fn lease(&self) -> Lease<'_> {
        Lease(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lease_if_idle(&self) -> Option<Lease<'_>> {
        self.0.try_lock().ok().map(Lease)
    }

    pub(super) fn close(&self) {
        *self.lease().0 = State::Closed;
    }
}

impl Lease<'_> {
    /// The connection; [`StoreError::Closed`] once the store is closed.
    pub(super) fn connection(&mut self) -> Result<&Connection, StoreError> {
        if let State::Unopened(path) = &*self.0 {
            *self.0 = State::Open(schema::open_reader(path)?);
        }
        match &*self.0 {
            State::Open(connection) => Ok(connection),
            State::Closed | State::Unopened(_) => Err(StoreError::Closed),
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

    pub(super) fn close(&self) {
        self.slots.iter().for_each(|slot| slot.close());
    }
}
