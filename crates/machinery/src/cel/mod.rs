//! The Common Expression Language as Kubernetes uses it: rules of custom
//! kinds, admission policies, match conditions of webhooks.
//!
//! Expressions come from tenants, so everything about them is bounded: their
//! length and depth when they are read, and the work that one evaluation may
//! do. There is no type checker; what does not fit is an error at evaluation.
//! Names that nobody declares are errors when the expression is read.

mod ast;
mod check;
mod eval;
mod functions;
mod lex;
mod macros;
mod ops;
mod parse;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use self::ast::Expr;

pub use self::eval::{Activation, Budget};
pub use self::value::{Key, Val};

/// Bytes of one expression; upstream's limit for rules is the body's, but no
/// one writes longer ones.
const MAX_EXPRESSION: usize = 16 << 10;
/// Levels of one expression: what a thread's stack bears in a build without
/// optimisation. Chains of `&&` and of `||` are one level.
const MAX_DEPTH: usize = 160;
/// Brackets and prefixes open at once. Each takes a dozen calls of the parser.
const MAX_NESTING: usize = 50;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Something in it does not fit.
    Failed(String),
    /// It asked for more work than it may.
    OverBudget,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(why) => f.write_str(why),
            Self::OverBudget => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

impl std::error::Error for Error {}

fn fail<T>(why: impl Into<String>) -> Result<T, Error> {
    Err(Error::Failed(why.into()))
}

/// An expression that was read and checked.
#[derive(Debug)]
pub struct Program {
    expression: Expr,
}

impl Program {
    /// Reads an expression in which the variables named may occur.
    ///
    /// # Errors
    /// Where and why it cannot be read, in upstream's form.
    pub fn compile(text: &str, variables: &[&str]) -> Result<Self, String> {
        if text.len() > MAX_EXPRESSION {
            return Err(format!(
                "expression code point size exceeds limit: size: {}, limit {MAX_EXPRESSION}",
                text.len()
            ));
        }
        let expression = parse::expression(text).map_err(|e| e.shown(text))?;
        check::check(&expression, variables).map_err(|e| e.shown(text))?;
        Ok(Self { expression })
    }

    /// Its value, with the variables that `activation` gives.
    ///
    /// # Errors
    /// Whatever does not fit, and work beyond the budget.
    pub fn evaluate<'a>(
        &'a self,
        activation: &dyn Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Val<'a>, Error> {
        eval::Evaluation::new(activation, budget).run(&self.expression)
    }

    /// As `evaluate`, for an expression that is to be true or false.
    ///
    /// # Errors
    /// As `evaluate`, and if it is neither.
    pub fn holds<'a>(
        &'a self,
        activation: &dyn Activation<'a>,
        budget: &mut Budget,
    ) -> Result<bool, Error> {
        match self.evaluate(activation, budget)? {
            Val::Bool(value) => Ok(value),
            other => fail(format!(
                "cel expression must evaluate to a bool, got {}",
                other.type_name()
            )),
        }
    }

    /// True if it names the variable.
    pub fn mentions(&self, variable: &str) -> bool {
        check::mentions(&self.expression, variable)
    }
}

/// Where in the text something is wrong.
#[derive(Debug)]
struct Flaw {
    /// In bytes.
    at: usize,
    why: String,
}

impl Flaw {
    fn new(at: usize, why: impl Into<String>) -> Self {
        Self {
            at,
            why: why.into(),
        }
    }

    /// With line, column and the line itself.
    fn shown(&self, text: &str) -> String {
        let before = text.get(..self.at).unwrap_or(text);
        let line = before.matches('\n').count();
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count();
        let source = text.lines().nth(line).unwrap_or_default();
        let dots = ".".repeat(column);
        format!(
            "ERROR: <input>:{}:{}: {}\n | {source}\n | {dots}^",
            line + 1,
            column + 1,
            self.why
        )
    }
}
