//! A revisioned key-value store with watch: etcd's contract behind one trait.
//!
//! The store knows nothing of Kubernetes. Keys are text, values are opaque
//! bytes. Every change gets the next revision of one counter for the whole
//! store; a list is consistent at a revision; a watch starts at a revision.

mod hub;
pub mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use sqlite::{Retention, SqliteOptions, SqliteStore};

/// A point in the history of the store. The first change has revision 1; an
/// empty store is at revision 0. Revisions never go backwards and are never
/// used twice, also after a compaction, a restart or a crash.
pub type Revision = u64;

/// The most bytes a value may have. etcd takes requests of up to 1.5 MiB by
/// default; what fits there must fit here.
pub const MAX_VALUE_BYTES: usize = 2 * 1024 * 1024;

/// The most bytes a key may have. A Kubernetes key has a group, a resource, a
/// namespace and a name: under 800 bytes at their longest.
pub const MAX_KEY_BYTES: usize = 1024;

/// One key as it is at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// What was last written.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision of the last write.
    pub mod_revision: Revision,
}

/// What a write demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key must exist, last written at this revision.
    Revision(Revision),
    /// Whatever there is.
    Anything,
}

/// What a write does.
#[derive(Clone, Debug)]
pub enum Write {
    /// Stores a value. With `ttl_seconds`, the key is removed (as by a
    /// delete) that long after this write or up to a sixteenth, at most a
    /// minute, later, unless it is written again before. A `Put` without
    /// `ttl_seconds` makes the key permanent. The time runs on while the
    /// store is closed.
    Put {
        /// The new value.
        value: Bytes,
        /// Seconds to live, if bounded.
        ttl_seconds: Option<u64>,
    },
    /// Removes the key.
    Delete,
}

/// How a compare-and-set ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The write is durable at this revision; `previous` is what it replaced.
    Done {
        /// The revision of the write.
        revision: Revision,
        /// What the key held before.
        previous: Option<KeyValue>,
    },
    /// The expectation did not hold; nothing was written.
    Mismatch {
        /// What the key holds.
        current: Option<KeyValue>,
    },
}

/// Which keys to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Keys that start with this text.
    pub prefix: String,
    /// Only keys greater than this one.
    pub after: Option<String>,
    /// At most this many; `None` for all.
    pub limit: Option<usize>,
    /// The revision to read at; `None` for the latest.
    pub revision: Option<Revision>,
    /// Count the keys that follow, which means to walk over them.
    pub count: bool,
}

/// A part of the keys of a prefix, in order, consistent at `revision`.
#[derive(Clone, Debug)]
pub struct Page {
    /// The keys, in byte order.
    pub items: Vec<KeyValue>,
    /// The revision that was read.
    pub revision: Revision,
    /// How many further keys of the prefix follow the last item; 1 for any
    /// number of them if they were not to be counted.
    pub remaining: usize,
}

/// What happened to a key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key with its new value; for a delete, the value is empty,
    /// `mod_revision` is the revision of the delete and `create_revision`
    /// that of the removed key.
    pub entry: KeyValue,
    /// What the key held before, if it existed.
    pub previous: Option<KeyValue>,
    /// True if the key was removed.
    pub deleted: bool,
}

impl Event {
    /// True if the key did not exist before.
    pub fn created(&self) -> bool {
        !self.deleted && self.previous.is_none()
    }

    /// About how many bytes this takes.
    fn bytes(&self) -> usize {
        let previous = self.previous.as_ref();
        self.entry.key.len() + self.entry.value.len() + previous.map_or(0, |kv| kv.value.len())
    }
}

/// What a watcher receives.
#[derive(Clone, Debug)]
pub enum WatchMessage {
    /// Changes, in order of their revisions. Never empty.
    Events(Vec<std::sync::Arc<Event>>),
    /// All changes of this prefix up to and with this revision have been
    /// sent. Comes a few seconds after changes of other prefixes, and never
    /// while the store is idle.
    Progress(Revision),
}

/// A stream of changes. It ends after an error; `StoreError::Compacted` tells
/// a watcher that was too slow, or started too early, to list again, and
/// `StoreError::Closed` that the store shuts down. Dropping it unsubscribes.
pub type WatchStream = BoxStream<'static, Result<WatchMessage, StoreError>>;

/// Why the store could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision is older than what is kept.
    #[error("revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future; the latest is {latest}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The latest revision.
        latest: Revision,
    },
    /// The value is larger than the store takes.
    #[error("value of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Size of the value in bytes.
        size: usize,
        /// The most a value may have.
        limit: usize,
    },
    /// The key is empty or longer than the store takes.
    #[error("key of {size} bytes: a key has 1 to {limit}")]
    InvalidKey {
        /// Size of the key in bytes.
        size: usize,
        /// The most a key may have.
        limit: usize,
    },
    /// The backend failed. A write that gets this may or may not have
    /// happened.
    #[error("storage failed: {0}")]
    Backend(String),
    /// The store is shutting down.
    #[error("storage is closed")]
    Closed,
}

/// Refuses a write that is over the store's limits.
fn check_limits(key: &str, write: &Write) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(StoreError::InvalidKey {
            size: key.len(),
            limit: MAX_KEY_BYTES,
        });
    }
    match write {
        Write::Put { value, .. } if value.len() > MAX_VALUE_BYTES => Err(StoreError::TooLarge {
            size: value.len(),
            limit: MAX_VALUE_BYTES,
        }),
        _ => Ok(()),
    }
}

/// The store's contract. Every backend passes the same behaviour suite.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key as it is now: every write acknowledged before the call is
    /// seen.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// A consistent page of keys.
    ///
    /// To page through a large prefix, ask for the first page without a
    /// revision and for each further one with the first page's `revision` and
    /// `after` the last key of the page before. `Compacted` and `Future` tell
    /// that the revision cannot be read.
    async fn list(&self, request: ListRequest) -> Result<Page, StoreError>;

    /// Compares and writes in one step. When this returns `Done`, the write
    /// survives a crash. A delete of an absent key is a `Mismatch` with no
    /// current value whatever was expected, and a delete with
    /// `Expect::Absent` never happens.
    ///
    /// Dropping the future does not take the write back: it may happen.
    async fn write(&self, key: &str, expect: Expect, write: Write) -> Result<Outcome, StoreError>;

    /// All changes to keys of `prefix` with a revision greater than `after`,
    /// each once, in order. Events arrive only once they are durable. To
    /// follow a list, watch `after` its revision.
    ///
    /// `Compacted` and `Future` tell that the watch cannot start there.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// The latest durable revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history before `revision`: reads of an older revision, and
    /// watches after an older one, get `Compacted`. The state at `revision`
    /// can still be read. To compact at an older revision than before changes
    /// nothing. Backends also compact by themselves.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
