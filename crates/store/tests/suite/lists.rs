//! Lists: order, limits, and reading the past.

use std::collections::BTreeMap;

use super::*;

pub async fn are_ordered_and_bounded_by_their_prefix(store: impl Store) {
    for key in ["b/2", "a/1", "b/10", "c", "b/1", "b", "b0", "b/é"] {
        set(&store, key, key).await;
    }
    let list = |prefix: &str, after: Option<&str>, limit| {
        let request = ListRequest {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
            revision: None,
            count: true,
        };
        let store = &store;
        async move {
            let page = store.list(request.clone()).await.unwrap();
            assert_eq!(page.revision, 8);
            let count = false;
            let uncounted = store.list(ListRequest { count, ..request }).await.unwrap();
            assert_eq!(uncounted.items, page.items);
            assert_eq!(uncounted.remaining, page.remaining.min(1));
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

pub async fn page_consistently_while_writes_go_on(store: impl Store) {
    for number in 0..50 {
        set(&store, &format!("p/{number:02}"), "old").await;
    }
    let snapshot = store.list(everything("p/")).await.unwrap();
    assert_eq!((snapshot.items.len(), snapshot.revision), (50, 50));

    let mut request = ListRequest {
        limit: Some(7),
        count: true,
        ..everything("p/")
    };
    let mut collected: Vec<KeyValue> = Vec::new();
    for round in 0.. {
        let page = store.list(request.clone()).await.unwrap();
        assert_eq!(page.revision, 50);
        collected.extend(page.items);
        assert_eq!(page.remaining, 50 - collected.len(), "round {round}");
        if page.remaining == 0 {
            break;
        }
        request.after = collected.last().map(|kv| kv.key.clone());
        request.revision = Some(page.revision);
        // Behind and ahead of the page: a change, a removal, a new key, and a
        // key that is removed and comes back.
        set(&store, &format!("p/{round:02}"), "new").await;
        set(&store, &format!("p/{:02}", 49 - round), "new").await;
        delete(&store, &format!("p/{:02}", 20 + round)).await;
        delete(&store, &format!("p/{:02}", 30 + round)).await;
        set(&store, &format!("p/{:02}", 30 + round), "again").await;
        set(&store, &format!("p/{:02}x", 3 * round), "between").await;
    }
    assert_eq!(collected, snapshot.items);
}

pub async fn read_every_revision_of_the_past(store: impl Store) {
    let mut state: BTreeMap<String, KeyValue> = BTreeMap::new();
    let mut snapshots = vec![state.clone()];
    // Five keys below two prefixes come, change and go, out of step.
    for step in 1..=120u64 {
        let key = format!("{}/{}", ["a", "b"][(step % 2) as usize], step % 5);
        let goes = step % 7 == 0 || step % 11 == 0;
        if goes && state.remove(&key).is_some() {
            assert_eq!(delete(&store, &key).await, step);
        } else {
            let value = step.to_string();
            assert_eq!(set(&store, &key, &value).await, step);
            let created = state.get(&key).map_or(step, |kv| kv.create_revision);
            state.insert(key.clone(), entry(&key, &value, created, step));
        }
        snapshots.push(state.clone());
    }
    for (revision, snapshot) in (0..).zip(&snapshots) {
        for prefix in ["", "a/", "b/", "b/3"] {
            let expected: Vec<&KeyValue> = snapshot
                .values()
                .filter(|kv| kv.key.starts_with(prefix))
                .collect();
            let page = store.list(at(prefix, revision)).await.unwrap();
            assert_eq!(page.items.iter().collect::<Vec<_>>(), expected);
            assert_eq!((page.revision, page.remaining), (revision, 0));
        }
    }
}

pub async fn refuse_future_and_compacted_revisions(store: impl Store) {
    let future = |revision| store.list(at("", revision));
    assert!(store.list(at("", 0)).await.unwrap().items.is_empty());
    for revision in [1, u64::MAX] {
        assert!(matches!(
            future(revision).await,
            Err(StoreError::Future { requested, latest: 0 }) if requested == revision
        ));
        assert!(matches!(
            store.compact(revision).await,
            Err(StoreError::Future { latest: 0, .. })
        ));
    }
    for value in ["1", "2", "3", "4"] {
        set(&store, "a", value).await;
    }
    delete(&store, "a").await;
    set(&store, "b", "6").await;
    delete(&store, "b").await;

    store.compact(3).await.unwrap();
    // Once forgotten, never remembered.
    store.compact(2).await.unwrap();
    for revision in 0..3 {
        assert!(matches!(
            store.list(at("", revision)).await,
            Err(StoreError::Compacted { requested, oldest: 3 }) if requested == revision
        ));
    }
    let at_3 = store.list(at("", 3)).await.unwrap();
    assert_eq!(at_3.items, [entry("a", "3", 1, 3)]);
    let at_4 = store.list(at("", 4)).await.unwrap();
    assert_eq!(at_4.items, [entry("a", "4", 1, 4)]);
    assert!(store.list(at("", 5)).await.unwrap().items.is_empty());
    assert!(matches!(
        store.list(at("", 8)).await,
        Err(StoreError::Future {
            requested: 8,
            latest: 7
        })
    ));

    // The last change was a delete: compacting it must not lose the revision.
    store.compact(7).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 7);
    let page = store.list(everything("")).await.unwrap();
    assert_eq!((page.items.len(), page.revision), (0, 7));
    assert_eq!(set(&store, "c", "8").await, 8);
}

/// A client that reads no further leaves the future of its list where it is.
pub async fn are_not_held_up_by_those_that_nobody_looks_at(store: impl Store) {
    set(&store, "a", "1").await;
    let list = || store.list(ListRequest::default());
    let mut left: Vec<_> = (0..16).map(|_| Box::pin(list())).collect();
    for future in &mut left {
        let _ = futures::poll!(future);
    }
    let page = tokio::time::timeout(super::PATIENCE, list()).await;
    assert_eq!(page.expect("a list is held up").unwrap().items.len(), 1);
}
