//! How much history is kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::Revision;

/// How often, at most, a point of the history is remembered because of time.
const MARK_INTERVAL: Duration = Duration::from_secs(5);

/// How many marks the byte bound of the history is divided into.
const MARKS_PER_BOUND: u64 = 64;

/// How much history a store keeps for watches that resume and for lists that
/// page at a revision.
#[derive(Clone, Debug)]
pub struct Retention {
    /// A change younger than this is kept, within `bytes`.
    pub age: Duration,
    /// The last so many changes are kept, within `bytes`.
    pub revisions: u64,
    /// Changes that come to more than this, in bytes, are never kept.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(5 * 60),
            revisions: 10_000,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// Knows when and how large the changes of the recent past were, coarsely, and
/// so up to where history can be forgotten.
pub(super) struct History {
    retention: Retention,
    /// Oldest first; their number is bounded by `age` over the interval and
    /// by the number of marks per byte bound.
    marks: VecDeque<Mark>,
    latest: Revision,
    /// Bytes of all changes seen.
    bytes: u64,
}

struct Mark {
    at: Instant,
    revision: Revision,
    /// Bytes of all changes up to `revision`.
    bytes: u64,
}

impl History {
    /// The history of a store just opened. When its changes were made is not
    /// known, so they count as new.
    pub(super) fn new(retention: Retention, latest: Revision, now: Instant) -> Self {
        let mut history = Self {
            retention,
            marks: VecDeque::new(),
            latest,
            bytes: 0,
        };
        history.mark(now);
        history
    }

    /// Takes note of changes up to `latest` that come to `bytes`.
    pub(super) fn record(&mut self, latest: Revision, bytes: u64, now: Instant) {
        self.latest = latest;
        self.bytes += bytes;
        let is_due = self.marks.back().is_none_or(|mark| {
            now.saturating_duration_since(mark.at) >= MARK_INTERVAL
                || self.bytes - mark.bytes >= self.retention.bytes / MARKS_PER_BOUND
        });
        if is_due {
            self.mark(now);
        }
    }

    fn mark(&mut self, at: Instant) {
        self.marks.push_back(Mark {
            at,
            revision: self.latest,
            bytes: self.bytes,
        });
    }

    /// The revision up to which history has become dispensable since the last
    /// call, if it has.
    pub(super) fn dispensable(&mut self, now: Instant) -> Option<Revision> {
        let mut found = None;
        while let Some(mark) = self.marks.front() {
            let is_many = self.latest - mark.revision >= self.retention.revisions;
            let is_old = now.saturating_duration_since(mark.at) >= self.retention.age;
            let is_large = self.bytes - mark.bytes >= self.retention.bytes;
            if !(is_large || (is_many && is_old)) {
                break;
            }
            found = Some(mark.revision);
            self.marks.pop_front();
        }
        found
    }

    /// When something becomes dispensable although nothing is written.
    pub(super) fn due(&self) -> Option<Instant> {
        let mark = self.marks.front()?;
        let is_many = self.latest - mark.revision >= self.retention.revisions;
        is_many.then(|| mark.at + self.retention.age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETENTION: Retention = Retention {
        age: Duration::from_secs(100),
        revisions: 10,
        bytes: 6400,
    };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn forgets_what_is_both_old_and_beyond_the_last_ones() {
        let start = Instant::now();
        let mut history = History::new(RETENTION, 0, start);
        history.record(5, 1, after(start, 10));
        history.record(12, 1, after(start, 20));
        assert_eq!(history.dispensable(after(start, 99)), None);
        assert_eq!(history.due(), Some(after(start, 100)));
        assert_eq!(history.dispensable(after(start, 105)), Some(0));
        // 7 changes since revision 5: not enough, however old.
        assert_eq!(history.due(), None);
        assert_eq!(history.dispensable(after(start, 1000)), None);
        history.record(15, 1, after(start, 1000));
        assert_eq!(history.dispensable(after(start, 1000)), Some(5));
    }

    #[test]
    fn forgets_young_changes_that_are_too_large_together() {
        let start = Instant::now();
        let mut history = History::new(RETENTION, 0, start);
        for revision in 1..=100 {
            history.record(revision, 100, start);
        }
        // 64 changes of 100 bytes fill the bound.
        assert_eq!(history.dispensable(start), Some(36));
        assert!(history.marks.len() <= 65, "{}", history.marks.len());
    }

    #[test]
    fn an_idle_store_has_nothing_due() {
        let start = Instant::now();
        let mut history = History::new(RETENTION, 1_000_000, start);
        assert_eq!(history.due(), None);
        assert_eq!(history.dispensable(after(start, 1000)), None);
    }
}
