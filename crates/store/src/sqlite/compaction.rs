//! Removes history that cannot be read any more, and gives its space back, in
//! steps small enough that no write waits long for one.

use rusqlite::{Connection, params};

use super::rows::to_sql;
use crate::Revision;

/// Changes looked at in one step, at the least.
const STEP_REVISIONS: usize = 128;

/// Pages given back to the file system in one step.
const STEP_PAGES: u32 = 64;

/// A file with fewer unused pages than this is left alone: they will be used.
const TOLERATED_PAGES: i64 = 512;

/// How far compaction has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Older revisions cannot be read.
    pub(super) compacted: Revision,
    /// Up to here, rows without use are gone. Never beyond `compacted`.
    swept: Revision,
    /// Unused pages are being given back.
    shrinking: bool,
    /// What is in the database.
    saved: (Revision, Revision),
}

impl State {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let (compacted, swept) =
            connection.query_row("SELECT compacted, swept FROM progress", [], |row| {
                let stored: (i64, i64) = (row.get(0)?, row.get(1)?);
                Ok((
                    Revision::try_from(stored.0).unwrap_or(0),
                    Revision::try_from(stored.1).unwrap_or(0),
                ))
            })?;
        Ok(Self {
            compacted,
            swept,
            shrinking: true,
            saved: (compacted, swept),
        })
    }

    /// Makes history before `revision` unreadable.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision);
    }

    /// True while steps have something to do.
    pub(super) fn has_work(&self) -> bool {
        self.swept < self.compacted || self.shrinking
    }

    /// Does a part of the work, in the running transaction. Goes faster the
    /// more was written in it, so that it keeps up.
    pub(super) fn step(&mut self, connection: &Connection, written: usize) -> rusqlite::Result<()> {
        if self.swept < self.compacted {
            self.sweep(connection, STEP_REVISIONS.max(2 * written))
        } else if self.shrinking {
            self.shrink(connection)
        } else {
            Ok(())
        }
    }

    /// Each change that can no longer be read as a change makes the row that
    /// it replaced useless, and itself if it was a delete.
    fn sweep(&mut self, connection: &Connection, count: usize) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "SELECT revision, previous, deleted FROM log
             WHERE revision > ?1 AND revision <= ?2 ORDER BY revision LIMIT ?3",
        )?;
        let rows = statement.query_map(
            params![to_sql(self.swept), to_sql(self.compacted), count as i64],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let changes = rows.collect::<rusqlite::Result<Vec<(i64, i64, bool)>>>()?;
        let mut delete = connection.prepare_cached("DELETE FROM log WHERE revision = ?1")?;
        for &(revision, previous, deleted) in &changes {
            if previous != 0 {
                delete.execute([previous])?;
            }
            if deleted {
                delete.execute([revision])?;
            }
        }
        self.swept = match changes.last() {
            Some((last, _, _)) if changes.len() == count => {
                Revision::try_from(*last).unwrap_or(self.compacted)
            }
            _ => self.compacted,
        };
        self.shrinking = true;
        Ok(())
    }

    /// Gives unused pages back until few are left: many are kept in reserve
    /// for a store that writes.
    fn shrink(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let count = |pragma: &str| {
            connection
                .prepare_cached(pragma)?
                .query_row([], |row| row.get::<_, i64>(0))
        };
        let unused = count("PRAGMA freelist_count")?;
        let pages = count("PRAGMA page_count")?;
        if unused < TOLERATED_PAGES.max(pages / 8) {
            self.shrinking = false;
            return Ok(());
        }
        // Frees a page with every row that is asked for.
        let mut statement =
            connection.prepare_cached(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// Records how far it has come, in the running transaction.
    pub(super) fn save(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let now = (self.compacted, self.swept);
        if now == self.saved {
            return Ok(());
        }
        connection
            .prepare_cached("UPDATE progress SET compacted = ?1, swept = ?2")?
            .execute(params![to_sql(now.0), to_sql(now.1)])?;
        self.saved = now;
        Ok(())
    }
}
