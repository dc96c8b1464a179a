//! The work queue: each key at most once waiting and at most once in work, so
//! that it is never longer than there are objects.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_translate::VirtualName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kinds::Kind;
use crate::sync::custom;

/// Pause before a failed key is tried again, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Failures after which the pause no longer grows: about five minutes.
const MOST_DOUBLINGS: u32 = 15;

/// What an object is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Of {
    Kind(Kind),
    /// A custom resource.
    Custom(custom::Key),
}

impl From<Kind> for Of {
    fn from(kind: Kind) -> Self {
        Self::Kind(kind)
    }
}

/// What is to be reconciled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) of: Of,
    pub(crate) name: VirtualName,
}

/// How work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is left to do until something changes.
    Done,
    /// To be looked at again after this time, without being a failure.
    Again(Duration),
    /// To be tried again, later each time.
    Failed,
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    waiting: HashSet<Key>,
    working: HashSet<Key>,
    /// Keys in work that changed meanwhile.
    dirty: HashSet<Key>,
    later: BinaryHeap<Reverse<(Instant, Key)>>,
    /// When each key of `later` is due: one time for each key.
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

impl Inner {
    fn push(&mut self, key: Key) {
        if self.working.contains(&key) {
            self.dirty.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every method leaves the queue whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a key unless it waits already.
    pub(crate) fn push(&self, of: impl Into<Of>, name: VirtualName) {
        let of = of.into();
        self.lock().push(Key { of, name });
        self.wake.notify_one();
    }

    /// The next key; it counts as in work until [`Queue::finish`].
    pub(crate) async fn next(&self) -> Key {
        loop {
            let due = {
                let mut inner = self.lock();
                let now = Instant::now();
                while inner
                    .later
                    .peek()
                    .is_some_and(|Reverse((at, _))| *at <= now)
                {
                    if let Some(Reverse((at, key))) = inner.later.pop()
                        && inner.due.get(&key) == Some(&at)
                    {
                        inner.due.remove(&key);
                        inner.push(key);
                    }
                }
                if let Some(key) = inner.ready.pop_front() {
                    inner.waiting.remove(&key);
                    inner.working.insert(key.clone());
                    return key;
                }
                inner.later.peek().map(|Reverse((at, _))| *at)
            };
            match due {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends work on a key.
    pub(crate) fn finish(&self, key: Key, outcome: Outcome) {
        let mut inner = self.lock();
        inner.working.remove(&key);
        if outcome != Outcome::Failed {
            inner.failures.remove(&key);
        }
        if inner.dirty.remove(&key) {
            // What changed may have mended it.
            inner.push(key);
        } else {
            let pause = match outcome {
                Outcome::Done => return,
                Outcome::Again(pause) => pause,
                Outcome::Failed => {
                    let failures = inner.failures.entry(key.clone()).or_default();
                    let pause = FIRST_PAUSE * 2u32.pow(*failures);
                    *failures = (*failures + 1).min(MOST_DOUBLINGS);
                    pause
                }
            };
            let at = Instant::now() + pause;
            if inner.due.get(&key).is_none_or(|earlier| at < *earlier) {
                inner.due.insert(key.clone(), at);
                inner.later.push(Reverse((at, key)));
            }
        }
        drop(inner);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VirtualName {
        VirtualName::new("ns", text)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_works_once() {
        let queue = Queue::default();
        queue.push(Kind::Pod, name("a"));
        queue.push(Kind::Pod, name("a"));
        let key = queue.next().await;
        queue.push(Kind::Pod, name("a"));
        queue.push(Kind::Pod, name("b"));
        assert_eq!(queue.next().await.name, name("b"));
        queue.finish(key.clone(), Outcome::Done);
        assert_eq!(queue.next().await, key);
        queue.finish(key, Outcome::Done);
        assert!(queue.lock().ready.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_later_each_time() {
        let queue = Queue::default();
        queue.push(Kind::Pod, name("a"));
        let start = Instant::now();
        let mut at = Vec::new();
        for _ in 0..4 {
            let key = queue.next().await;
            at.push(start.elapsed().as_millis());
            queue.finish(key, Outcome::Failed);
        }
        assert_eq!(at.len(), 4);
        assert!(at[1] >= 10 && at[2] >= 30 && at[3] >= 70, "{at:?}");
        let key = queue.next().await;
        queue.finish(key, Outcome::Done);
        assert!(queue.lock().failures.is_empty());
    }
}
