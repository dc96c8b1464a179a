//! The one thread that changes the database.
//!
//! It takes all that waits, in order, makes it durable in one commit, hands
//! the changes to the watchers and only then replies. Expiry and the sweeping
//! of history ride along in the same commits, in small steps; without writes
//! they have commits of their own. When nothing is due it sleeps without a
//! deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::oneshot;

use super::compaction;
use super::pool::Slot;
use super::queue::{Job, Waited};
use super::retention::History;
use super::rows::{self, to_sql};
use super::{Retention, Shared};
use crate::{Event, Expect, KeyValue, Outcome, Revision, StoreError, Write};

/// Writes in one commit. More would not be faster, and the first must not
/// wait long for the last.
const MAX_BATCH: usize = 256;

/// Bytes of old and new values in one commit; also what watchers get at once.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a change takes in the log besides key and value, roughly, in bytes.
const ROW_OVERHEAD: u64 = 64;

/// How long housekeeping that failed, as on a full disk, is left alone.
const RETRY: Duration = Duration::from_secs(5);

/// How long a reader without use stays open: longer than the pauses of whoever
/// reads regularly.
const READERS_REST: Duration = Duration::from_secs(20);

/// TTLs are rounded up to a sixteenth, but not by more than this: events that
/// were written together expire together, with one wake-up a minute.
const MAX_TTL_ROUNDING: u64 = 60_000;

/// The writer's state; dies with its thread.
pub(super) struct Writer {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
    history: History,
    ledger: Ledger,
    /// Housekeeping failed and is to be tried again then.
    retry: Option<Instant>,
    /// When it last looked for readers without use.
    looked: Instant,
}

/// What the writer knows about the database; rolled back with it.
#[derive(Clone, Copy)]
struct Ledger {
    latest: Revision,
    compaction: compaction::State,
    /// The earliest time at which a key expires, or earlier; milliseconds
    /// since 1970.
    next_expiry: Option<i64>,
}

/// What one commit does.
#[derive(Default)]
struct Batch {
    events: Vec<Arc<Event>>,
    bytes: usize,
    replies: Vec<Reply>,
}

enum Reply {
    Write(oneshot::Sender<Result<Outcome, StoreError>>, Outcome),
    Compact(
        oneshot::Sender<Result<(), StoreError>>,
        Result<(), StoreError>,
    ),
}

/// Closes the store when the writer ends, however it ends.
struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.hub.close();
    }
}

impl Writer {
    pub(super) fn new(
        slot: Arc<Slot>,
        shared: Arc<Shared>,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let mut lease = slot.lease();
        let connection = lease.connection()?;
        let latest = rows::bounds(connection)?.latest;
        let ledger = Ledger {
            latest,
            compaction: compaction::State::load(connection)?,
            next_expiry: next_expiry(connection)?,
        };
        drop(lease);
        Ok(Self {
            slot,
            shared,
            history: History::new(retention, latest, Instant::now()),
            ledger,
            retry: None,
            looked: Instant::now(),
        })
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let _close = CloseOnDrop(Arc::clone(&self.shared));
        let slot = Arc::clone(&self.slot);
        loop {
            let first = match self.shared.queue.wait(self.deadline()) {
                Waited::Job(job) => Some(job),
                Waited::DeadlinePassed => None,
                Waited::Closed => break,
            };
            match slot.lease().connection() {
                Ok(connection) => self.turn(connection, first),
                Err(_) => break,
            }
        }
        // The last connection to close moves the write-ahead log into the
        // database file.
        slot.close();
    }

