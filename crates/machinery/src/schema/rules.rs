//! `x-kubernetes-validations`: rules in expressions that a definition sets on
//! values, and their evaluation.

use serde_json::Value;

use super::{Schema, Type};
use crate::cel::{Activation, Budget, Error, Program, Val};
use crate::field::{FieldError, FieldErrorKind, FieldPath};
use crate::object::text;

/// One rule, compiled.
#[derive(Debug)]
pub struct Rule {
    expression: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    kind: FieldErrorKind,
    /// Names of fields from the value down to what the error is about.
    field_path: String,
    /// It compares with the value before, and waits for one.
    transition: bool,
    /// It compares with the value before, which is optional.
    optional_old: bool,
}

const VARIABLES: &[&str] = &["self", "oldSelf"];

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(rule: &Value, path: &FieldPath) -> Result<Self, FieldError> {
        let compile = |field: &str| {
            let expression = text(rule, &format!("/{field}"));
            Program::compile(expression, VARIABLES).map_err(|why| {
                let why = format!("compilation failed: {why}");
                FieldError::invalid(&path.child(field), expression, why)
            })
        };
        if text(rule, "/rule").trim().is_empty() {
            return Err(FieldError::required(
                &path.child("rule"),
                "rule is not specified",
            ));
        }
        let program = compile("rule")?;
        let by_expression = rule.get("messageExpression").is_some_and(|m| m.is_string());
        let optional_old = rule["optionalOldSelf"] == true;
        Ok(Self {
            expression: text(rule, "/rule").trim().to_owned(),
            transition: !optional_old && program.mentions("oldSelf"),
            optional_old,
            program,
            message: text(rule, "/message").to_owned(),
            message_program: by_expression
                .then(|| compile("messageExpression"))
                .transpose()?,
            kind: match text(rule, "/reason") {
                "FieldValueForbidden" => FieldErrorKind::Forbidden,
                "FieldValueRequired" => FieldErrorKind::Required,
                "FieldValueDuplicate" => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            field_path: text(rule, "/fieldPath").to_owned(),
        })
    }
}

/// A value, and what it was before.
struct Change<'v> {
    now: (&'v Value, &'v Schema),
    old: Option<&'v Value>,
    optional_old: bool,
}

impl<'v> Activation<'v> for Change<'v> {
    fn variable(&self, name: &str) -> Option<Val<'v>> {
        let (value, schema) = self.now;
        let typed = |value: &'v Value| Val::typed(value, Some(schema.clone()));
        match (name, self.optional_old) {
            ("self", _) => Some(typed(value)),
            ("oldSelf", false) => self.old.map(typed),
            ("oldSelf", true) => Some(match self.old {
                Some(old) => Val::some(typed(old)),
                None => Val::Optional(None),
            }),
            _ => None,
        }
    }
}

/// Evaluates rules over a value; what does not hold. Of a value that is
/// `unchanged` only the rules that compare it with the one before.
pub(super) fn broken<'v>(
    rules: &'v [Rule],
    schema: &'v Schema,
    value: &'v Value,
    old: Option<&'v Value>,
    unchanged: bool,
    path: &FieldPath,
    budget: &mut Budget,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for rule in rules {
        let wanted = if rule.transition {
            old.is_some()
        } else {
            // Without an object before, optional ones are evaluated as well.
            rule.optional_old || !unchanged
        };
        if !wanted {
            continue;
        }
        let change = Change {
            now: (value, schema),
            old,
            optional_old: rule.optional_old,
        };
        let allowed = budget.left().min(Budget::PER_CALL);
        let mut own = Budget::new(allowed);
        let outcome = rule.program.holds(&change, &mut own);
        let used = usize::try_from(allowed - own.left()).unwrap_or(usize::MAX);
        let within = budget.spend(used);
        let shown = type_word(schema);
        match outcome {
            Ok(true) => {}
            Ok(false) => errors.push(rule.error(&change, path, shown, budget)),
            Err(error) => {
                let why = match error {
                    Error::OverBudget => {
                        "validation failed due to running out of cost budget, no further \
                         validation rules will be run"
                            .to_owned()
                    }
                    Error::Failed(why) => format!("rule compile or evaluation error: {why}"),
                };
                errors.push(FieldError::invalid(path, shown, why));
            }
        }
        if within.is_err() {
            return errors;
        }
    }
    errors
}

impl Rule {
    fn error<'v>(
        &'v self,
        change: &Change<'v>,
        path: &FieldPath,
        shown: &str,
        budget: &mut Budget,
    ) -> FieldError {
        let told = self
            .message_program
            .as_ref()
            .and_then(|program| program.evaluate(change, budget).ok());
        let told = told.as_ref().and_then(Val::as_text).map(str::trim);
        let message = match told.filter(|m| !m.is_empty() && !m.contains('\n')) {
            Some(told) => told.to_owned(),
            None if self.message.is_empty() => format!("failed rule: {}", self.expression),
            None => self.message.clone(),
        };
        let mut at = path.clone();
        for name in self.field_path.split('.').filter(|n| !n.is_empty()) {
            at = at.child(name);
        }
        match self.kind {
            FieldErrorKind::Forbidden => FieldError::forbidden(&at, message),
            FieldErrorKind::Required => FieldError::required(&at, message),
            FieldErrorKind::Duplicate => FieldError::duplicate(&at, shown),
            _ => FieldError::invalid(&at, shown, message),
        }
    }
}

/// The value as errors of rules show it: its type.
fn type_word(schema: &Schema) -> &'static str {
    match schema.kind() {
        Type::Object | Type::Any => "object",
        Type::Array => "array",
        Type::String | Type::IntOrString | Type::Quantity => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
    }
}
