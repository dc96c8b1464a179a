//! What readers ask the tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Event, KeyValue, ListRequest, Page, Revision, StoreError};

/// How many revisions of history are looked through at a time.
const REPLAY_REVISIONS: Revision = 1024;

/// Bytes of values after which a piece of history is handed out.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// Entries that a list reads in one scan of the log, if they are close enough.
const SCAN_ENTRIES: usize = 128;

/// Close enough: to skip some rows costs less than to look up each.
const SCAN_SPAN: Revision = 8 * SCAN_ENTRIES as Revision;

/// The span of revisions that can be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The oldest revision that can be read.
    pub(super) compacted: Revision,
    /// The latest revision.
    pub(super) latest: Revision,
}

/// A piece of history.
pub(super) struct Replay {
    pub(super) events: Vec<Arc<Event>>,
    /// Everything up to and with this revision has been looked at.
    pub(super) reached: Revision,
    /// The latest revision when this was read.
    pub(super) latest: Revision,
}

/// Revisions are stored as SQLite's signed integers. What does not fit is
/// later than every revision there is.
pub(super) fn to_sql(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let stored: i64 = row.get(column)?;
    Revision::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}

/// The text of a key, which is stored as bytes for their order.
pub(super) fn text_at(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let text = std::str::from_utf8(row.get_ref(column)?.as_blob()?);
    text.map(str::to_owned).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}

fn bytes_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    let blob = row.get_ref(column)?.as_blob()?;
    Ok(Bytes::copy_from_slice(blob))
}

pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<Bounds> {
    let mut statement = connection.prepare_cached(
        "SELECT compacted, (SELECT max(revision) FROM log) FROM progress WHERE id = 1",
    )?;
    statement.query_row([], |row| {
        let compacted = revision_at(row, 0)?;
        let logged: Option<i64> = row.get(1)?;
        let logged = logged.and_then(|revision| Revision::try_from(revision).ok());
        Ok(Bounds {
            compacted,
            // The last change may have been a delete that is swept already.
            latest: logged.unwrap_or(0).max(compacted),
        })
    })
}

/// The key as it is now.
pub(super) fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<KeyValue>> {
    let mut statement = connection.prepare_cached(
        "SELECT log.revision, log.created, log.value FROM current
         CROSS JOIN log ON log.revision = current.revision WHERE current.key = ?1",
    )?;
    let found = statement.query_row([key.as_bytes()], |row| {
        Ok(KeyValue {
            key: key.to_owned(),
            value: bytes_at(row, 2)?,
            create_revision: revision_at(row, 1)?,
            mod_revision: revision_at(row, 0)?,
        })
    });
    found.optional()
}

/// Keys from `from` up to, not with, `to`. UTF-8 has no byte 0xff and does not
/// reach it by adding one, so every prefix has an end.
struct KeyRange {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl KeyRange {
    fn of_prefix(prefix: &str) -> Self {
        let from = prefix.as_bytes().to_vec();
        let mut to = from.clone();
        match to.last_mut() {
            Some(last) => *last += 1,
            None => to.push(0xff),
        }
        Self { from, to }
    }

