//! Certificates are renewed long before they end, without a restart of any pod.
//!
//! Whoever holds the keys issues them anew from time to time ([`periodically`]).
//! Syncer and node agent take over what was renewed for them: they run in
//! terms, and when the file with their credentials is written anew they stop in
//! order and start again in the same process.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::Error;

/// How often a role looks for credentials that somebody else renewed. They are
/// written long before the old ones end.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// When certificates that are valid for `validity` are renewed: early enough
/// for everybody who reads them from a file.
pub fn due_after(validity: Duration) -> Duration {
    validity / 3 * 2
}

/// How soon to try again where certificates could not be renewed, as a part of
/// their validity: some attempts are left before they end.
fn retry_after(validity: Duration) -> Duration {
    validity / 30
}

/// The longest sleep before the clock is looked at: sleeping does not count the
/// time in which the machine itself sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// Calls `renew` whenever certificates that are valid for `validity` are due,
/// the first time after those just issued, until `stop`.
pub async fn periodically(
    validity: Duration,
    stop: CancellationToken,
    mut renew: impl FnMut() -> Result<(), Error>,
) {
    let mut due = SystemTime::now() + due_after(validity);
    loop {
        let left = due.duration_since(SystemTime::now()).unwrap_or_default();
        if !left.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => continue,
                () = stop.cancelled() => return,
            }
        }
        let next = match renew() {
            Ok(()) => {
                tracing::info!("certificates are renewed");
                due_after(validity)
            }
            Err(error) => {
                tracing::error!(%error, "cannot renew certificates");
                retry_after(validity)
            }
        };
        due = SystemTime::now() + next;
    }
}

/// Runs `role` until `shutdown`, in terms that end when the future of `due`
/// does. `due` is called before each term begins.
///
/// # Errors
/// As the role's.
pub async fn in_terms<D: Future<Output = ()>>(
    shutdown: &CancellationToken,
    due: impl Fn() -> D,
    role: impl AsyncFn(CancellationToken) -> Result<(), Error>,
) -> Result<(), Error> {
    while !shutdown.is_cancelled() {
        let due = due();
        let term = shutdown.child_token();
        let running = role(term.clone());
        tokio::pin!(running);
        tokio::select! {
            result = &mut running => return result,
            () = due => {}
        }
        tracing::info!("starting again with renewed certificates");
        term.cancel();
        running.await?;
    }
    Ok(())
}

/// Ends when the file is written anew.
pub fn rewritten(file: &Path) -> impl Future<Output = ()> + use<> {
    let file = file.to_owned();
    let before = modified(&file);
    async move {
        // A file that is not there yet is waited for by its reader.
        let mut before = before;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = modified(&file);
            if before.is_some() && now.is_some() && now != before {
                return;
            }
            before = before.or(now);
        }
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|m| m.modified()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_role_starts_again_when_due_and_ends_with_the_shutdown() {
        let shutdown = CancellationToken::new();
        let terms = AtomicUsize::new(0);
        let role = async |term: CancellationToken| {
            if terms.fetch_add(1, Ordering::SeqCst) == 2 {
                shutdown.cancel();
            }
            term.cancelled().await;
            Ok(())
        };
        let due = || tokio::time::sleep(Duration::from_millis(1));
        in_terms(&shutdown, due, role).await.unwrap();
        assert_eq!(terms.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_renewal_that_failed_is_tried_again_soon() {
        let stop = CancellationToken::new();
        let validity = Duration::from_millis(300);
        let mut calls = Vec::new();
        let renewed = periodically(validity, stop.clone(), || {
            calls.push(SystemTime::now());
            match calls.len() {
                1 => Err(Error::Setting("no".into())),
                2 => Ok(()),
                _ => {
                    stop.cancel();
                    Ok(())
                }
            }
        });
        renewed.await;
        let pauses: Vec<Duration> = calls
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]).unwrap())
            .collect();
        assert!(pauses[0] >= retry_after(validity), "{pauses:?}");
        assert!(pauses[1] >= due_after(validity), "{pauses:?}");
    }

    #[tokio::test]
    async fn a_role_that_fails_is_not_started_again() {
        let shutdown = CancellationToken::new();
        let role = async |_| Err(Error::Setting("no".into()));
        let ended = in_terms(&shutdown, std::future::pending, role).await;
        assert!(ended.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_counts_as_renewed_only_when_it_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        let watch = rewritten(&file);
        tokio::pin!(watch);
        std::fs::write(&file, "first").unwrap();
        let early = tokio::time::timeout(LOOK_INTERVAL * 3, &mut watch).await;
        assert!(early.is_err(), "the first writing is no renewal");
        let later = SystemTime::now() + Duration::from_secs(60);
        let handle = std::fs::File::options().write(true).open(&file).unwrap();
        handle.set_modified(later).unwrap();
        let renewed = tokio::time::timeout(LOOK_INTERVAL * 3, &mut watch).await;
        assert!(renewed.is_ok());
    }
}
