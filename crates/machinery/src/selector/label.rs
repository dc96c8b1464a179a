//! Label selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde_json::{Map, Value};

use super::{SelectorError, check_length};
use crate::names;

/// Something that has labels.
pub trait Labels {
    /// The value of one label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for HashMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// A map of labels as JSON; anything else, null included, has no labels.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_object()?.get(key)?.as_str()
    }
}

impl<T: Labels> Labels for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl Labels for [(&str, &str)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelOperator {
    /// `key=value` (or `==`): the label has the value.
    Equals,
    /// `key!=value`: the label is absent or has another value.
    NotEquals,
    /// `key in (a,b)`: the label has one of the values.
    In,
    /// `key notin (a,b)`: the label is absent or has none of the values.
    NotIn,
    /// `key`: the label is present.
    Exists,
    /// `!key`: the label is absent.
    DoesNotExist,
    /// `key>n`: the label is an integer greater than that.
    GreaterThan,
    /// `key<n`: the label is an integer less than that.
    LessThan,
}

/// One condition of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// How to compare.
    pub operator: LabelOperator,
    /// What to compare with.
    pub values: BTreeSet<String>,
}

impl LabelRequirement {
    /// Checks key, operator and values.
    pub fn new(
        key: &str,
        operator: LabelOperator,
        values: impl IntoIterator<Item = String>,
    ) -> Result<Self, SelectorError> {
        let values: BTreeSet<String> = values.into_iter().collect();
        if let Some(why) = names::qualified_name_errors(key).into_iter().next() {
            return Err(refused("key", key, &why));
        }
        let count_is_right = match operator {
            LabelOperator::In | LabelOperator::NotIn => !values.is_empty(),
            LabelOperator::Equals
            | LabelOperator::NotEquals
            | LabelOperator::GreaterThan
            | LabelOperator::LessThan => values.len() == 1,
            LabelOperator::Exists | LabelOperator::DoesNotExist => values.is_empty(),
        };
        if !count_is_right {
            return Err(SelectorError(match operator {
                LabelOperator::In | LabelOperator::NotIn => {
                    "for 'in', 'notin' operators, values set can't be empty".into()
                }
                LabelOperator::Exists | LabelOperator::DoesNotExist => {
                    "values set must be empty for exists and does not exist".into()
                }
                _ => "exact-match compatibility requires one single value".into(),
            }));
        }
        for value in &values {
            let numeric = matches!(
                operator,
                LabelOperator::GreaterThan | LabelOperator::LessThan
            );
            if numeric && value.parse::<i64>().is_err() {
                let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                return Err(refused("values[0]", value, why));
            }
            if let Some(why) = names::label_value_errors(value).into_iter().next() {
                return Err(refused(&format!("values[0][{key}]"), value, &why));
            }
        }
        Ok(Self {
            key: key.to_owned(),
            operator,
            values,
        })
    }

    /// True if the labels satisfy the condition.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        match self.operator {
            LabelOperator::Equals | LabelOperator::In => {
                label.is_some_and(|v| self.values.contains(v))
            }
            LabelOperator::NotEquals | LabelOperator::NotIn => {
                label.is_none_or(|v| !self.values.contains(v))
            }
            LabelOperator::Exists => label.is_some(),
            LabelOperator::DoesNotExist => label.is_none(),
            LabelOperator::GreaterThan => {
                self.compare(label).is_some_and(|(have, want)| have > want)
            }
            LabelOperator::LessThan => self.compare(label).is_some_and(|(have, want)| have < want),
        }
    }

    fn compare(&self, label: Option<&str>) -> Option<(i64, i64)> {
        Some((
            label?.parse().ok()?,
            self.values.first()?.parse::<i64>().ok()?,
        ))
    }
}

