//! The server: its parts, put together by a builder, and the tower service.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coracle_store::Store;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::{Service, ServiceExt as _};

use crate::access::{Authenticator, Authorizer, UserInfo};
use crate::aggregation::Aggregation;
use crate::body::{Body, BoxError};
use crate::completion;
use crate::hooks::{Admission, Completion, Connector, Handler, HealthCheck, HookTable, Route};
use crate::kind::Kind;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::objects_impl::ServerObjects;
use crate::registry::Registry;
use crate::storage::Storage;

/// How much is served at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes under way, as upstream's `--max-mutating-requests-inflight`.
    pub mutating: usize,
    /// Reads under way, watches not counted, as upstream's
    /// `--max-requests-inflight`.
    pub reading: usize,
    /// Watches: each holds a queue and a connection or stream.
    pub watches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mutating: 200,
            reading: 400,
            watches: 10_000,
        }
    }
}

pub(crate) struct Inner {
    pub(crate) storage: Arc<Storage>,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) authorizers: Vec<Arc<dyn Authorizer>>,
    pub(crate) admission: Vec<Arc<dyn Admission>>,
    pub(crate) handlers: HookTable<dyn Handler>,
    pub(crate) connectors: HookTable<dyn Connector>,
    pub(crate) routes: Vec<Arc<dyn Route>>,
    pub(crate) checks: Vec<Arc<dyn HealthCheck>>,
    pub(crate) completions: Vec<Arc<dyn Completion>>,
    pub(crate) aggregation: Option<Arc<Aggregation>>,
    pub(crate) waiting: Semaphore,
    pub(crate) version: Value,
    pub(crate) metrics: Metrics,
    pub(crate) mutating: Arc<Semaphore>,
    pub(crate) reading: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) limits: Limits,
    pub(crate) stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// The API server: a tower service that can be cloned. In-process clients put
/// a [`UserInfo`](crate::access::UserInfo) into the request's extensions.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Inner>,
}

impl ApiServer {
    /// Begins to put a server together over a store.
    pub fn builder(store: Arc<dyn Store>) -> Builder {
        Builder::new(store)
    }

    /// What is served; rows may be added and removed at any time.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.inner.storage.registry)
    }

    /// The server's own way to its objects.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.inner.objects)
    }

    /// Sends a request as the server itself; the body of a success.
    pub(crate) async fn ask_itself(&self, method: Method, target: &str) -> Option<Body> {
        let user = UserInfo::system_masters("system:apiserver");
        let request = Request::builder()
            .method(method)
            .uri(target)
            .extension(user)
            .body(Body::empty())
            .ok()?;
        let response = self.clone().oneshot(request).await.ok()?;
        (response.status() == StatusCode::OK).then(|| response.into_body())
    }

    /// Ends all watches; new requests are still answered. The server does so
    /// by itself when its last clone is dropped.
    pub fn shut_down(&self) {
        self.inner.stop.cancel();
    }
}

/// A server being put together.
pub struct Builder {
    registry: Arc<Registry>,
    storage: Arc<Storage>,
    objects: Arc<dyn Objects>,
    authenticators: Vec<Arc<dyn Authenticator>>,
    authorizers: Vec<Arc<dyn Authorizer>>,
    admission: Vec<Arc<dyn Admission>>,
    handlers: HookTable<dyn Handler>,
    connectors: HookTable<dyn Connector>,
    routes: Vec<Arc<dyn Route>>,
    checks: Vec<Arc<dyn HealthCheck>>,
    completions: Vec<Arc<dyn Completion>>,
    aggregation: Option<Arc<Aggregation>>,
    version: Value,
    limits: Limits,
    stop: CancellationToken,
}

impl Builder {
    fn new(store: Arc<dyn Store>) -> Self {
        let stop = CancellationToken::new();
        let registry = Arc::new(Registry::default());
        let storage = Arc::new(Storage::new(store, Arc::clone(&registry), stop.clone()));
        Self {
            objects: Arc::new(ServerObjects::new(Arc::clone(&storage))),
            registry,
            storage,
            authenticators: Vec::new(),
            authorizers: Vec::new(),
            admission: Vec::new(),
            handlers: HookTable::default(),
            connectors: HookTable::default(),
            routes: Vec::new(),
            checks: Vec::new(),
            completions: Vec::new(),
            aggregation: None,
            version: json!({
                "major": "1",
                "minor": "36",
                "emulationMajor": "1",
                "emulationMinor": "36",
                "minCompatibilityMajor": "1",
                "minCompatibilityMinor": "35",
                "gitVersion": "v1.36.2+coracle",
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "",
                "compiler": "rustc",
                "platform": "linux/amd64",
            }),
            limits: Limits::default(),
            stop,
        }
    }

