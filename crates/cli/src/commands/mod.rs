//! One file per command; each holds the command's arguments, whose doc comment
//! is its help.

pub mod connect;
pub mod convert;
pub mod create;
pub mod debug;
pub mod delete;
pub mod describe;
pub mod disconnect;
pub mod host;
pub mod list;
pub mod pause;
pub mod removal;
pub mod roles;
pub mod schema;
pub mod upgrade;

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::host::Host;
use crate::kubeconfig::Files;
use crate::output::Output;

/// Options of all commands that talk to a cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// The kubeconfig file to use, in place of $KUBECONFIG and ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the host cluster, in place of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

/// What every command is given.
pub struct Environment {
    /// The global options.
    pub global: Global,
    /// For people.
    pub output: Output,
}

impl Environment {
    /// The kubeconfig files.
    ///
    /// # Errors
    /// If there is no place for them.
    pub fn files(&self) -> Result<Files> {
        Files::locate(self.global.kubeconfig.as_deref())
    }

    /// The host cluster.
    ///
    /// # Errors
    /// If there is none that could be used.
    pub async fn host(&self) -> Result<Host> {
        Host::connect(&self.files()?, self.global.context.as_deref()).await
    }
}
