//! Errors as the user meets them: what was wrong, the cause, the next step.

use std::fmt::Display;
use std::process::ExitCode;

/// How a command ended badly. The exit codes are those that kubectl's users
/// expect: 1 for a failure, 2 for a call that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command was understood, but could not be done.
    Failure,
    /// The command's own words are wrong.
    Usage,
}

/// An error with its cause and hints.
#[derive(Debug)]
pub struct CliError {
    /// Decides the exit code.
    pub kind: Kind,
    /// What was wrong, and where.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub hints: Vec<String>,
}

/// What commands return.
pub type Result<T = ()> = std::result::Result<T, CliError>;

impl CliError {
    /// Something that could not be done.
    pub fn failure(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failure,
            message: message.into(),
            causes: vec![],
            hints: vec![],
        }
    }

    /// A call that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            ..Self::failure(message)
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds a next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Failure => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
        }
    }

    /// Prints the error to standard error.
    pub fn print(&self, output: &crate::output::Output) {
        output.error(&self.message);
        for cause in &self.causes {
            output.detail(&format!("caused by: {cause}"));
        }
        for hint in &self.hints {
            output.hint(hint);
        }
    }
}

impl From<coracle_server::Error> for CliError {
    fn from(error: coracle_server::Error) -> Self {
        let hint = error.hint();
        let mut out = match error {
            coracle_server::Error::PathTooLong { .. } | coracle_server::Error::NoData(_) => {
                Self::usage(error.to_string())
            }
            _ => Self::failure(error.to_string()),
        };
        out.hints.extend(hint);
        out
    }
}

/// Turns an error of the Kubernetes client into one of ours: `doing` is what
/// was tried, as in "create the namespace demo".
pub fn from_kube(doing: &str) -> impl FnOnce(kube::Error) -> CliError + '_ {
    move |error| {
        let out = CliError::failure(format!("cannot {doing}"));
        match error {
            kube::Error::Api(status) => match status.code {
                401 => out
                    .because(&status.message)
                    .hint("the credentials of this context are not accepted: check --context and --kubeconfig"),
                403 => out
                    .because(&status.message)
                    .hint("ask the owner of the namespace for its admin Role, or choose another namespace with -n"),
                _ => out.because(&status.message),
            },
            error => {
                let mut out = out.because(root_cause(&error));
                out = out.hint(
                    "is the host cluster up? `coracle host status` shows the embedded one, \
                     `kubectl cluster-info` any other; --context chooses another",
                );
                out
            }
        }
    }
}

/// The innermost cause: "connection refused" rather than "error sending request".
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
