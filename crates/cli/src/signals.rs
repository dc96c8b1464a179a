//! The first signal asks for an orderly end, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{CliError, Result};

/// Cancels `shutdown` on SIGTERM or SIGINT; a second signal exits.
///
/// # Errors
/// If signals cannot be caught.
pub fn cancel_on_signal(shutdown: CancellationToken) -> Result {
    let failed = |e: std::io::Error| CliError::failure("cannot catch signals").because(e);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(130);
            }
            shutdown.cancel();
            tracing::info!("asked to stop");
        }
    });
    Ok(())
}
