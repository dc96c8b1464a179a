//! Keys that live for a while.

use std::time::Instant;

use super::*;

fn put_for(seconds: u64) -> Write {
    Write::Put {
        value: Bytes::from_static(b"short"),
        ttl_seconds: Some(seconds),
    }
}

async fn set_for(store: &impl Store, key: &str, seconds: u64) -> Revision {
    let outcome = store.write(key, Expect::Anything, put_for(seconds)).await;
    done(outcome.unwrap()).0
}

pub async fn removes_keys_and_tells_watchers(store: impl Store) {
    let mut stream = store.watch("", 0).await.unwrap();
    set(&store, "stays", "x").await;
    let started = Instant::now();
    set_for(&store, "goes", 1).await;
    set_for(&store, "stays-long", u64::MAX).await;
    let found = store.get("goes").await.unwrap().unwrap();
    assert_eq!(found, entry("goes", "short", 2, 2));

    let events = events_until(&mut stream, 4).await;
    assert!(started.elapsed() >= Duration::from_millis(990));
    let last = &events[3];
    assert!(last.deleted);
    assert_eq!(last.entry, entry("goes", "", 2, 4));
    assert_eq!(last.previous, Some(found));
    assert_eq!(store.get("goes").await.unwrap(), None);
    let left = store.list(everything("")).await.unwrap();
    assert_eq!((left.items.len(), left.revision), (2, 4));
}

pub async fn is_cancelled_by_a_write_without_ttl(store: impl Store) {
    set_for(&store, "a", 0).await;
    set_for(&store, "b", 1).await;
    set(&store, "b", "permanent").await;
    set_for(&store, "c", 100).await;
    set_for(&store, "c", 1).await;
    // `c` was due last: when it is gone, `b` would be too.
    let mut stream = store.watch("c", 0).await.unwrap();
    while !events_until(&mut stream, 1)
        .await
        .iter()
        .any(|event| event.deleted)
    {}
    assert!(store.get("b").await.unwrap().is_some());
    assert_eq!(store.get("a").await.unwrap(), None);
}
