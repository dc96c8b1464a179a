//! Addresses of services of type LoadBalancer, from a pool: where no cloud
//! gives them. Who routes them is not known here.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_machinery::addresses::AddressRange;
use serde_json::{Value, json};

use crate::context::{Context, Task};
use crate::error::{Error, found};
use crate::events::Severity;
use crate::objects::Kind;
use crate::objects::service::Service;
use crate::queue::{Key, Next, Queue};

const NAME: &str = "service-lb-controller";
/// Addresses are given out by one worker, so that none is given twice.
const WORKERS: usize = 1;

/// Gives services their addresses, if there is a pool.
pub(crate) fn start(context: &Context) -> Task {
    let Some(pool) = context.options.load_balancer_addresses else {
        return Box::pin(async {});
    };
    // What is free depends on all services, so all are looked at as one.
    let queue: Arc<Queue<()>> = Queue::new();
    let services = context.store::<Service>();
    let changed = queue.clone();
    services.subscribe(move |change| {
        let concerns = |service: &Service| is_ours(service) || shows(service, pool).is_some();
        if [change.old, change.new]
            .into_iter()
            .flatten()
            .any(|s| concerns(s))
        {
            changed.add(());
        }
    });
    let context_of_work = context.clone();
    let memory = Arc::new(Mutex::new(Memory::default()));
    context.work(NAME, WORKERS, queue, move |()| {
        let (context, services, memory) =
            (context_of_work.clone(), services.clone(), memory.clone());
        async move {
            let all = services.all();
            let steps = {
                let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.plan(&all, pool)
            };
            for step in steps {
                carry_out(&context, step).await?;
            }
            Ok(Next::Wait)
        }
    })
}

/// True for services that are given an address here.
fn is_ours(service: &Service) -> bool {
    service.spec.kind == "LoadBalancer" && service.spec.load_balancer_class.is_none()
}

/// The pool's address that a service shows.
fn shows(service: &Service, pool: AddressRange) -> Option<Ipv4Addr> {
    match service.status.load_balancer.ingress.as_slice() {
        [only] => only.ip.parse().ok().filter(|ip| pool.contains(*ip)),
        _ => None,
    }
}

/// What is to happen to a service.
#[derive(Debug)]
enum Step {
    /// It shows this address from now on.
    Give(Arc<Service>, Ipv4Addr),
    /// It shows none any more.
    Take(Arc<Service>),
    /// It cannot have one, and its user has to know.
    Refuse(Arc<Service>, String),
}

/// What was decided, which a cache may not show yet.
#[derive(Default)]
struct Memory {
    /// By service; its uid, and what it was given or why it was not.
    decided: HashMap<Key, (String, Result<Ipv4Addr, String>)>,
}

impl Memory {
    /// The steps that lead from what services show to what they should.
    fn plan(&mut self, all: &[Arc<Service>], pool: AddressRange) -> Vec<Step> {
        let mut steps = Vec::new();
        let (mut ours, others): (Vec<_>, Vec<_>) = all.iter().partition(|s| is_ours(s));
        for service in others {
            // One of another class never had an address of ours.
            let was_ours = service.spec.load_balancer_class.is_none();
            if was_ours && shows(service, pool).is_some() {
                steps.push(Step::Take(service.clone()));
            }
        }
        let present: HashSet<Key> = ours.iter().map(|s| s.metadata.key()).collect();
        self.decided.retain(|key, _| present.contains(key));
        // Who has an address keeps it, the oldest first; then those that ask
        // for a certain one choose.
        ours.sort_by_key(|s| {
            let has = self.held(s, pool).is_some();
            let asks = !s.spec.load_balancer_ip.is_empty();
            (
                Reverse(has),
                Reverse(asks),
                s.metadata.creation_timestamp,
                s.metadata.key(),
            )
        });
        let mut taken = HashSet::new();
        for service in ours {
            let decision = self.choose(service, pool, &taken);
            if let Ok(address) = decision {
                taken.insert(address);
            }
            let known = self.known(service).cloned();
            match &decision {
                Ok(address) if !shows_exactly(service, *address) => {
                    steps.push(Step::Give(service.clone(), *address));
                }
                Err(why) if known.as_ref() != Some(&decision) => {
                    if shows(service, pool).is_some() {
                        steps.push(Step::Take(service.clone()));
                    }
                    steps.push(Step::Refuse(service.clone(), why.clone()));
                }
                _ => {}
            }
            let meta = &service.metadata;
            self.decided
                .insert(meta.key(), (meta.uid.clone(), decision));
        }
        steps
    }