    /// What is served, for hooks that need it before `build`.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// The server's objects, for hooks that need them before `build`.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.objects)
    }

    /// Adds rows to what is served.
    #[must_use]
    pub fn kinds(self, kinds: Vec<Kind>) -> Self {
        self.registry.set(kinds);
        self
    }

    /// Adds an authenticator; the first that knows the caller counts.
    #[must_use]
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticators.push(authenticator);
        self
    }

    /// Adds an authoriser; one that allows is enough. Without any, only
    /// `system:masters` may do anything.
    #[must_use]
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizers.push(authorizer);
        self
    }

    /// Adds an admission rule behind those that there are.
    #[must_use]
    pub fn admission(mut self, rule: Arc<dyn Admission>) -> Self {
        self.admission.push(rule);
        self
    }

    /// Serves a resource (with an empty `subresource`) or a subresource by
    /// logic, in all its versions.
    #[must_use]
    pub fn handler(
        mut self,
        group: &str,
        resource: &str,
        subresource: &str,
        handler: Arc<dyn Handler>,
    ) -> Self {
        self.handlers.insert(group, resource, subresource, handler);
        self
    }

    /// Serves a subresource by taking the connection over.
    #[must_use]
    pub fn connector(
        mut self,
        group: &str,
        resource: &str,
        subresource: &str,
        connector: Arc<dyn Connector>,
    ) -> Self {
        self.connectors
            .insert(group, resource, subresource, connector);
        self
    }

    /// Serves paths that name nothing in the registry; asked in order.
    #[must_use]
    pub fn route(mut self, route: Arc<dyn Route>) -> Self {
        self.routes.push(route);
        self
    }

    /// Adds a check behind `/livez` and `/readyz`.
    #[must_use]
    pub fn health_check(mut self, check: Arc<dyn HealthCheck>) -> Self {
        self.checks.push(check);
        self
    }

    /// Lets answers to writes wait until somebody else completed the object.
    #[must_use]
    pub fn completion(mut self, rule: Arc<dyn Completion>) -> Self {
        self.completions.push(rule);
        self
    }

    /// Passes requests for some groups and versions on to other servers.
    #[must_use]
    pub fn aggregation(mut self, aggregation: Arc<Aggregation>) -> Self {
        self.aggregation = Some(aggregation);
        self
    }

    /// Sets what `/version` answers.
    #[must_use]
    pub fn version(mut self, version: Value) -> Self {
        self.version = version;
        self
    }

    /// Sets how much is served at once.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The server.
    pub fn build(self) -> ApiServer {
        let limits = self.limits;
        ApiServer {
            inner: Arc::new(Inner {
                storage: self.storage,
                objects: self.objects,
                authenticators: self.authenticators,
                authorizers: self.authorizers,
                admission: self.admission,
                handlers: self.handlers,
                connectors: self.connectors,
                routes: self.routes,
                checks: self.checks,
                completions: self.completions,
                aggregation: self.aggregation,
                waiting: completion::places(),
                version: self.version,
                metrics: Metrics::default(),
                mutating: Arc::new(Semaphore::new(limits.mutating)),
                reading: Arc::new(Semaphore::new(limits.reading)),
                watches: Arc::new(Semaphore::new(limits.watches)),
                limits,
                _stop_on_drop: self.stop.clone().drop_guard(),
                stop: self.stop,
            }),
        }
    }
}

impl<B> Service<Request<B>> for ApiServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        answer(Arc::clone(&self.inner), request.map(Body::wrap))
    }
}

/// Apart from `call`, which is generic: so that all of it is compiled once and
/// in this crate, which is built for speed.
fn answer(
    inner: Arc<Inner>,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    Box::pin(async move { Ok(inner.serve(request).await) })
}
