//! Walking an expression for its value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::{Binding, Entry, Expr, Literal, Macro, Node};
use super::check::TYPES;
use super::value::Key;
use super::{Error, Val, fail, functions, ops};

/// The variables of an evaluation.
pub trait Activation<'a> {
    /// The value of a variable, if there is one of that name.
    fn variable(&self, name: &str) -> Option<Val<'a>>;
}

/// The work that may still be done, about one unit for each step, item
/// looked at or ten bytes of text.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// Upstream's limit for one expression.
    pub const PER_CALL: u64 = 1_000_000;
    /// Upstream's limit for all expressions of one policy or object.
    pub const TOTAL: u64 = 10_000_000;

    /// So much work.
    pub fn new(units: u64) -> Self {
        Self { left: units }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes units away.
    ///
    /// # Errors
    /// `OverBudget` if there are not so many.
    pub fn spend(&mut self, units: usize) -> Result<(), Error> {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Error::OverBudget)
            }
        }
    }
}

pub(super) struct Evaluation<'a, 'b> {
    activation: &'b dyn Activation<'a>,
    pub(super) budget: &'b mut Budget,
    /// The variables of macros, innermost last.
    locals: Vec<(&'a str, Val<'a>)>,
}

type Outcome<'a> = Result<Val<'a>, Error>;

impl<'a, 'b> Evaluation<'a, 'b> {
    pub(super) fn new(activation: &'b dyn Activation<'a>, budget: &'b mut Budget) -> Self {
        Self {
            activation,
            budget,
            locals: Vec::new(),
        }
    }

