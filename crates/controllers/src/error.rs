//! The one error type of reconciliation, sorted by what a caller does about it.

/// Why a reconciliation, or a whole run, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or failed the request.
    #[error("{verb} {what}: {source}")]
    Api {
        /// What was attempted: `create`, `patch`, ...
        verb: &'static str,
        /// Path of the object or collection.
        what: String,
        /// The client's error.
        #[source]
        source: Box<kube::Error>,
    },
    /// The request could not even be built (an impossible name, say).
    #[error("cannot build a request for {path}")]
    Request {
        /// The path that was meant.
        path: String,
    },
    /// An object does not decode as its kind.
    #[error("cannot read {what}: {source}")]
    Decode {
        /// Which object.
        what: String,
        /// The JSON error.
        #[source]
        source: serde_json::Error,
    },
    /// A field of an object holds something that the controller cannot use.
    #[error("{0}")]
    Invalid(String),
    /// The controller's view is behind what it wrote itself; try again.
    #[error("waiting for the cache to catch up")]
    Stale,
    /// A controller name that does not exist was selected.
    #[error("no controller is called {0:?}")]
    UnknownController(String),
}

impl Error {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    fn reason_is(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.reason == reason)
    }

    /// The HTTP status code of a refusal by the API server.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    /// The API server's own message, or the whole error.
    pub fn message(&self) -> String {
        self.status()
            .map_or_else(|| self.to_string(), |status| status.message.clone())
    }

    /// The object (or its kind) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// An object of that name exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// Somebody else changed the object, or a precondition failed.
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }

    /// The object was refused as invalid: trying again changes nothing.
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// The caller may not do this.
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The wanted history is gone: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// The namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self.status().is_some_and(|status| {
                status.details.as_ref().is_some_and(|details| {
                    details
                        .causes
                        .iter()
                        .any(|cause| cause.reason == "NamespaceTerminating")
                }) || status.message.contains("because it is being terminated")
            })
    }

    /// Worth no log line above debug: the next attempt settles it.
    pub fn is_routine(&self) -> bool {
        matches!(self, Self::Stale)
            || self.is_conflict()
            || self.is_not_found()
            || self.is_namespace_terminating()
    }
}

/// Turns "it does not exist" into `None`.
pub(crate) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
