//! Watches: history, then live, without gap or duplicate.

use super::*;

pub async fn replay_history_then_follow(store: impl Store) {
    for key in ["a/1", "b/1", "a/2", "a/1"] {
        set(&store, key, "past").await;
    }
    let mut all = store.watch("", 0).await.unwrap();
    let mut some = store.watch("a/", 1).await.unwrap();
    let mut live = store.watch("a/", 4).await.unwrap();
    set(&store, "b/2", "now").await;
    set(&store, "a/3", "now").await;
    let events = events_until(&mut all, 6).await;
    assert_eq!(revisions(&events), [1, 2, 3, 4, 5, 6]);
    let events = events_until(&mut some, 6).await;
    assert_eq!(revisions(&events), [3, 4, 6]);
    let events = events_until(&mut live, 6).await;
    assert_eq!(revisions(&events), [6]);
    assert_eq!(events[0].entry, entry("a/3", "now", 6, 6));
}

pub async fn tell_what_was_before(store: impl Store) {
    let mut live = store.watch("a", 0).await.unwrap();
    set(&store, "a", "1").await;
    set(&store, "a", "2").await;
    delete(&store, "a").await;
    set(&store, "a", "4").await;
    let mut replayed = store.watch("a", 0).await.unwrap();
    for stream in [&mut live, &mut replayed] {
        let events = events_until(stream, 4).await;
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let (entry, previous) = (event.entry.clone(), event.previous.clone());
                (entry, previous, event.deleted, event.created())
            })
            .collect();
        let first = entry("a", "1", 1, 1);
        let second = entry("a", "2", 1, 2);
        assert_eq!(
            told,
            [
                (first.clone(), None, false, true),
                (second.clone(), Some(first), false, false),
                (entry("a", "", 1, 3), Some(second), true, false),
                (entry("a", "4", 4, 4), None, false, true),
            ]
        );
    }
}

/// Watchers that start at all points of the past while a writer runs.
pub async fn have_no_gap_or_duplicate_while_writes_go_on(store: impl Store) {
    const WRITES: Revision = 3000;
    let store = Arc::new(store);
    let mut writers = Vec::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            for number in 0..WRITES / 8 {
                let parity = ["even", "odd"][(number % 2) as usize];
                set(&*store, &format!("{parity}/{writer}/{}", number % 5), "x").await;
            }
        }));
    }
    let mut watchers = Vec::new();
    let mut started_at = 0;
    while started_at < WRITES {
        let latest = store.revision().await.unwrap();
        if latest < (started_at + WRITES / 20).min(WRITES) {
            tokio::task::yield_now().await;
            continue;
        }
        started_at = latest;
        for after in [latest / 2, latest - 1] {
            watchers.push(tokio::spawn(follow(Arc::clone(&store), after, WRITES)));
        }
    }
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
}

/// Watches everything to the end, then a part of it, which must be the same.
async fn follow(store: Arc<impl Store>, after: Revision, last: Revision) {
    let mut all = store.watch("", after).await.unwrap();
    let mut part = store.watch("odd/", after).await.unwrap();
    let events = events_until(&mut all, last).await;
    assert_eq!(revisions(&events), (after + 1..=last).collect::<Vec<_>>());
    let odd: Vec<_> = events
        .into_iter()
        .filter(|event| event.entry.key.starts_with("odd/"))
        .collect();
    let Some(last) = odd.last() else { return };
    let events = events_until(&mut part, last.entry.mod_revision).await;
    assert_eq!(revisions(&events), revisions(&odd));
}

pub async fn cannot_start_in_the_future_or_before_compaction(store: impl Store) {
    for value in ["1", "2", "3", "4"] {
        set(&store, "a", value).await;
    }
    for after in [5, u64::MAX] {
        assert!(matches!(
            store.watch("a", after).await.err(),
            Some(StoreError::Future { requested, latest: 4 }) if requested == after
        ));
    }
    let mut early = store.watch("a", 4).await.unwrap();
    store.compact(3).await.unwrap();
    for after in 0..3 {
        assert!(matches!(
            store.watch("a", after).await.err(),
            Some(StoreError::Compacted { requested, oldest: 3 }) if requested == after
        ));
    }
    // What follows the compacted revision is all there, with what was before.
    let mut stream = store.watch("a", 3).await.unwrap();
    let events = events_until(&mut stream, 4).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].previous, Some(entry("a", "3", 1, 3)));
    // A watch that has started goes on.
    set(&store, "a", "5").await;
    store.compact(5).await.unwrap();
    set(&store, "a", "6").await;
    assert_eq!(revisions(&events_until(&mut early, 6).await), [5, 6]);
}

pub async fn hear_of_progress_elsewhere(store: impl Store) {
    let mut quiet = store.watch("quiet/", 0).await.unwrap();
    set(&store, "loud/1", "x").await;
    let last = set(&store, "loud/2", "x").await;
    let mut seen = 0;
    while seen < last {
        match next_message(&mut quiet).await {
            Some(Ok(WatchMessage::Progress(revision))) => {
                assert!(revision > seen, "{revision} after {seen}");
                seen = revision;
            }
            other => panic!("expected progress, got {other:?}"),
        }
    }
    let last = set(&store, "quiet/1", "x").await;
    assert_eq!(revisions(&events_until(&mut quiet, last).await), [last]);
}

pub async fn end_for_the_slow_and_nobody_else_notices(store: impl Store) {
    const WRITES: Revision = 40;
    let value = Bytes::from(vec![1; 1024 * 1024]);
    let mut slow = store.watch("big", 0).await.unwrap();
    let mut quick = store.watch("big", 0).await.unwrap();
    for revision in 1..=WRITES {
        let write = Write::Put {
            value: value.clone(),
            ttl_seconds: None,
        };
        done(store.write("big", Expect::Anything, write).await.unwrap());
        assert_eq!(
            revisions(&events_until(&mut quick, revision).await),
            [revision]
        );
    }
    let mut seen = 0;
    let error = loop {
        match next_message(&mut slow).await {
            Some(Ok(WatchMessage::Events(events))) => seen += events.len(),
            Some(Ok(WatchMessage::Progress(_))) => {}
            Some(Err(error)) => break error,
            None => panic!("ended without a reason"),
        }
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    assert!(seen < WRITES as usize);
    assert!(next_message(&mut slow).await.is_none());
}
