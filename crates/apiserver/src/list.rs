//! GET of one object and LIST of many.
//!
//! A list without `limit` is streamed: pages are read at one revision and
//! their bytes go out as they come, so that a large list takes little memory.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use coracle_machinery::{ApiError, Reason};
use coracle_store::{KeyValue, ListRequest, Page, Revision};
use futures::stream;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::body::{Body, BoxError, json_bytes, json_value, with_body};
use crate::query::{ListOptions, Match};
use crate::registry::Resource;
use crate::select::Filter;
use crate::shape::{ListMeta, Shaper};
use crate::storage::{Storage, too_large_revision};

/// Keys of the first page: few, so that the first byte leaves soon.
const FIRST_PAGE: usize = 100;
/// Keys of any page.
const MAX_PAGE: usize = 2000;
/// Bytes that a page is meant to have.
const PAGE_BYTES: usize = 1 << 20;

/// One object.
///
/// # Errors
/// `NotFound`, and the store's.
pub async fn get(
    storage: &Storage,
    resource: &Resource,
    namespace: &str,
    name: &str,
    at_least: Option<Revision>,
    shaper: &Shaper,
) -> Result<Response<Body>, ApiError> {
    reach(storage, at_least.unwrap_or(0)).await?;
    let mut kv = storage
        .get(resource, namespace, name)
        .await?
        .ok_or_else(|| ApiError::not_found(&resource.group_resource, name))?;
    resource.serve_items(std::slice::from_mut(&mut kv)).await?;
    let bytes = shaper.single(resource, &kv.value, kv.mod_revision)?;
    Ok(json_bytes(StatusCode::OK, bytes))
}

/// Refuses a revision that this server has not reached.
///
/// # Errors
/// `Timeout`, with the cause that clients know.
pub async fn reach(storage: &Storage, at_least: Revision) -> Result<(), ApiError> {
    if at_least > 0 {
        let latest = storage
            .store
            .revision()
            .await
            .map_err(crate::storage::store_error)?;
        if latest < at_least {
            return Err(too_large_revision(at_least, latest));
        }
    }
    Ok(())
}

/// What a `continue` token says.
#[derive(Debug, Deserialize, Serialize)]
struct Continue {
    /// The revision of the list, or -1 for whatever is current.
    rv: i64,
    /// The last key that was looked at, without the resource's prefix.
    start: String,
}

impl Continue {
    fn decode(token: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        serde_json::from_slice(&bytes).map_err(|_| bad())
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!({"rv": self.rv, "start": self.start}).to_string())
    }
}

/// One list on its way out.
struct Listing {
    storage: Arc<Storage>,
    resource: Arc<Resource>,
    filter: Filter,
    shaper: Shaper,
    request: ListRequest,
    /// Items written so far.
    written: usize,
}

/// Many objects, of one namespace or (if that is empty) of all.
///
/// # Errors
/// Bad selectors and tokens, revisions that are gone or not reached.
pub async fn list(
    storage: Arc<Storage>,
    resource: Arc<Resource>,
    namespace: &str,
    options: &ListOptions,
    shaper: Shaper,
) -> Result<Response<Body>, ApiError> {
    let filter = Filter::new(options, &resource)?;
    let mut request = ListRequest {
        prefix: resource.list_prefix(namespace),
        ..ListRequest::default()
    };
    if let Some(name) = filter.name()
        && (!resource.namespaced() || !namespace.is_empty())
    {
        request.prefix = resource.key(namespace, name);
    }
    if let Some(token) = &options.continue_token {
        if !matches!(options.matching, Match::Latest | Match::Any) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = Continue::decode(token)?;
        request.after = Some(format!("{}{}", resource.prefix, token.start));
        request.revision = Revision::try_from(token.rv).ok();
    } else {
        match options.matching {
            Match::Latest | Match::Any => {}
            Match::NotOlderThan(revision) => reach(&storage, revision).await?,
            Match::Exact(revision) => request.revision = Some(revision),
        }
    }
    let mut listing = Listing {
        storage,
        resource,
        filter,
        shaper,
        request,
        written: 0,
    };
    let outcome = match options.limit {
        Some(limit) => listing.page(limit).await,
        None => listing.all().await,
    };
    outcome.or_else(|error| expired(error, options))
}

/// A list of a revision that is gone: with a `continue` token the answer
/// carries another that goes on with the present state.
fn expired(error: ApiError, options: &ListOptions) -> Result<Response<Body>, ApiError> {
    if error.reason != Reason::Expired {
        return Err(error);
    }
    let Some(token) = &options.continue_token else {
        return Err(ApiError::expired(
            "The resourceVersion for the provided list is too old.",
        ));
    };
    let start = Continue::decode(token)?.start;
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. \
         You can start a new list without the continue parameter, or use the continue token \
         in this response to retrieve the remainder of the results. Continuing with the \
         provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show \
         up in the list.",
    );
    let mut status = error.to_status();
    status["metadata"]["continue"] = Continue { rv: -1, start }.encode().into();
    Ok(json_value(StatusCode::GONE, &status))
}

impl Listing {
    /// Reads on from where the last page ended.
    async fn read(&mut self, limit: usize) -> Result<Page, ApiError> {
        self.request.limit = Some(limit);
        let page = read_page(&self.storage, &self.resource, self.request.clone()).await?;
        self.reached(&page);
        Ok(page)
    }

