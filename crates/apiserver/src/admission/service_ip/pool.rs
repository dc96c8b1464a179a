//! Which addresses and node ports are in use.
//!
//! The truth is the list of services. What was promised to a write that is
//! not in the list yet is a reservation: it ends when the list shows it, or
//! after a time in which every write has succeeded or failed.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, object};
use rand::RngExt;
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::shape;
use crate::admission::Ipv4Cidr;
use crate::auth::core;
use crate::objects::Objects;

/// How long a promise holds: longer than any write takes.
const RESERVATION: Duration = Duration::from_secs(30);

/// Promises outstanding in one namespace. They are as many as there are
/// writes on their way, plus the failed ones of the last half minute: a
/// tenant cannot use up the ranges by writes that fail.
const MAX_RESERVED_PER_NAMESPACE: usize = 256;

/// Random tries before the range is searched in order.
const RANDOM_TRIES: usize = 16;

/// The service that holds something. The name is empty while a create leaves
/// it to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    namespace: String,
    name: String,
}

impl Owner {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        !self.name.is_empty() && self == other
    }
}

/// Why a certain address or port cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("the provided IP ({0}) is not in the valid range. The range of valid IPs is {1}")]
    AddressOutside(Ipv4Addr, Ipv4Cidr),
    #[error("provided port is already allocated")]
    PortTaken,
    #[error("provided port is not in the valid range. The range of valid ports is {0}-{1}")]
    PortOutside(u16, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Address(Ipv4Addr),
    Port(u16),
}

struct Reservation {
    thing: Thing,
    owner: Owner,
    until: Instant,
}

#[derive(Default)]
struct State {
    /// The generation of services that `held` shows.
    generation: Option<u64>,
    held: HashMap<Thing, Owner>,
    reserved: Vec<Reservation>,
}

/// The addresses and node ports of a cluster.
pub(super) struct Pool {
    objects: Arc<dyn Objects>,
    cidr: Ipv4Cidr,
    ports: RangeInclusive<u16>,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(
        objects: Arc<dyn Objects>,
        cidr: Ipv4Cidr,
        ports: RangeInclusive<u16>,
    ) -> Self {
        Self {
            objects,
            cidr,
            ports,
            state: Mutex::default(),
        }
    }

    /// Sole access to the pool, brought up to date, to choose for one service.
    pub(super) async fn lease(&self, owner: &Owner) -> Result<Lease<'_>, ApiError> {
        let mut state = self.state.lock().await;
        let services = core("services");
        // Read before the list: a change in between is seen the next time.
        let generation = self.objects.generation(&services);
        if state.generation != Some(generation) {
            let list = self.objects.list(&services, "").await?;
            state.held = held(&list);
            state.generation = Some(generation);
        }
        let now = Instant::now();
        let State { held, reserved, .. } = &mut *state;
        reserved.retain(|r| {
            let shown = held.get(&r.thing).is_some_and(|o| {
                o.namespace == r.owner.namespace
                    && (r.owner.name.is_empty() || o.name == r.owner.name)
            });
            !shown && r.until > now
        });
        Ok(Lease {
            pool: self,
            state,
            owner: owner.clone(),
            chosen: Vec::new(),
        })
    }
}

/// What all services hold.
fn held(services: &[Arc<Value>]) -> HashMap<Thing, Owner> {
    let mut all = HashMap::new();
    for service in services {
        let owner = Owner::new(object::namespace(service), object::name(service));
        let check = service
            .pointer("/spec/healthCheckNodePort")
            .and_then(Value::as_i64);
        let ports = shape::node_ports(service)
            .into_iter()
            .chain(check)
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0)
            .map(Thing::Port);
        let one = std::iter::once(object::text(service, "/spec/clusterIP"));
        let addresses = object::items(service, "/spec/clusterIPs")
            .iter()
            .filter_map(Value::as_str)
            .chain(one)
            .filter_map(|ip| ip.parse().ok())
            .map(Thing::Address);
        for thing in ports.chain(addresses) {
            all.insert(thing, owner.clone());
        }
    }
    all
}

/// The pool, held while addresses for one service are chosen. Dropped without
/// [`keep`](Lease::keep), nothing was chosen.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    state: MutexGuard<'a, State>,
    owner: Owner,
    chosen: Vec<Thing>,
}

