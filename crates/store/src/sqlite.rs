//! The store in a SQLite database: one writer thread with group commit, and
//! readers that never wait for it.

mod compaction;
mod pool;
mod queue;
mod reading;
mod retention;
mod rows;
mod schema;
mod watch;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::hub::Hub;
use crate::{
    Expect, KeyValue, ListRequest, Outcome, Page, Revision, Store, StoreError, WatchStream, Write,
};
use pool::{Pool, Slot};
use queue::{Job, Queue};
use reading::Readers;
pub use retention::Retention;

/// Connections for lists and replays, each used by one at a time: as many as
/// a small machine has cores.
const LISTERS: usize = 2;

/// Connections for single keys: so many callers need not wait for each other.
const GETTERS: usize = 2;

/// How a [`SqliteStore`] behaves.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// How much history is kept.
    pub retention: Retention,
    /// How long watchers of quiet prefixes wait for
    /// [`WatchMessage::Progress`](crate::WatchMessage::Progress) after a
    /// change elsewhere.
    pub progress_interval: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            // Long enough to cost nothing, short enough that a watcher that
            // resumes finds its revision in the history.
            progress_interval: Duration::from_secs(5),
        }
    }
}

/// A store in a SQLite database. Needs a tokio runtime. Dropping it finishes
/// the writes that wait and closes the database.
pub struct SqliteStore {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Queue,
    hub: Arc<Hub>,
    /// A revision known to be durable; the latest one after each commit.
    latest: AtomicU64,
    /// Older revisions cannot be read.
    compacted: AtomicU64,
    /// For single keys, on the caller's thread.
    getters: Pool,
    /// For longer reads, on blocking threads.
    listers: Arc<Readers>,
}

impl SqliteStore {
    /// Opens the database at `path`, and makes it if it does not exist; its
    /// directory must exist. Beside it come files with the same name and
    /// `-wal`, `-shm` and `-lock` at the end. Only one process can have it
    /// open.
    ///
    /// # Errors
    /// [`StoreError::Backend`] if the files cannot be used, are used by
    /// another process, or are no database of this kind.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let lock = lock_file(path)?;
        let writer = Slot::new(schema::open_writer(path)?);
        let getters = Pool::of_readers(path, GETTERS);
        let listers = Pool::of_readers(path, LISTERS);
        Self::start(writer, getters, listers, Some(lock), options)
    }

    /// A store in memory, for tests: fast, and gone when dropped.
    ///
    /// # Errors
    /// [`StoreError::Backend`] if SQLite or the system refuses.
    pub fn open_in_memory() -> Result<Self, StoreError> {
        Self::open_in_memory_with(SqliteOptions::default())
    }

    /// As [`SqliteStore::open_in_memory`], with options.
    ///
    /// # Errors
    /// [`StoreError::Backend`] if SQLite or the system refuses.
    pub fn open_in_memory_with(options: SqliteOptions) -> Result<Self, StoreError> {
        // The database belongs to its connection, so all share one.
        let connection = Slot::new(schema::open_in_memory()?);
        let getters = Pool::of_shared(&connection);
        let listers = Pool::of_shared(&connection);
        Self::start(connection, getters, listers, None, options)
    }

    /// Finishes the writes that wait and closes the database. Watches end
    /// with [`StoreError::Closed`], as does every call from now on.
    pub async fn close(mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has closed the store as well.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    fn start(
        writer: Arc<Slot>,
        getters: Pool,
        listers: Pool,
        lock_file: Option<File>,
        options: SqliteOptions,
    ) -> Result<Self, StoreError> {
        let bounds = rows::bounds(writer.lease().connection()?)?;
        let shared = Arc::new(Shared::new(bounds, getters, listers, &options));
        let state = writer::Writer::new(writer, Arc::clone(&shared), options.retention)?;
        let closing = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                state.run();
                closing.getters.close();
                closing.listers.close();
                // Others may open the database only when all is closed.
                drop(lock_file);
            })
            .map_err(|error| StoreError::Backend(format!("cannot start the writer: {error}")))?;
        Ok(Self {
            shared,
            writer: Some(thread),
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// Reads on the caller's thread: a handful of pages, usually in memory.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.shared
            .read_here(|connection| Ok(rows::get(connection, key)?))
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        let page = self
            .shared
            .read(move |connection| rows::list(connection, &request))
            .await?;
        self.shared.observe(page.revision);
        Ok(page)
    }

    async fn write(&self, key: &str, expect: Expect, write: Write) -> Result<Outcome, StoreError> {
        crate::check_limits(key, &write)?;
        let (reply, answer) = oneshot::channel();
        let job = Job::Write {
            key: key.to_owned(),
            expect,
            write,
            reply,
        };
        self.shared.queue.push(job).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError> {
        let compacted = self.shared.compacted.load(Ordering::Acquire);
        let mut bounds = rows::Bounds {
            compacted,
            latest: self.shared.latest.load(Ordering::Acquire),
        };
        if after > bounds.latest {
            // A commit may be visible to others before it is known here.
            bounds = self
                .shared
                .read_here(|connection| Ok(rows::bounds(connection)?))?;
        }
        bounds.check(after)?;
        Ok(watch::stream(Arc::clone(&self.shared), prefix, after))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.latest.load(Ordering::Acquire))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared
            .queue
            .push(Job::Compact { revision, reply })
            .await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Shared {
    fn new(bounds: rows::Bounds, getters: Pool, listers: Pool, options: &SqliteOptions) -> Self {
        Self {
            queue: Queue::new(),
            hub: Arc::new(Hub::new(bounds.latest, options.progress_interval)),
            latest: AtomicU64::new(bounds.latest),
            compacted: AtomicU64::new(bounds.compacted),
            getters,
            listers: Readers::new(listers, LISTERS),
        }
    }

    /// Takes note that a revision is durable.
    fn observe(&self, revision: Revision) {
        self.latest.fetch_max(revision, Ordering::AcqRel);
    }

    /// Reads a little on the caller's thread.
    fn read_here<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(self.getters.lease().connection()?)
    }

    /// Reads on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.listers.read(read).await
    }
}

fn lock_file(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-lock");
    let name = PathBuf::from(name);
    let failed = |what: &dyn std::fmt::Display| {
        StoreError::Backend(format!("cannot lock {}: {what}", name.display()))
    };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(failed(&"another process uses it")),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(&error)),
    }
}
