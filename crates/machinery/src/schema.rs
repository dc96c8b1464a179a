//! One compiled schema type for built-in kinds and for CustomResource-
//! Definitions: it decodes, prunes, defaults, validates, and tells patches and
//! server-side apply how lists and maps merge.

mod builtin;
mod constraints;
mod crd;
mod decode;
mod fill;
mod openapi;
mod rules;
mod structural;
mod validate;

use std::sync::Arc;

use serde_json::Value;

pub use builtin::{Builtin, builtin};
pub use constraints::Constraints;
pub use decode::{Decoded, FieldValidation, MAX_BODY_BYTES, decode, decode_reported, decode_value};
pub use openapi::OpenApi;

use crate::gvk::{GroupVersionKind, Name};

/// The JSON type that a schema allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Any JSON value.
    Any,
    /// An object: with named properties, or a map, or free.
    Object,
    /// An array.
    Array,
    /// Text; `format` says more (`byte`, `date-time`, ...).
    String,
    /// A whole number; `format` may be `int32` or `int64`.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A whole number or text.
    IntOrString,
    /// A Kubernetes quantity: text or a number.
    Quantity,
}

/// How the items of a list are told apart when owners merge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListType {
    /// The list is one value.
    Atomic,
    /// The items are distinct scalars.
    Set,
    /// The items are objects that differ in the list-map keys.
    Map,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchFacts {
    /// A list is merged, not replaced.
    pub merge: bool,
    /// An object is replaced, not merged.
    pub replace: bool,
    /// Only the keys that the patch lists are kept (`retainKeys`).
    pub retain_keys: bool,
    /// The field that tells items of a merged list apart; `None` for a list of
    /// scalars.
    pub merge_key: Option<Name>,
}

/// A named field of an object.
#[derive(Clone, Debug)]
pub struct Property {
    /// Its name.
    pub name: Name,
    /// What it holds.
    pub schema: Schema,
    /// How strategic merge patches treat it, if not in the default way.
    pub patch: Option<PatchFacts>,
    /// Merged by its fields although its type is atomic.
    pub granular: bool,
}

/// A compiled schema. Cloning is cheap: it is a handle.
#[derive(Clone)]
pub struct Schema(Handle);

#[derive(Clone)]
enum Handle {
    /// A type of the built-in table, compiled when first looked at.
    Builtin(u16),
    /// A node of a CustomResourceDefinition, or an inline part of a built-in
    /// type.
    Node(Arc<Node>),
}

impl std::fmt::Debug for Schema {
    /// Not the whole tree: built-in types are recursive.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "Schema({name})"),
            None => write!(f, "Schema({:?})", self.kind()),
        }
    }
}

/// The facts of one place in a schema.
#[derive(Debug, Default)]
struct Node {
    ty: Option<Type>,
    format: Option<Name>,
    nullable: bool,
    /// Sorted by name.
    properties: Vec<Property>,
    values: Option<Schema>,
    items: Option<Schema>,
    required: Vec<Name>,
    preserve_unknown: bool,
    embedded_resource: bool,
    list_type: Option<ListType>,
    list_map_keys: Vec<Name>,
    map_type: Option<Name>,
    default: Option<Value>,
    constraints: Option<Box<Constraints>>,
    /// Of a built-in type: its definition name.
    name: Option<&'static str>,
    unions: Option<Value>,
    /// True for parts of a CustomResourceDefinition.
    custom: bool,
}

impl Schema {
    fn of(node: Node) -> Self {
        Self(Handle::Node(Arc::new(node)))
    }

    fn node(&self) -> &Node {
        match &self.0 {
            Handle::Builtin(index) => builtin().node(*index),
            Handle::Node(node) => node,
        }
    }

    /// The JSON type.
    pub fn kind(&self) -> Type {
        self.node().ty.unwrap_or(Type::Any)
    }

