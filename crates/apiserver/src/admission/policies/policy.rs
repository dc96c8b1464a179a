//! One policy with its expressions, and one binding.

use std::sync::Arc;

use coracle_machinery::cel::{Budget, Error, Key, Program, Val};
use coracle_machinery::object::{self, items, text};
use coracle_machinery::{ApiError, FieldError, FieldPath, Reason};
use serde_json::Value;

use super::mutation::{Mutation, mutation};
use super::params::Params;
use super::shape;
use crate::admission::Extensions;
use crate::admission::conditions::{Conditions, Facts, Scene, limited};
use crate::admission::matching::{Matcher, Version};
use crate::hooks::AdmissionRequest;
use crate::registry::Resource;

/// The variables of a policy's expressions. `authorizer` is not among them.
const VARIABLES: &[&str] = &[
    "object",
    "oldObject",
    "request",
    "params",
    "namespaceObject",
    "variables",
];

/// Variables of one policy: each is evaluated for each request.
const MAX_VARIABLES: usize = 256;

type Compiled = Result<Program, String>;

pub(super) struct Policy {
    pub(super) name: String,
    pub(super) fails_open: bool,
    /// Evaluated again after others changed the object.
    pub(super) reinvoked: bool,
    /// `apiVersion` and `kind` of the parameters, if it has any.
    pub(super) param_kind: Option<(String, String)>,
    matcher: Matcher,
    conditions: Conditions,
    variables: Vec<(String, Compiled)>,
    validations: Vec<Validation>,
    mutations: Vec<Mutation>,
}

struct Validation {
    expression: String,
    program: Compiled,
    message: String,
    message_program: Option<Compiled>,
    reason: Reason,
}

/// A validation that does not hold.
pub(super) struct Verdict {
    pub(super) message: String,
    pub(super) reason: Reason,
}

impl Verdict {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            reason: Reason::Invalid,
        }
    }
}

pub(super) struct Binding {
    pub(super) name: String,
    pub(super) denies: bool,
    pub(super) warns: bool,
    /// `paramRef`.
    pub(super) params: Value,
    matcher: Matcher,
}

impl Binding {
    pub(super) fn new(binding: &Value) -> Self {
        let actions = items(binding, "/spec/validationActions");
        Self {
            name: object::name(binding).to_owned(),
            denies: actions.iter().any(|a| a == "Deny"),
            warns: actions.iter().any(|a| a == "Warn"),
            params: binding["spec"]["paramRef"].clone(),
            matcher: Matcher::of_policy(&binding["spec"]["matchResources"]),
        }
    }

    /// True if the binding is for the request, which matches its policy.
    pub(super) async fn matches(
        &self,
        request: &AdmissionRequest<'_>,
        with: &Extensions,
    ) -> Result<bool, ApiError> {
        if self.matcher.has_rules() && self.matcher.version(request, &with.registry).is_none() {
            return Ok(false);
        }
        self.matcher.selects(request, &*with.objects).await
    }
}

