//! The built-in admission rules, after `k8s.io/kubernetes/plugin/pkg/admission`.

mod certificates;
mod cidr;
mod classes;
mod conditions;
mod escalation;
mod kubernetes_service;
mod limits;
mod matching;
mod namespace;
mod node;
mod pod_security;
mod policies;
mod priority;
mod quota;
mod review;
mod runtime_class;
mod service_account;
mod service_ip;
mod tolerations;
mod webhooks;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use coracle_machinery::{ApiError, object};

pub use self::cidr::Ipv4Cidr;
pub(crate) use self::conditions::CONDITION_VARIABLES;
pub use self::kubernetes_service::{KubernetesService, ensure_kubernetes_service};
use self::policies::Policies;
pub(crate) use self::policies::expression_errors;
pub use self::quota::Quotas;
pub(crate) use self::service_ip::HostAddresses;
pub use self::service_ip::ServiceAddressing;
use self::webhooks::Webhooks;
use crate::access::Authorizer;
use crate::auth::rbac::Rbac;
use crate::callout::Callouts;
use crate::hooks::{Admission, AdmissionRequest};
use crate::objects::Objects;
use crate::registry::{Registry, Resource};

/// What the rules need of the server.
#[derive(Clone)]
pub struct Dependencies {
    /// The server's objects.
    pub objects: Arc<dyn Objects>,
    /// For the check that nobody grants more than they hold.
    pub rbac: Arc<Rbac>,
    /// The authoriser of requests.
    pub authorizer: Arc<dyn Authorizer>,
    /// Who gives out the addresses of services.
    pub addressing: ServiceAddressing,
    /// What namespaces may use.
    pub quotas: Arc<Quotas>,
    /// What webhooks and policies need.
    pub extensions: Arc<Extensions>,
}

/// What the rules that tenants add need of the server.
pub struct Extensions {
    /// The server's objects.
    pub objects: Arc<dyn Objects>,
    /// What is served.
    pub registry: Arc<Registry>,
    /// The way to webhooks.
    pub callouts: Arc<Callouts>,
}

/// All built-in rules, in upstream's order. Each runs in both phases.
pub fn chain(with: &Dependencies) -> Vec<Arc<dyn Admission>> {
    let objects = || with.objects.clone();
    vec![
        Arc::new(namespace::NamespaceLifecycle::new(objects())),
        Arc::new(limits::LimitRanger::new(objects())),
        Arc::new(service_account::ServiceAccounts::new(objects())),
        Arc::new(node::NodeRestriction::new(objects())),
        Arc::new(pod_security::PodSecurity::new(objects())),
        Arc::new(priority::Priority::new(objects())),
        Arc::new(tolerations::DefaultTolerationSeconds),
        Arc::new(classes::DefaultStorageClass::new(objects())),
        Arc::new(classes::StorageObjectInUseProtection),
        Arc::new(runtime_class::RuntimeClass::new(objects())),
        Arc::new(certificates::Certificates::new(with.authorizer.clone())),
        Arc::new(classes::DefaultIngressClass::new(objects())),
        Arc::new(Policies::new(
            policies::Phase::Mutating,
            with.extensions.clone(),
        )),
        Arc::new(Webhooks::new(
            webhooks::Phase::Mutating,
            with.extensions.clone(),
        )),
        Arc::new(Policies::new(
            policies::Phase::Validating,
            with.extensions.clone(),
        )),
        Arc::new(Webhooks::new(
            webhooks::Phase::Validating,
            with.extensions.clone(),
        )),
        Arc::new(escalation::RbacEscalation::new(
            with.rbac.clone(),
            with.authorizer.clone(),
        )),
        Arc::new(service_ip::ServiceAddresses::new(
            objects(),
            with.addressing.clone(),
        )),
        // Last, so that it counts what the others left.
        with.quotas.clone(),
    ]
}

/// True if the row is that resource, at whatever version.
fn is(resource: &Resource, group: &str, plural: &str) -> bool {
    resource.group_resource.group == group && resource.group_resource.resource == plural
}

/// The refusal (403) of a request for the reason given.
fn forbidden(request: &AdmissionRequest<'_>, why: &str) -> ApiError {
    let object = request.object.as_ref().or(request.old);
    let text = |pointer| object.map_or("", |o| object::text(o, pointer));
    let name = [
        request.name,
        text("/metadata/name"),
        text("/metadata/generateName"),
    ]
    .into_iter()
    .find(|name| !name.is_empty())
    .unwrap_or_default();
    ApiError::forbidden(&request.resource.group_resource, name, why)
}