    /// True if this is (part of) a CustomResourceDefinition's schema.
    pub fn is_custom(&self) -> bool {
        self.node().custom
    }

    /// The `format`, if there is one.
    pub fn format(&self) -> Option<&str> {
        self.node().format.as_deref()
    }

    /// True if null is a value of its own (custom kinds only).
    pub fn nullable(&self) -> bool {
        self.node().nullable
    }

    /// The named fields, ordered by name.
    pub fn properties(&self) -> &[Property] {
        &self.node().properties
    }

    /// One named field.
    pub fn property(&self, name: &str) -> Option<&Property> {
        let properties = &self.node().properties;
        let index = properties
            .binary_search_by(|p| p.name.as_ref().cmp(name))
            .ok()?;
        Some(&properties[index])
    }

    /// The schema of a map's values.
    pub fn map_values(&self) -> Option<&Schema> {
        self.node().values.as_ref()
    }

    /// The schema of a field or map entry of that name.
    pub fn child(&self, name: &str) -> Option<&Schema> {
        match self.property(name) {
            Some(property) => Some(&property.schema),
            None => self.map_values(),
        }
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<&Schema> {
        self.node().items.as_ref()
    }

    /// The names of required fields.
    pub fn required(&self) -> &[Name] {
        &self.node().required
    }

    /// True if unknown fields are kept.
    pub fn preserves_unknown_fields(&self) -> bool {
        self.node().preserve_unknown || self.kind() == Type::Any
    }

    /// True if the value is a Kubernetes object of its own.
    pub fn is_embedded_resource(&self) -> bool {
        self.node().embedded_resource
    }

    /// How a list's items are told apart: atomic unless said otherwise.
    pub fn list_type(&self) -> ListType {
        self.node().list_type.unwrap_or(ListType::Atomic)
    }

    /// The keys that tell a list's items apart.
    pub fn list_map_keys(&self) -> &[Name] {
        &self.node().list_map_keys
    }

    /// True if an object or map is owned as one value.
    pub fn is_atomic_map(&self) -> bool {
        self.node().map_type.as_deref() == Some("atomic")
    }

    /// The default.
    pub fn default_value(&self) -> Option<&Value> {
        self.node().default.as_ref()
    }

    /// Limits on the value, of custom kinds only.
    pub fn constraints(&self) -> Option<&Constraints> {
        self.node().constraints.as_deref()
    }

    /// `x-kubernetes-validations`: CEL rules, as they stand in the definition.
    pub fn validation_rules(&self) -> &[Value] {
        self.constraints().map_or(&[], |c| c.rules.as_slice())
    }

    /// True if any place in the schema has CEL rules. Costs a walk: keep the
    /// answer.
    pub fn has_validation_rules(&self) -> bool {
        self.any_place(&|schema| !schema.validation_rules().is_empty())
    }

    /// True if any place in a custom schema has a default. Costs a walk: keep
    /// the answer.
    pub fn has_defaults(&self) -> bool {
        self.any_place(&|schema| schema.default_value().is_some())
    }

    fn any_place(&self, wanted: &dyn Fn(&Schema) -> bool) -> bool {
        let node = self.node();
        let below = node.properties.iter().map(|p| &p.schema);
        let mut below = below.chain(&node.values).chain(&node.items);
        node.custom && (wanted(self) || below.any(|schema| schema.any_place(wanted)))
    }

    /// The definition name of a built-in type, such as
    /// `io.k8s.api.core.v1.Pod`.
    pub fn name(&self) -> Option<&'static str> {
        match &self.0 {
            Handle::Builtin(index) => Some(builtin().name(*index)),
            Handle::Node(node) => node.name,
        }
    }

    /// The kinds that a built-in type is served as.
    pub fn group_version_kinds(&self) -> Vec<GroupVersionKind> {
        match &self.0 {
            Handle::Builtin(index) => builtin().kinds_of(*index),
            Handle::Node(_) => Vec::new(),
        }
    }
}
