//! Writes: what they compare, what they refuse, what they keep.

use std::collections::BTreeMap;

use coracle_store::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

pub async fn compare_and_set(store: impl Store) {
    assert_eq!(store.revision().await.unwrap(), 0);
    assert_eq!(store.get("a").await.unwrap(), None);
    let write = |expect, value| store.write("a", expect, put(value));

    assert_eq!(
        mismatch(write(Expect::Revision(1), "x").await.unwrap()),
        None
    );
    assert_eq!(done(write(Expect::Absent, "1").await.unwrap()), (1, None));
    let first = entry("a", "1", 1, 1);
    assert_eq!(store.get("a").await.unwrap(), Some(first.clone()));
    for expect in [Expect::Absent, Expect::Revision(2), Expect::Revision(0)] {
        let current = mismatch(write(expect, "x").await.unwrap());
        assert_eq!(current, Some(first.clone()), "{expect:?}");
    }
    assert_eq!(
        done(write(Expect::Revision(1), "2").await.unwrap()),
        (2, Some(first))
    );
    let second = entry("a", "2", 1, 2);
    assert_eq!(
        done(write(Expect::Anything, "3").await.unwrap()),
        (3, Some(second))
    );
    assert_eq!(store.get("a").await.unwrap(), Some(entry("a", "3", 1, 3)));
    assert_eq!(store.revision().await.unwrap(), 3);
}

pub async fn deletes_compare(store: impl Store) {
    let remove = |expect| store.write("a", expect, Write::Delete);
    for expect in [Expect::Absent, Expect::Revision(1), Expect::Anything] {
        assert_eq!(mismatch(remove(expect).await.unwrap()), None, "{expect:?}");
    }
    assert_eq!(store.revision().await.unwrap(), 0);
    set(&store, "a", "1").await;
    let first = entry("a", "1", 1, 1);
    for expect in [Expect::Absent, Expect::Revision(7)] {
        let current = mismatch(remove(expect).await.unwrap());
        assert_eq!(current, Some(first.clone()), "{expect:?}");
    }
    let (revision, previous) = done(remove(Expect::Revision(1)).await.unwrap());
    assert_eq!((revision, previous), (2, Some(first)));
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(set(&store, "a", "2").await, 3);
    assert_eq!(store.get("a").await.unwrap(), Some(entry("a", "2", 3, 3)));
    assert_eq!(delete(&store, "a").await, 4);
    assert_eq!(store.revision().await.unwrap(), 4);
}

pub async fn limits_are_refused(store: impl Store) {
    let value = |size| Write::Put {
        value: Bytes::from(vec![7; size]),
        ttl_seconds: None,
    };
    let write = |key: String, write| {
        let store = &store;
        async move { store.write(&key, Expect::Anything, write).await }
    };
    done(
        write("k".repeat(MAX_KEY_BYTES), value(MAX_VALUE_BYTES))
            .await
            .unwrap(),
    );
    assert!(matches!(
        write("k".repeat(MAX_KEY_BYTES + 1), value(1)).await,
        Err(StoreError::InvalidKey {
            size: 1025,
            limit: 1024
        })
    ));
    assert!(matches!(
        write(String::new(), value(1)).await,
        Err(StoreError::InvalidKey { size: 0, .. })
    ));
    assert!(matches!(
        write("k".to_owned(), value(MAX_VALUE_BYTES + 1)).await,
        Err(StoreError::TooLarge { size, limit }) if size == limit + 1
    ));
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(
        store.get(&"k".repeat(MAX_KEY_BYTES + 1)).await.unwrap(),
        None
    );
    assert_eq!(store.get("").await.unwrap(), None);
}

pub async fn values_are_kept_exactly(store: impl Store) {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let keys = ["a", "A", "ä", "a\0b", "a%_*?'\"\\", "\u{10ffff}", " "];
    for value in [Bytes::new(), Bytes::from(all_bytes)] {
        for key in keys {
            let write = Write::Put {
                value: value.clone(),
                ttl_seconds: None,
            };
            done(store.write(key, Expect::Anything, write).await.unwrap());
        }
        for key in keys {
            let found = store.get(key).await.unwrap().unwrap();
            assert_eq!((found.key.as_str(), &found.value), (key, &value));
        }
        let page = store.list(everything("")).await.unwrap();
        let mut sorted = keys.map(String::from).to_vec();
        sorted.sort();
        let found: Vec<String> = page.items.into_iter().map(|kv| kv.key).collect();
        assert_eq!(found, sorted);
    }
}

/// One write of the test below and how it ended.
struct Attempt {
    key: String,
    expect: Expect,
    /// The value; none for a delete.
    value: Option<String>,
    outcome: Outcome,
    /// The latest revision before the write was asked for.
    asked_at: Revision,
    /// The same after it had ended.
    ended_at: Revision,
}