impl Policy {
    pub(super) fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let kind = (
            text(spec, "/paramKind/apiVersion").to_owned(),
            text(spec, "/paramKind/kind").to_owned(),
        );
        let compile = |expression: &str| Program::compile(expression, VARIABLES);
        let validation = |validation: &Value| {
            let by_expression = text(validation, "/messageExpression");
            Validation {
                expression: text(validation, "/expression").to_owned(),
                program: compile(text(validation, "/expression")),
                message: text(validation, "/message").to_owned(),
                message_program: (!by_expression.is_empty()).then(|| compile(by_expression)),
                reason: match text(validation, "/reason") {
                    "" => Reason::Invalid,
                    reason => Reason::of_refusal(reason, 0),
                },
            }
        };
        Self {
            name: object::name(policy).to_owned(),
            fails_open: text(spec, "/failurePolicy") == "Ignore",
            reinvoked: text(spec, "/reinvocationPolicy") == "IfNeeded",
            param_kind: (!kind.1.is_empty()).then_some(kind),
            matcher: Matcher::of_policy(&spec["matchConstraints"]),
            conditions: Conditions::of(spec, VARIABLES),
            variables: items(spec, "/variables")
                .iter()
                .take(MAX_VARIABLES)
                .map(|v| (text(v, "/name").to_owned(), compile(text(v, "/expression"))))
                .collect(),
            validations: items(spec, "/validations").iter().map(validation).collect(),
            mutations: items(spec, "/mutations")
                .iter()
                .map(|m| mutation(m, VARIABLES))
                .collect(),
        }
    }

    /// The version of the resource that the policy looks at, if it is for the
    /// request.
    pub(super) async fn matches<'r>(
        &self,
        request: &AdmissionRequest<'r>,
        with: &Extensions,
    ) -> Result<Option<Version<'r>>, ApiError> {
        let Some(version) = self.matcher.version(request, &with.registry) else {
            return Ok(None);
        };
        let selected = self.matcher.selects(request, &*with.objects).await?;
        Ok(selected.then_some(version))
    }

    /// What does not hold, once for each set of parameters.
    pub(super) fn judge(
        &self,
        facts: &Facts,
        namespace: Option<&Value>,
        params: &Params,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let sets = match params.sets() {
            Ok(sets) => sets,
            Err(_) if self.fails_open => return verdicts,
            Err(why) => return vec![Verdict::new(why)],
        };
        for set in sets {
            let mut budget = Budget::new(Budget::TOTAL);
            match self.scene(facts, namespace, set, &mut budget) {
                Ok(Some(scene)) => {
                    let all = self.validations.iter();
                    verdicts.extend(all.filter_map(|v| self.verdict(v, &scene, &mut budget)));
                }
                Ok(None) => {}
                Err(_) if self.fails_open => {}
                Err(why) => verdicts.push(Verdict::new(why)),
            }
        }
        verdicts
    }

    /// The variables, if the match conditions hold.
    fn scene<'s>(
        &'s self,
        facts: &'s Facts,
        namespace: Option<&'s Value>,
        params: &'s Value,
        budget: &mut Budget,
    ) -> Result<Option<Scene<'s>>, String> {
        let mut scene = Scene::new(facts);
        scene.more = vec![
            ("params", params),
            ("namespaceObject", namespace.unwrap_or(&Value::Null)),
        ];
        if !self.conditions.hold(&scene, budget)? {
            return Ok(None);
        }
        for (name, program) in &self.variables {
            let value = match program {
                Ok(program) => limited(budget, |b| program.evaluate(&scene, b)),
                Err(why) => Err(Error::Failed(why.clone())),
            };
            let value = value.unwrap_or_else(|error| {
                Val::Failed(Error::Failed(format!(
                    "composited variable \"{name}\" fails to evaluate: {error}"
                )))
            });
            Arc::make_mut(&mut scene.variables).insert(Key::Text(name.clone()), value);
        }
        Ok(Some(scene))
    }

    fn verdict<'s>(
        &self,
        validation: &'s Validation,
        scene: &Scene<'s>,
        budget: &mut Budget,
    ) -> Option<Verdict> {
        let outcome = match &validation.program {
            Ok(program) => limited(budget, |b| program.holds(scene, b)),
            Err(why) => Err(Error::Failed(why.clone())),
        };
        let expression = validation.expression.trim();
        match outcome {
            Ok(true) => None,
            Ok(false) => {
                let told = validation.message_program.as_ref();
                let told = told
                    .and_then(|program| program.as_ref().ok())
                    .and_then(|program| limited(budget, |b| program.evaluate(scene, b)).ok());
                let told = told.as_ref().and_then(Val::as_text).map(str::trim);
                // A message of several lines would break the client's output.
                let told = told.filter(|m| !m.is_empty() && !m.contains('\n'));
                let message = match (told, validation.message.as_str()) {
                    (Some(told), _) => told.to_owned(),
                    (None, "") => format!("failed expression: {expression}"),
                    (None, message) => message.to_owned(),
                };
                Some(Verdict {
                    message,
                    reason: validation.reason,
                })
            }
            Err(_) if self.fails_open => None,
            Err(error) => Some(Verdict::new(format!(
                "expression '{expression}' resulted in error: {error}"
            ))),
        }
    }

    /// The object with all mutations, `None` if they are not for it.
    ///
    /// # Errors
    /// Why it cannot be changed.
    pub(super) fn change(
        &self,
        facts: &Facts,
        namespace: Option<&Value>,
        params: &Params,
        resource: &Resource,
    ) -> Result<Option<Value>, String> {
        let mut changed = None;
        for set in params.sets()? {
            for mutation in &self.mutations {
                // Each sees what the ones before it did.
                let now = facts.with_object(changed.as_ref());
                let mut budget = Budget::new(Budget::TOTAL);
                let scene = self.scene(&now, namespace, set, &mut budget)?;
                let Some(scene) = scene else { continue };
                let next = mutation.apply(&scene, now.object(), resource, &mut budget)?;
                changed = Some(next);
            }
        }
        Ok(changed)
    }
}

/// Errors of the expressions of a policy that is being written.
pub(super) fn expression_errors(policy: &Value, mutating: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &policy["spec"];
    let path = FieldPath::new("spec");
    let mut check = |list: &str, field: &str| {
        let pointer = format!("/{}", field.replace('.', "/"));
        for (index, item) in items(spec, &format!("/{list}")).iter().enumerate() {
            let expression = text(item, &pointer);
            let mut at = path.child(list).index(index);
            for name in field.split('.') {
                at = at.child(name);
            }
            if expression.is_empty() {
                continue;
            }
            if let Err(why) = Program::compile(expression, VARIABLES) {
                let why = format!("compilation failed: {why}");
                errors.push(FieldError::invalid(&at, expression, why));
            }
        }
    };
    check("matchConditions", "expression");
    check("variables", "expression");
    if mutating {
        check("mutations", "applyConfiguration.expression");
        check("mutations", "jsonPatch.expression");
    } else {
        check("validations", "expression");
        check("validations", "messageExpression");
        check("auditAnnotations", "valueExpression");
    }
    errors.extend(shape::errors(policy, mutating));
    for (list, required) in [("validations", !mutating), ("mutations", mutating)] {
        let annotations = !items(spec, "/auditAnnotations").is_empty();
        if required && items(spec, &format!("/{list}")).is_empty() && !annotations {
            errors.push(FieldError::required(&path.child(list), ""));
        }
    }
    errors
}
