//! The forms in which objects are shown: as they are, as rows of a Table, or
//! as their metadata only; alone, in lists and in watch events.

use bytes::Bytes;
use coracle_machinery::{ApiError, object};
use coracle_store::{KeyValue, Revision};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::codec::append_number;
use crate::hub::{Change, HubEvent};
use crate::negotiate::Shape;
use crate::query::Query;
use crate::registry::Resource;
use crate::storage::{append_object, parse_served};

/// What a row of a Table carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowObject {
    None,
    Metadata,
    Object,
}

/// Writes objects of one resource in one form.
#[derive(Clone, Debug)]
pub struct Shaper {
    shape: Shape,
    row_object: RowObject,
    /// Seconds since the epoch, for ages.
    now: i64,
}

#[derive(Deserialize)]
struct OnlyMetadata<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

fn append_json(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(value.to_string().as_bytes());
}

impl Shaper {
    /// The form that a request asked for.
    pub fn new(shape: Shape, query: &Query) -> Self {
        let row_object = match query.get("includeObject") {
            Some("None") => RowObject::None,
            Some("Object") => RowObject::Object,
            _ => RowObject::Metadata,
        };
        Self {
            shape,
            row_object,
            now: jiff::Timestamp::now().as_second(),
        }
    }

    /// True if stored bytes are served without parsing.
    pub fn is_plain(&self) -> bool {
        self.shape == Shape::Object
    }