fn refused(what: &str, value: &str, why: &str) -> SelectorError {
    SelectorError(format!(
        "{what}: Invalid value: {}: {why}",
        Value::from(value)
    ))
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            LabelOperator::Equals => write!(f, "{key}={values}"),
            LabelOperator::NotEquals => write!(f, "{key}!={values}"),
            LabelOperator::In => write!(f, "{key} in ({values})"),
            LabelOperator::NotIn => write!(f, "{key} notin ({values})"),
            LabelOperator::Exists => write!(f, "{key}"),
            LabelOperator::DoesNotExist => write!(f, "!{key}"),
            LabelOperator::GreaterThan => write!(f, "{key}>{values}"),
            LabelOperator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Conditions on labels that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
    nothing: bool,
}

impl LabelSelector {
    /// The selector that every object satisfies.
    pub fn everything() -> Self {
        Self::default()
    }

    /// The selector that no object satisfies.
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Reads the form of query parameters and of `kubectl -l`:
    /// `a=b,c!=d,e in (f,g),h notin (i),j,!k`. The empty text is everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let mut requirements = Parser::new(text).requirements()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads a `meta/v1` LabelSelector (`matchLabels`, `matchExpressions`).
    /// As upstream, an absent selector (null) matches nothing and an empty one
    /// everything.
    pub fn from_value(selector: &Value) -> Result<Self, SelectorError> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(LabelRequirement::new(key, LabelOperator::Equals, [value])?);
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(requirement_from_value(expression)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// The selector of a plain map of labels, such as a Service's
    /// `spec.selector`. Anything but a map matches nothing.
    pub fn from_map(labels: &Value) -> Self {
        let Some(map) = labels.as_object() else {
            return Self::nothing();
        };
        let requirements = map
            .iter()
            .map(|(key, value)| LabelRequirement {
                key: key.clone(),
                operator: LabelOperator::Equals,
                values: BTreeSet::from([value.as_str().unwrap_or_default().to_owned()]),
            })
            .collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// The conditions, ordered by key.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// True if every object satisfies the selector.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// True if the labels satisfy all conditions.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// True if the object's `metadata.labels` satisfy all conditions.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object.pointer("/metadata/labels"))
    }
}

fn requirement_from_value(expression: &Value) -> Result<LabelRequirement, SelectorError> {
    let text = |name: &str| {
        expression
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let operator = match text("operator") {
        "In" => LabelOperator::In,
        "NotIn" => LabelOperator::NotIn,
        "Exists" => LabelOperator::Exists,
        "DoesNotExist" => LabelOperator::DoesNotExist,
        other => {
            return Err(SelectorError(format!(
                "{other:?} is not a valid label selector operator"
            )));
        }
    };
    let values = expression
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap_or_default().to_owned());
    LabelRequirement::new(text("key"), operator, values)
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// What the text form consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Comma,
    Open,
    Close,
    Bang,
    Equals,
    NotEquals,
    Greater,
    Less,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Bang => "!",
            Token::Equals => "=",
            Token::NotEquals => "!=",
            Token::Greater => ">",
            Token::Less => "<",
            Token::End => "",
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (token, length) = match self.rest.as_bytes() {
            [] => (Token::End, 0),
            [b',', ..] => (Token::Comma, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            [b'!', b'=', ..] => (Token::NotEquals, 2),
            [b'!', ..] => (Token::Bang, 1),
            [b'=', b'=', ..] => (Token::Equals, 2),
            [b'=', ..] => (Token::Equals, 1),
            [b'>', ..] => (Token::Greater, 1),
            [b'<', ..] => (Token::Less, 1),
            _ => {
                let special = [' ', '\t', '\r', '\n', ',', '(', ')', '!', '=', '<', '>'];
                let end = self.rest.find(special).unwrap_or(self.rest.len());
                (Token::Word(&self.rest[..end]), end)
            }
        };
        self.rest = &self.rest[length..];
        token
    }

    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn requirements(mut self) -> Result<Vec<LabelRequirement>, SelectorError> {
        let mut requirements = Vec::new();
        if self.peek() == Token::End {
            return Ok(requirements);
        }
        loop {
            match self.peek() {
                Token::Word(_) | Token::Bang => {
                    requirements.push(self.requirement().map_err(|SelectorError(why)| {
                        SelectorError(format!("unable to parse requirement: {why}"))
                    })?)
                }
                other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Comma if matches!(self.peek(), Token::Word(_) | Token::Bang) => {}
                Token::Comma => return Err(unexpected(self.peek(), "identifier after ','")),
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let mut negated = false;
        let mut token = self.next();
        if token == Token::Bang {
            negated = true;
            token = self.next();
        }
        let Token::Word(key) = token else {
            return Err(unexpected(token, "identifier"));
        };
        if negated {
            return LabelRequirement::new(key, LabelOperator::DoesNotExist, []);
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return LabelRequirement::new(key, LabelOperator::Exists, []);
        }
        let operator = match self.next() {
            Token::Equals => LabelOperator::Equals,
            Token::NotEquals => LabelOperator::NotEquals,
            Token::Greater => LabelOperator::GreaterThan,
            Token::Less => LabelOperator::LessThan,
            Token::Word("in") => LabelOperator::In,
            Token::Word("notin") => LabelOperator::NotIn,
            other => {
                let wanted = "in, notin, =, ==, !=, gt, lt";
                return Err(SelectorError(format!(
                    "found '{other}', expected: {wanted}"
                )));
            }
        };
        let values = if matches!(operator, LabelOperator::In | LabelOperator::NotIn) {
            self.value_set()?
        } else {
            vec![self.exact_value()?]
        };
        LabelRequirement::new(key, operator, values)
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(value) => {
                self.next();
                Ok(value.to_owned())
            }
            other => Err(unexpected(other, "identifier")),
        }
    }

    /// `(a,b)`; as upstream, empty items stand for the empty value.
    fn value_set(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Open => {}
            other => return Err(unexpected(other, "'('")),
        }
        let mut values = Vec::new();
        let mut item = String::new();
        loop {
            match self.next() {
                Token::Word(value) if item.is_empty() => item = value.to_owned(),
                Token::Comma => values.push(std::mem::take(&mut item)),
                Token::Close => {
                    values.push(item);
                    return Ok(values);
                }
                other => return Err(unexpected(other, "',', ')' or identifier")),
            }
        }
    }
}

fn unexpected(found: Token<'_>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{found}', expected: {expected}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn text_form_matches_as_upstream() {
        let labels = json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier = front ", true),
            ("app=db", false),
            ("app!=db", true),
            ("absent!=db", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("absent notin (db)", true),
            ("app", true),
            ("!app", false),
            ("!absent", true),
            ("n>4,n<6", true),
            ("app>4", false),
            ("empty=", true),
            ("empty in ()", true),
            ("app in (a,,b)", false),
            ("in=x", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&labels), expected, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in [
            "a=b=c", "=a", ",", "a,", "a in", "a in (", "a in b", "a b", "-a=b", "a=b c", "n>x",
            "!", "!a=b", "a=_", "a/b/c=d", "a((", "()",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn struct_form_matches_as_upstream() {
        let labels = json!({"app": "web"});
        let selector = json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        assert!(selector.matches(&labels));
        assert_eq!(selector.to_string(), "app=web,!x");
        assert!(
            !LabelSelector::from_value(&Value::Null)
                .unwrap()
                .matches(&labels)
        );
        assert!(
            LabelSelector::from_value(&json!({}))
                .unwrap()
                .matches(&labels)
        );
        let bad = json!({"matchExpressions": [{"key": "x", "operator": "In"}]});
        assert!(LabelSelector::from_value(&bad).is_err());
        assert!(!LabelSelector::from_map(&Value::Null).matches(&labels));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = LabelSelector::parse(&text);
        }

        #[test]
        fn display_round_trips(text in "(!?[a-c]{1,3}|[a-c]{1,3}(=|!=)[a-c]{0,2}|[a-c] (in|notin) \\([a-c](,[a-c]){0,2}\\))(,[d-f](=[a-c])?){0,3}") {
            let selector = LabelSelector::parse(&text).unwrap();
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
