//! What every backend must do. A backend's test file calls
//! `store_suite!(constructor)`; the constructor gives a fresh, empty store
//! that tells quiet watchers of progress within a second, and something that
//! is dropped after the store.

pub mod expiry;
pub mod lists;
pub mod model;
pub mod watches;
pub mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_store::{
    Event, Expect, KeyValue, ListRequest, Outcome, Revision, Store, StoreError, WatchMessage,
    WatchStream, Write,
};
use futures::StreamExt;

/// Far more than any step takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a test of every behaviour.
macro_rules! store_suite {
    ($constructor:ident) => {
        store_suite! { @each $constructor:
            writes {
                compare_and_set
                deletes_compare
                limits_are_refused
                values_are_kept_exactly
                concurrent_writers_see_one_order
            }
            lists {
                are_ordered_and_bounded_by_their_prefix
                page_consistently_while_writes_go_on
                read_every_revision_of_the_past
                refuse_future_and_compacted_revisions
                are_not_held_up_by_those_that_nobody_looks_at
            }
            watches {
                replay_history_then_follow
                tell_what_was_before
                have_no_gap_or_duplicate_while_writes_go_on
                cannot_start_in_the_future_or_before_compaction
                hear_of_progress_elsewhere
                end_for_the_slow_and_nobody_else_notices
            }
            expiry {
                removes_keys_and_tells_watchers
                is_cancelled_by_a_write_without_ttl
            }
        }

        #[test]
        fn agrees_with_the_model() {
            crate::suite::model::agrees(super::$constructor);
        }
    };
    (@each $constructor:ident: $($subject:ident { $($behaviour:ident)* })*) => {
        $(
            mod $subject {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $behaviour() {
                        let (store, _keep) = super::super::$constructor();
                        crate::suite::$subject::$behaviour(store).await;
                    }
                )*
            }
        )*
    };
}

fn put(value: &str) -> Write {
    Write::Put {
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_seconds: None,
    }
}

/// Writes whatever is there; returns the revision.
async fn set(store: &impl Store, key: &str, value: &str) -> Revision {
    let outcome = store.write(key, Expect::Anything, put(value)).await;
    done(outcome.unwrap()).0
}

/// Removes a key that exists; returns the revision.
async fn delete(store: &impl Store, key: &str) -> Revision {
    let outcome = store.write(key, Expect::Anything, Write::Delete).await;
    done(outcome.unwrap()).0
}

fn done(outcome: Outcome) -> (Revision, Option<KeyValue>) {
    match outcome {
        Outcome::Done { revision, previous } => (revision, previous),
        Outcome::Mismatch { current } => panic!("mismatch with {current:?}"),
    }
}

fn mismatch(outcome: Outcome) -> Option<KeyValue> {
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

fn everything(prefix: &str) -> ListRequest {
    ListRequest {
        prefix: prefix.to_owned(),
        ..ListRequest::default()
    }
}

fn at(prefix: &str, revision: Revision) -> ListRequest {
    ListRequest {
        revision: Some(revision),
        ..everything(prefix)
    }
}

async fn next_message(stream: &mut WatchStream) -> Option<Result<WatchMessage, StoreError>> {
    tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("the watch says nothing")
}

/// Reads events up to and with revision `last`.
pub async fn events_until(stream: &mut WatchStream, last: Revision) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    while events
        .last()
        .is_none_or(|event| event.entry.mod_revision < last)
    {
        match next_message(stream).await {
            Some(Ok(WatchMessage::Events(more))) => {
                assert!(!more.is_empty(), "a message without events");
                events.extend(more);
            }
            Some(Ok(WatchMessage::Progress(revision))) => {
                let seen = events.last().map_or(0, |event| event.entry.mod_revision);
                assert!(revision >= seen && revision < last, "progress {revision}");
            }
            other => panic!("expected events until {last}, got {other:?}"),
        }
    }
    events
}

fn revisions(events: &[Arc<Event>]) -> Vec<Revision> {
    events
        .iter()
        .map(|event| event.entry.mod_revision)
        .collect()
}
