//! Field selectors.

use std::fmt;

use super::{SelectorError, check_length};

/// How a field is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `field=value` or `field==value`.
    Equals,
    /// `field!=value`.
    NotEquals,
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field's path, such as `spec.nodeName`.
    pub field: String,
    /// How to compare.
    pub operator: FieldOperator,
    /// The value, without escapes.
    pub value: String,
}

/// Conditions on fields that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads `a=b,c!=d`. In values `\`, `,` and `=` are escaped by `\`. The
    /// empty text is everything; empty terms are skipped, as upstream does.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let invalid = || {
                SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                ))
            };
            let (field, operator, value) = split_term(term).ok_or_else(invalid)?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                operator,
                value: unescape(value)?,
            });
        }
        Ok(Self { requirements })
    }

    /// The conditions, in the order given.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// True if every object satisfies the selector.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that the field must have, if the selector demands one. Lets
    /// `metadata.name=x` be answered without a scan.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && r.operator == FieldOperator::Equals)
            .map(|r| r.value.as_str())
    }

    /// True if all conditions hold; `value_of` yields a field's value, the
    /// empty string for an absent one.
    pub fn matches<S: AsRef<str>>(&self, mut value_of: impl FnMut(&str) -> S) -> bool {
        self.requirements.iter().all(|r| {
            let same = value_of(&r.field).as_ref() == r.value;
            same == (r.operator == FieldOperator::Equals)
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = match r.operator {
                FieldOperator::Equals => "=",
                FieldOperator::NotEquals => "!=",
            };
            write!(f, "{comma}{}{operator}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, FieldOperator, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, FieldOperator::NotEquals, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, FieldOperator::Equals, value))
}

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => text.push(c),
                Some(c) => {
                    return Err(SelectorError(format!(
                        "invalid field selector: invalid escape sequence: \\{c}"
                    )));
                }
                None => {
                    return Err(SelectorError(
                        "invalid field selector: unterminated escape sequence".into(),
                    ));
                }
            },
            ',' | '=' => {
                return Err(SelectorError(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            c => text.push(c),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terms_are_read_with_escapes() {
        let selector = FieldSelector::parse(r"a=b,c!=d\,e,f==\=x,,g=").unwrap();
        let read: Vec<_> = selector
            .requirements()
            .iter()
            .map(|r| (r.field.as_str(), r.operator, r.value.as_str()))
            .collect();
        use FieldOperator::{Equals, NotEquals};
        assert_eq!(
            read,
            [
                ("a", Equals, "b"),
                ("c", NotEquals, "d,e"),
                ("f", Equals, "=x"),
                ("g", Equals, "")
            ]
        );
        assert_eq!(selector.to_string(), r"a=b,c!=d\,e,f=\=x,g=");
        assert_eq!(selector.required_value("a"), Some("b"));
        assert!(selector.matches(|f| match f {
            "a" => "b",
            "f" => "=x",
            _ => "",
        }));
        for bad in ["a", "a=b=c", r"a=\x", r"a=b\", "a!b"] {
            assert!(FieldSelector::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(value in ".{0,20}", text in ".{0,40}") {
            let selector = FieldSelector {
                requirements: vec![FieldRequirement {
                    field: "spec.x".into(), operator: FieldOperator::NotEquals, value,
                }],
            };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
            let _ = FieldSelector::parse(&text);
        }
    }
}
