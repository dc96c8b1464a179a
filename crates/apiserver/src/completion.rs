//! Answers that wait for what somebody else fills in after the write: a client
//! that creates a service expects its address in the answer, whoever gives
//! addresses out.

use std::time::Duration;

use coracle_machinery::object;
use tokio::sync::Semaphore;

use crate::access::UserInfo;
use crate::hub::{Change, KeyScope};
use crate::registry::Resource;
use crate::server::Inner;
use crate::write::Written;

/// How long an answer waits. What is awaited takes some milliseconds; if it
/// does not come, the client is told what there is.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// Answers that wait at a time. They hold places among the writes under way,
/// of which the one who completes needs some; further answers do not wait.
const MAX_WAITING: usize = 50;

/// The places for answers that wait.
pub(crate) fn places() -> Semaphore {
    Semaphore::new(MAX_WAITING)
}

impl Inner {
    /// The object once it is complete, or as it is when that takes too long.
    pub(crate) async fn completed(
        &self,
        user: &UserInfo,
        resource: &Resource,
        written: Written,
    ) -> Written {
        let mut rules = self
            .completions
            .iter()
            .filter(|rule| rule.handles(user, resource));
        let Some(rule) = rules.next() else {
            return written;
        };
        let incomplete = |written: &Written| match written.object() {
            Ok(object) => rule.awaited(&object).then_some(object),
            Err(_) => None,
        };
        // A dry run has no revision, and nobody completes it.
        if written.revision == 0 {
            return written;
        }
        let (Some(object), Ok(_place)) = (incomplete(&written), self.waiting.try_acquire()) else {
            return written;
        };
        let key = resource.key(object::namespace(&object), object::name(&object));
        let mut latest = written.clone();
        let wait = async {
            let Ok(hub) = self.storage.hubs.get(resource).await else {
                return;
            };
            let Some(mut changes) = hub.subscribe(KeyScope::Key(key), Some(written.revision))
            else {
                return;
            };
            while let Some(event) = changes.next().await {
                if event.change() == Change::Deleted {
                    return;
                }
                if event.revision() <= latest.revision {
                    continue;
                }
                latest.stored = event.stored().to_vec().into();
                latest.revision = event.revision();
                if incomplete(&latest).is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = wait => {}
            () = tokio::time::sleep(MAX_WAIT) => {}
            () = self.stop.cancelled() => {}
        }
        latest
    }
}
