//! Requests to the API server, by resource, on JSON values and raw bytes.
//!
//! Writes are patches and creations of `serde_json::Value`, so that fields
//! this program does not know survive; reads hand out bytes, so that each
//! reader decodes only the fields it needs.

use std::borrow::Cow;

use futures::{AsyncBufRead, AsyncReadExt};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::error::Error;

/// Content type of a JSON merge patch (RFC 7386).
const MERGE_PATCH: &str = "application/merge-patch+json";
/// Content type of a patch that merges lists by their keys.
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

/// Prefers metadata only; a server that cannot do that answers whole objects,
/// which readers of metadata understand as well.
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// One resource of the API at one version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Resource {
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub namespaced: bool,
}

impl Resource {
    pub(crate) const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            kind: Cow::Borrowed(kind),
            plural: Cow::Borrowed(plural),
            namespaced,
        }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of a collection: of one namespace, or of everything if `namespace`
    /// is empty.
    fn collection(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        let mut path = String::from(root);
        for part in [self.group.as_ref(), self.version.as_ref()] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(part);
            }
        }
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        path
    }

    fn object(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = self.collection(namespace);
        path.push('/');
        path.push_str(&escape(name));
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

/// Percent-encodes what may not stand in a path segment or a query value.
/// Names of RBAC objects, for one, hold colons and more.
fn escape(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(out)
}

/// What to do with dependents when an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delete<'a> {
    /// Only if the object has this uid.
    pub uid: Option<&'a str>,
    /// Only if the object is at this version.
    pub resource_version: Option<&'a str>,
    pub propagation: Option<Propagation>,
    pub grace_seconds: Option<i64>,
}

impl<'a> Delete<'a> {
    /// Deletion of exactly the object that was seen, in the background.
    pub(crate) fn exactly(uid: &'a str) -> Self {
        Self {
            uid: Some(uid),
            propagation: Some(Propagation::Background),
            ..Self::default()
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut preconditions = json!({});
            if let Some(uid) = self.uid {
                preconditions["uid"] = uid.into();
            }
            if let Some(version) = self.resource_version {
                preconditions["resourceVersion"] = version.into();
            }
            body["preconditions"] = preconditions;
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = format!("{propagation:?}").into();
        }
        if let Some(seconds) = self.grace_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        body
    }
}

/// Parameters of a list or a watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query<'a> {
    pub namespace: &'a str,
    pub field_selector: &'a str,
    pub metadata_only: bool,
}

/// A client that names resources by [`Resource`].
#[derive(Clone)]
pub(crate) struct Api {
    client: kube::Client,
}

impl Api {
    pub(crate) fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// One page of a list, as text.
    pub(crate) async fn list_page(
        &self,
        resource: &Resource,
        query: &Query<'_>,
        limit: usize,
        token: &str,
    ) -> Result<String, Error> {
        let mut path = resource.collection(query.namespace);
        path.push_str(&format!("?limit={limit}"));
        if !token.is_empty() {
            path.push_str(&format!("&continue={}", escape(token)));
        }
        if !query.field_selector.is_empty() {
            path.push_str(&format!("&fieldSelector={}", escape(query.field_selector)));
        }
        let accept = if query.metadata_only {
            METADATA_LIST
        } else {
            "application/json"
        };
        let request = build(Method::GET, &path, accept, "", Vec::new())?;
        self.text("list", path, request).await
    }

    /// A watch from `version`, as a stream of JSON lines.
    pub(crate) async fn watch(
        &self,
        resource: &Resource,
        query: &Query<'_>,
        version: &str,
        seconds: u64,
    ) -> Result<impl AsyncBufRead + use<>, Error> {
        let mut path = resource.collection(query.namespace);
        path.push_str(&format!(
            "?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            escape(version)
        ));
        if !query.field_selector.is_empty() {
            path.push_str(&format!("&fieldSelector={}", escape(query.field_selector)));
        }
        let accept = if query.metadata_only {
            METADATA
        } else {
            "application/json"
        };
        let request = build(Method::GET, &path, accept, "", Vec::new())?;
        self.client
            .request_stream(request)
            .await
            .map_err(|source| Error::Api {
                verb: "watch",
                what: path,
                source: Box::new(source),
            })
    }

    pub(crate) async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Error> {
        self.get_path(resource.object(namespace, name, "")).await
    }