/// Eight writers fight for a few keys. In the order of the revisions, every
/// success must follow from the ones before it, every mismatch must tell of a
/// state that there was during the call, and a watcher must see just that.
pub async fn concurrent_writers_see_one_order(store: impl Store) {
    let store = Arc::new(store);
    let mut stream = store.watch("", 0).await.unwrap();
    let writers: Vec<_> = (0..8u8)
        .map(|writer| tokio::spawn(fight(Arc::clone(&store), writer)))
        .collect();
    let mut attempts = Vec::new();
    for writer in writers {
        attempts.extend(writer.await.unwrap());
    }

    let latest = store.revision().await.unwrap();
    let mut successes: BTreeMap<Revision, &Attempt> = BTreeMap::new();
    for attempt in &attempts {
        if let Outcome::Done { revision, .. } = &attempt.outcome {
            assert!(attempt.asked_at < *revision && *revision <= attempt.ended_at);
            assert!(successes.insert(*revision, attempt).is_none());
        }
    }
    assert!(successes.keys().copied().eq(1..=latest));
    let events = events_until(&mut stream, latest).await;
    assert_eq!(revisions(&events), (1..=latest).collect::<Vec<_>>());

    let mut state: BTreeMap<String, KeyValue> = BTreeMap::new();
    // Every state a key ever had, with the revision at which it began.
    let mut states: BTreeMap<String, Vec<(Revision, Option<KeyValue>)>> = BTreeMap::new();
    for ((revision, attempt), event) in successes.into_iter().zip(events) {
        let previous = state.get(&attempt.key).cloned();
        let (_, told) = done(attempt.outcome.clone());
        assert_eq!(told, previous);
        assert_eq!(event.previous, previous);
        match attempt.expect {
            Expect::Absent => assert!(previous.is_none()),
            Expect::Revision(wanted) => assert_eq!(previous.unwrap().mod_revision, wanted),
            Expect::Anything => {}
        }
        let created = told.map_or(revision, |kv| kv.create_revision);
        match &attempt.value {
            Some(value) => {
                let kv = entry(&attempt.key, value, created, revision);
                assert_eq!(event.entry, kv);
                state.insert(attempt.key.clone(), kv);
            }
            None => {
                assert_eq!(event.entry, entry(&attempt.key, "", created, revision));
                state.remove(&attempt.key);
            }
        }
        assert_eq!(event.deleted, attempt.value.is_none());
        let now = state.get(&attempt.key).cloned();
        let of_key = states.entry(attempt.key.clone()).or_default();
        of_key.push((revision, now));
    }
    for attempt in &attempts {
        if let Outcome::Mismatch { current } = &attempt.outcome {
            check_was_true(attempt, current, states.get(&attempt.key));
        }
    }
    let page = store.list(everything("")).await.unwrap();
    assert_eq!(page.items, state.into_values().collect::<Vec<_>>());
}

async fn fight(store: Arc<impl Store>, writer: u8) -> Vec<Attempt> {
    let mut random = StdRng::seed_from_u64(writer.into());
    let mut attempts = Vec::new();
    for number in 0..150 {
        let key = format!("key-{}", random.random_range(0..6));
        let asked_at = store.revision().await.unwrap();
        let expect = match random.random_range(0..4) {
            0 => Expect::Absent,
            1 => Expect::Anything,
            _ => match store.get(&key).await.unwrap() {
                Some(found) => Expect::Revision(found.mod_revision),
                None => Expect::Absent,
            },
        };
        let value = (random.random_range(0..3) > 0).then(|| format!("{writer}-{number}"));
        let write = value.as_deref().map_or(Write::Delete, put);
        let outcome = store.write(&key, expect, write).await.unwrap();
        attempts.push(Attempt {
            key,
            expect,
            value,
            outcome,
            asked_at,
            ended_at: store.revision().await.unwrap(),
        });
    }
    attempts
}

/// A mismatch must tell of a state that the key had during the call, and that
/// does not meet the expectation.
fn check_was_true(
    attempt: &Attempt,
    current: &Option<KeyValue>,
    states: Option<&Vec<(Revision, Option<KeyValue>)>>,
) {
    let mut of_key = vec![(0, None)];
    of_key.extend(states.cloned().unwrap_or_default());
    let held = of_key.iter().enumerate().any(|(index, (since, state))| {
        let until = of_key.get(index + 1).map_or(Revision::MAX, |next| next.0);
        state == current && *since <= attempt.ended_at && attempt.asked_at < until
    });
    assert!(held, "{} never was {current:?}", attempt.key);
    let fails = match (attempt.expect, current) {
        (Expect::Absent, found) => found.is_some() || attempt.value.is_none(),
        (Expect::Revision(wanted), Some(found)) => found.mod_revision != wanted,
        (Expect::Revision(_), None) => true,
        (Expect::Anything, found) => found.is_none() && attempt.value.is_none(),
    };
    assert!(fails, "{:?} holds for {current:?}", attempt.expect);
}
