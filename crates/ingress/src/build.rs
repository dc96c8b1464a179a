//! From the objects of a cluster to a table. Pure.
//!
//! A host name belongs to whoever named it first: the Ingresses of one
//! namespace and one owner may share it, and nobody else can add a path to it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coracle_pki::KeyCert;
use coracle_pki::tls::Certificate;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    Ingress, IngressBackend, IngressClass, IngressRule, IngressSpec,
};
use kube::ResourceExt as _;

use crate::CONTROLLER;
use crate::backend::{Places, Services};
use crate::path::Pattern;
use crate::table::{Route, Site, Table, Target};

/// Most paths of one host name: each request looks at all of them.
const MAX_ROUTES: usize = 2000;
/// Most complaints about one Ingress.
const MAX_COMPLAINTS: usize = 10;

/// Names the class of an Ingress, from before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Annotations of the controller by whose name the class is usually called.
const ANNOTATIONS: &str = "nginx.ingress.kubernetes.io/";
/// Known of them: `"false"` serves plain requests of hosts that have a
/// certificate.
const REDIRECT: &str = "nginx.ingress.kubernetes.io/ssl-redirect";
/// `"true"` passes connections over TLS on as they are, by the name that
/// clients ask for; paths mean nothing then.
const PASSTHROUGH: &str = "nginx.ingress.kubernetes.io/ssl-passthrough";
/// What a service speaks. Where connections are passed on, nobody asks.
const PROTOCOL: &str = "nginx.ingress.kubernetes.io/backend-protocol";

/// What there is in the cluster.
#[derive(Default)]
pub struct Objects {
    /// Ingresses of all classes.
    pub ingresses: Vec<Arc<Ingress>>,
    /// Classes of all controllers.
    pub classes: Vec<Arc<IngressClass>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Their endpoints.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Secrets of TLS.
    pub secrets: Vec<Arc<Secret>>,
}

/// Something that a user should know of an Ingress.
#[derive(Clone, Debug)]
pub struct Complaint {
    /// The Ingress.
    pub ingress: Arc<Ingress>,
    /// In one word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// What was made.
pub struct Built {
    /// The table.
    pub table: Table,
    /// The Ingresses of our classes.
    pub ours: Vec<Arc<Ingress>>,
    /// What is wrong with them.
    pub complaints: Vec<Complaint>,
}

/// Makes tables, and remembers what is dear to make.
#[derive(Default)]
pub struct Builder {
    /// By namespace and name: at which version, and what was read.
    certificates: HashMap<(String, String), (String, Result<Certificate, String>)>,
    places: Places,
}

/// Who may share a host name: a namespace, and the owners of the Ingress.
type Claimant = (String, Vec<String>);

impl Builder {
    /// The table of these objects.
    pub fn build(&mut self, objects: &Objects) -> Built {
        let certificates = self.read_certificates(&objects.secrets);
        let mut work = Work {
            services: Services::new(&objects.services, &objects.slices, &mut self.places),
            certificates,
            sites: HashMap::new(),
            claims: HashMap::new(),
            patterns: HashSet::new(),
            complaints: Vec::new(),
        };
        let mut ours = ours(objects);
        // The oldest first, as whoever comes first keeps what it has.
        ours.sort_by_cached_key(|ingress| {
            let created = ingress.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (created, ingress.namespace(), ingress.name_any())
        });
        for ingress in &ours {
            work.add(ingress);
        }
        for site in work.sites.values_mut() {
            site.routes
                .sort_by_key(|route| Reverse(route.pattern.rank()));
        }
        work.services.finish();
        Built {
            table: Table { sites: work.sites },
            ours,
            complaints: work.complaints,
        }
    }

