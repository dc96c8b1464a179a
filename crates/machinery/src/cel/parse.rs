//! From tokens to a tree.

use std::sync::OnceLock;

use super::ast::{Binary, Entry, Expr, Literal, Node};
use super::lex::{Token, tokens};
use super::{Flaw, MAX_DEPTH, MAX_NESTING, macros};

/// Reads a whole expression.
///
/// # Errors
/// Where it is none.
pub(super) fn expression(text: &str) -> Result<Expr, Flaw> {
    let mut tokens = tokens(text)?;
    tokens.reverse();
    let mut parser = Parser { tokens, nesting: 0 };
    let expression = parser.choice()?;
    match parser.next() {
        (_, Token::End) => Ok(expression),
        (at, token) => Err(unexpected(at, &token)),
    }
}

/// A node over those below it.
///
/// # Errors
/// If the tree gets too deep.
pub(super) fn node(at: usize, node: Node) -> Result<Expr, Flaw> {
    let mut expression = Expr { at, depth: 1, node };
    let below = expression.children().iter().map(|c| c.depth).max();
    expression.depth = 1 + below.unwrap_or(0);
    if expression.depth > MAX_DEPTH {
        return Err(too_deep(at));
    }
    Ok(expression)
}

fn too_deep(at: usize) -> Flaw {
    Flaw::new(at, "Syntax error: expression recursion limit exceeded")
}

fn unexpected(at: usize, token: &Token) -> Flaw {
    let shown = match token {
        Token::Sign(sign) => format!("'{sign}'"),
        Token::Name(name) => format!("'{name}'"),
        Token::Literal(_) => "literal".to_owned(),
        Token::End => "'<EOF>'".to_owned(),
    };
    Flaw::new(at, format!("Syntax error: mismatched input {shown}"))
}

struct Parser {
    /// In reverse.
    tokens: Vec<(usize, Token)>,
    /// Brackets and prefixes that are open.
    nesting: usize,
}

impl Parser {
    fn at(&self) -> usize {
        self.tokens.last().map_or(0, |(at, _)| *at)
    }

    fn next(&mut self) -> (usize, Token) {
        let end = self.at();
        self.tokens.pop().unwrap_or((end, Token::End))
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.tokens.last(), Some((_, Token::Sign(s))) if *s == sign)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.tokens.pop();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Flaw> {
        if self.eat(sign) {
            return Ok(());
        }
        let (at, token) = self.next();
        Err(unexpected(at, &token))
    }

    fn name(&mut self) -> Result<String, Flaw> {
        match self.next() {
            (_, Token::Name(name)) => Ok(name),
            // Maps have keys of any name.
            (_, Token::Sign("in")) => Ok("in".to_owned()),
            (_, Token::Literal(Literal::Bool(value))) => Ok(value.to_string()),
            (_, Token::Literal(Literal::Null)) => Ok("null".to_owned()),
            (at, token) => Err(unexpected(at, &token)),
        }
    }

