//! Bodies on their way: with a bound on how long nothing may come, and such
//! that another endpoint can be tried while nobody has read of them.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long the next part of a body may take.
const IDLE: Duration = Duration::from_secs(60);

/// A body whose parts come in time, or which breaks off.
pub struct Timed {
    inner: Incoming,
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
    /// Free again once the body is gone.
    _place: Option<OwnedSemaphorePermit>,
}

impl Timed {
    /// A body that holds a place while it lasts.
    pub fn new(inner: Incoming, place: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            inner,
            deadline: Box::pin(tokio::time::sleep(IDLE)),
            waiting: false,
            _place: place,
        }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + IDLE);
        }
        std::task::ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Some(Err("the rest did not come in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body that may be given to one endpoint after the other, until one of them
/// begins to read it.
#[derive(Clone)]
pub struct Shared {
    body: Arc<Mutex<Timed>>,
    touched: Arc<AtomicBool>,
}

impl Shared {
    /// Nobody has read of it yet.
    pub fn new(body: Timed) -> Self {
        Self {
            body: Arc::new(Mutex::new(body)),
            touched: Arc::default(),
        }
    }

    /// True once somebody has begun to read.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    fn body(&self) -> std::sync::MutexGuard<'_, Timed> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Body for Shared {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.touched.store(true, Ordering::Release);
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
