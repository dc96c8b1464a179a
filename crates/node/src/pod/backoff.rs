//! Delays before a container is restarted or an image is pulled again. They
//! live in memory alone, as upstream: after a restart of the machine or of the
//! agent everything is tried once without delay.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// First delay.
const FIRST: Duration = Duration::from_secs(10);
/// Longest delay.
const LONGEST: Duration = Duration::from_secs(300);
/// A container that ran this long is taken as well again.
pub const RESET_AFTER: Duration = Duration::from_secs(600);
/// Most names remembered per pod: containers and images of one pod.
const MAX_ENTRIES: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    /// When the last failure happened; the delay counts from here.
    since: Timestamp,
}

/// Growing delays by name.
#[derive(Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// How long to wait still before `name` may be tried at `now`.
    pub fn remaining(&self, name: &str, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(name)?;
        let passed = Duration::try_from(now.duration_since(entry.since)).unwrap_or_default();
        entry.delay.checked_sub(passed).filter(|d| !d.is_zero())
    }

    /// The delay now in force for `name`.
    pub fn delay(&self, name: &str) -> Duration {
        self.entries.get(name).map(|e| e.delay).unwrap_or_default()
    }

    /// Notes a failure of `name` at `now`: the next delay is twice the last.
    pub fn failed(&mut self, name: &str, now: Timestamp) {
        let delay = match self.entries.get(name) {
            Some(entry) if !entry.delay.is_zero() => (entry.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        self.set(name, delay, now);
    }

    /// Moves the moment from which the delay of `name` counts.
    pub fn count_from(&mut self, name: &str, since: Timestamp) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.since = since;
        }
    }

    /// Forgets the failures of `name`.
    pub fn succeeded(&mut self, name: &str) {
        self.entries.remove(name);
    }

    fn set(&mut self, name: &str, delay: Duration, since: Timestamp) {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(name) {
            self.entries.clear();
        }
        self.entries.insert(name.to_owned(), Entry { delay, since });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes_and_resets() {
        let now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        assert_eq!(backoff.remaining("c", now), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.failed("c", now);
            delays.push(backoff.delay("c").as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.remaining("c", now), Some(Duration::from_secs(300)));
        let later = now + jiff::SignedDuration::from_secs(299);
        assert_eq!(backoff.remaining("c", later), Some(Duration::from_secs(1)));
        let after = now + jiff::SignedDuration::from_secs(300);
        assert_eq!(backoff.remaining("c", after), None);
        backoff.succeeded("c");
        assert_eq!(backoff.remaining("c", now), None);
    }
}