    /// Does what is asked for and what is due.
    fn turn(&mut self, connection: &Connection, first: Option<Job>) {
        let now = Instant::now();
        if self.shared.hub.progress_due().is_some_and(|due| due <= now) {
            self.shared.hub.tell_progress();
        }
        self.retry = self.retry.filter(|retry| *retry > now);
        if first.is_some() || self.housekeeping_due(now).is_some_and(|due| due <= now) {
            self.commit(connection, first);
        }
        // After what others wait for; nothing wakes up for it.
        if now.duration_since(self.looked) >= READERS_REST {
            self.shared.getters.close_unused(self.looked);
            self.shared.listers.close_unused(self.looked);
            self.looked = now;
        }
    }

    /// When to wake up although nobody writes.
    fn deadline(&self) -> Option<Instant> {
        let progress = self.shared.hub.progress_due();
        let housekeeping = self.housekeeping_due(Instant::now());
        progress.into_iter().chain(housekeeping).min()
    }

    fn housekeeping_due(&self, now: Instant) -> Option<Instant> {
        let expiry = self.ledger.next_expiry.map(|at| {
            let wait = u64::try_from(at.saturating_sub(unix_millis())).unwrap_or(0);
            // Beyond a day the exact time does not matter: it is looked at
            // again then.
            now + Duration::from_millis(wait).min(Duration::from_secs(86_400))
        });
        let compaction = match self.ledger.compaction.has_work() {
            true => Some(now),
            false => self.history.due(),
        };
        let due = expiry.into_iter().chain(compaction).min()?;
        Some(self.retry.map_or(due, |retry| due.max(retry)))
    }

