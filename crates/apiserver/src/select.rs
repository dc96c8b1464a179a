//! Label and field selectors of lists and watches.

use std::borrow::Cow;
use std::collections::BTreeMap;

use coracle_machinery::ApiError;
use coracle_machinery::selector::{FieldSelector, LabelSelector};
use serde::Deserialize;

use crate::codec;
use crate::hub::{Change, HubEvent};
use crate::kind::Strategy;
use crate::query::ListOptions;
use crate::registry::Resource;

/// What selectors look at in an object.
#[derive(Debug, Default)]
pub struct Facets {
    labels: BTreeMap<String, String>,
    /// In the order of `selectable`.
    fields: Vec<String>,
}

#[derive(Deserialize)]
struct OnlyLabels {
    #[serde(default)]
    metadata: Labels,
}

#[derive(Default, Deserialize)]
struct Labels {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Facets {
    /// Reads stored bytes; only the labels are read if the kind has no
    /// selectable fields of its own.
    pub fn read(stored: &[u8], resource: &Resource) -> Self {
        let strategy = resource.strategy();
        let labels = serde_json::from_slice::<OnlyLabels>(stored)
            .ok()
            .and_then(|o| o.metadata.labels)
            .unwrap_or_default();
        let mut paths = selectable(strategy).peekable();
        let mut fields = Vec::new();
        if paths.peek().is_some()
            && let Ok(object) = codec::parse(stored, 0)
        {
            fields = paths
                .map(|path| strategy.selectable_field(&object, path))
                .collect();
        }
        Self { labels, fields }
    }
}

/// The fields of a kind that selectors may name, beside name and namespace.
fn selectable(strategy: &dyn Strategy) -> impl Iterator<Item = &str> {
    let added = strategy.added_fields().iter().map(String::as_str);
    strategy.selectable_fields().iter().copied().chain(added)
}

/// The selectors of one request.
#[derive(Clone, Debug)]
pub struct Filter {
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
    /// True if `fields` looks at more than name and namespace.
    reads_object: bool,
}

impl Filter {
    /// The filter of a list or watch.
    ///
    /// # Errors
    /// `BadRequest` for a selector that cannot be read or names a field that
    /// the kind does not offer.
    pub fn new(options: &ListOptions, resource: &Resource) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(&options.label_selector).map_err(|e| {
            ApiError::bad_request(format!(
                "unable to parse requirement: {}",
                ApiError::from(e).message
            ))
        })?;
        let fields = FieldSelector::parse(&options.field_selector)?;
        let mut reads_object = false;
        for requirement in fields.requirements() {
            let field = requirement.field.as_str();
            if matches!(field, "metadata.name" | "metadata.namespace") {
                continue;
            }
            reads_object = true;
            if !selectable(resource.strategy()).any(|path| path == field) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {field}"
                )));
            }
        }
        Ok(Self {
            labels: (!labels.is_everything()).then_some(labels),
            fields: (!fields.is_everything()).then_some(fields),
            reads_object,
        })
    }

    /// True if nothing is filtered out.
    pub fn is_everything(&self) -> bool {
        self.labels.is_none() && self.fields.is_none()
    }

    /// The name that objects must have, if there is just one.
    pub fn name(&self) -> Option<&str> {
        self.fields.as_ref()?.required_value("metadata.name")
    }

    fn needs_facets(&self) -> bool {
        self.labels.is_some() || self.reads_object
    }

    fn admits(&self, key: &str, facets: &Facets, resource: &Resource) -> bool {
        if let Some(labels) = &self.labels
            && !labels.matches(&facets.labels)
        {
            return false;
        }
        let Some(fields) = &self.fields else {
            return true;
        };
        let (namespace, name) = resource.split_key(key);
        let strategy = resource.strategy();
        fields.matches(|path| match path {
            "metadata.name" => Cow::Borrowed(name),
            "metadata.namespace" => Cow::Borrowed(namespace),
            _ => selectable(strategy)
                .position(|p| p == path)
                .and_then(|i| facets.fields.get(i))
                .map_or(Cow::Borrowed(""), |text| Cow::Borrowed(text.as_str())),
        })
    }

    /// True if an object passes.
    pub fn admits_stored(&self, key: &str, stored: &[u8], resource: &Resource) -> bool {
        if self.is_everything() {
            return true;
        }
        if self.needs_facets() {
            self.admits(key, &Facets::read(stored, resource), resource)
        } else {
            self.admits(key, &Facets::default(), resource)
        }
    }

    /// What a watcher with this filter is told: an object that begins to pass
    /// was added, one that no longer passes was deleted; `None` if it did not
    /// pass before and does not pass now.
    pub fn admits_event(&self, event: &HubEvent, resource: &Resource) -> Option<Change> {
        let change = event.change();
        if self.is_everything() {
            return Some(change);
        }
        if !self.needs_facets() {
            return self
                .admits(event.key(), &Facets::default(), resource)
                .then_some(change);
        }
        let facets = event.facets(resource);
        let pass = |side: &Option<Facets>| {
            side.as_ref()
                .is_some_and(|f| self.admits(event.key(), f, resource))
        };
        match (pass(&facets.1), pass(&facets.0)) {
            (false, false) => None,
            (false, true) => Some(Change::Added),
            (true, false) => Some(Change::Deleted),
            (true, true) => Some(Change::Modified),
        }
    }
}