    /// The certificates of secrets; each is read once.
    fn read_certificates(
        &mut self,
        secrets: &[Arc<Secret>],
    ) -> HashMap<(String, String), Result<Certificate, String>> {
        let mut read = HashMap::new();
        let mut known = HashMap::new();
        for secret in secrets {
            let place = (secret.namespace().unwrap_or_default(), secret.name_any());
            let version = secret.resource_version().unwrap_or_default();
            let certificate = match self.certificates.remove(&place) {
                Some((at, certificate)) if at == version => certificate,
                _ => certificate(secret),
            };
            known.insert(place.clone(), (version, certificate.clone()));
            read.insert(place, certificate);
        }
        self.certificates = known;
        read
    }
}

/// The Ingresses of our classes.
fn ours(objects: &Objects) -> Vec<Arc<Ingress>> {
    let is_ours = |class: &str| {
        objects.classes.iter().any(|c| {
            let controller = c.spec.as_ref().and_then(|s| s.controller.as_deref());
            c.name_any() == class && controller == Some(CONTROLLER)
        })
    };
    let chosen = objects.ingresses.iter().filter(|ingress| {
        let named = ingress
            .spec
            .as_ref()
            .and_then(|s| s.ingress_class_name.as_deref());
        let annotated = ingress.annotations().get(CLASS_ANNOTATION);
        let class = named.or(annotated.map(String::as_str));
        class.is_some_and(is_ours) && ingress.metadata.deletion_timestamp.is_none()
    });
    chosen.cloned().collect()
}

fn certificate(secret: &Secret) -> Result<Certificate, String> {
    let part = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.ok_or_else(|| format!("{key} is missing"))
    };
    let pair = KeyCert {
        cert_pem: part("tls.crt")?,
        key_pem: part("tls.key")?,
    };
    Certificate::new(&pair).map_err(|error| error.to_string())
}

struct Work<'o> {
    services: Services<'o>,
    certificates: HashMap<(String, String), Result<Certificate, String>>,
    sites: HashMap<String, Site>,
    claims: HashMap<String, Claimant>,
    /// Patterns that have a route, with their hosts.
    patterns: HashSet<(String, Pattern)>,
    complaints: Vec<Complaint>,
}

