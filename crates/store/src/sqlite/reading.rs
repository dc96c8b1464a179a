//! Longer reads, on blocking threads: as many at a time as there are
//! connections for them. Who waits holds no thread, and nobody else up if it
//! is not looked at any more: a list whose client reads no further, say.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::pool::Pool;
use crate::StoreError;

/// A read that waits. It is bounded by those who ask: each request has at most
/// one.
type Read = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

/// The connections and what waits for them.
pub(super) struct Readers {
    pool: Pool,
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    /// Threads that read.
    busy: usize,
}

impl Readers {
    /// At most `most` at a time, over these connections.
    pub(super) fn new(pool: Pool, most: usize) -> Arc<Self> {
        Arc::new(Self {
            pool,
            most,
            state: Mutex::default(),
        })
    }

    pub(super) fn close(&self) {
        self.pool.close();
    }

    /// As [`Pool::close_unused`].
    pub(super) fn close_unused(&self, since: Instant) {
        self.pool.close_unused(since);
    }

    /// Reads when it is its turn.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.add(Box::new(move |connection| {
            // Whoever asked may have gone.
            if !reply.is_closed() {
                drop(reply.send(connection.and_then(read)));
            }
        }));
        let broken = |_| StoreError::Backend("a read failed: it panicked".to_owned());
        answer.await.map_err(broken)?
    }

    fn add(self: &Arc<Self>, read: Read) {
        let mut state = self.lock();
        state.waiting.push_back(read);
        if state.busy < self.most {
            state.busy += 1;
            let readers = Arc::clone(self);
            tokio::task::spawn_blocking(move || readers.work());
        }
    }

    /// Reads until nothing waits.
    fn work(&self) {
        while let Some(read) = self.next() {
            let mut lease = self.pool.lease();
            // It breaks off this read only: its reply is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| read(lease.connection())));
        }
    }

    fn next(&self) -> Option<Read> {
        let mut state = self.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.busy -= 1;
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