    /// Notes where a page ended, and at which revision it was read.
    fn reached(&mut self, page: &Page) {
        self.request.revision = Some(page.revision);
        if let Some(last) = page.items.last() {
            self.request.after = Some(last.key.clone());
        }
    }

    /// Writes one item if it passes; true if it did.
    fn write(&mut self, out: &mut Vec<u8>, item: &KeyValue) -> Result<bool, ApiError> {
        if !self
            .filter
            .admits_stored(&item.key, &item.value, &self.resource)
        {
            return Ok(false);
        }
        if self.written > 0 {
            out.push(b',');
        }
        self.shaper.list_item(out, &self.resource, item)?;
        self.written += 1;
        Ok(true)
    }

    /// Up to `limit` items and, if there are more, a token to go on.
    async fn page(&mut self, limit: usize) -> Result<Response<Body>, ApiError> {
        let mut items = Vec::new();
        let filtered = !self.filter.is_everything();
        let (revision, more, last) = loop {
            let wanted = limit - self.written;
            let read = if filtered {
                wanted.clamp(FIRST_PAGE, MAX_PAGE)
            } else {
                wanted
            };
            self.request.count = !filtered;
            let page = self.read(read).await?;
            let mut left = page.items.len();
            let mut last = None;
            for item in &page.items {
                self.write(&mut items, item)?;
                left -= 1;
                last = Some(item.key.clone());
                if self.written == limit {
                    break;
                }
            }
            let more = page.remaining + left;
            if self.written == limit || more == 0 || page.items.is_empty() {
                break (page.revision, more, last);
            }
        };
        let mut meta = ListMeta {
            revision,
            ..ListMeta::default()
        };
        if more > 0
            && let Some(last) = last
        {
            let start = last
                .strip_prefix(self.resource.prefix.as_str())
                .unwrap_or(&last)
                .to_owned();
            let rv = i64::try_from(revision).unwrap_or(-1);
            meta.continue_token = Some(Continue { rv, start }.encode());
            meta.remaining = (!filtered).then_some(more);
        }
        let mut out = self.shaper.list_head(&self.resource, &meta);
        out.extend_from_slice(&items);
        out.extend_from_slice(self.shaper.list_tail());
        Ok(json_bytes(StatusCode::OK, out))
    }

    /// Everything, streamed if it is more than a page.
    async fn all(mut self) -> Result<Response<Body>, ApiError> {
        let page = self.read(FIRST_PAGE).await?;
        let meta = ListMeta {
            revision: page.revision,
            ..ListMeta::default()
        };
        let mut out = self.shaper.list_head(&self.resource, &meta);
        let ahead = self.ahead(&page);
        self.append(&mut out, &page)?;
        if ahead.is_none() {
            out.extend_from_slice(self.shaper.list_tail());
            return Ok(json_bytes(StatusCode::OK, out));
        }
        let head = Bytes::from(out);
        let chunks = stream::try_unfold(
            (self, Some(head), ahead),
            |(mut listing, ready, ahead)| async move {
                if let Some(bytes) = ready {
                    return Ok::<_, BoxError>(Some((bytes, (listing, None, ahead))));
                }
                let Some(ahead) = ahead else {
                    return Ok(None);
                };
                let page = ahead.await??;
                listing.reached(&page);
                let next = listing.ahead(&page);
                let mut out = Vec::with_capacity(PAGE_BYTES + (PAGE_BYTES >> 3));
                listing.append(&mut out, &page)?;
                if next.is_none() {
                    out.extend_from_slice(listing.shaper.list_tail());
                }
                Ok(Some((Bytes::from(out), (listing, None, next))))
            },
        );
        Ok(with_body(
            StatusCode::OK,
            "application/json",
            Body::stream(chunks),
        ))
    }

    /// Begins to read the page after this one, if there is one, while this one
    /// is on its way: one page ahead, so that a client that does not read costs
    /// no more.
    fn ahead(&self, page: &Page) -> Option<AbortOnDropHandle<Result<Page, ApiError>>> {
        if page.remaining == 0 || page.items.is_empty() {
            return None;
        }
        let (storage, resource) = (Arc::clone(&self.storage), Arc::clone(&self.resource));
        let mut request = self.request.clone();
        request.limit = Some(next_page_size(page));
        Some(AbortOnDropHandle::new(tokio::spawn(async move {
            read_page(&storage, &resource, request).await
        })))
    }

    fn append(&mut self, out: &mut Vec<u8>, page: &Page) -> Result<(), ApiError> {
        for item in &page.items {
            self.write(out, item)?;
        }
        Ok(())
    }
}

async fn read_page(
    storage: &Storage,
    resource: &Resource,
    request: ListRequest,
) -> Result<Page, ApiError> {
    let mut page = storage.list(request).await?;
    resource.serve_items(&mut page.items).await?;
    Ok(page)
}

/// As many keys as make up about `PAGE_BYTES`, judged by the last page.
pub fn next_page_size(page: &Page) -> usize {
    let bytes: usize = page.items.iter().map(|kv| kv.value.len()).sum();
    let average = (bytes / page.items.len().max(1)).max(1);
    (PAGE_BYTES / average).clamp(8, MAX_PAGE)
}