    /// Commits the first job, what else waits, and some housekeeping.
    fn commit(&mut self, connection: &Connection, first: Option<Job>) {
        let before = self.ledger;
        let mut batch = Batch::default();
        match self.try_commit(connection, first, &mut batch) {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "commit failed");
                if !connection.is_autocommit()
                    && let Err(error) = connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "rollback failed");
                }
                self.ledger = before;
                self.retry = Some(Instant::now() + RETRY);
                let error = StoreError::from(error);
                for reply in batch.replies {
                    reply.fail(&error);
                }
                return;
            }
        }
        let bounds = self.ledger.compaction.compacted;
        self.shared.compacted.store(bounds, Ordering::Release);
        self.shared.observe(self.ledger.latest);
        self.shared.hub.publish(&batch.events);
        for reply in batch.replies {
            reply.send();
        }
        let bytes: u64 = batch
            .events
            .iter()
            .map(|event| (event.entry.key.len() + event.entry.value.len()) as u64 + ROW_OVERHEAD)
            .sum();
        if bytes > 0 {
            self.history
                .record(self.ledger.latest, bytes, Instant::now());
        }
    }

    fn try_commit(
        &mut self,
        connection: &Connection,
        first: Option<Job>,
        batch: &mut Batch,
    ) -> rusqlite::Result<()> {
        let mut next = first;
        connection
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]))
            .inspect_err(|_| {
                // Nothing was tried, but whoever asked must hear of it.
                if let Some(job) = next.take() {
                    batch.replies.push(Reply::unanswered(job));
                }
            })?;
        while let Some(job) = next {
            self.perform(connection, job, batch)?;
            let has_room = batch.replies.len() < MAX_BATCH && batch.bytes < MAX_BATCH_BYTES;
            next = has_room.then(|| self.shared.queue.pop()).flatten();
        }
        if self.retry.is_none() {
            self.expire(connection, batch)?;
            if let Some(revision) = self.history.dispensable(Instant::now()) {
                self.ledger.compaction.advance(revision);
            }
            let written = batch.events.len();
            self.ledger.compaction.step(connection, written)?;
        }
        self.ledger.compaction.save(connection)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn perform(
        &mut self,
        connection: &Connection,
        job: Job,
        batch: &mut Batch,
    ) -> rusqlite::Result<()> {
        match job {
            Job::Compact { revision, reply } => {
                let outcome = if revision > self.ledger.latest {
                    Err(StoreError::Future {
                        requested: revision,
                        latest: self.ledger.latest,
                    })
                } else {
                    self.ledger.compaction.advance(revision);
                    Ok(())
                };
                batch.replies.push(Reply::Compact(reply, outcome));
                Ok(())
            }
            Job::Write {
                key,
                expect,
                write,
                reply,
            } => {
                let outcome = self.write(connection, key, expect, write, batch);
                let (outcome, result) = match outcome {
                    Ok(outcome) => (outcome, Ok(())),
                    // The batch fails; the outcome is replaced by the error.
                    Err(error) => (Outcome::Mismatch { current: None }, Err(error)),
                };
                batch.replies.push(Reply::Write(reply, outcome));
                result
            }
        }
    }

    fn write(
        &mut self,
        connection: &Connection,
        key: String,
        expect: Expect,
        write: Write,
        batch: &mut Batch,
    ) -> rusqlite::Result<Outcome> {
        let current = rows::get(connection, &key)?;
        let holds = match (expect, &current) {
            (Expect::Absent, found) => found.is_none(),
            (Expect::Revision(revision), Some(found)) => found.mod_revision == revision,
            (Expect::Revision(_), None) => false,
            (Expect::Anything, _) => true,
        };
        let deletes_nothing = matches!(write, Write::Delete) && current.is_none();
        if !holds || deletes_nothing {
            batch.bytes += current.as_ref().map_or(0, |kv| kv.value.len());
            return Ok(Outcome::Mismatch { current });
        }
        let event = self.change(connection, key, current, write)?;
        batch.bytes += event.bytes();
        let outcome = Outcome::Done {
            revision: event.entry.mod_revision,
            previous: event.previous.clone(),
        };
        batch.events.push(Arc::new(event));
        Ok(outcome)
    }

    /// Writes the next change into the tables.
    fn change(
        &mut self,
        connection: &Connection,
        key: String,
        previous: Option<KeyValue>,
        write: Write,
    ) -> rusqlite::Result<Event> {
        let revision = self.ledger.latest + 1;
        let created = previous.as_ref().map_or(revision, |kv| kv.create_revision);
        let (value, ttl_seconds, deleted) = match write {
            Write::Put { value, ttl_seconds } => (value, ttl_seconds, false),
            Write::Delete => (Bytes::new(), None, true),
        };
        connection
            .prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                to_sql(revision),
                key.as_bytes(),
                to_sql(created),
                to_sql(previous.as_ref().map_or(0, |kv| kv.mod_revision)),
                deleted,
                &value[..],
            ])?;
        if deleted {
            connection
                .prepare_cached("DELETE FROM current WHERE key = ?1")?
                .execute([key.as_bytes()])?;
        } else {
            let expires = ttl_seconds.map(|ttl| expiry(unix_millis(), ttl));
            connection
                .prepare_cached("INSERT OR REPLACE INTO current VALUES (?1, ?2, ?3)")?
                .execute(params![key.as_bytes(), to_sql(revision), expires])?;
            let earliest = self.ledger.next_expiry.into_iter().chain(expires).min();
            self.ledger.next_expiry = earliest;
        }
        self.ledger.latest = revision;
        Ok(Event {
            entry: KeyValue {
                key,
                value,
                create_revision: created,
                mod_revision: revision,
            },
            previous,
            deleted,
        })
    }

    /// Removes keys whose time has come, as far as the batch has room.
    fn expire(&mut self, connection: &Connection, batch: &mut Batch) -> rusqlite::Result<()> {
        let now = unix_millis();
        if self.ledger.next_expiry.is_none_or(|at| at > now) {
            return Ok(());
        }
        let mut statement = connection.prepare_cached(
            "SELECT key FROM current WHERE expires <= ?1 ORDER BY expires LIMIT ?2",
        )?;
        let keys = statement
            .query_map(params![now, MAX_BATCH as i64], |row| rows::text_at(row, 0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        for key in keys {
            if batch.events.len() >= 2 * MAX_BATCH || batch.bytes >= MAX_BATCH_BYTES {
                break;
            }
            self.write(connection, key, Expect::Anything, Write::Delete, batch)?;
        }
        self.ledger.next_expiry = next_expiry(connection)?;
        Ok(())
    }
}

impl Reply {
    fn unanswered(job: Job) -> Self {
        match job {
            Job::Write { reply, .. } => Reply::Write(reply, Outcome::Mismatch { current: None }),
            Job::Compact { reply, .. } => Reply::Compact(reply, Ok(())),
        }
    }

    // Whoever has stopped waiting for a reply does not get one.
    fn send(self) {
        match self {
            Reply::Write(reply, outcome) => drop(reply.send(Ok(outcome))),
            Reply::Compact(reply, outcome) => drop(reply.send(outcome)),
        }
    }

    fn fail(self, error: &StoreError) {
        match self {
            Reply::Write(reply, _) => drop(reply.send(Err(error.clone()))),
            Reply::Compact(reply, _) => drop(reply.send(Err(error.clone()))),
        }
    }
}

fn next_expiry(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT expires FROM current WHERE expires IS NOT NULL ORDER BY expires LIMIT 1",
        )?
        .query_row([], |row| row.get(0))
        .optional()
}

