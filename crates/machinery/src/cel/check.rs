//! Names in an expression: each is a variable or a function that there is.

use super::Flaw;
use super::ast::{Expr, Node};
use super::functions::{NAMESPACES, is_function, is_method};

/// Names of types, which are values.
pub(super) const TYPES: &[&str] = &[
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
];

/// Types of objects that policies may make.
const OBJECTS: &[&str] = &["Object", "JSONPatch"];

/// Checks the names of an expression.
///
/// # Errors
/// The first that nobody declares.
pub(super) fn check(expression: &Expr, variables: &[&str]) -> Result<(), Flaw> {
    let mut scope: Vec<&str> = variables.to_vec();
    walk(expression, &mut scope)
}

fn undeclared<T>(at: usize, name: &str) -> Result<T, Flaw> {
    Err(Flaw::new(
        at,
        format!("undeclared reference to '{name}' (in container '')"),
    ))
}

fn walk<'e>(expression: &'e Expr, scope: &mut Vec<&'e str>) -> Result<(), Flaw> {
    let at = expression.at;
    match &expression.node {
        Node::Name(name) if !scope.contains(&name.as_str()) && !TYPES.contains(&name.as_str()) => {
            return undeclared(at, name);
        }
        Node::Object { name, fields } => {
            let root = name.split('.').next().unwrap_or_default();
            if !OBJECTS.contains(&root) {
                return undeclared(at, name);
            }
            return fields.iter().try_for_each(|f| walk(&f.value, scope));
        }
        Node::Call {
            target,
            name,
            arguments,
            ..
        } => {
            let known = match target {
                None => is_function(name, arguments.len()),
                Some(target) => {
                    if let Some(space) = namespace(target, scope) {
                        if !is_function(&format!("{space}.{name}"), arguments.len()) {
                            return undeclared(at, &format!("{space}.{name}"));
                        }
                        return arguments.iter().try_for_each(|a| walk(a, scope));
                    }
                    is_method(name)
                }
            };
            if !known {
                return undeclared(at, name);
            }
        }
        Node::Comprehension {
            range,
            variables,
            steps,
            ..
        } => {
            walk(range, scope)?;
            let held = scope.len();
            scope.extend(variables.iter().map(String::as_str));
            let result = steps.iter().try_for_each(|s| walk(s, scope));
            scope.truncate(held);
            return result;
        }
        Node::Bind {
            variable,
            value,
            result,
            ..
        } => {
            walk(value, scope)?;
            scope.push(variable);
            let outcome = walk(result, scope);
            scope.pop();
            return outcome;
        }
        _ => {}
    }
    let below = expression.children();
    below.into_iter().try_for_each(|child| walk(child, scope))
}

/// The name before a function's, as in `sets.contains`, unless it is that of a
/// variable.
fn namespace<'e>(target: &'e Expr, scope: &[&str]) -> Option<&'e str> {
    match &target.node {
        Node::Name(name) if NAMESPACES.contains(&name.as_str()) => {
            (!scope.contains(&name.as_str())).then_some(name)
        }
        _ => None,
    }
}

/// True if a name occurs as a variable that no macro declares.
pub(super) fn mentions(expression: &Expr, variable: &str) -> bool {
    match &expression.node {
        Node::Name(name) => name == variable,
        _ => {
            let below = expression.children();
            below.into_iter().any(|child| mentions(child, variable))
        }
    }
}
