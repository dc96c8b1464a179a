//! What the names of the cluster's domain mean.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the DNS specification that is followed.
const SCHEMA_VERSION: &str = "1.1.0";

/// Addresses in one answer: more would not fit a message that any client takes.
const MAX_ADDRESSES: usize = 1000;

/// Namespace and name.
pub type Key = (String, String);

/// A service, as far as DNS cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Cluster addresses; empty for headless services.
    pub addresses: Vec<IpAddr>,
    /// The target of an ExternalName service.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name, or empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

/// An EndpointSlice, as far as DNS cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The service that it belongs to.
    pub service: String,
    /// The ports of all its endpoints.
    pub ports: Vec<Port>,
    /// Ready endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its host name within the service, if it has one.
    pub hostname: Option<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Services.
    Srv,
    /// Texts.
    Txt,
    /// Names of an address.
    Ptr,
    /// Anything else.
    Other,
}

/// One record of an answer. Names are absolute, without the last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address of the name that was asked for, or of `name`.
    Address {
        /// The owner, if it is not the name asked for.
        name: Option<String>,
        /// The address.
        address: IpAddr,
    },
    /// Another name.
    Cname(String),
    /// A service at a name and port.
    Srv {
        /// The port.
        port: u16,
        /// The name that serves it.
        target: String,
    },
    /// A text.
    Txt(String),
    /// The name of an address.
    Ptr(String),
}

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name is none of the cluster's.
    NotOurs,
    /// There is no such name.
    NoSuchName,
    /// The name exists; there may be no record of the kind.
    Records(Vec<Record>),
}

/// Services and endpoints by name.
#[derive(Debug)]
pub struct Index {
    /// Labels of the domain, last first.
    domain: Vec<String>,
    namespaces: HashSet<String>,
    services: HashMap<Key, Service>,
    slices: HashMap<Key, Slice>,
    /// The slices of each service.
    by_service: HashMap<Key, BTreeSet<String>>,
}

impl Index {
    /// An empty index of a domain.
    pub fn new(domain: &str) -> Self {
        let domain = domain
            .split('.')
            .rev()
            .map(str::to_ascii_lowercase)
            .collect();
        Self {
            domain,
            namespaces: HashSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            by_service: HashMap::new(),
        }
    }

    /// Adds or (`None`) removes a namespace, which has its name alone.
    pub fn set_namespace(&mut self, (_, name): Key, there: Option<()>) {
        match there {
            Some(()) => self.namespaces.insert(name),
            None => self.namespaces.remove(&name),
        };
    }

    /// Forgets all namespaces but these.
    pub fn keep_namespaces(&mut self, keys: &HashSet<Key>) {
        self.namespaces
            .retain(|name| keys.contains(&(String::new(), name.clone())));
    }

    /// Adds, replaces or (`None`) removes a service.
    pub fn set_service(&mut self, key: Key, service: Option<Service>) {
        match service {
            Some(service) => self.services.insert(key, service),
            None => self.services.remove(&key),
        };
    }

    /// Adds, replaces or (`None`) removes a slice.
    pub fn set_slice(&mut self, key: Key, slice: Option<Slice>) {
        let (namespace, name) = key.clone();
        if let Some(old) = self.slices.remove(&key) {
            let service = (namespace.clone(), old.service);
            if let Some(names) = self.by_service.get_mut(&service) {
                names.remove(&name);
                if names.is_empty() {
                    self.by_service.remove(&service);
                }
            }
        }
        if let Some(slice) = slice {
            let service = (namespace, slice.service.clone());
            self.by_service.entry(service).or_default().insert(name);
            self.slices.insert(key, slice);
        }
    }

    /// Forgets all services but these.
    pub fn keep_services(&mut self, keys: &HashSet<Key>) {
        self.services.retain(|key, _| keys.contains(key));
    }

    /// Forgets all slices but these.
    pub fn keep_slices(&mut self, keys: &HashSet<Key>) {
        let gone: Vec<Key> = self
            .slices
            .keys()
            .filter(|k| !keys.contains(*k))
            .cloned()
            .collect();
        for key in gone {
            self.set_slice(key, None);
        }
    }