    /// One object, alone.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn single(
        &self,
        resource: &Resource,
        stored: &[u8],
        revision: Revision,
    ) -> Result<Bytes, ApiError> {
        let mut out = Vec::with_capacity(stored.len() + 128);
        match self.shape {
            Shape::Object => append_object(&mut out, resource, stored, revision)?,
            Shape::Metadata => append_metadata(&mut out, stored, revision)?,
            Shape::Table => self.table_of_one(&mut out, resource, stored, revision, true)?,
        }
        out.push(b'\n');
        Ok(out.into())
    }

    /// One parsed object in its stored form, alone: what was not stored (dry
    /// runs).
    ///
    /// # Errors
    /// As `single`.
    pub fn single_value(&self, resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
        if self.shape == Shape::Object {
            return Ok(format!("{}\n", resource.to_served(object.clone())).into());
        }
        let revision = object::resource_version(object).parse().unwrap_or(0);
        self.single(resource, &crate::codec::encode(object), revision)
    }

    /// What a list begins with.
    pub fn list_head(&self, resource: &Resource, meta: &ListMeta) -> Vec<u8> {
        let (kind, version) = match self.shape {
            Shape::Object => (
                format!("{}List", resource.kind.gvk.kind),
                resource.api_version.as_str(),
            ),
            Shape::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1"),
            Shape::Table => ("Table".to_owned(), "meta.k8s.io/v1"),
        };
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(
            format!(
                "{{\"kind\":{},\"apiVersion\":{},\"metadata\":",
                Value::from(kind),
                Value::from(version)
            )
            .as_bytes(),
        );
        append_json(&mut out, &meta.to_value());
        if self.shape == Shape::Table {
            out.extend_from_slice(b",\"columnDefinitions\":");
            append_json(&mut out, &column_definitions(resource));
            out.extend_from_slice(b",\"rows\":[");
        } else {
            out.extend_from_slice(b",\"items\":[");
        }
        out
    }

    /// One item of a list.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn list_item(
        &self,
        out: &mut Vec<u8>,
        resource: &Resource,
        item: &KeyValue,
    ) -> Result<(), ApiError> {
        match self.shape {
            Shape::Object => append_object(out, resource, &item.value, item.mod_revision),
            Shape::Metadata => append_metadata(out, &item.value, item.mod_revision),
            Shape::Table => self.row(out, resource, &item.value, item.mod_revision),
        }
    }

    /// What a list ends with.
    pub fn list_tail(&self) -> &'static [u8] {
        b"]}\n"
    }

    /// The line of a watch event. Only the `first` of a Table watch describes
    /// the columns.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn event(
        &self,
        resource: &Resource,
        event: &HubEvent,
        change: Change,
        first: bool,
    ) -> Result<Bytes, ApiError> {
        if self.is_plain() {
            return event.line(resource, change);
        }
        let stored = if change == Change::Deleted {
            event.previous().unwrap_or_default()
        } else {
            event.stored()
        };
        let mut out = Vec::new();
        self.append_event(&mut out, resource, change, stored, event.revision(), first)?;
        Ok(out.into())
    }

    /// Appends the line of an event made up of stored bytes.
    ///
    /// # Errors
    /// Damaged bytes.
    pub fn append_event(
        &self,
        out: &mut Vec<u8>,
        resource: &Resource,
        change: Change,
        stored: &[u8],
        revision: Revision,
        first: bool,
    ) -> Result<(), ApiError> {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(change.as_str().as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        match self.shape {
            Shape::Object => append_object(out, resource, stored, revision)?,
            Shape::Metadata => append_metadata(out, stored, revision)?,
            Shape::Table => self.table_of_one(out, resource, stored, revision, first)?,
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// The line of a bookmark; `end` marks the end of the initial events.
    pub fn bookmark(&self, resource: &Resource, revision: Revision, end: bool) -> Bytes {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Object => json!({
                "kind": resource.kind.gvk.kind,
                "apiVersion": resource.api_version,
                "metadata": metadata,
            }),
            Shape::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
            Shape::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                }}],
            }),
        };
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }

    fn table_of_one(
        &self,
        out: &mut Vec<u8>,
        resource: &Resource,
        stored: &[u8],
        revision: Revision,
        columns: bool,
    ) -> Result<(), ApiError> {
        out.extend_from_slice(
            b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"",
        );
        append_number(out, revision);
        out.extend_from_slice(b"\"},\"columnDefinitions\":");
        if columns {
            append_json(out, &column_definitions(resource));
        } else {
            out.extend_from_slice(b"null");
        }
        out.extend_from_slice(b",\"rows\":[");
        self.row(out, resource, stored, revision)?;
        out.extend_from_slice(b"]}");
        Ok(())
    }

    fn row(
        &self,
        out: &mut Vec<u8>,
        resource: &Resource,
        stored: &[u8],
        revision: Revision,
    ) -> Result<(), ApiError> {
        let object = parse_served(resource, stored, revision)?;
        let cells = resource.kind.table.cells(&object, self.now);
        out.extend_from_slice(b"{\"cells\":");
        append_json(out, &Value::Array(cells));
        match self.row_object {
            RowObject::None => out.extend_from_slice(b",\"object\":null"),
            RowObject::Metadata => {
                out.extend_from_slice(b",\"object\":");
                append_metadata(out, stored, revision)?;
            }
            RowObject::Object => {
                out.extend_from_slice(b",\"object\":");
                append_json(out, &object);
            }
        }
        out.push(b'}');
        Ok(())
    }
}

fn append_metadata(out: &mut Vec<u8>, stored: &[u8], revision: Revision) -> Result<(), ApiError> {
    let only: OnlyMetadata<'_> = serde_json::from_slice(stored)
        .map_err(|e| ApiError::internal(format!("stored object is damaged: {e}")))?;
    let metadata = only.metadata.get();
    out.extend_from_slice(
        b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"",
    );
    append_number(out, revision);
    out.push(b'"');
    let rest = metadata.get(1..).unwrap_or("}");
    if rest != "}" {
        out.push(b',');
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'}');
    Ok(())
}

fn column_definitions(resource: &Resource) -> Value {
    let columns = resource.kind.table.columns().iter();
    columns
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.r#type,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        })
        .collect()
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The revision that the list shows.
    pub revision: Revision,
    /// How to ask for the next page.
    pub continue_token: Option<String>,
    /// How many items follow this page.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.clone().into();
            if let Some(remaining) = self.remaining {
                meta["remainingItemCount"] = remaining.into();
            }
        }
        meta
    }
}
