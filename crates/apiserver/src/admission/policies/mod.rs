//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules in expressions
//! of the tenant's.

mod mutation;
mod params;
mod policy;
mod shape;

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use coracle_machinery::object::{self, text};
use coracle_machinery::{ApiError, FieldError, GroupResource, Reason};
use serde_json::{Value, json};

use self::policy::{Binding, Policy, Verdict};
use super::conditions::Facts;
use super::matching::is_exempt;
use super::{Extensions, forbidden};
use crate::auth::{core, named};
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;
use crate::sync::{read, write};

/// Which policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Mutating,
    Validating,
}

impl Phase {
    fn resources(self) -> [GroupResource; 2] {
        let names = match self {
            Self::Mutating => [
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicybindings",
            ],
            Self::Validating => [
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
            ],
        };
        names.map(|name| named("admissionregistration.k8s.io", name))
    }
}

type Compiled = Arc<Vec<(Policy, Vec<Binding>)>>;

/// The rule that evaluates policies of one phase.
pub(super) struct Policies {
    phase: Phase,
    with: Arc<Extensions>,
    /// Compiled policies with their bindings, and the generations that they
    /// are of.
    compiled: RwLock<Option<([u64; 2], Compiled)>>,
}

impl Policies {
    pub(super) fn new(phase: Phase, with: Arc<Extensions>) -> Self {
        Self {
            phase,
            with,
            compiled: RwLock::default(),
        }
    }

    fn generations(&self) -> [u64; 2] {
        let resources = self.phase.resources();
        resources.map(|r| self.with.objects.generation(&r))
    }

    /// The compiled policies, if nothing changed since.
    fn current(&self) -> Option<Compiled> {
        let generations = self.generations();
        let held = read(&self.compiled);
        let (at, policies) = held.as_ref()?;
        (*at == generations).then(|| policies.clone())
    }

    async fn policies(&self) -> Result<Compiled, ApiError> {
        if let Some(policies) = self.current() {
            return Ok(policies);
        }
        // Before the lists: what changes meanwhile is read again.
        let generations = self.generations();
        let [policies, bindings] = self.phase.resources();
        let mut policies = self.with.objects.list(&policies, "").await?;
        let bindings = self.with.objects.list(&bindings, "").await?;
        policies.sort_by(|a, b| object::name(a).cmp(object::name(b)));
        let compiled = policies.iter().map(|policy| {
            let name = object::name(policy);
            let of_policy = bindings
                .iter()
                .filter(|b| text(b, "/spec/policyName") == name)
                .map(|b| Binding::new(b));
            (Policy::new(policy), of_policy.collect())
        });
        let compiled = Arc::new(compiled.collect::<Vec<_>>());
        *write(&self.compiled) = Some((generations, compiled.clone()));
        Ok(compiled)
    }

    /// Evaluates all policies for a request; the first refusal.
    async fn validated(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let mut refusal = None;
        for (policy, bindings) in self.policies().await?.iter() {
            let Some(version) = policy.matches(request, &self.with).await? else {
                continue;
            };
            let facts = Facts::new(request, &version);
            let namespace = self.namespace_of(request).await?;
            for binding in bindings {
                if !binding.matches(request, &self.with).await? {
                    continue;
                }
                let params = params::of(policy, binding, request, &self.with).await?;
                for verdict in policy.judge(&facts, namespace.as_deref(), &params) {
                    self.carry_out(policy, binding, verdict, request, &mut refusal);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn carry_out(
        &self,
        policy: &Policy,
        binding: &Binding,
        verdict: Verdict,
        request: &mut AdmissionRequest<'_>,
        refusal: &mut Option<ApiError>,
    ) {
        let (name, bound) = (&policy.name, &binding.name);
        let Verdict { message, reason } = verdict;
        if binding.denies && refusal.is_none() {
            let why = format!(
                "ValidatingAdmissionPolicy '{name}' with binding '{bound}' denied request: {message}"
            );
            let mut error = forbidden(request, &why);
            error.reason = reason;
            if let Some(details) = error.details.as_object_mut() {
                details.insert("causes".into(), json!([{"message": message}]));
            }
            *refusal = Some(error);
        }
        if binding.warns {
            request.warnings.push(format!(
                "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{bound}': {message}"
            ));
        }
    }

    /// The object of the request's namespace, if it has one.
    async fn namespace_of(
        &self,
        request: &AdmissionRequest<'_>,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        if request.namespace.is_empty() {
            return Ok(None);
        }
        let namespaces = core("namespaces");
        self.with
            .objects
            .get(&namespaces, "", request.namespace)
            .await
    }

    /// Changes the object as the policies say. In the second round only those
    /// that ask for it are evaluated again.
    async fn mutated(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let again = request.reinvocation.again;
        let before = request.object.clone();
        for (policy, bindings) in self.policies().await?.iter() {
            if again && !policy.reinvoked {
                continue;
            }
            for binding in bindings {
                let Some(version) = policy.matches(request, &self.with).await? else {
                    break;
                };
                if !binding.matches(request, &self.with).await? {
                    continue;
                }
                let namespace = self.namespace_of(request).await?;
                let params = params::of(policy, binding, request, &self.with).await?;
                let facts = Facts::new(request, &version);
                let changed = policy.change(&facts, namespace.as_deref(), &params, &version);
                let changed = match changed {
                    Ok(changed) => changed,
                    Err(_) if policy.fails_open => continue,
                    Err(why) => {
                        let (name, bound) = (&policy.name, &binding.name);
                        let why =
                            format!("policy '{name}' with binding '{bound}' denied request: {why}");
                        let mut error = forbidden(request, &why);
                        error.reason = Reason::Invalid;
                        return Err(error);
                    }
                };
                if let (Some(changed), Some(object)) = (changed, &request.object) {
                    let subresource = request.subresource;
                    let stored =
                        super::review::from_version(changed, object, &version, subresource);
                    request.object = Some(stored.map_err(ApiError::internal)?);
                }
            }
        }
        request.reinvocation.wanted |= request.object != before;
        Ok(())
    }
}

#[async_trait]
impl Admission for Policies {
    fn handles(&self, _operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        let none = |policies: Compiled| policies.iter().all(|(_, bindings)| bindings.is_empty());
        !is_exempt(&resource.group_resource) && !self.current().is_some_and(none)
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        match self.phase {
            // There is nothing to change about a delete or a connection.
            Phase::Mutating
                if matches!(request.operation, Operation::Create | Operation::Update) =>
            {
                self.mutated(request).await
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        match self.phase {
            Phase::Validating => self.validated(request).await,
            Phase::Mutating => Ok(()),
        }
    }
}

/// Errors of the expressions of a policy that is being written.
pub(crate) fn expression_errors(policy: &Value, mutating: bool) -> Vec<FieldError> {
    policy::expression_errors(policy, mutating)
}