    #[expect(clippy::too_many_lines, reason = "one table, an arm an expression")]
    pub(super) fn run(&mut self, expression: &'a Expr) -> Outcome<'a> {
        self.budget.spend(1)?;
        match &expression.node {
            Node::Literal(literal) => Ok(constant(literal)),
            Node::Name(name) => self.name(name),
            Node::Select {
                operand,
                field,
                optional,
            } => self.select(operand, field, *optional),
            Node::Has { operand, field } => {
                let value = self.run(operand)?;
                Ok(Val::Bool(value.field(field)?.is_some()))
            }
            Node::Index {
                operand,
                index,
                optional,
            } => {
                let (value, index) = (self.run(operand)?, self.run(index)?);
                if *optional || matches!(value, Val::Optional(_)) {
                    return optional_index(&value, &index);
                }
                ops::index(&value, &index)
            }
            Node::Not(of) => match self.run(of)? {
                Val::Bool(value) => Ok(Val::Bool(!value)),
                _ => fail("no such overload"),
            },
            Node::Negate(of) => ops::negate(&self.run(of)?),
            Node::And(all) => self.logic(all, false),
            Node::Or(all) => self.logic(all, true),
            Node::Choice(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.run(condition)? {
                    Val::Bool(true) => self.run(then),
                    Val::Bool(false) => self.run(otherwise),
                    _ => fail("no such overload"),
                }
            }
            Node::Binary(operator, sides) => {
                let [left, right] = &**sides;
                let (left, right) = (self.run(left)?, self.run(right)?);
                ops::binary(*operator, &left, &right, self.budget)
            }
            Node::Call {
                target,
                name,
                arguments,
                pattern,
            } => {
                let mut target = target.as_deref();
                let mut full = Cow::Borrowed(name.as_str());
                if let Some(Node::Name(space)) = target.map(|t| &t.node)
                    && functions::NAMESPACES.contains(&space.as_str())
                    && self.lookup(space).is_none()
                {
                    full = Cow::Owned(format!("{space}.{name}"));
                    target = None;
                }
                let target = target.map(|t| self.run(t)).transpose()?;
                let arguments: Result<Vec<Val<'a>>, Error> =
                    arguments.iter().map(|a| self.run(a)).collect();
                let call = functions::Call {
                    name: &full,
                    target,
                    arguments: arguments?,
                    pattern,
                    budget: self.budget,
                };
                functions::call(call)
            }
            Node::List(entries) => self.list(entries),
            Node::Map(entries) => self.map(entries),
            Node::Object { name, fields } => {
                let mut value = self.map(fields)?;
                if name == "JSONPatch"
                    && let Val::Map(map) = &mut value
                {
                    let mark = Key::Text(functions::PATCH_MARK.to_owned());
                    Arc::make_mut(map).insert(mark, Val::Bool(true));
                }
                Ok(value)
            }
            Node::Comprehension {
                kind,
                range,
                variables,
                steps,
            } => {
                let range = self.run(range)?;
                self.comprehension(*kind, &range, variables, steps)
            }
            Node::Bind {
                kind,
                variable,
                value,
                result,
            } => {
                let value = self.run(value)?;
                self.bind(*kind, variable, value, result)
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<Val<'a>> {
        let mut locals = self.locals.iter().rev();
        match locals.find(|(local, _)| *local == name) {
            Some((_, value)) => Some(value.clone()),
            None => self.activation.variable(name),
        }
    }

    fn name(&self, name: &'a str) -> Outcome<'a> {
        if let Some(value) = self.lookup(name) {
            return Ok(value);
        }
        match TYPES.iter().find(|t| **t == name) {
            Some(found) => Ok(Val::Type(found)),
            None => fail(format!("no such attribute: {name}")),
        }
    }

    fn select(&mut self, operand: &'a Expr, field: &str, optional: bool) -> Outcome<'a> {
        let value = self.run(operand)?;
        if optional || matches!(value, Val::Optional(_)) {
            let found = value.field(field)?;
            return Ok(Val::Optional(found.map(Arc::new)));
        }
        match value.field(field)? {
            Some(found) => Ok(found),
            None => fail(format!("no such key: {field}")),
        }
    }

    /// `&&` and `||`: one side that decides is enough, whatever the others
    /// fail with.
    fn logic(&mut self, all: &'a [Expr], decides: bool) -> Outcome<'a> {
        let mut failure = None;
        for side in all {
            match self.run(side) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failure = Some(Error::Failed("no such overload".to_owned())),
                Err(Error::OverBudget) => return Err(Error::OverBudget),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn list(&mut self, entries: &'a [Entry]) -> Outcome<'a> {
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let value = self.run(&entry.value)?;
            items.extend(given(entry, value)?);
        }
        Ok(Val::list(items))
    }

    fn map(&mut self, entries: &'a [Entry]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for entry in entries {
            let Some(key) = &entry.key else { continue };
            let key = Key::of(&self.run(key)?)?;
            let value = self.run(&entry.value)?;
            if let Some(value) = given(entry, value)? {
                map.insert(key, value);
            }
        }
        Ok(Val::Map(Arc::new(map)))
    }

    fn bind(
        &mut self,
        kind: Binding,
        variable: &'a str,
        value: Val<'a>,
        result: &'a Expr,
    ) -> Outcome<'a> {
        let value = match (kind, value) {
            (Binding::Bind, value) => value,
            (_, Val::Optional(None)) => return Ok(Val::Optional(None)),
            (_, Val::Optional(Some(value))) => (*value).clone(),
            _ => return fail("no such overload"),
        };
        self.locals.push((variable, value));
        let outcome = self.run(result);
        self.locals.pop();
        match kind {
            Binding::OptionalMap => outcome.map(Val::some),
            Binding::Bind | Binding::OptionalFlatMap => outcome,
        }
    }

    fn comprehension(
        &mut self,
        kind: Macro,
        range: &Val<'a>,
        variables: &'a [String],
        steps: &'a [Expr],
    ) -> Outcome<'a> {
        let entries = entries(range, variables.len() == 2)?;
        let mut gathered = Gathered::new(kind);
        for (key, value) in entries {
            self.budget.spend(1)?;
            let held = self.locals.len();
            match variables {
                [one] => self.locals.push((one, key.clone())),
                [first, second] => {
                    self.locals.push((first, key.clone()));
                    self.locals.push((second, value));
                }
                _ => return fail("no such overload"),
            }
            let outcome = self.item(&mut gathered, key, steps);
            self.locals.truncate(held);
            if outcome? {
                break;
            }
        }
        gathered.result()
    }

    /// One round; true if the result is certain.
    fn item(
        &mut self,
        gathered: &mut Gathered<'a>,
        key: Val<'a>,
        steps: &'a [Expr],
    ) -> Result<bool, Error> {
        let (filter, step) = match steps {
            [step] => (None, step),
            [filter, step] => (Some(filter), step),
            _ => return fail("no such overload"),
        };
        if let Some(filter) = filter {
            match self.run(filter)? {
                Val::Bool(true) => {}
                Val::Bool(false) => return Ok(false),
                _ => return fail("no such overload"),
            }
        }
        let value = match self.run(step) {
            Err(Error::Failed(why)) if matches!(gathered.kind, Macro::All | Macro::Exists) => {
                gathered.failure = Some(why);
                return Ok(false);
            }
            outcome => outcome?,
        };
        gathered.add(key, value)
    }
}

/// What a macro has gathered so far.
struct Gathered<'a> {
    kind: Macro,
    items: Vec<Val<'a>>,
    map: BTreeMap<Key, Val<'a>>,
    count: usize,
    /// An item that decided `all` or `exists`.
    decided: bool,
    /// An item that failed, which counts unless another decides.
    failure: Option<String>,
}

impl<'a> Gathered<'a> {
    fn new(kind: Macro) -> Self {
        Self {
            kind,
            items: Vec::new(),
            map: BTreeMap::new(),
            count: 0,
            decided: false,
            failure: None,
        }
    }

    fn add(&mut self, key: Val<'a>, value: Val<'a>) -> Result<bool, Error> {
        match (self.kind, value) {
            (Macro::All, Val::Bool(value)) => self.decided = !value,
            (Macro::Exists, Val::Bool(value)) => self.decided = value,
            (Macro::ExistsOne, Val::Bool(value)) => self.count += usize::from(value),
            (Macro::Filter, Val::Bool(true)) => self.items.push(key),
            (Macro::Filter, Val::Bool(false)) => {}
            (Macro::Map | Macro::TransformList, value) => self.items.push(value),
            (Macro::TransformMap, value) => {
                self.map.insert(Key::of(&key)?, value);
            }
            (Macro::TransformMapEntry, value) => {
                let Some(entries) = value.entries() else {
                    return fail("no such overload");
                };
                for (key, value) in entries {
                    let key = Key::of(&key)?;
                    if self.map.insert(key, value).is_some() {
                        return fail("insert failed: key already exists");
                    }
                }
            }
            _ => return fail("no such overload"),
        }
        Ok(self.decided)
    }

    fn result(self) -> Outcome<'a> {
        if let (false, Some(why)) = (self.decided, self.failure) {
            return fail(why);
        }
        Ok(match self.kind {
            Macro::All => Val::Bool(!self.decided),
            Macro::Exists => Val::Bool(self.decided),
            Macro::ExistsOne => Val::Bool(self.count == 1),
            Macro::Map | Macro::Filter | Macro::TransformList => Val::list(self.items),
            Macro::TransformMap | Macro::TransformMapEntry => Val::Map(Arc::new(self.map)),
        })
    }
}

/// What a macro runs over: items (with their index, if it has two variables)
/// or keys with their values.
fn entries<'a>(range: &Val<'a>, pairs: bool) -> Result<Vec<(Val<'a>, Val<'a>)>, Error> {
    if let Some(items) = range.items() {
        let index = |index: usize| Val::Int(i64::try_from(index).unwrap_or(i64::MAX));
        let items = items.into_iter().enumerate();
        return Ok(items
            .map(|(at, item)| {
                if pairs {
                    (index(at), item)
                } else {
                    (item, Val::Null)
                }
            })
            .collect());
    }
    match range.entries() {
        Some(entries) => Ok(entries),
        None => fail(format!(
            "no such overload: a {} has no items",
            range.type_name()
        )),
    }
}

/// The value of an entry: none, if the entry is optional and so is its value.
fn given<'a>(entry: &Entry, value: Val<'a>) -> Result<Option<Val<'a>>, Error> {
    match (entry.optional, value) {
        (true, Val::Optional(value)) => Ok(value.map(|v| (*v).clone())),
        (true, _) => fail("cannot initialize optional entry from a value that is none"),
        (false, value) => Ok(Some(value)),
    }
}

fn optional_index<'a>(value: &Val<'a>, index: &Val<'a>) -> Outcome<'a> {
    let held = match value {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(held)) => held,
        value => value,
    };
    let found = if held.is_list() {
        let at = index.whole().and_then(|i| usize::try_from(i).ok());
        at.and_then(|at| held.item(at))
    } else {
        held.at_key(index)?
    };
    Ok(Val::Optional(found.map(Arc::new)))
}

fn constant(literal: &Literal) -> Val<'_> {
    match literal {
        Literal::Null => Val::Null,
        Literal::Bool(value) => Val::Bool(*value),
        Literal::Int(number) => Val::Int(*number),
        Literal::Uint(number) => Val::Uint(*number),
        Literal::Double(number) => Val::Double(*number),
        Literal::Text(text) => Val::Text(Cow::Borrowed(text)),
        Literal::Bytes(bytes) => Val::Bytes(Arc::new(bytes.clone())),
    }
}