impl Work<'_> {
    fn add(&mut self, ingress: &Arc<Ingress>) {
        let Some(spec) = &ingress.spec else { return };
        let mut teller = Teller {
            ingress: ingress.clone(),
            told: Vec::new(),
        };
        let owners = ingress.owner_references().iter().map(|o| o.uid.clone());
        let claimant = (ingress.namespace().unwrap_or_default(), owners.collect());
        let redirects = ingress.annotations().get(REDIRECT).map(String::as_str) != Some("false");
        let tunnelled = ingress.annotations().get(PASSTHROUGH).map(String::as_str) == Some("true");
        for name in ingress.annotations().keys() {
            let known =
                [REDIRECT, PASSTHROUGH].contains(&name.as_str()) || tunnelled && name == PROTOCOL;
            if name.starts_with(ANNOTATIONS) && !known {
                let message = format!("annotation {name} is not known here and changes nothing");
                teller.tell("UnknownAnnotation", message);
            }
        }
        let fallback = spec
            .default_backend
            .as_ref()
            .and_then(|b| self.target(&claimant.0, b, false, &mut teller));
        let rules = spec.rules.as_deref().unwrap_or_default();
        let catch_all = [IngressRule::default()];
        // Without rules, everything goes to the default backend.
        let rules = if rules.is_empty() && fallback.is_some() {
            &catch_all
        } else {
            rules
        };
        for rule in rules {
            let host = rule
                .host
                .as_deref()
                .unwrap_or_default()
                .to_ascii_lowercase();
            if !self.claim(&host, &claimant) {
                let name = if host.is_empty() {
                    "the empty host name"
                } else {
                    &host
                };
                let message = format!("{name} belongs to an older ingress of somebody else");
                teller.tell("HostTaken", message);
                continue;
            }
            if tunnelled {
                self.add_tunnel(rule, &host, &claimant.0, &mut teller);
                continue;
            }
            let secured = redirects && has_tls(spec, &host);
            self.add_rule(rule, &host, &claimant.0, secured, &mut teller);
            let site = self.sites.entry(host.clone()).or_default();
            if site.fallback.is_none() {
                site.fallback = fallback.clone().map(|target| Target { secured, ..target });
            }
            self.add_certificate(spec, &host, &claimant.0, &mut teller);
        }
        self.complaints.extend(teller.told);
    }

    /// Claims a host name; false if it is somebody else's, by itself or under
    /// a wildcard.
    fn claim(&mut self, host: &str, claimant: &Claimant) -> bool {
        let above = host
            .split_once('.')
            .map(|(_, domain)| format!("*.{domain}"));
        let above = above.and_then(|wildcard| self.claims.get(&wildcard));
        if above.is_some_and(|owner| owner != claimant) {
            return false;
        }
        let owner = self.claims.entry(host.to_owned());
        owner.or_insert_with(|| claimant.clone()) == claimant
    }

    fn add_rule(
        &mut self,
        rule: &IngressRule,
        host: &str,
        namespace: &str,
        secured: bool,
        teller: &mut Teller,
    ) {
        for path in rule.http.iter().flat_map(|http| &http.paths) {
            let pattern = Pattern::new(path);
            let Some(target) = self.target(namespace, &path.backend, secured, teller) else {
                continue;
            };
            let site = self.sites.entry(host.to_owned()).or_default();
            let place = (host.to_owned(), pattern.clone());
            if self.patterns.contains(&place) {
                let message = format!("{pattern} of host {host:?} has a backend already");
                teller.tell("PathTaken", message);
            } else if site.routes.len() >= MAX_ROUTES {
                let message = format!("host {host:?} has more than {MAX_ROUTES} paths");
                teller.tell("TooManyPaths", message);
            } else {
                self.patterns.insert(place);
                site.routes.push(Route { pattern, target });
            }
        }
    }

    fn target(
        &mut self,
        namespace: &str,
        backend: &IngressBackend,
        secured: bool,
        teller: &mut Teller,
    ) -> Option<Target> {
        let Some(service) = &backend.service else {
            let message = "backends that are no services are not served".to_owned();
            teller.tell("UnknownBackend", message);
            return None;
        };
        let (backend, trouble) = self.services.backend(namespace, service);
        if let Some(trouble) = trouble {
            teller.tell("BackendMissing", trouble);
        }
        Some(Target {
            backend,
            secured,
            tunnelled: false,
        })
    }

    /// Has connections for a host passed on to the service of its root path, or
    /// of its first one.
    fn add_tunnel(&mut self, rule: &IngressRule, host: &str, namespace: &str, teller: &mut Teller) {
        if host.is_empty() {
            let message = "connections are passed on by their host name, and there is none";
            teller.tell("HostMissing", message.to_owned());
            return;
        }
        let paths = || rule.http.iter().flat_map(|http| &http.paths);
        let root = paths().find(|path| matches!(path.path.as_deref(), None | Some("/" | "")));
        let Some(path) = root.or_else(|| paths().next()) else {
            return;
        };
        let Some(target) = self.target(namespace, &path.backend, true, teller) else {
            return;
        };
        let site = self.sites.entry(host.to_owned()).or_default();
        site.tunnel.get_or_insert_with(|| target.backend.clone());
        // What is asked for in plain is sent there.
        site.fallback.get_or_insert(Target {
            tunnelled: true,
            ..target
        });
    }

    /// Gives a site the certificate that an Ingress has for it.
    fn add_certificate(
        &mut self,
        spec: &IngressSpec,
        host: &str,
        namespace: &str,
        teller: &mut Teller,
    ) {
        let entries = spec.tls.iter().flatten();
        let suits = entries.filter(|tls| covers(tls.hosts.as_deref(), host));
        for secret in suits.filter_map(|tls| tls.secret_name.as_deref()) {
            let place = (namespace.to_owned(), secret.to_owned());
            match self.certificates.get(&place) {
                Some(Ok(certificate)) => {
                    let site = self.sites.entry(host.to_owned()).or_default();
                    site.certificate.get_or_insert_with(|| certificate.clone());
                }
                Some(Err(why)) => {
                    let message = format!("secret {secret} cannot be used: {why}");
                    teller.tell("CertificateUnusable", message);
                }
                None => {
                    let message = format!("there is no secret {secret} of type kubernetes.io/tls");
                    teller.tell("CertificateMissing", message);
                }
            }
        }
    }
}

fn has_tls(spec: &IngressSpec, host: &str) -> bool {
    let mut entries = spec.tls.iter().flatten();
    entries.any(|tls| covers(tls.hosts.as_deref(), host))
}

/// True if an entry of TLS is for a host: it names it, or all beside it, or
/// nothing at all.
fn covers(named: Option<&[String]>, host: &str) -> bool {
    let named = named.unwrap_or_default();
    let beside = host
        .split_once('.')
        .map(|(_, domain)| format!("*.{domain}"));
    let is = |name: &String| {
        let name = name.to_ascii_lowercase();
        name == host || Some(name) == beside
    };
    named.is_empty() || named.iter().any(is)
}

/// Collects what is wrong with one Ingress.
struct Teller {
    ingress: Arc<Ingress>,
    told: Vec<Complaint>,
}

impl Teller {
    fn tell(&mut self, reason: &'static str, message: String) {
        let known = self.told.iter().any(|c| c.message == message);
        if !known && self.told.len() < MAX_COMPLAINTS {
            self.told.push(Complaint {
                ingress: self.ingress.clone(),
                reason,
                message,
            });
        }
    }
}

#[cfg(test)]
mod tests;
