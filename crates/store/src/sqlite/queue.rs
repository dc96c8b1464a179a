//! The bounded queue in front of the writer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, oneshot};

use crate::{Expect, Outcome, Revision, StoreError, Write};

/// Values that may wait to be written, in KiB. A writer at full speed clears
/// this in well under a second.
const CAPACITY_KIB: usize = 16 * 1024;

/// The least that a waiting job counts, in KiB; so at most 1,024 jobs wait.
const MIN_JOB_KIB: u32 = 16;

/// What the writer is asked to do.
pub(super) enum Job {
    Write {
        key: String,
        expect: Expect,
        write: Write,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
    },
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// Jobs in the order in which they will be done.
pub(super) struct Queue {
    space: Semaphore,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// What the writer waited for.
pub(super) enum Waited {
    Job(Job),
    DeadlinePassed,
    /// No job is left and none will come.
    Closed,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            space: Semaphore::new(CAPACITY_KIB),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Adds a job, after waiting for room.
    pub(super) async fn push(&self, job: Job) -> Result<(), StoreError> {
        let room = self.space.acquire_many(job.weight()).await;
        room.map_err(|_| StoreError::Closed)?.forget();
        let mut state = self.lock();
        if state.closed {
            return Err(StoreError::Closed);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for a job until the deadline; for ever without one.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Waited {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.space.add_permits(job.weight() as usize);
                return Waited::Job(job);
            }
            if state.closed {
                return Waited::Closed;
            }
            state = match deadline {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Waited::DeadlinePassed;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// A job that waits already.
    pub(super) fn pop(&self) -> Option<Job> {
        let job = self.lock().jobs.pop_front()?;
        self.space.add_permits(job.weight() as usize);
        Some(job)
    }

    /// Takes no more jobs. Those that wait will still be done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.space.close();
        self.changed.notify_all();
    }

    /// Drops what waits: those who asked learn that the store is closed.
    pub(super) fn abandon(&self) {
        self.close();
        self.lock().jobs.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn weight(&self) -> u32 {
        let bytes = match self {
            Job::Write {
                write: Write::Put { value, .. },
                ..
            } => value.len(),
            _ => 0,
        };
        u32::try_from(bytes / 1024).map_or(u32::MAX, |kib| kib.max(MIN_JOB_KIB))
    }
}