    fn after(mut self, key: &str) -> Self {
        let mut next = key.as_bytes().to_vec();
        next.push(0);
        if next > self.from {
            self.from = next;
        }
        self
    }
}

/// A page of keys, read in one transaction.
pub(super) fn list(connection: &Connection, request: &ListRequest) -> Result<Page, StoreError> {
    let transaction = connection.unchecked_transaction()?;
    let bounds = bounds(&transaction)?;
    let revision = request.revision.unwrap_or(bounds.latest);
    bounds.check(revision)?;
    let mut range = KeyRange::of_prefix(&request.prefix);
    if let Some(after) = &request.after {
        range = range.after(after);
    }
    let limit = request.limit.unwrap_or(usize::MAX);
    let (revisions, remaining) = if revision == bounds.latest {
        latest_revisions(&transaction, &range, limit, request.count)?
    } else {
        revisions_at(&transaction, &range, limit, request.count, revision)?
    };
    Ok(Page {
        items: read_entries(&transaction, &revisions)?,
        revision,
        remaining,
    })
}

impl Bounds {
    /// Tells whether this revision can be read.
    pub(super) fn check(self, requested: Revision) -> Result<(), StoreError> {
        if requested < self.compacted {
            return Err(StoreError::Compacted {
                requested,
                oldest: self.compacted,
            });
        }
        if requested > self.latest {
            return Err(StoreError::Future {
                requested,
                latest: self.latest,
            });
        }
        Ok(())
    }
}

/// The changes that made the first `limit` keys what they are now, in order of
/// the keys, and how many keys follow, or with `count` not set whether any do.
fn latest_revisions(
    connection: &Connection,
    range: &KeyRange,
    limit: usize,
    count: bool,
) -> rusqlite::Result<(Vec<Revision>, usize)> {
    let mut statement = connection.prepare_cached(
        "SELECT revision FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
    )?;
    // One more tells whether there are more.
    let sql_limit = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![range.from, range.to, sql_limit], |row| {
        revision_at(row, 0)
    })?;
    let mut revisions = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if revisions.len() <= limit {
        return Ok((revisions, 0));
    }
    revisions.truncate(limit);
    if !count {
        return Ok((revisions, 1));
    }
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM current WHERE key >= ?1 AND key < ?2")?;
    let total: i64 = statement.query_row(params![range.from, range.to], |row| row.get(0))?;
    let total = usize::try_from(total).unwrap_or(usize::MAX);
    let remaining = total.saturating_sub(revisions.len());
    Ok((revisions, remaining))
}

/// The same as it was at a revision of the past: keys that have not changed
/// since are read from `current`; for each other one, the first change since
/// tells what was before.
fn revisions_at(
    connection: &Connection,
    range: &KeyRange,
    limit: usize,
    count: bool,
    revision: Revision,
) -> rusqlite::Result<(Vec<Revision>, usize)> {
    let mut changed: BTreeMap<Vec<u8>, Revision> = BTreeMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT key, previous FROM log
         WHERE revision > ?3 AND key >= ?1 AND key < ?2 ORDER BY revision",
    )?;
    let mut rows = statement.query(params![range.from, range.to, to_sql(revision)])?;
    while let Some(row) = rows.next()? {
        changed.entry(row.get(0)?).or_insert(revision_at(row, 1)?);
    }
    let mut statement = connection.prepare_cached(
        "SELECT key, revision FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    let mut rows = statement.query(params![range.from, range.to])?;
    let mut before = changed
        .into_iter()
        .filter(|(_, previous)| *previous != 0)
        .peekable();
    let mut revisions = Vec::new();
    let mut remaining = 0;
    let mut add = |found: Revision| {
        if revisions.len() < limit {
            revisions.push(found);
        } else {
            remaining += 1;
        }
        // Whether any follows is known as soon as one does.
        count || remaining == 0
    };
    let mut goes_on = true;
    while goes_on && let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_blob()?;
        let last_change = revision_at(row, 1)?;
        while goes_on
            && let Some((_, previous)) = before.next_if(|(other, _)| other.as_slice() <= key)
        {
            goes_on = add(previous);
        }
        if goes_on && last_change <= revision {
            goes_on = add(last_change);
        }
    }
    while goes_on && let Some((_, previous)) = before.next() {
        goes_on = add(previous);
    }
    Ok((revisions, remaining))
}

