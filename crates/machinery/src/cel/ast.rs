//! What an expression is made of.

use std::sync::OnceLock;

use regex::Regex;

/// A node, with where it starts in the text and how many levels it has.
#[derive(Debug)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) depth: usize,
    pub(super) node: Node,
}

/// A constant.
#[derive(Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Operators of two sides that need both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

/// An item of a list, an entry of a map or a field of an object; left out if
/// it is optional and has no value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) optional: bool,
    /// Absent in lists.
    pub(super) key: Option<Expr>,
    pub(super) value: Expr,
}

#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Name(String),
    /// `operand.field` or `operand.?field`.
    Select {
        operand: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// `has(operand.field)`.
    Has {
        operand: Box<Expr>,
        field: String,
    },
    /// `operand[index]` or `operand[?index]`.
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// Two or more.
    And(Vec<Expr>),
    /// Two or more.
    Or(Vec<Expr>),
    /// Condition, then, else.
    Choice(Box<[Expr; 3]>),
    Binary(Binary, Box<[Expr; 2]>),
    Call {
        target: Option<Box<Expr>>,
        name: String,
        arguments: Vec<Expr>,
        /// The compiled pattern of a call whose pattern is a constant.
        pattern: OnceLock<Option<Regex>>,
    },
    List(Vec<Entry>),
    Map(Vec<Entry>),
    /// `Name.of.type{field: value}`.
    Object {
        name: String,
        fields: Vec<Entry>,
    },
    /// A macro over a list or map.
    Comprehension {
        kind: Macro,
        range: Box<Expr>,
        /// One variable, or two: key or index, and value.
        variables: Vec<String>,
        /// What each item is tested with or turned into; `map` may have a
        /// filter first, `transformMapEntry` likewise.
        steps: Vec<Expr>,
    },
    /// `cel.bind(variable, value, result)`, `optMap` and `optFlatMap`.
    Bind {
        kind: Binding,
        variable: String,
        value: Box<Expr>,
        result: Box<Expr>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Bind,
    OptionalMap,
    OptionalFlatMap,
}

impl Expr {
    /// The nodes directly below.
    pub(super) fn children(&self) -> Vec<&Expr> {
        match &self.node {
            Node::Literal(_) | Node::Name(_) => Vec::new(),
            Node::Select { operand, .. } | Node::Has { operand, .. } => vec![operand],
            Node::Index { operand, index, .. } => vec![operand, index],
            Node::Not(of) | Node::Negate(of) => vec![of],
            Node::And(all) | Node::Or(all) => all.iter().collect(),
            Node::Choice(parts) => parts.iter().collect(),
            Node::Binary(_, sides) => sides.iter().collect(),
            Node::Call {
                target, arguments, ..
            } => target.iter().map(|t| &**t).chain(arguments).collect(),
            Node::List(entries)
            | Node::Map(entries)
            | Node::Object {
                fields: entries, ..
            } => {
                let parts = entries.iter();
                parts
                    .flat_map(|e| e.key.iter().chain(std::iter::once(&e.value)))
                    .collect()
            }
            Node::Comprehension { range, steps, .. } => {
                std::iter::once(&**range).chain(steps).collect()
            }
            Node::Bind { value, result, .. } => vec![value, result],
        }
    }
}
