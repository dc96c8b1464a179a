//! Expressions about requests: the variables that they may use, and the match
//! conditions of webhooks and policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_machinery::cel::{Activation, Budget, Error, Key, Program, Val};
use coracle_machinery::object::{items, text};
use serde_json::Value;

use super::review::{review_request, to_version};
use crate::hooks::AdmissionRequest;
use crate::registry::Resource;

/// The variables of match conditions.
pub(crate) const CONDITION_VARIABLES: &[&str] = &["object", "oldObject", "request"];

/// What expressions may look at: a request in the version that was matched.
pub(super) struct Facts {
    object: Value,
    old: Value,
    request: Value,
}

impl Facts {
    pub(super) fn new(request: &AdmissionRequest<'_>, resource: &Resource) -> Self {
        let seen = |object: &Value| to_version(object, resource, request.subresource);
        let mut review = review_request(request, resource, "");
        if let Some(map) = review.as_object_mut() {
            for key in ["uid", "object", "oldObject"] {
                map.remove(key);
            }
        }
        Self {
            object: request.object.as_ref().map(seen).unwrap_or_default(),
            old: request.old.map(seen).unwrap_or_default(),
            request: review,
        }
    }

    /// The same about another state of the object.
    pub(super) fn with_object(&self, object: Option<&Value>) -> Self {
        Self {
            object: object.unwrap_or(&self.object).clone(),
            old: self.old.clone(),
            request: self.request.clone(),
        }
    }

    /// The object in the version that was matched.
    pub(super) fn object(&self) -> &Value {
        &self.object
    }
}

/// The variables of one evaluation.
pub(super) struct Scene<'s> {
    facts: &'s Facts,
    /// `params` and `namespaceObject`, for policies.
    pub(super) more: Vec<(&'static str, &'s Value)>,
    /// `variables` of a policy, as far as they have been evaluated.
    pub(super) variables: Arc<BTreeMap<Key, Val<'s>>>,
}

impl<'s> Scene<'s> {
    pub(super) fn new(facts: &'s Facts) -> Self {
        Self {
            facts,
            more: Vec::new(),
            variables: Arc::default(),
        }
    }
}

impl<'s> Activation<'s> for Scene<'s> {
    fn variable(&self, name: &str) -> Option<Val<'s>> {
        match name {
            "object" => Some(Val::json(&self.facts.object)),
            "oldObject" => Some(Val::json(&self.facts.old)),
            "request" => Some(Val::json(&self.facts.request)),
            "variables" => Some(Val::Map(self.variables.clone())),
            _ => {
                let mut more = self.more.iter();
                let found = more.find(|(known, _)| *known == name);
                found.map(|(_, value)| Val::json(value))
            }
        }
    }
}

/// Evaluates within what one expression and all of a policy may cost.
pub(super) fn limited<T>(
    total: &mut Budget,
    evaluate: impl FnOnce(&mut Budget) -> Result<T, Error>,
) -> Result<T, Error> {
    let allowed = total.left().min(Budget::PER_CALL);
    let mut budget = Budget::new(allowed);
    let outcome = evaluate(&mut budget);
    let used = usize::try_from(allowed - budget.left()).unwrap_or(usize::MAX);
    total.spend(used)?;
    outcome
}

/// The match conditions of a webhook or policy.
pub(super) struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    /// Of `matchConditions`. What does not compile was refused when it was
    /// written, and fails here.
    pub(super) fn of(holder: &Value, variables: &[&str]) -> Self {
        let all = items(holder, "/matchConditions").iter();
        let compiled = all.map(|condition| {
            let program = Program::compile(text(condition, "/expression"), variables);
            (text(condition, "/name").to_owned(), program)
        });
        Self(compiled.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if all hold. One that does not is enough, whatever the others
    /// fail with.
    ///
    /// # Errors
    /// What the conditions fail with, if none decides.
    pub(super) fn hold<'s>(
        &'s self,
        scene: &Scene<'s>,
        budget: &mut Budget,
    ) -> Result<bool, String> {
        let mut failures = Vec::new();
        for (name, program) in &self.0 {
            let outcome = match program {
                Ok(program) => limited(budget, |b| program.holds(scene, b)),
                Err(why) => Err(Error::Failed(why.clone())),
            };
            match outcome {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => failures.push(format!("matchCondition '{name}': {error}")),
            }
        }
        if failures.is_empty() {
            return Ok(true);
        }
        Err(failures.join(", "))
    }
}