/// When a key written now expires, rounded up; milliseconds since 1970.
fn expiry(now: i64, ttl_seconds: u64) -> i64 {
    let ttl = ttl_seconds.saturating_mul(1000);
    let grain = (ttl / 16).clamp(1, MAX_TTL_ROUNDING);
    let at = u64::try_from(now).unwrap_or(0).saturating_add(ttl);
    i64::try_from(at.div_ceil(grain).saturating_mul(grain)).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |elapsed| {
        i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Pool, SqliteOptions, schema};
    use super::*;

    /// After a burst there is some work left; then it sleeps until it is
    /// woken.
    #[test]
    fn an_idle_writer_has_no_deadline() {
        let slot = Slot::new(schema::open_in_memory().unwrap());
        let pool = || Pool::of_shared(&slot);
        let bounds = rows::bounds(slot.lease().connection().unwrap()).unwrap();
        let options = SqliteOptions {
            progress_interval: Duration::ZERO,
            ..SqliteOptions::default()
        };
        let shared = Arc::new(Shared::new(bounds, pool(), pool(), &options));
        let (_quiet, _) = shared.hub.subscribe("quiet/", 0);
        let retention = Retention {
            age: Duration::ZERO,
            revisions: 10,
            bytes: 100_000,
        };
        let mut writer = Writer::new(Arc::clone(&slot), shared, retention).unwrap();
        let mut lease = slot.lease();
        let connection = lease.connection().unwrap();
        for number in 0..1000 {
            let (reply, _) = oneshot::channel();
            let write = Write::Put {
                value: Bytes::from(vec![1; 1000]),
                ttl_seconds: (number % 10 == 0).then_some(0),
            };
            let job = Job::Write {
                key: format!("key-{}", number % 3),
                expect: Expect::Anything,
                write,
                reply,
            };
            writer.turn(connection, Some(job));
        }
        assert!(writer.deadline().is_some(), "a quiet watcher is to be told");
        let mut turns = 0;
        while writer.deadline().is_some() {
            writer.turn(connection, None);
            turns += 1;
            assert!(turns < 100, "still busy");
        }
        let rows: i64 = connection
            .query_row("SELECT count(*) FROM log", [], |row| row.get(0))
            .unwrap();
        assert!(rows < 200, "{rows} rows are left");
    }

    #[test]
    fn expiry_is_rounded_up_by_little() {
        for (now, ttl, expected) in [
            (1_000_000, 0, 1_000_000),
            (1_000_001, 1, 1_001_052),
            (1_000_000, 3600, 4_620_000),
            (0, u64::MAX, i64::MAX),
        ] {
            assert_eq!(expiry(now, ttl), expected, "{now} {ttl}");
        }
    }
}
