//! Limits that a CustomResourceDefinition sets on values, beyond their types.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use serde_json::{Number, Value};

use super::rules::Rule;

/// The most memory that one compiled pattern may take, in bytes. Patterns come
/// from tenants; the engine runs in linear time, so memory is what to bound.
const PATTERN_MEMORY: usize = 1 << 20;

/// Limits on one value. Absent ones do not limit.
#[derive(Debug, Default)]
pub struct Constraints {
    /// Least value.
    pub minimum: Option<Number>,
    /// True if the least value itself is excluded.
    pub exclusive_minimum: bool,
    /// Greatest value.
    pub maximum: Option<Number>,
    /// True if the greatest value itself is excluded.
    pub exclusive_maximum: bool,
    /// The value is a multiple of this.
    pub multiple_of: Option<Number>,
    /// Least number of characters.
    pub min_length: Option<u64>,
    /// Greatest number of characters.
    pub max_length: Option<u64>,
    /// What the text must match somewhere.
    pub pattern: Option<Pattern>,
    /// Least number of items.
    pub min_items: Option<u64>,
    /// Greatest number of items.
    pub max_items: Option<u64>,
    /// Least number of entries.
    pub min_properties: Option<u64>,
    /// Greatest number of entries.
    pub max_properties: Option<u64>,
    /// The permitted values; empty if any is.
    pub enumeration: Vec<Value>,
    /// All of these hold.
    pub all_of: Vec<Logic>,
    /// At least one of these holds.
    pub any_of: Vec<Logic>,
    /// Exactly one of these holds.
    pub one_of: Vec<Logic>,
    /// This does not hold.
    pub not: Option<Logic>,
    /// CEL rules, as they stand in the definition.
    pub rules: Vec<Value>,
    /// The same, compiled.
    pub(super) programs: Vec<Rule>,
    /// The description, kept for OpenAPI.
    pub description: Option<String>,
    /// At the root: limits on `metadata`.
    pub metadata: Option<Logic>,
}

impl Constraints {
    /// True if anything is limited or described.
    pub(super) fn says_something(&self) -> bool {
        let numbers = [&self.minimum, &self.maximum, &self.multiple_of];
        let counts = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        let logic = [&self.all_of, &self.any_of, &self.one_of];
        numbers.iter().any(|n| n.is_some())
            || counts.iter().any(Option::is_some)
            || logic.iter().any(|l| !l.is_empty())
            || self.pattern.is_some()
            || self.not.is_some()
            || !self.enumeration.is_empty()
            || !self.rules.is_empty()
            || self.description.is_some()
            || self.metadata.is_some()
    }
}

/// A schema below `allOf`, `anyOf`, `oneOf` or `not`: it limits values and
/// gives no structure.
pub type Logic = super::Schema;

/// A regular expression, compiled on first use.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// Checks the expression.
    pub fn new(text: &str) -> Result<Self, String> {
        compile(text).map_err(|error| error.to_string())?;
        Ok(Self {
            text: text.to_owned(),
            compiled: OnceLock::new(),
        })
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// True if the text matches somewhere.
    pub fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.text).ok());
        compiled.as_ref().is_none_or(|r| r.is_match(text))
    }
}

fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .size_limit(PATTERN_MEMORY)
        .dfa_size_limit(PATTERN_MEMORY)
        .nest_limit(50)
        .build()
}
