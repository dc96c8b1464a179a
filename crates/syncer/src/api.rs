//! Requests to an API server, with objects as JSON values.

use std::time::Duration;

use futures::{Stream, StreamExt};
use http::{Method, Request};
use kube::core::WatchEvent;
use serde_json::{Value, json};
use thiserror::Error;

/// How long any request but a watch may take. An API server answers within a
/// minute at the latest; past half of that a retry is the better use of time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Objects in one page of a list: bounds what is held twice while reading.
const PAGE: usize = 500;

/// How long the server keeps a watch open. Streams are renewed from where they
/// ended, so this only bounds how long a dead peer goes unnoticed.
const WATCH_SECONDS: u32 = 290;

/// Silence after which a watch is given up: the server should have ended it.
const WATCH_SILENCE: Duration = Duration::from_secs(300);

/// A failed request.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    /// The server refused.
    #[error("{message}")]
    Refused {
        /// HTTP status code.
        code: u16,
        /// Reason of the Status.
        reason: String,
        /// Message of the Status.
        message: String,
    },
    /// The server was not reached, or did not answer properly.
    #[error("{0}")]
    Transport(String),
}

impl ApiError {
    fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.is(404)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is(410)
    }

    pub(crate) fn is_already_exists(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == "AlreadyExists")
    }

    /// The object changed in the meantime, or a precondition failed.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is(409) && !self.is_already_exists()
    }

    /// The request will not succeed as it is: the user has to know.
    pub(crate) fn is_users_concern(&self) -> bool {
        self.is(400) || self.is(403) || self.is(422)
    }
}

impl From<coracle_translate::PatchError> for ApiError {
    fn from(error: coracle_translate::PatchError) -> Self {
        Self::Refused {
            code: 422,
            reason: "Invalid".into(),
            message: format!("it cannot go to the other side: {error}"),
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: status.code,
                reason: status.reason,
                message: status.message,
            },
            other => Self::Transport(chain(&other)),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A resource at the version that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resource<'a> {
    /// `v1`, `networking.k8s.io/v1`.
    pub(crate) api_version: &'a str,
    /// Plural name.
    pub(crate) plural: &'a str,
    /// Kind.
    pub(crate) kind: &'a str,
}

impl Resource<'_> {
    fn path(&self, namespace: &str, name: &str, sub: &str) -> String {
        let root = if self.api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        let mut path = format!("/{root}/{}", self.api_version);
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        for part in [name, sub] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        path
    }
}

/// What narrows a list or watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Narrow {
    /// Namespace; empty for all.
    pub(crate) namespace: String,
    /// Label selector; empty for none.
    pub(crate) labels: String,
    /// The name of the only object wanted; empty for all.
    pub(crate) name: String,
}

impl Narrow {
    fn query(&self) -> String {
        let mut query = String::new();
        if !self.labels.is_empty() {
            query.push_str(&format!("&labelSelector={}", encoded(&self.labels)));
        }
        if !self.name.is_empty() {
            query.push_str(&format!("&fieldSelector=metadata.name%3D{}", self.name));
        }
        query
    }
}

/// A text as the value of a query's parameter.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delete {
    /// Seconds of grace; the object's own if not given.
    pub(crate) grace: Option<i64>,
    /// Only this incarnation.
    pub(crate) uid: String,
}

/// One of the two API servers.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: kube::Client,
}

