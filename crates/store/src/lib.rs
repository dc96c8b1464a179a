//! A revisioned key-value store with watch: etcd's contract behind one trait.
//!
//! The store knows nothing of Kubernetes. Keys are text, values are opaque
//! bytes. Every change gets the next revision of one counter for the whole
//! store; a list is consistent at a revision; a watch starts at a revision.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the history of the store. The first change has revision 1.
pub type Revision = u64;

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
    /// delete) about that long after this write.
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
}

/// A part of the keys of a prefix, in order, consistent at `revision`.
#[derive(Clone, Debug)]
pub struct Page {
    /// The keys, in byte order.
    pub items: Vec<KeyValue>,
    /// The revision that was read.
    pub revision: Revision,
    /// How many further keys of the prefix follow the last item.
    pub remaining: usize,
}

/// What happened to a key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The key with its new value; for a delete, the value is empty and
    /// `mod_revision` is the revision of the delete.
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
}

/// What a watcher receives.
#[derive(Clone, Debug)]
pub enum WatchMessage {
    /// Changes, in order of their revisions. Never empty.
    Events(Vec<std::sync::Arc<Event>>),
    /// Nothing of this prefix has changed up to and with this revision.
    Progress(Revision),
}

/// A stream of changes. It ends after an error; `StoreError::Compacted` tells
/// a watcher that was too slow, or started too early, to list again.
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
    /// The backend failed.
    #[error("storage failed: {0}")]
    Backend(String),
    /// The store is shutting down.
    #[error("storage is closed")]
    Closed,
}

/// The store's contract. Every backend passes the same behaviour suite.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The key as it is now.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// A consistent page of keys.
    async fn list(&self, request: ListRequest) -> Result<Page, StoreError>;

    /// Compares and writes in one step. When this returns `Done`, the write
    /// survives a crash. A delete of an absent key with `Expect::Anything` is
    /// a `Mismatch` with no current value.
    async fn write(&self, key: &str, expect: Expect, write: Write) -> Result<Outcome, StoreError>;

    /// All changes to keys of `prefix` with a revision greater than `after`.
    /// Events arrive only once they are durable.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, StoreError>;

    /// The latest durable revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history before `revision`, so that older reads and watches get
    /// `Compacted`. Backends also compact by themselves.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
