//! Calls that are macros: their arguments are expressions, not values.

use super::Flaw;
use super::ast::{Binding, Expr, Macro, Node};

/// What a call turned out to be.
pub(super) enum Expanded {
    Macro(Node),
    /// An ordinary call, with its target and arguments.
    Call(Option<Expr>, Vec<Expr>),
}

/// Tells macros from calls.
///
/// # Errors
/// A macro with arguments that it does not take.
pub(super) fn expand(
    at: usize,
    target: Option<Expr>,
    name: &str,
    mut arguments: Vec<Expr>,
) -> Result<Expanded, Flaw> {
    let Some(target) = target else {
        if name != "has" || arguments.len() != 1 {
            return Ok(Expanded::Call(None, arguments));
        }
        let flaw = || Flaw::new(at, "invalid argument to has() macro");
        let argument = arguments.pop().ok_or_else(flaw)?;
        return match argument.node {
            Node::Select { operand, field, .. } => {
                Ok(Expanded::Macro(Node::Has { operand, field }))
            }
            _ => Err(flaw()),
        };
    };
    let count = arguments.len();
    let is_cel = matches!(&target.node, Node::Name(n) if n == "cel");
    let kind = match (name, count) {
        ("all", 2 | 3) => Macro::All,
        ("exists", 2 | 3) => Macro::Exists,
        ("exists_one", 2) | ("existsOne", 2 | 3) => Macro::ExistsOne,
        ("map", 2 | 3) => Macro::Map,
        ("filter", 2) => Macro::Filter,
        ("transformList", 3 | 4) => Macro::TransformList,
        ("transformMap", 3 | 4) => Macro::TransformMap,
        ("transformMapEntry", 3 | 4) => Macro::TransformMapEntry,
        ("bind", 3) if is_cel => return bind(Binding::Bind, None, arguments),
        ("optMap", 2) => return bind(Binding::OptionalMap, Some(target), arguments),
        ("optFlatMap", 2) => return bind(Binding::OptionalFlatMap, Some(target), arguments),
        _ => return Ok(Expanded::Call(Some(target), arguments)),
    };
    let names = match kind {
        // Three arguments of `map` are a variable, a filter and a result.
        Macro::Map | Macro::Filter => 1,
        Macro::All | Macro::Exists | Macro::ExistsOne => count - 1,
        Macro::TransformList | Macro::TransformMap | Macro::TransformMapEntry => 2,
    };
    let steps = arguments.split_off(names);
    let variables: Result<Vec<String>, Flaw> = arguments.into_iter().map(variable).collect();
    Ok(Expanded::Macro(Node::Comprehension {
        kind,
        range: Box::new(target),
        variables: variables?,
        steps,
    }))
}

fn variable(expression: Expr) -> Result<String, Flaw> {
    match expression.node {
        Node::Name(name) => Ok(name),
        _ => Err(Flaw::new(expression.at, "argument must be a simple name")),
    }
}

/// `cel.bind(v, value, result)` or `value.optMap(v, result)`.
fn bind(kind: Binding, value: Option<Expr>, mut arguments: Vec<Expr>) -> Result<Expanded, Flaw> {
    let missing = || Flaw::new(0, "missing argument");
    let result = Box::new(arguments.pop().ok_or_else(missing)?);
    let value = match value {
        Some(value) => value,
        None => arguments.pop().ok_or_else(missing)?,
    };
    let variable = variable(arguments.pop().ok_or_else(missing)?)?;
    Ok(Expanded::Macro(Node::Bind {
        kind,
        variable,
        value: Box::new(value),
        result,
    }))
}