    /// Only an object's metadata, fresh from the server.
    pub(crate) async fn get_metadata(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, "");
        let request = build(Method::GET, &path, METADATA, "", Vec::new())?;
        self.value("get", path, request).await
    }

    /// Any path, as discovery needs it.
    pub(crate) async fn get_path(&self, path: String) -> Result<Value, Error> {
        let request = build(Method::GET, &path, "application/json", "", Vec::new())?;
        self.value("get", path, request).await
    }

    /// Creates an object; `subresource` is empty or, say, `binding`.
    pub(crate) async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        mut body: Value,
    ) -> Result<Value, Error> {
        if body.get("kind").is_none() {
            body["kind"] = resource.kind.as_ref().into();
            body["apiVersion"] = resource.api_version().into();
        }
        self.send_json(
            "create",
            Method::POST,
            resource.collection(namespace),
            &body,
        )
        .await
    }

    /// Posts to a subresource of an object.
    pub(crate) async fn post(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, subresource);
        self.send_json("create", Method::POST, path, body).await
    }

    /// Replaces an object or a subresource.
    pub(crate) async fn replace(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, subresource);
        self.send_json("update", Method::PUT, path, body).await
    }

    /// Applies a JSON merge patch to an object or a subresource.
    pub(crate) async fn patch(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, subresource);
        let body = encode(&path, patch)?;
        let request = build(Method::PATCH, &path, "application/json", MERGE_PATCH, body)?;
        self.value("patch", path, request).await
    }

    /// Applies a strategic merge patch, which merges conditions by their type:
    /// for built-in kinds whose status has several writers.
    pub(crate) async fn patch_strategic(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, subresource);
        let body = encode(&path, patch)?;
        let request = build(
            Method::PATCH,
            &path,
            "application/json",
            STRATEGIC_PATCH,
            body,
        )?;
        self.value("patch", path, request).await
    }

    pub(crate) async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &Delete<'_>,
    ) -> Result<Value, Error> {
        let path = resource.object(namespace, name, "");
        self.send_json("delete", Method::DELETE, path, &options.body())
            .await
    }

    /// Deletes every object of a resource in a namespace.
    pub(crate) async fn delete_collection(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> Result<(), Error> {
        let path = resource.collection(namespace);
        let options = Delete {
            propagation: Some(Propagation::Background),
            ..Delete::default()
        };
        let body = encode(&path, &options.body())?;
        let request = build(
            Method::DELETE,
            &path,
            "application/json",
            "application/json",
            body,
        )?;
        self.text("deletecollection", path, request).await.map(drop)
    }

    async fn send_json(
        &self,
        verb: &'static str,
        method: Method,
        path: String,
        body: &Value,
    ) -> Result<Value, Error> {
        let body = encode(&path, body)?;
        let request = build(method, &path, "application/json", "application/json", body)?;
        self.value(verb, path, request).await
    }

    async fn value(
        &self,
        verb: &'static str,
        path: String,
        request: Request<Vec<u8>>,
    ) -> Result<Value, Error> {
        self.client
            .request::<Value>(request)
            .await
            .map_err(|source| Error::Api {
                verb,
                what: path,
                source: Box::new(source),
            })
    }

    async fn text(
        &self,
        verb: &'static str,
        path: String,
        request: Request<Vec<u8>>,
    ) -> Result<String, Error> {
        self.client
            .request_text(request)
            .await
            .map_err(|source| Error::Api {
                verb,
                what: path,
                source: Box::new(source),
            })
    }
}

fn encode(path: &str, body: &Value) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|source| Error::Decode {
        what: path.to_owned(),
        source,
    })
}

fn build(
    method: Method,
    path: &str,
    accept: &str,
    content: &str,
    body: Vec<u8>,
) -> Result<Request<Vec<u8>>, Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", accept);
    if !content.is_empty() {
        request = request.header("content-type", content);
    }
    request.body(body).map_err(|_| Error::Request {
        path: path.to_owned(),
    })
}

/// A reader of newline-separated JSON with a bound on each line.
pub(crate) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

/// Longest watch event that is accepted, in bytes. An object in the store is
/// at most 1.5 MiB; encoding and managed fields may double that.
const MAX_LINE: u64 = 8 << 20;

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
        }
    }

    /// The next non-empty line, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> std::io::Result<Option<&[u8]>> {
        use futures::AsyncBufReadExt;
        loop {
            // A large event must not keep its buffer for the hours that a
            // quiet watch lasts.
            if self.line.capacity() > 16 << 10 {
                self.line = Vec::new();
            }
            self.line.clear();
            let read = (&mut self.reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut self.line)
                .await?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == MAX_LINE && self.line.last() != Some(&b'\n') {
                return Err(std::io::Error::other("a watch event exceeds 8 MiB"));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Resource = Resource::new("", "v1", "Pod", "pods", true);
    const ROLES: Resource = Resource::new(
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        false,
    );

    #[test]
    fn paths() {
        assert_eq!(
            PODS.object("a", "b", "binding"),
            "/api/v1/namespaces/a/pods/b/binding"
        );
        assert_eq!(PODS.collection(""), "/api/v1/pods");
        assert_eq!(
            ROLES.object("", "system:node", ""),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"
        );
    }

    #[test]
    fn deletions_name_what_was_seen() {
        assert_eq!(
            Delete::exactly("u").body(),
            json!({"kind": "DeleteOptions", "apiVersion": "v1",
                   "preconditions": {"uid": "u"}, "propagationPolicy": "Background"})
        );
    }
}