    /// What a name means. `labels` are in lower case, in the order in which
    /// they are written.
    pub fn answer(&self, labels: &[String], question: Question) -> Answer {
        if labels.ends_with(&["in-addr".into(), "arpa".into()])
            || labels.ends_with(&["ip6".into(), "arpa".into()])
        {
            return self.reverse(labels, question);
        }
        let Some(split) = labels.len().checked_sub(self.domain.len()) else {
            return Answer::NotOurs;
        };
        let (inner, domain) = labels.split_at(split);
        if !domain.iter().rev().eq(self.domain.iter()) {
            return Answer::NotOurs;
        }
        let inner: Vec<&str> = inner.iter().rev().map(String::as_str).collect();
        let records = match inner.as_slice() {
            [] | ["svc" | "pod"] => Some(Vec::new()),
            ["dns-version"] => Some(match question {
                Question::Txt => vec![Record::Txt(SCHEMA_VERSION.into())],
                _ => Vec::new(),
            }),
            ["svc", namespace] => self.has_namespace(namespace).then(Vec::new),
            ["svc", namespace, service] => self.service(namespace, service, question),
            ["svc", namespace, service, host] => self.host(namespace, service, host, question),
            ["svc", namespace, service, protocol, port] => {
                self.port(namespace, service, protocol, port, question)
            }
            ["pod", namespace, address] => self.pod(namespace, address, question),
            _ => None,
        };
        records.map_or(Answer::NoSuchName, Answer::Records)
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace) || self.services.keys().any(|(n, _)| n == namespace)
    }

    fn get(&self, namespace: &str, service: &str) -> Option<&Service> {
        self.services
            .get(&(namespace.to_owned(), service.to_owned()))
    }

    fn slices(&self, namespace: &str, service: &str) -> impl Iterator<Item = &Slice> {
        let key = (namespace.to_owned(), service.to_owned());
        let names = self.by_service.get(&key).into_iter().flatten();
        names.filter_map(move |name| self.slices.get(&(key.0.clone(), name.clone())))
    }

    fn service(&self, namespace: &str, name: &str, question: Question) -> Option<Vec<Record>> {
        let service = self.get(namespace, name)?;
        if let Some(target) = &service.external_name {
            return Some(vec![Record::Cname(target.clone())]);
        }
        Some(match question {
            Question::A | Question::Aaaa if service.addresses.is_empty() => {
                let slices = self.slices(namespace, name);
                addresses(
                    slices.flat_map(|s| &s.endpoints).map(|e| e.address),
                    question,
                )
            }
            Question::A | Question::Aaaa => addresses(service.addresses.iter().copied(), question),
            Question::Srv => self.srv(namespace, name, service, |_| true),
            _ => Vec::new(),
        })
    }

    fn host(
        &self,
        namespace: &str,
        service: &str,
        host: &str,
        question: Question,
    ) -> Option<Vec<Record>> {
        self.get(namespace, service)
            .filter(|s| s.addresses.is_empty())?;
        let mut found = self
            .slices(namespace, service)
            .flat_map(|s| &s.endpoints)
            .filter(|endpoint| label_of(endpoint) == host)
            .map(|endpoint| endpoint.address)
            .peekable();
        found.peek()?;
        Some(addresses(found, question))
    }

    fn port(
        &self,
        namespace: &str,
        service: &str,
        protocol: &str,
        port: &str,
        question: Question,
    ) -> Option<Vec<Record>> {
        let (protocol, port) = (protocol.strip_prefix('_')?, port.strip_prefix('_')?);
        let found = self.get(namespace, service)?;
        let wanted = |p: &Port| p.name == port && p.protocol == protocol;
        let records = self.srv(namespace, service, found, wanted);
        if records.is_empty() {
            return None;
        }
        Some(if question == Question::Srv {
            records
        } else {
            Vec::new()
        })
    }

    /// Service records, with the addresses of their targets behind them.
    fn srv(
        &self,
        namespace: &str,
        name: &str,
        service: &Service,
        wanted: impl Fn(&Port) -> bool,
    ) -> Vec<Record> {
        let own_name = format!("{name}.{namespace}.svc.{}", self.domain_name());
        let mut records = Vec::new();
        let mut targets: Vec<(String, IpAddr)> = Vec::new();
        if service.addresses.is_empty() {
            for slice in self.slices(namespace, name) {
                for endpoint in slice.endpoints.iter().take(MAX_ADDRESSES) {
                    let target = format!("{}.{own_name}", label_of(endpoint));
                    for port in slice.ports.iter().filter(|p| wanted(p)) {
                        records.push(Record::Srv {
                            port: port.number,
                            target: target.clone(),
                        });
                        targets.push((target.clone(), endpoint.address));
                    }
                }
            }
        } else {
            for port in service.ports.iter().filter(|p| wanted(p)) {
                records.push(Record::Srv {
                    port: port.number,
                    target: own_name.clone(),
                });
                targets.extend(service.addresses.iter().map(|a| (own_name.clone(), *a)));
            }
        }
        targets.sort();
        targets.dedup();
        records.truncate(MAX_ADDRESSES);
        records.extend(
            targets
                .into_iter()
                .take(MAX_ADDRESSES)
                .map(|(name, address)| Record::Address {
                    name: Some(name),
                    address,
                }),
        );
        records
    }

    /// `1-2-3-4.NAMESPACE.pod`: the address that the name itself spells, in a
    /// namespace that there is.
    fn pod(&self, namespace: &str, label: &str, question: Question) -> Option<Vec<Record>> {
        self.has_namespace(namespace).then_some(())?;
        let address = label
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map(IpAddr::V4)
            .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
            .ok()?;
        Some(addresses(std::iter::once(address), question))
    }

    fn reverse(&self, labels: &[String], question: Question) -> Answer {
        let Some(address) = reverse_address(labels) else {
            return Answer::NotOurs;
        };
        let domain = self.domain_name();
        let mut names: Vec<Record> = Vec::new();
        for ((namespace, name), service) in &self.services {
            if service.addresses.contains(&address) {
                names.push(Record::Ptr(format!("{name}.{namespace}.svc.{domain}")));
            }
        }
        for ((namespace, _), slice) in &self.slices {
            let headless = self
                .get(namespace, &slice.service)
                .is_some_and(|s| s.addresses.is_empty());
            let found = slice
                .endpoints
                .iter()
                .filter(|e| headless && e.address == address);
            names.extend(found.map(|endpoint| {
                let host = label_of(endpoint);
                Record::Ptr(format!("{host}.{}.{namespace}.svc.{domain}", slice.service))
            }));
        }
        if names.is_empty() {
            return Answer::NotOurs;
        }
        Answer::Records(if question == Question::Ptr {
            names
        } else {
            Vec::new()
        })
    }

    fn domain_name(&self) -> String {
        let labels: Vec<&str> = self.domain.iter().rev().map(String::as_str).collect();
        labels.join(".")
    }
}

