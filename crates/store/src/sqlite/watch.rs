//! A watch: first from the history, then live.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;

use super::{Shared, rows};
use crate::hub::Subscription;
use crate::{Revision, StoreError, WatchMessage, WatchStream};

/// How a watch goes on.
enum Phase {
    /// The history after `after` is still to be sent. `subscription` collects
    /// what comes after `until`; there is none yet while much is to be sent,
    /// lest it overflow meanwhile.
    Replay {
        after: Revision,
        live: Option<(Subscription, Revision)>,
    },
    Live(Subscription),
    Ended,
}

type Message = Result<WatchMessage, StoreError>;

/// All changes of `prefix` after `after`.
pub(super) fn stream(shared: Arc<Shared>, prefix: &str, after: Revision) -> WatchStream {
    let prefix = prefix.to_owned();
    let (subscription, published) = shared.hub.subscribe(&prefix, after);
    let phase = if after >= published {
        Phase::Live(subscription)
    } else {
        drop(subscription);
        Phase::Replay { after, live: None }
    };
    stream::unfold(phase, move |mut phase| {
        let shared = Arc::clone(&shared);
        let prefix = prefix.clone();
        async move {
            loop {
                let (message, next) = advance(&shared, &prefix, phase).await;
                phase = next;
                match message {
                    Some(message) => return Some((message, phase)),
                    None if matches!(phase, Phase::Ended) => return None,
                    None => {}
                }
            }
        }
    })
    .boxed()
}

/// Goes one step on; a step need not give a message.
async fn advance(shared: &Arc<Shared>, prefix: &str, phase: Phase) -> (Option<Message>, Phase) {
    match phase {
        Phase::Ended => (None, Phase::Ended),
        Phase::Live(mut subscription) => match subscription.next().await {
            Some(message) => (Some(message), Phase::Live(subscription)),
            None => (None, Phase::Ended),
        },
        Phase::Replay { after, live } => {
            let until = live.as_ref().map_or(Revision::MAX, |(_, until)| *until);
            let wanted = prefix.to_owned();
            let read = move |connection: &_| rows::replay(connection, &wanted, after, until);
            let replay = match shared.read(read).await {
                Ok(replay) => replay,
                Err(error) => return (Some(Err(error)), Phase::Ended),
            };
            let after = replay.reached;
            let next = match live {
                Some((subscription, until)) if after >= until => Phase::Live(subscription),
                None if after >= replay.latest => subscribe(shared, prefix, after),
                live => Phase::Replay { after, live },
            };
            let message = match replay.events.is_empty() {
                true => None,
                false => Some(Ok(WatchMessage::Events(replay.events))),
            };
            (message, next)
        }
    }
}

/// The history up to `after` has been read, which was all there was a moment
/// ago.
fn subscribe(shared: &Arc<Shared>, prefix: &str, after: Revision) -> Phase {
    let (subscription, published) = shared.hub.subscribe(prefix, after);
    if after >= published {
        Phase::Live(subscription)
    } else {
        Phase::Replay {
            after,
            live: Some((subscription, published)),
        }
    }
}