impl Cluster {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Value, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", "application/json")
            .header("content-type", content)
            .body(body)
            .map_err(|error| ApiError::Transport(error.to_string()))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request::<Value>(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ApiError::Transport(format!(
                "no answer within {REQUEST_TIMEOUT:?}"
            ))),
        }
    }

    async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(
            method,
            path,
            "application/json",
            body.to_string().into_bytes(),
        )
        .await
    }

    /// The object, or `None`.
    pub(crate) async fn get(
        &self,
        resource: Resource<'_>,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let path = resource.path(namespace, name, "");
        match self
            .send(Method::GET, &path, "application/json", Vec::new())
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Anything at a path.
    pub(crate) async fn get_path(&self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::GET, path, "application/json", Vec::new())
            .await
    }

    /// Creates the object in the namespace that it names.
    pub(crate) async fn create(
        &self,
        resource: Resource<'_>,
        object: &Value,
    ) -> Result<Value, ApiError> {
        let path = resource.path(coracle_machinery::object::namespace(object), "", "");
        self.send_json(Method::POST, &path, object).await
    }

    /// Posts to a subresource.
    pub(crate) async fn post(
        &self,
        resource: Resource<'_>,
        namespace: &str,
        name: &str,
        sub: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        self.send_json(Method::POST, &resource.path(namespace, name, sub), body)
            .await
    }

    /// Replaces the object, or one of its subresources.
    pub(crate) async fn update(
        &self,
        resource: Resource<'_>,
        sub: &str,
        object: &Value,
    ) -> Result<Value, ApiError> {
        let metadata = coracle_machinery::object::namespace(object);
        let path = resource.path(metadata, coracle_machinery::object::name(object), sub);
        self.send_json(Method::PUT, &path, object).await
    }

    /// Changes parts of the object, or of one of its subresources, by a merge
    /// patch.
    pub(crate) async fn patch(
        &self,
        resource: Resource<'_>,
        namespace: &str,
        name: &str,
        sub: &str,
        patch: &Value,
    ) -> Result<Value, ApiError> {
        let path = resource.path(namespace, name, sub);
        let body = patch.to_string().into_bytes();
        self.send(Method::PATCH, &path, "application/merge-patch+json", body)
            .await
    }

    /// Deletes the object; its absence, or that of this incarnation, is no
    /// error.
    pub(crate) async fn delete(
        &self,
        resource: Resource<'_>,
        namespace: &str,
        name: &str,
        how: &Delete,
    ) -> Result<(), ApiError> {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let Some(grace) = how.grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        if !how.uid.is_empty() {
            options["preconditions"] = json!({"uid": how.uid});
        }
        let path = resource.path(namespace, name, "");
        match self.send_json(Method::DELETE, &path, &options).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects and the revision they were read at.
    pub(crate) async fn list(
        &self,
        resource: Resource<'_>,
        narrow: &Narrow,
    ) -> Result<(Vec<Value>, String), ApiError> {
        let path = resource.path(&narrow.namespace, "", "");
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let from = if next.is_empty() {
                String::new()
            } else {
                format!("&continue={next}")
            };
            let query = format!("{path}?limit={PAGE}{}{from}", narrow.query());
            let mut page = self.get_path(&query).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            next = coracle_machinery::object::text(&page, "/metadata/continue").to_owned();
            if next.is_empty() {
                let version = coracle_machinery::object::resource_version(&page).to_owned();
                return Ok((items, version));
            }
            next = next.bytes().fold(String::new(), |mut text, byte| {
                use std::fmt::Write as _;
                let _ = write!(text, "%{byte:02X}");
                text
            });
        }
    }

    /// The changes after a revision. The stream ends when the server ends it.
    pub(crate) async fn watch(
        &self,
        resource: Resource<'_>,
        narrow: &Narrow,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, ApiError>> + use<>, ApiError> {
        let path = resource.path(&narrow.namespace, "", "");
        let query = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}{}",
            narrow.query()
        );
        let request = Request::get(query)
            .header("accept", "application/json")
            .body(Vec::new())
            .map_err(|error| ApiError::Transport(error.to_string()))?;
        let opened = tokio::time::timeout(
            REQUEST_TIMEOUT,
            self.client.request_events::<Value>(request),
        );
        match opened.await {
            Ok(stream) => Ok(until_silent(stream?)),
            Err(_) => Err(ApiError::Transport(format!(
                "no answer within {REQUEST_TIMEOUT:?}"
            ))),
        }
    }
}

/// The stream with its errors as ours; it ends when it is silent for too long.
fn until_silent<S>(stream: S) -> impl Stream<Item = Result<WatchEvent<Value>, ApiError>> + use<S>
where
    S: Stream<Item = Result<WatchEvent<Value>, kube::Error>>,
{
    futures::stream::unfold(Box::pin(stream), |mut stream| async move {
        let item = tokio::time::timeout(WATCH_SILENCE, stream.next())
            .await
            .ok()??;
        Some((item.map_err(ApiError::from), stream))
    })
}
