//! What every backend must do. A backend's test file calls
//! `store_suite!(constructor)`; the constructor gives a fresh, empty store.

use bytes::Bytes;
use coracle_store::{
    Event, Expect, KeyValue, ListRequest, MAX_KEY_BYTES, MAX_VALUE_BYTES, Outcome, Revision, Store,
    StoreError, WatchMessage, WatchStream, Write,
};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// Far more than any step takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a test of every behaviour.
#[macro_export]
macro_rules! store_suite {
    ($constructor:path) => {
        store_suite!(@ $constructor:
            writes_compare_and_set,
            deletes_compare,
            limits_are_refused,
            values_are_kept_exactly,
            lists_are_ordered_and_bounded_by_their_prefix,
        );
    };
    (@ $constructor:path: $($name:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                suite::$name($constructor()).await;
            }
        )*
    };
}

pub fn put(value: &str) -> Write {
    Write::Put {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_seconds: None,
    }
}

/// Writes whatever is there; returns the revision.
pub async fn set(store: &impl Store, key: &str, value: &str) -> Revision {
    done(
        store
            .write(key, Expect::Anything, put(value))
            .await
            .unwrap(),
    )
    .0
}

pub async fn delete(store: &impl Store, key: &str) -> Revision {
    done(
        store
            .write(key, Expect::Anything, Write::Delete)
            .await
            .unwrap(),
    )
    .0
}

pub fn done(outcome: Outcome) -> (Revision, Option<KeyValue>) {
    match outcome {
        Outcome::Done { revision, previous } => (revision, previous),
        Outcome::Mismatch { current } => panic!("mismatch with {current:?}"),
    }
}

pub fn mismatch(outcome: Outcome) -> Option<KeyValue> {
    match outcome {
        Outcome::Mismatch { current } => current,
        Outcome::Done { revision, .. } => panic!("written at {revision}"),
    }
}

fn entry(key: &str, value: &str, created: Revision, modified: Revision) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: created,
        mod_revision: modified,
    }
}

fn prefix(prefix: &str) -> ListRequest {
    ListRequest {
        prefix: prefix.to_owned(),
        ..ListRequest::default()
    }
}

pub async fn writes_compare_and_set(store: impl Store) {
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
        let page = store.list(prefix("")).await.unwrap();
        let mut sorted = keys.map(String::from).to_vec();
        sorted.sort();
        let found: Vec<String> = page.items.into_iter().map(|kv| kv.key).collect();
        assert_eq!(found, sorted);
    }
}

pub async fn lists_are_ordered_and_bounded_by_their_prefix(store: impl Store) {
    for key in ["b/2", "a/1", "b/10", "c", "b/1", "b", "b0", "b/é"] {
        set(&store, key, key).await;
    }
    let list = |prefix: &str, after: Option<&str>, limit| {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
            revision: None,
        };
        let store = &store;
        async move {
            let page = store.list(request).await.unwrap();
            assert_eq!(page.revision, 8);
            for item in &page.items {
                assert_eq!(item.value, item.key);
            }
            let keys: Vec<String> = page.items.into_iter().map(|kv| kv.key).collect();
            (keys.join(" "), page.remaining)
        }
    };
    for (prefix, after, limit, keys, remaining) in [
        ("", None, None, "a/1 b b/1 b/10 b/2 b/é b0 c", 0),
        ("b/", None, None, "b/1 b/10 b/2 b/é", 0),
        ("b", None, None, "b b/1 b/10 b/2 b/é b0", 0),
        ("b/", None, Some(2), "b/1 b/10", 2),
        ("b/", Some("b/10"), Some(2), "b/2 b/é", 0),
        ("b/", Some("b/10"), Some(1), "b/2", 1),
        ("b/", Some("b/10"), Some(9), "b/2 b/é", 0),
        ("b/", Some("b/11"), None, "b/2 b/é", 0),
        ("b/", Some("a"), Some(1), "b/1", 3),
        ("b/", Some("z"), None, "", 0),
        ("b/", None, Some(0), "", 4),
        ("x", None, Some(2), "", 0),
    ] {
        let found = list(prefix, after, limit).await;
        assert_eq!(
            found,
            (keys.to_owned(), remaining),
            "{prefix} {after:?} {limit:?}"
        );
    }
}