impl Lease<'_> {
    /// Takes a certain address.
    pub(super) fn address(&mut self, address: Ipv4Addr) -> Result<(), Refusal> {
        if !self.pool.cidr.contains(address) {
            return Err(Refusal::AddressOutside(address, self.pool.cidr));
        }
        self.take(Thing::Address(address), true)
            .then_some(())
            .ok_or(Refusal::AddressTaken)
    }

    /// Takes a certain node port.
    pub(super) fn port(&mut self, port: i64) -> Result<(), Refusal> {
        let ports = &self.pool.ports;
        let outside = || Refusal::PortOutside(*ports.start(), *ports.end());
        let port = u16::try_from(port).map_err(|_| outside())?;
        if !ports.contains(&port) {
            return Err(outside());
        }
        self.take(Thing::Port(port), true)
            .then_some(())
            .ok_or(Refusal::PortTaken)
    }

    /// Takes some address.
    pub(super) fn any_address(&mut self) -> Result<Ipv4Addr, ApiError> {
        let cidr = self.pool.cidr;
        let (low, all) = (cidr.reserved(), cidr.usable());
        let found = self
            .any(low..all, |i| Thing::Address(cidr.usable_at(i)))
            .or_else(|| self.any(0..low, |i| Thing::Address(cidr.usable_at(i))));
        match found {
            Some(Thing::Address(address)) => Ok(address),
            _ => Err(ApiError::internal(
                "failed to allocate a serviceIP: range is full",
            )),
        }
    }

    /// Takes some node port.
    pub(super) fn any_port(&mut self) -> Result<u16, ApiError> {
        let (first, last) = (*self.pool.ports.start(), *self.pool.ports.end());
        let count = u32::from(last.saturating_sub(first)) + 1;
        let at = |i: u32| Thing::Port(first + (i % count) as u16);
        match self.any(0..count, at) {
            Some(Thing::Port(port)) => Ok(port),
            _ => Err(ApiError::internal(
                "failed to allocate a nodePort: range is full",
            )),
        }
    }

    /// Makes what was chosen a promise.
    ///
    /// # Errors
    /// Too many requests, if the namespace has too many promises.
    pub(super) fn keep(mut self) -> Result<(), ApiError> {
        let namespace = &self.owner.namespace;
        let count = self
            .state
            .reserved
            .iter()
            .filter(|r| r.owner.namespace == *namespace)
            .count();
        if count + self.chosen.len() > MAX_RESERVED_PER_NAMESPACE {
            let why = "too many services of this namespace are being created at once";
            return Err(ApiError::too_many_requests(why, 1));
        }
        let until = Instant::now() + RESERVATION;
        for thing in std::mem::take(&mut self.chosen) {
            let owner = self.owner.clone();
            self.state.reserved.push(Reservation {
                thing,
                owner,
                until,
            });
        }
        Ok(())
    }

    fn any(
        &mut self,
        numbers: std::ops::Range<u32>,
        thing: impl Fn(u32) -> Thing,
    ) -> Option<Thing> {
        let count = numbers
            .end
            .checked_sub(numbers.start)
            .filter(|count| *count > 0)?;
        let mut random = rand::rng();
        for _ in 0..RANDOM_TRIES {
            let candidate = thing(random.random_range(numbers.clone()));
            if self.take(candidate, false) {
                return Some(candidate);
            }
        }
        let start = random.random_range(0..count);
        // Of one more than are in use, one is free: the search is short.
        let tries = self.state.held.len() + self.state.reserved.len() + self.chosen.len() + 1;
        (0..count).take(tries).find_map(|i| {
            let candidate = thing(numbers.start + (start + i) % count);
            self.take(candidate, false).then_some(candidate)
        })
    }

    /// Chooses a thing if it is free or, with `own`, already the owner's.
    fn take(&mut self, thing: Thing, own: bool) -> bool {
        let mine = |owner: &Owner| own && owner.is(&self.owner);
        let held = self
            .state
            .held
            .get(&thing)
            .is_some_and(|owner| !mine(owner));
        let reserved = self
            .state
            .reserved
            .iter()
            .any(|r| r.thing == thing && !mine(&r.owner));
        if held || reserved || self.chosen.contains(&thing) {
            return false;
        }
        self.chosen.push(thing);
        true
    }
}
