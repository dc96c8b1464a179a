//! List, then watch, then resume: forever.

use std::time::Duration;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Lines, Query, Resource};
use crate::error::Error;

/// Objects per page of a list.
const PAGE: usize = 500;
/// How long one watch lasts before it is renewed, in seconds; up to half is
/// added at random, so that renewals spread.
const WATCH_SECONDS: u64 = 1800;
/// First and longest pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Which objects of a resource to watch, and how much of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selection {
    pub namespace: &'static str,
    pub fields: &'static str,
    pub metadata: bool,
}

/// Receives what a watch finds.
pub(crate) trait Sink: Send + Sync {
    /// What is decoded from each object.
    type Object: DeserializeOwned + Send;

    /// These are all objects there are, at this version.
    fn replace(&self, objects: Vec<Self::Object>, version: &str);
    /// The object was added or changed.
    fn apply(&self, object: Self::Object);
    /// The object is gone.
    fn remove(&self, object: Self::Object);
    /// Nothing else happened up to this version.
    fn bookmark(&self, version: &str);
}

/// A [`Sink`] that takes texts, so that what follows a watch is the same code
/// for all kinds: dozens of copies of it would lie in memory.
trait Texts: Send + Sync {
    /// Begins to take all objects there are.
    fn list<'a>(&'a self, resource: &'a Resource) -> Box<dyn Listing + 'a>;
    fn apply(&self, resource: &Resource, object: &RawValue);
    fn remove(&self, resource: &Resource, object: &RawValue);
    fn bookmark(&self, version: &str);
}

/// A list that is being read, page by page.
trait Listing: Send {
    fn add(&mut self, object: &RawValue);
    /// Forgets what was read: it begins again.
    fn clear(&mut self);
    /// That was all there is at this version.
    fn finish(self: Box<Self>, version: &str);
}

impl<S: Sink> Texts for S {
    fn list<'a>(&'a self, resource: &'a Resource) -> Box<dyn Listing + 'a> {
        Box::new(Listed {
            sink: self,
            resource,
            objects: Vec::new(),
        })
    }

    fn apply(&self, resource: &Resource, object: &RawValue) {
        if let Some(object) = decode(resource, object) {
            Sink::apply(self, object);
        }
    }

    fn remove(&self, resource: &Resource, object: &RawValue) {
        if let Some(object) = decode(resource, object) {
            Sink::remove(self, object);
        }
    }

    fn bookmark(&self, version: &str) {
        Sink::bookmark(self, version);
    }
}

struct Listed<'a, S: Sink> {
    sink: &'a S,
    resource: &'a Resource,
    objects: Vec<S::Object>,
}

impl<S: Sink> Listing for Listed<'_, S> {
    fn add(&mut self, object: &RawValue) {
        self.objects.extend(decode(self.resource, object));
    }

    fn clear(&mut self) {
        self.objects.clear();
    }

    fn finish(self: Box<Self>, version: &str) {
        self.sink.replace(self.objects, version);
    }
}

/// Feeds `sink` until `shutdown`.
///
/// A resource that is not served counts as empty; it is asked for again now
/// and then.
pub(crate) fn watch<'a, S: Sink>(
    api: &'a Api,
    resource: &'a Resource,
    selection: Selection,
    sink: &'a S,
    shutdown: &'a CancellationToken,
) -> BoxFuture<'a, ()> {
    Box::pin(watch_texts(api, resource, selection, sink, shutdown))
}

