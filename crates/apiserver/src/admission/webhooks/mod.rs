//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: services of the
//! tenant's that change or refuse writes.

mod hook;

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use coracle_machinery::object::items;
use coracle_machinery::{ApiError, GroupResource, object};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use self::hook::{Answer, Failure, Hook};
use super::Extensions;
use super::matching::{Version, is_exempt};
use crate::auth::named;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;
use crate::sync::{read, write};

/// Calls to validating webhooks under way at once for one request.
const MAX_PARALLEL: usize = 16;

/// Which webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Mutating,
    Validating,
}

impl Phase {
    fn configurations(self) -> GroupResource {
        let resource = match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        };
        named("admissionregistration.k8s.io", resource)
    }
}

type Compiled = Arc<Vec<Hook>>;

/// The rule that calls webhooks of one phase.
pub(super) struct Webhooks {
    phase: Phase,
    with: Arc<Extensions>,
    /// Compiled configurations, and the generation that they are of.
    compiled: RwLock<Option<(u64, Compiled)>>,
}

impl Webhooks {
    pub(super) fn new(phase: Phase, with: Arc<Extensions>) -> Self {
        Self {
            phase,
            with,
            compiled: RwLock::default(),
        }
    }

    /// The compiled configurations, if nothing changed since.
    fn current(&self) -> Option<Compiled> {
        let generation = self.with.objects.generation(&self.phase.configurations());
        let held = read(&self.compiled);
        let (at, hooks) = held.as_ref()?;
        (*at == generation).then(|| hooks.clone())
    }

    async fn hooks(&self) -> Result<Compiled, ApiError> {
        if let Some(hooks) = self.current() {
            return Ok(hooks);
        }
        let resource = self.phase.configurations();
        // Before the list: what changes meanwhile is read again.
        let generation = self.with.objects.generation(&resource);
        let mut configurations = self.with.objects.list(&resource, "").await?;
        configurations.sort_by(|a, b| object::name(a).cmp(object::name(b)));
        let hooks = configurations
            .iter()
            .flat_map(|configuration| items(configuration, "/webhooks"))
            .map(Hook::new);
        let hooks = Arc::new(hooks.collect::<Vec<_>>());
        *write(&self.compiled) = Some((generation, hooks.clone()));
        Ok(hooks)
    }

    /// Calls one validating webhook.
    async fn ask<'h>(
        &self,
        hook: &'h Hook,
        resource: &Resource,
        request: &AdmissionRequest<'_>,
    ) -> (&'h Hook, Result<Answer, String>) {
        (hook, hook.call(request, resource, &self.with).await)
    }

    /// Calls one mutating webhook if it is for the request.
    async fn change(
        &self,
        hook: &Hook,
        request: &mut AdmissionRequest<'_>,
    ) -> Result<bool, ApiError> {
        let Some(version) = hook.matches(request, &self.with).await? else {
            return Ok(false);
        };
        let before = request.object.clone();
        match hook.mutate(request, &version, &self.with).await {
            Ok(()) => Ok(request.object != before),
            Err(failure) => hook.settle(failure).map(|()| false),
        }
    }
}

#[async_trait]
impl Admission for Webhooks {
    fn handles(&self, _operation: Operation, resource: &Resource, _subresource: &str) -> bool {
        !is_exempt(&resource.group_resource) && self.current().is_none_or(|hooks| !hooks.is_empty())
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if self.phase != Phase::Mutating {
            return Ok(());
        }
        let hooks = self.hooks().await?;
        if request.reinvocation.again {
            let rules_changed = request.reinvocation.left != request.object;
            let due = std::mem::take(&mut request.reinvocation.due);
            let called = std::mem::take(&mut request.reinvocation.called);
            for name in called {
                let Some(hook) = hooks.iter().find(|h| h.name == name) else {
                    continue;
                };
                if hook.reinvoked && (rules_changed || due.contains(&name)) {
                    self.change(hook, request).await?;
                }
            }
            return Ok(());
        }
        for hook in hooks.iter() {
            let changed = self.change(hook, request).await?;
            let state = &mut request.reinvocation;
            if changed {
                // Those before it have not seen this change.
                state.wanted = true;
                state.due = state.called.clone();
            }
            state.called.push(hook.name.clone());
        }
        request.reinvocation.left = request.object.clone();
        Ok(())
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if self.phase != Phase::Validating {
            return Ok(());
        }
        let hooks = self.hooks().await?;
        let mut matching: Vec<(&Hook, Version<'_>)> = Vec::new();
        for hook in hooks.iter() {
            if let Some(version) = hook.matches(request, &self.with).await? {
                matching.push((hook, version));
            }
        }
        let seen = &*request;
        let mut waiting = matching.iter();
        let mut running = FuturesUnordered::new();
        for (hook, version) in waiting.by_ref().take(MAX_PARALLEL) {
            running.push(self.ask(hook, version, seen));
        }
        let mut warnings = Vec::new();
        while let Some((hook, outcome)) = running.next().await {
            match outcome {
                Ok(answer) => {
                    warnings.extend(answer.warnings());
                    if let Err(denied) = answer.allowed(hook) {
                        drop(running);
                        request.warnings.extend(warnings);
                        return Err(denied);
                    }
                }
                Err(failure) => hook.settle(Failure::Call(failure))?,
            }
            if let Some((hook, version)) = waiting.next() {
                running.push(self.ask(hook, version, seen));
            }
        }
        drop(running);
        request.warnings.extend(warnings);
        Ok(())
    }
}
