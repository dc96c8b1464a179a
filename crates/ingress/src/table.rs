//! What the proxy looks up: sites by host name, routes by path.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coracle_pki::tls::Certificate;
use tokio::sync::Semaphore;

use crate::path::Pattern;

/// All sites.
#[derive(Debug, Default)]
pub struct Table {
    /// By host name in lower case; `*.DOMAIN` for all names one below a domain,
    /// and the empty name for all that have no site.
    pub(crate) sites: HashMap<String, Site>,
}

/// What is served under one host name.
#[derive(Debug, Default)]
pub struct Site {
    /// The better ones first.
    pub(crate) routes: Vec<Route>,
    /// For paths that have no route.
    pub(crate) fallback: Option<Target>,
    /// What is shown to clients that ask for this name.
    pub(crate) certificate: Option<Certificate>,
    /// Who gets whole connections over TLS, in place of requests.
    pub(crate) tunnel: Option<Arc<Backend>>,
}

/// Where the requests for some paths go.
#[derive(Debug)]
pub struct Route {
    /// Which paths.
    pub(crate) pattern: Pattern,
    /// Where they go.
    pub(crate) target: Target,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The service.
    pub(crate) backend: Arc<Backend>,
    /// Plain requests are sent to the same place over TLS.
    pub(crate) secured: bool,
    /// It speaks TLS itself, and gets no requests from here.
    pub(crate) tunnelled: bool,
}

/// A port of a service.
#[derive(Debug)]
pub struct Backend {
    /// Who answers for it now.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Whose turn it is.
    pub(crate) turn: AtomicUsize,
    /// Places for requests that are under way.
    pub(crate) places: Arc<Semaphore>,
}

impl Backend {
    /// Its endpoints, from the one whose turn it is on.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(self.endpoints.len()).unwrap_or(0);
        let (before, after) = self.endpoints.split_at(start);
        after.iter().chain(before).copied()
    }
}

impl Table {
    /// The site of a host name in lower case: its own, or that of all names
    /// beside it.
    fn named(&self, host: &str) -> Option<&Site> {
        let own = self.sites.get(host).filter(|_| !host.is_empty());
        own.or_else(|| {
            let (_, domain) = host.split_once('.')?;
            self.sites.get(&format!("*.{domain}"))
        })
    }

    /// What to show to a client that asks for a name.
    pub fn certificate(&self, name: &str) -> Option<Certificate> {
        let site = self.named(name).or_else(|| self.sites.get(""));
        site.and_then(|site| site.certificate.clone())
    }

    /// Who gets the connections of clients that ask for a name, if they end
    /// there.
    pub fn tunnel(&self, name: &str) -> Option<Arc<Backend>> {
        self.named(name).and_then(|site| site.tunnel.clone())
    }

    /// True if any connection ends at a service.
    pub fn has_tunnels(&self) -> bool {
        self.sites.values().any(|site| site.tunnel.is_some())
    }

    /// Where a request goes, by its host name in lower case and its path as it
    /// is meant.
    pub fn find(&self, host: &str, path: &str) -> Option<&Target> {
        let site = self.named(host).or_else(|| self.sites.get(""))?;
        let route = site.routes.iter().find(|route| route.pattern.matches(path));
        route.map(|route| &route.target).or(site.fallback.as_ref())
    }
}