/// The keys and values that these changes wrote, in the given order. Reads
/// them in the order in which they lie in the file.
fn read_entries(
    connection: &Connection,
    revisions: &[Revision],
) -> rusqlite::Result<Vec<KeyValue>> {
    let mut order: Vec<(Revision, usize)> = revisions.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut entries: Vec<Option<KeyValue>> = Vec::new();
    entries.resize_with(revisions.len(), || None);
    for wanted in order.chunks(SCAN_ENTRIES) {
        let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else {
            continue;
        };
        let is_dense = last - first < SCAN_SPAN;
        let spans = if is_dense { wanted.len() } else { 1 };
        for wanted in wanted.chunks(spans) {
            scan_entries(connection, wanted, &mut entries)?;
        }
    }
    Ok(entries.into_iter().flatten().collect())
}

/// Reads what these changes wrote, which are in order, in one scan.
fn scan_entries(
    connection: &Connection,
    wanted: &[(Revision, usize)],
    entries: &mut [Option<KeyValue>],
) -> rusqlite::Result<()> {
    let (Some((first, _)), Some((last, _))) = (wanted.first(), wanted.last()) else {
        return Ok(());
    };
    let mut statement = connection.prepare_cached(
        "SELECT revision, key, created, value FROM log WHERE revision BETWEEN ?1 AND ?2
         ORDER BY revision",
    )?;
    let mut rows = statement.query([to_sql(*first), to_sql(*last)])?;
    let mut wanted = wanted.iter().peekable();
    while let Some(row) = rows.next()? {
        let revision = revision_at(row, 0)?;
        if let Some((_, index)) = wanted.next_if(|(next, _)| *next == revision) {
            entries[*index] = Some(KeyValue {
                key: text_at(row, 1)?,
                value: bytes_at(row, 3)?,
                create_revision: revision_at(row, 2)?,
                mod_revision: revision,
            });
        }
    }
    // A row that `current` points to is never swept.
    match wanted.next() {
        None => Ok(()),
        Some(_) => Err(rusqlite::Error::QueryReturnedNoRows),
    }
}

/// The next piece of the history of a prefix after a revision, not beyond
/// `until`.
pub(super) fn replay(
    connection: &Connection,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> Result<Replay, StoreError> {
    let transaction = connection.unchecked_transaction()?;
    let bounds = bounds(&transaction)?;
    bounds.check(after)?;
    let range = KeyRange::of_prefix(prefix);
    // After `compacted`, the log has a row for every revision.
    let end = after
        .saturating_add(REPLAY_REVISIONS)
        .min(until)
        .min(bounds.latest);
    let mut statement = transaction.prepare_cached(
        "SELECT log.revision, log.key, log.created, log.deleted, log.value,
                before.revision, before.created, before.value
         FROM log LEFT JOIN log AS before ON before.revision = log.previous
         WHERE log.revision > ?1 AND log.revision <= ?2 AND log.key >= ?3 AND log.key < ?4
         ORDER BY log.revision",
    )?;
    let mut rows = statement.query(params![to_sql(after), to_sql(end), range.from, range.to])?;
    let mut events = Vec::new();
    let mut bytes = 0;
    let mut reached = end;
    while let Some(row) = rows.next()? {
        let event = event_at(row)?;
        bytes += event.bytes();
        let revision = event.entry.mod_revision;
        events.push(Arc::new(event));
        if bytes > REPLAY_BYTES {
            reached = revision;
            break;
        }
    }
    Ok(Replay {
        events,
        reached,
        latest: bounds.latest,
    })
}

fn event_at(row: &Row<'_>) -> rusqlite::Result<Event> {
    let key = text_at(row, 1)?;
    let previous = match row.get::<_, Option<i64>>(5)? {
        None => None,
        Some(_) => Some(KeyValue {
            key: key.clone(),
            value: bytes_at(row, 7)?,
            create_revision: revision_at(row, 6)?,
            mod_revision: revision_at(row, 5)?,
        }),
    };
    Ok(Event {
        entry: KeyValue {
            key,
            value: bytes_at(row, 4)?,
            create_revision: revision_at(row, 2)?,
            mod_revision: revision_at(row, 0)?,
        },
        previous,
        deleted: row.get(3)?,
    })
}