    /// Reads what brackets or prefixes hold.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Flaw>) -> Result<T, Flaw> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(too_deep(self.at()));
        }
        let result = read(self);
        self.nesting -= 1;
        result
    }

    fn choice(&mut self) -> Result<Expr, Flaw> {
        let at = self.at();
        let condition = self.any()?;
        if !self.eat("?") {
            return Ok(condition);
        }
        let then = self.nested(Self::any)?;
        self.expect(":")?;
        let otherwise = self.nested(Self::choice)?;
        node(at, Node::Choice(Box::new([condition, then, otherwise])))
    }

    fn any(&mut self) -> Result<Expr, Flaw> {
        let at = self.at();
        let mut all = vec![self.all()?];
        while self.eat("||") {
            all.push(self.all()?);
        }
        match all.len() {
            1 => all.pop().ok_or_else(|| too_deep(at)),
            _ => node(at, Node::Or(all)),
        }
    }

    fn all(&mut self) -> Result<Expr, Flaw> {
        let at = self.at();
        let mut all = vec![self.relation()?];
        while self.eat("&&") {
            all.push(self.relation()?);
        }
        match all.len() {
            1 => all.pop().ok_or_else(|| too_deep(at)),
            _ => node(at, Node::And(all)),
        }
    }

    fn binary(
        &mut self,
        operators: &[(&str, Binary)],
        side: fn(&mut Self) -> Result<Expr, Flaw>,
    ) -> Result<Expr, Flaw> {
        let mut left = side(self)?;
        loop {
            let at = self.at();
            let Some((_, operator)) = operators.iter().find(|(sign, _)| self.is(sign)) else {
                return Ok(left);
            };
            self.next();
            let right = side(self)?;
            left = node(at, Node::Binary(*operator, Box::new([left, right])))?;
        }
    }

    fn relation(&mut self) -> Result<Expr, Flaw> {
        let operators = &[
            ("==", Binary::Equal),
            ("!=", Binary::NotEqual),
            ("<=", Binary::LessOrEqual),
            (">=", Binary::GreaterOrEqual),
            ("<", Binary::Less),
            (">", Binary::Greater),
            ("in", Binary::In),
        ];
        self.binary(operators, Self::sum)
    }

    fn sum(&mut self) -> Result<Expr, Flaw> {
        let operators = &[("+", Binary::Add), ("-", Binary::Subtract)];
        self.binary(operators, Self::product)
    }

    fn product(&mut self) -> Result<Expr, Flaw> {
        let operators = &[
            ("*", Binary::Multiply),
            ("/", Binary::Divide),
            ("%", Binary::Modulo),
        ];
        self.binary(operators, Self::unary)
    }

    fn unary(&mut self) -> Result<Expr, Flaw> {
        let at = self.at();
        if self.eat("!") {
            let of = self.nested(Self::unary)?;
            return node(at, Node::Not(Box::new(of)));
        }
        if self.eat("-") {
            let of = self.nested(Self::unary)?;
            return match of.node {
                Node::Literal(Literal::Int(number)) => {
                    node(at, Node::Literal(Literal::Int(number.wrapping_neg())))
                }
                _ => node(at, Node::Negate(Box::new(of))),
            };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Flaw> {
        let mut expression = self.primary()?;
        loop {
            let at = self.at();
            if self.eat(".") {
                let optional = self.eat("?");
                let name = self.name()?;
                expression = if !optional && self.eat("(") {
                    let arguments = self.arguments()?;
                    call(at, Some(expression), name, arguments)?
                } else {
                    let operand = Box::new(expression);
                    node(
                        at,
                        Node::Select {
                            operand,
                            field: name,
                            optional,
                        },
                    )?
                };
            } else if self.eat("[") {
                let optional = self.eat("?");
                let index = self.nested(Self::choice)?;
                self.expect("]")?;
                let (operand, index) = (Box::new(expression), Box::new(index));
                expression = node(
                    at,
                    Node::Index {
                        operand,
                        index,
                        optional,
                    },
                )?;
            } else if self.is("{")
                && let Some(name) = type_name(&expression)
            {
                self.next();
                let fields = self.nested(|p| p.entries("}", true))?;
                expression = node(at, Node::Object { name, fields })?;
            } else {
                return Ok(expression);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Flaw> {
        // A leading dot means the root, where we are anyway.
        self.eat(".");
        match self.next() {
            (at, Token::Literal(literal)) => node(at, Node::Literal(literal)),
            (at, Token::Name(name)) if self.eat("(") => {
                let arguments = self.arguments()?;
                call(at, None, name, arguments)
            }
            (at, Token::Name(name)) => node(at, Node::Name(name)),
            (_, Token::Sign("(")) => {
                let expression = self.nested(Self::choice)?;
                self.expect(")")?;
                Ok(expression)
            }
            (at, Token::Sign("[")) => {
                let entries = self.nested(Self::items)?;
                node(at, Node::List(entries))
            }
            (at, Token::Sign("{")) => {
                let entries = self.nested(|p| p.entries("}", false))?;
                node(at, Node::Map(entries))
            }
            (at, token) => Err(unexpected(at, &token)),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, Flaw> {
        let mut arguments = Vec::new();
        if self.eat(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.nested(Self::choice)?);
            if !self.eat(",") {
                self.expect(")")?;
                return Ok(arguments);
            }
        }
    }

    fn items(&mut self) -> Result<Vec<Entry>, Flaw> {
        let mut entries = Vec::new();
        while !self.eat("]") {
            let optional = self.eat("?");
            let value = self.choice()?;
            entries.push(Entry {
                optional,
                key: None,
                value,
            });
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(entries)
    }

    /// The entries of a map, or the fields of an object, whose names are no
    /// expressions.
    fn entries(&mut self, end: &str, fields: bool) -> Result<Vec<Entry>, Flaw> {
        let mut entries = Vec::new();
        while !self.eat(end) {
            let optional = self.eat("?");
            let at = self.at();
            let key = if fields {
                let name = self.name()?;
                node(at, Node::Literal(Literal::Text(name)))?
            } else {
                self.choice()?
            };
            self.expect(":")?;
            let value = self.choice()?;
            entries.push(Entry {
                optional,
                key: Some(key),
                value,
            });
            if !self.eat(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(entries)
    }
}

/// A call, or the macro of that name.
fn call(at: usize, target: Option<Expr>, name: String, arguments: Vec<Expr>) -> Result<Expr, Flaw> {
    match macros::expand(at, target, &name, arguments)? {
        macros::Expanded::Macro(macro_node) => node(at, macro_node),
        macros::Expanded::Call(target, arguments) => {
            let target = target.map(Box::new);
            let pattern = OnceLock::new();
            node(
                at,
                Node::Call {
                    target,
                    name,
                    arguments,
                    pattern,
                },
            )
        }
    }
}

/// `A.b.c`, if an expression is such a name.
pub(super) fn type_name(expression: &Expr) -> Option<String> {
    match &expression.node {
        Node::Name(name) => Some(name.clone()),
        Node::Select {
            operand,
            field,
            optional: false,
        } => Some(format!("{}.{field}", type_name(operand)?)),
        _ => None,
    }
}
