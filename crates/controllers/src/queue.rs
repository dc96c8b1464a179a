//! Work queues: each key waits at most once, is worked on by one worker at a
//! time, and backs off after failures.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// First pause after a failure; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
/// Longest pause after failures. Upstream waits up to 1,000 s; a person who
/// watches is better served by a minute and a half.
const MAX_BACKOFF: Duration = Duration::from_secs(82);

/// Name of an object: namespace (empty if it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What is to happen to a key after it was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Wait,
    /// Look again after this time.
    After(Duration),
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys that must run again once their worker ends.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// When each delayed key is due; a key keeps its earliest time.
    delayed: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<K, u32>,
}

/// A queue of keys. Its size is bounded by the number of distinct keys.
pub(crate) struct Queue<K = Key> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K: Clone + Eq + Hash + std::fmt::Debug> Queue<K> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                delayed: BTreeMap::new(),
                due: HashMap::new(),
                sequence: 0,
                failures: HashMap::new(),
            }),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a key now, unless it waits already.
    pub(crate) fn add(&self, key: K) {
        let mut state = self.state();
        if !state.dirty.insert(key.clone()) {
            return;
        }
        if !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Queues a key after `delay`; an earlier pending time wins.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state();
        let at = Instant::now() + delay;
        if let Some(&old) = state.due.get(&key) {
            if old.0 <= at {
                return;
            }
            state.delayed.remove(&old);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.due.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the next key that is ready, or says when the next one is due.
    fn take(&self) -> Result<K, Option<Instant>> {
        let mut state = self.state();
        let now = Instant::now();
        while let Some(entry) = state.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            state.due.remove(&key);
            if state.dirty.insert(key.clone()) && !state.working.contains(&key) {
                state.ready.push_back(key);
            }
        }
        match state.ready.pop_front() {
            Some(key) => {
                state.dirty.remove(&key);
                state.working.insert(key.clone());
                Ok(key)
            }
            None => Err(state.delayed.first_key_value().map(|((at, _), _)| *at)),
        }
    }

    fn done(&self, key: &K, result: Result<Next, Error>) {
        let mut state = self.state();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
        }
        let pause = match result {
            Ok(next) => {
                state.failures.remove(key);
                match next {
                    Next::Wait => None,
                    Next::After(pause) => Some(pause),
                }
            }
            Err(_) => {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                *failures = failures.saturating_add(1);
                Some(backoff(*failures))
            }
        };
        drop(state);
        if let Some(pause) = pause {
            self.add_after(key.clone(), pause);
        }
    }

    /// Works on keys, up to `workers` at once, until `shutdown`.
    pub(crate) async fn run<F, Fut>(
        &self,
        controller: &'static str,
        workers: usize,
        shutdown: &CancellationToken,
        reconcile: F,
    ) where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Result<Next, Error>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let mut wake_at = None;
            while running.len() < workers {
                match self.take() {
                    Ok(key) => {
                        let work = reconcile(key.clone());
                        running.push(async move { (key, work.await) });
                    }
                    Err(at) => {
                        wake_at = at;
                        break;
                    }
                }
            }
            let full = running.len() >= workers;
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some((key, result)) = running.next(), if !running.is_empty() => {
                    if let Err(error) = &result {
                        report(controller, &key, error);
                    }
                    self.done(&key, result);
                }
                () = self.changed.notified(), if !full => {}
                () = timer, if !full => {}
            }
        }
    }
}

fn report(controller: &str, key: &impl std::fmt::Debug, error: &Error) {
    if error.is_routine() {
        tracing::debug!(controller, ?key, %error, "trying again");
    } else {
        tracing::warn!(controller, ?key, %error, "reconciliation failed");
    }
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    (FIRST_BACKOFF * 2u32.pow(doublings)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_is_bounded() {
        assert_eq!(backoff(1), FIRST_BACKOFF);
        assert_eq!(backoff(3), FIRST_BACKOFF * 4);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }

    #[test]
    fn a_key_waits_once_and_runs_again_if_added_while_worked_on() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take(), Ok("a"));
        assert_eq!(queue.take(), Err(None));
        queue.add("a");
        assert_eq!(queue.take(), Err(None), "a worker still holds it");
        queue.done(&"a", Ok(Next::Wait));
        assert_eq!(queue.take(), Ok("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_earliest_time() {
        let queue = Queue::new();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(20));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(queue.take(), Ok("a"));
        queue.done(&"a", Ok(Next::Wait));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(queue.take(), Err(None));
    }
}
