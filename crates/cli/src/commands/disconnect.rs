//! `coracle disconnect`.

use clap::Args;

use super::{Environment, connect};
use crate::error::{CliError, Result};
use crate::host::parse_virtual_context;

/// Return to the context of the host cluster
#[derive(Args, Debug)]
pub struct Disconnect {}

impl Disconnect {
    /// Runs the command.
    ///
    /// # Errors
    /// If the host's context is gone from the kubeconfig.
    pub fn run(self, environment: &Environment) -> Result {
        let files = environment.files()?;
        let Some(current) = files.current_context()? else {
            return Err(CliError::failure("the kubeconfig names no current context")
                .hint("`kubectl config use-context NAME` chooses one"));
        };
        let Some((name, _, host)) = parse_virtual_context(&current) else {
            return Err(CliError::failure(format!(
                "not connected: the current context {current:?} is no virtual cluster's"
            ))
            .hint("`coracle connect NAME` connects; `coracle list` shows which there are"));
        };
        if !files.has_context(host)? {
            return Err(
                CliError::failure(format!("the context {host:?} is no longer there"))
                    .hint("`kubectl config use-context NAME` chooses another"),
            );
        }
        files.switch_to(host)?;
        if let Some(pid) = connect::forward_pid(&files.read()?, &current) {
            connect::stop_forward(pid);
        }
        environment.output.done(&format!(
            "Disconnected from virtual cluster {name}; switched to context {host}"
        ));
        Ok(())
    }
}