async fn watch_texts(
    api: &Api,
    resource: &Resource,
    selection: Selection,
    sink: &dyn Texts,
    shutdown: &CancellationToken,
) {
    let work = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match cycle(api, resource, selection, sink, &mut pause).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {
                    tracing::debug!(%error, "resource is not served");
                    sink.list(resource).finish("");
                    pause = MAX_PAUSE;
                }
                Err(error) => tracing::warn!(%error, "watch failed"),
            }
            tokio::time::sleep(pause + pause.mul_f64(rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

/// One list and the watches that follow it, until a new list is needed.
async fn cycle(
    api: &Api,
    resource: &Resource,
    selection: Selection,
    sink: &dyn Texts,
    pause: &mut Duration,
) -> Result<(), Error> {
    let query = Query {
        namespace: selection.namespace,
        field_selector: selection.fields,
        metadata_only: selection.metadata,
    };
    let mut version = list(api, resource, &query, sink).await?;
    *pause = FIRST_PAUSE;
    let mut failures = 0u32;
    loop {
        let seconds = WATCH_SECONDS + rand::random_range(0..WATCH_SECONDS / 2);
        let started = tokio::time::Instant::now();
        let before = version.clone();
        match follow(api, resource, &query, sink, &mut version, seconds).await {
            Ok(End::Relist) => return Ok(()),
            Ok(End::Closed) => {}
            Err(error) if error.is_gone() => return Ok(()),
            // Resuming costs less than listing, but not for ever: after some
            // attempts without any progress the state is read anew.
            Err(error) => {
                if failures >= 5 {
                    return Err(error);
                }
                tracing::debug!(%error, "watch interrupted");
            }
        }
        if version != before || started.elapsed() > Duration::from_secs(60) {
            failures = 0;
        } else {
            failures += 1;
        }
        if failures > 0 {
            let wait = (FIRST_PAUSE * 2u32.pow(failures.min(8))).min(MAX_PAUSE);
            tokio::time::sleep(wait).await;
        }
        if failures > 10 {
            return Ok(());
        }
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    metadata: PageMeta<'a>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta<'a> {
    #[serde(borrow)]
    resource_version: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "continue")]
    token: std::borrow::Cow<'a, str>,
}

async fn list(
    api: &Api,
    resource: &Resource,
    query: &Query<'_>,
    sink: &dyn Texts,
) -> Result<String, Error> {
    let mut objects = sink.list(resource);
    let mut token = String::new();
    loop {
        let text = match api.list_page(resource, query, PAGE, &token).await {
            // The pages' version is too old by now: begin again.
            Err(error) if error.is_gone() && !token.is_empty() => {
                objects.clear();
                token.clear();
                continue;
            }
            text => text?,
        };
        let page: Page<'_> = serde_json::from_str(&text).map_err(|source| Error::Decode {
            what: format!("{} list", resource.plural),
            source,
        })?;
        for item in page.items.unwrap_or_default() {
            objects.add(item);
        }
        if page.metadata.token.is_empty() {
            let version = page.metadata.resource_version.into_owned();
            objects.finish(&version);
            return Ok(version);
        }
        token = page.metadata.token.into_owned();
    }
}

/// One broken object must not blind a controller for all others.
fn decode<T: DeserializeOwned>(resource: &Resource, raw: &RawValue) -> Option<T> {
    match serde_json::from_str(raw.get()) {
        Ok(object) => Some(object),
        Err(error) => {
            tracing::warn!(resource = %resource.plural, %error, "an object does not decode");
            None
        }
    }
}

enum End {
    /// The stream ended; resume.
    Closed,
    /// The history is gone; list again.
    Relist,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Versioned {
    metadata: Version,
    code: u16,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Version {
    resource_version: String,
}

async fn follow(
    api: &Api,
    resource: &Resource,
    query: &Query<'_>,
    sink: &dyn Texts,
    version: &mut String,
    seconds: u64,
) -> Result<End, Error> {
    let stream = api.watch(resource, query, version, seconds).await?;
    let stream = std::pin::pin!(stream);
    let mut lines = Lines::new(stream);
    let io_error = |error: std::io::Error| Error::Api {
        verb: "watch",
        what: resource.plural.to_string(),
        source: Box::new(kube::Error::ReadEvents(error)),
    };
    while let Some(line) = lines.next().await.map_err(io_error)? {
        let bad = |source| Error::Decode {
            what: format!("{} event", resource.plural),
            source,
        };
        let event: Line<'_> = serde_json::from_slice(line).map_err(bad)?;
        let head: Versioned = serde_json::from_str(event.object.get()).map_err(bad)?;
        match event.kind.as_ref() {
            "ADDED" | "MODIFIED" => sink.apply(resource, event.object),
            "DELETED" => sink.remove(resource, event.object),
            "BOOKMARK" => sink.bookmark(&head.metadata.resource_version),
            "ERROR" if head.code == 410 => return Ok(End::Relist),
            _ => {
                tracing::debug!(
                    code = head.code,
                    message = head.message,
                    "watch error event"
                );
                return Ok(End::Closed);
            }
        }
        if !head.metadata.resource_version.is_empty() {
            *version = head.metadata.resource_version;
        }
    }
    Ok(End::Closed)
}
