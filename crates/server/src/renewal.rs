//! Syncer and node agent take over certificates that somebody renewed for them.
//! They run in terms: when the file with their credentials is written anew they
//! stop in order and start again in the same process. So no part has to know
//! how to swap a certificate under its connections.

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