    fn known(&self, service: &Service) -> Option<&Result<Ipv4Addr, String>> {
        let (uid, decision) = self.decided.get(&service.metadata.key())?;
        (*uid == service.metadata.uid).then_some(decision)
    }

    /// The address that a service has, unless it asks for another.
    fn held(&self, service: &Service, pool: AddressRange) -> Option<Ipv4Addr> {
        let held = match self.known(service) {
            Some(Ok(address)) => Some(*address),
            _ => shows(service, pool),
        };
        let asked = service.spec.load_balancer_ip.as_str();
        held.filter(|held| asked.is_empty() || asked.parse() == Ok(*held))
    }

    fn choose(
        &self,
        service: &Service,
        pool: AddressRange,
        taken: &HashSet<Ipv4Addr>,
    ) -> Result<Ipv4Addr, String> {
        if let Some(held) = self
            .held(service, pool)
            .filter(|held| !taken.contains(held))
        {
            return Ok(held);
        }
        let asked = service.spec.load_balancer_ip.as_str();
        if asked.is_empty() {
            let free = pool.iter().find(|address| !taken.contains(address));
            return free.ok_or_else(|| format!("no address of {pool} is free"));
        }
        match asked.parse() {
            Ok(address) if !pool.contains(address) => Err(format!("{address} is not in {pool}")),
            Ok(address) if taken.contains(&address) => {
                Err(format!("{address} belongs to another service"))
            }
            Ok(address) => Ok(address),
            Err(_) => Err(format!("{asked:?} is no IPv4 address")),
        }
    }
}

fn shows_exactly(service: &Service, address: Ipv4Addr) -> bool {
    match service.status.load_balancer.ingress.as_slice() {
        [only] => {
            let vip = only.ip_mode.as_deref() == Some("VIP");
            only.ip == address.to_string() && only.hostname.is_empty() && vip
        }
        _ => false,
    }
}

async fn carry_out(context: &Context, step: Step) -> Result<(), Error> {
    let record = |service: &Service, severity, reason, message| {
        let about = (Service::RESOURCE, &service.metadata);
        context
            .events
            .record(NAME, about, severity, reason, message);
    };
    match step {
        Step::Give(service, address) => {
            let shown = json!([{"ip": address.to_string(), "ipMode": "VIP"}]);
            write(context, &service, shown).await?;
            let message = format!("Ensured load balancer at {address}");
            record(&service, Severity::Normal, "EnsuredLoadBalancer", message);
        }
        Step::Take(service) => write(context, &service, Value::Null).await?,
        Step::Refuse(service, why) => {
            let message =
                format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            record(
                &service,
                Severity::Warning,
                "SyncLoadBalancerFailed",
                message,
            );
        }
    }
    Ok(())
}

