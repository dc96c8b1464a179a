//! The user's commands; the only crate that prints.

mod commands;
mod error;
mod expiry;
mod exported;
mod grants;
mod hidden;
mod host;
mod install;
mod kubeconfig;
mod manifests;
mod memory;
mod objects;
mod output;
mod policies;
mod product;
mod ready;
mod remains;
mod sandbox;
mod signals;
mod tenants;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use commands::{Environment, Global};
use error::{CliError, Result};
use output::{Output, data};

/// Virtual Kubernetes clusters, light enough to carry
///
/// A virtual cluster is a whole Kubernetes cluster (its own API server,
/// datastore, controllers and admin) that lives inside one namespace of a host
/// cluster and borrows the host's nodes.
#[derive(Parser, Debug)]
#[command(
    name = "coracle",
    version = concat!("version ", env!("CARGO_PKG_VERSION")),
    propagate_version = true,
    after_help = "Examples:
  coracle host up                 # a host cluster on this machine
  coracle create team-a           # a virtual cluster, and switch to it
  coracle disconnect              # back to the host
  coracle delete team-a"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Create(Box<commands::create::Create>),
    Connect(commands::connect::Connect),
    Disconnect(commands::disconnect::Disconnect),
    List(commands::list::List),
    Describe(commands::describe::Describe),
    Upgrade(commands::upgrade::Upgrade),
    Pause(commands::pause::Pause),
    Resume(commands::pause::Resume),
    Delete(commands::delete::Delete),
    Convert(commands::convert::Convert),
    Schema(commands::schema::Schema),
    Debug(commands::debug::Debug),
    Host(commands::host::HostCommand),
    /// Print the version
    Version,
    /// Print a shell's completion script
    #[command(after_help = "Examples:\n  source <(coracle completion bash)")]
    Completion {
        /// The shell
        shell: Shell,
    },
    ControlPlane(Box<commands::roles::ControlPlane>),
    Syncer(commands::roles::Syncer),
    Node(Box<commands::roles::Node>),
    Ingress(commands::roles::Ingress),
    RewriteHosts(commands::roles::RewriteHosts),
}

/// The whole program: reads the command line, runs the command, and returns
/// the exit code.
pub fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "sandbox")
    {
        return sandbox::run();
    }
    memory::economise();
    product::called_as(std::env::args_os().next().as_deref());
    let matches = product::rename(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let environment = Environment {
        global: cli.global,
        output: Output::new(),
    };
    match run(cli.command, &environment) {
        Ok(code) => code,
        Err(error) => {
            error.print(&environment.output);
            error.exit_code()
        }
    }
}

fn run(command: Command, environment: &Environment) -> Result<ExitCode> {
    let runtime = match &command {
        Command::ControlPlane(_) | Command::Syncer(_) | Command::Node(_) | Command::Ingress(_) => {
            commands::roles::runtime()
        }
        _ => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
    };
    let runtime = runtime.map_err(|e| CliError::failure("cannot start the runtime").because(e))?;
    runtime.block_on(async {
        match command {
            Command::Create(create) => create.run(environment).await?,
            Command::Connect(connect) => {
                if let Some(status) = connect.run(environment).await? {
                    return Ok(child_code(status));
                }
            }
            Command::Disconnect(disconnect) => disconnect.run(environment)?,
            Command::List(list) => list.run(environment).await?,
            Command::Describe(describe) => describe.run(environment).await?,
            Command::Upgrade(upgrade) => upgrade.run(environment).await?,
            Command::Debug(debug) => debug.run(environment).await?,
            Command::Pause(pause) => pause.run(environment).await?,
            Command::Resume(resume) => resume.run(environment).await?,
            Command::Delete(delete) => delete.run(environment).await?,
            Command::Convert(convert) => convert.run(environment)?,
            Command::Schema(schema) => schema.run(),
            Command::Host(host) => host.run(environment).await?,
            Command::Version => {
                let name = product::name();
                data(&format!("{name} version {}\n", env!("CARGO_PKG_VERSION")));
            }
            Command::Completion { shell } => {
                let mut script = Vec::new();
                let mut command = product::rename(Cli::command());
                clap_complete::generate(shell, &mut command, product::name(), &mut script);
                data(&String::from_utf8_lossy(&script));
            }
            Command::ControlPlane(role) => role.run().await?,
            Command::Syncer(role) => role.run().await?,
            Command::Node(role) => role.run().await?,
            Command::Ingress(role) => role.run().await?,
            Command::RewriteHosts(role) => role.run()?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A child's exit code; 128 and the signal's number if a signal ended it, as
/// shells have it.
fn child_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status
        .code()
        .or_else(|| status.signal().map(|s| 128 + s))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_childs() {
        let cli = Cli::try_parse_from(["coracle", "connect", "a", "--", "kubectl", "get", "-A"]);
        assert!(cli.is_ok());
        for wrong in [
            &["coracle", "frobnicate"][..],
            &["coracle", "create"],
            &["coracle", "list", "--nope"],
        ] {
            assert_eq!(Cli::try_parse_from(wrong).unwrap_err().exit_code(), 2);
        }
    }
}