/// The label of an endpoint below its service: its host name, or its address
/// with dashes.
fn label_of(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) => hostname.clone(),
        None => endpoint.address.to_string().replace(['.', ':'], "-"),
    }
}

fn addresses(all: impl Iterator<Item = IpAddr>, question: Question) -> Vec<Record> {
    let mut found: Vec<IpAddr> = all
        .filter(|address| match question {
            Question::A => address.is_ipv4(),
            Question::Aaaa => address.is_ipv6(),
            _ => false,
        })
        .take(MAX_ADDRESSES)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
        .into_iter()
        .map(|address| Record::Address {
            name: None,
            address,
        })
        .collect()
}

/// The address that `4.3.2.1.in-addr.arpa` and its IPv6 kin stand for.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let digits = &labels[..labels.len().checked_sub(2)?];
    if labels.ends_with(&["in-addr".into(), "arpa".into()]) {
        let parts: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
        return (parts.len() == 4)
            .then(|| parts.join(".").parse().ok())
            .flatten()
            .map(IpAddr::V4);
    }
    let nibbles: String = digits.iter().rev().map(String::as_str).collect();
    if digits.len() != 32 || nibbles.len() != 32 {
        return None;
    }
    u128::from_str_radix(&nibbles, 16)
        .ok()
        .map(|bits| IpAddr::V6(bits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("demo".into(), name.into())
    }

    fn port(name: &str, number: u16) -> Port {
        Port {
            name: name.into(),
            protocol: "tcp".into(),
            number,
        }
    }

    fn index() -> Index {
        let mut index = Index::new("cluster.local");
        let web = Service {
            addresses: vec!["10.96.0.7".parse().unwrap()],
            ports: vec![port("http", 80)],
            ..Service::default()
        };
        index.set_service(key("web"), Some(web));
        index.set_service(key("db"), Some(Service::default()));
        let out = Service {
            external_name: Some("example.com".into()),
            ..Service::default()
        };
        index.set_service(key("out"), Some(out));
        let endpoint = |address: &str, hostname: Option<&str>| Endpoint {
            address: address.parse().unwrap(),
            hostname: hostname.map(str::to_owned),
        };
        let slice = Slice {
            service: "db".into(),
            ports: vec![port("sql", 5432)],
            endpoints: vec![
                endpoint("10.244.0.5", Some("db-0")),
                endpoint("10.244.0.6", None),
            ],
        };
        index.set_slice(key("db-abc"), Some(slice));
        index
    }

    fn ask(name: &str, question: Question) -> Answer {
        let labels: Vec<String> = name.split('.').map(str::to_owned).collect();
        index().answer(&labels, question)
    }

    fn a(address: &str) -> Record {
        Record::Address {
            name: None,
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn names_of_the_specification() {
        use Question::{A, Aaaa, Ptr, Srv, Txt};
        let srv = |port, target: &str| Record::Srv {
            port,
            target: target.into(),
        };
        let of = |name: &str, address: &str| Record::Address {
            name: Some(name.into()),
            address: address.parse().unwrap(),
        };
        let web = "web.demo.svc.cluster.local";
        let db0 = "db-0.db.demo.svc.cluster.local";
        let db6 = "10-244-0-6.db.demo.svc.cluster.local";
        for (name, question, records) in [
            (web, A, vec![a("10.96.0.7")]),
            (web, Aaaa, vec![]),
            (web, Srv, vec![srv(80, web), of(web, "10.96.0.7")]),
            (
                "_http._tcp.web.demo.svc.cluster.local",
                Srv,
                vec![srv(80, web), of(web, "10.96.0.7")],
            ),
            (
                "db.demo.svc.cluster.local",
                A,
                vec![a("10.244.0.5"), a("10.244.0.6")],
            ),
            (db0, A, vec![a("10.244.0.5")]),
            (db6, A, vec![a("10.244.0.6")]),
            (
                "_sql._tcp.db.demo.svc.cluster.local",
                Srv,
                vec![
                    srv(5432, db0),
                    srv(5432, db6),
                    of(db6, "10.244.0.6"),
                    of(db0, "10.244.0.5"),
                ],
            ),
            (
                "out.demo.svc.cluster.local",
                A,
                vec![Record::Cname("example.com".into())],
            ),
            ("10-1-2-3.demo.pod.cluster.local", A, vec![a("10.1.2.3")]),
            (
                "dns-version.cluster.local",
                Txt,
                vec![Record::Txt("1.1.0".into())],
            ),
            ("7.0.96.10.in-addr.arpa", Ptr, vec![Record::Ptr(web.into())]),
            (
                "5.0.244.10.in-addr.arpa",
                Ptr,
                vec![Record::Ptr(db0.into())],
            ),
            ("demo.svc.cluster.local", A, vec![]),
            ("cluster.local", A, vec![]),
        ] {
            assert_eq!(ask(name, question), Answer::Records(records), "{name}");
        }
    }

    #[test]
    fn absent_names_are_denied_and_foreign_ones_passed_on() {
        for name in [
            "nope.demo.svc.cluster.local",
            "other.svc.cluster.local",
            "x.web.demo.svc.cluster.local",
            "_nope._tcp.web.demo.svc.cluster.local",
            "a.b.c.d.e.f.cluster.local",
            "1-2-3.demo.pod.cluster.local",
            "nope.cluster.local",
        ] {
            assert_eq!(ask(name, Question::A), Answer::NoSuchName, "{name}");
        }
        for name in [
            "example.com",
            "local",
            "mycluster.local",
            "9.9.9.9.in-addr.arpa",
            "in-addr.arpa",
        ] {
            assert_eq!(ask(name, Question::Ptr), Answer::NotOurs, "{name}");
        }
    }

    #[test]
    fn pods_have_names_in_namespaces_without_services() {
        let mut index = index();
        let namespace = || (String::new(), "quiet".to_owned());
        let name = ["10-1-2-3", "quiet", "pod", "cluster", "local"].map(str::to_owned);
        assert_eq!(index.answer(&name, Question::A), Answer::NoSuchName);
        index.set_namespace(namespace(), Some(()));
        index.keep_namespaces(&HashSet::from([namespace()]));
        let found = Answer::Records(vec![a("10.1.2.3")]);
        assert_eq!(index.answer(&name, Question::A), found);
        index.set_namespace(namespace(), None);
        assert_eq!(index.answer(&name, Question::A), Answer::NoSuchName);
    }

    #[test]
    fn slices_follow_their_service() {
        let mut index = index();
        let mut moved = Slice {
            service: "web2".into(),
            ..Slice::default()
        };
        moved.endpoints = vec![Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            hostname: None,
        }];
        index.set_service(key("web2"), Some(Service::default()));
        index.set_slice(key("db-abc"), Some(moved));
        let labels = |name: &str| -> Vec<String> {
            format!("{name}.demo.svc.cluster.local")
                .split('.')
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(
            index.answer(&labels("db"), Question::A),
            Answer::Records(vec![])
        );
        assert_eq!(
            index.answer(&labels("web2"), Question::A),
            Answer::Records(vec![a("10.0.0.1")])
        );
        index.keep_slices(&HashSet::new());
        index.keep_services(&HashSet::from([key("web2")]));
        assert_eq!(
            index.answer(&labels("web2"), Question::A),
            Answer::Records(vec![])
        );
        assert_eq!(index.answer(&labels("db"), Question::A), Answer::NoSuchName);
    }
}