async fn write(context: &Context, service: &Service, ingress: Value) -> Result<(), Error> {
    let meta = &service.metadata;
    let patch = json!({
        "metadata": {"uid": meta.uid},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    let api = &context.api;
    let written = api
        .patch(
            Service::RESOURCE,
            &meta.namespace,
            &meta.name,
            "status",
            &patch,
        )
        .await;
    match found(written) {
        // It was replaced by another of its name, which is still to be seen.
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    fn pool() -> AddressRange {
        "10.0.0.1-10.0.0.2".parse().unwrap()
    }

    fn service(name: &str, second: u8, spec: Value, address: &str) -> Arc<Service> {
        let mut spec = spec;
        if spec.get("type").is_none() {
            spec["type"] = json!("LoadBalancer");
        }
        let ingress = match address {
            "" => json!([]),
            ip => json!([{"ip": ip, "ipMode": "VIP"}]),
        };
        Arc::new(object(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        })))
    }

    fn steps(memory: &mut Memory, services: &[Arc<Service>]) -> Vec<String> {
        let steps = memory.plan(services, pool());
        let mut steps: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Give(s, address) => format!("{} gets {address}", s.metadata.name),
                Step::Take(s) => format!("{} loses it", s.metadata.name),
                Step::Refuse(s, why) => format!("{}: {why}", s.metadata.name),
            })
            .collect();
        steps.sort();
        steps
    }

    #[test]
    fn the_oldest_come_first_and_the_rest_wait() {
        let mut memory = Memory::default();
        let (a, b) = (
            service("a", 3, json!({}), ""),
            service("b", 1, json!({}), ""),
        );
        let c = service("c", 2, json!({}), "");
        let all = [a.clone(), b, c];
        assert_eq!(
            steps(&mut memory, &all),
            [
                "a: no address of 10.0.0.1-10.0.0.2 is free",
                "b gets 10.0.0.1",
                "c gets 10.0.0.2"
            ]
        );
        // The cache does not show it yet; nothing is given to anybody else, and
        // nobody is told twice.
        assert_eq!(
            steps(&mut memory, &all),
            ["b gets 10.0.0.1", "c gets 10.0.0.2"]
        );
        let c = service("c", 2, json!({}), "10.0.0.2");
        assert_eq!(steps(&mut memory, &[a, c]), ["a gets 10.0.0.1"]);
    }

    #[test]
    fn wishes_are_met_or_refused() {
        for (wish, outcome) in [
            ("10.0.0.2", "a gets 10.0.0.2"),
            ("10.0.0.1", "a: 10.0.0.1 belongs to another service"),
            ("10.0.0.3", "a: 10.0.0.3 is not in 10.0.0.1-10.0.0.2"),
            ("x", "a: \"x\" is no IPv4 address"),
        ] {
            let holder = service("holder", 9, json!({}), "10.0.0.1");
            let a = service("a", 1, json!({"loadBalancerIP": wish}), "");
            assert_eq!(steps(&mut Memory::default(), &[a, holder]), [outcome]);
        }
        // A wish that changes moves the address.
        let a = service("a", 1, json!({"loadBalancerIP": "10.0.0.2"}), "10.0.0.1");
        assert_eq!(steps(&mut Memory::default(), &[a]), ["a gets 10.0.0.2"]);
    }

    #[test]
    fn others_services_are_left_alone_and_former_ones_lose_the_address() {
        let classed = json!({"loadBalancerClass": "example.com/x"});
        let all = [
            service("classed", 1, classed, "10.0.0.1"),
            service("former", 2, json!({"type": "ClusterIP"}), "10.0.0.2"),
            service("foreign", 3, json!({"type": "ClusterIP"}), "192.0.2.1"),
        ];
        assert_eq!(steps(&mut Memory::default(), &all), ["former loses it"]);
    }

    #[test]
    fn of_two_with_one_address_the_older_keeps_it() {
        let all = [
            service("young", 2, json!({}), "10.0.0.1"),
            service("old", 1, json!({}), "10.0.0.1"),
        ];
        assert_eq!(steps(&mut Memory::default(), &all), ["young gets 10.0.0.2"]);
        // One from outside of the pool is replaced.
        let moved = [service("a", 1, json!({}), "192.0.2.1")];
        assert_eq!(steps(&mut Memory::default(), &moved), ["a gets 10.0.0.1"]);
    }
}
