//! A kind is a row of facts plus a strategy where it has rules of its own.
//! Built-in kinds and kinds of CustomResourceDefinitions are both rows of this
//! type and go through the same pipeline.

use std::fmt;
use std::sync::Arc;

use coracle_machinery::gvk::Name;
use coracle_machinery::names::NameRule;
use coracle_machinery::schema::Schema;
use coracle_machinery::{FieldError, GroupResource, GroupVersionKind};
use serde_json::Value;

use crate::convert::Converter;

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A verb that a resource may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the verbs of discovery")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// Every verb of an ordinary resource.
    pub const ALL: &'static [Verb] = &[
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The lower-case name used in discovery and RBAC.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A subresource as discovery shows it.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `log`, ...
    pub name: &'static str,
    /// The kind of its body; `None` if it is that of the parent.
    pub kind: Option<GroupVersionKind>,
    /// The verbs that it offers (connect subresources show `get`/`create`).
    pub verbs: &'static [Verb],
}

/// One served version of one resource.
#[derive(Clone)]
pub struct Kind {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// The plural name in paths.
    pub plural: Name,
    /// The singular name.
    pub singular: Name,
    /// Short names of kubectl.
    pub short_names: Vec<Name>,
    /// Categories, such as `all`.
    pub categories: Vec<Name>,
    /// Namespaced or not.
    pub scope: Scope,
    /// The verbs offered. A kind without `Get` is not stored (reviews).
    pub verbs: &'static [Verb],
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Seconds after which objects are removed (events).
    pub ttl_seconds: Option<u64>,
    /// How its objects are stored, if under another group or version than
    /// this one; the strategy that counts is then that of the stored kind.
    pub stored_as: Option<StoredAs>,
    /// Who converts its objects between versions, if these differ in more than
    /// their names.
    pub converter: Option<Arc<dyn Converter>>,
    /// Its rules.
    pub strategy: Arc<dyn Strategy>,
    /// How `kubectl get` shows it.
    pub table: Arc<dyn TableConvertor>,
    /// A warning for all who use it, if it is deprecated.
    pub deprecation: Option<Name>,
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({:?})", self.gvk)
    }
}

impl Kind {
    /// A namespaced kind with all verbs and no rules, subresources, short
    /// names or columns: a row to start from.
    pub fn plain(gvk: GroupVersionKind, plural: impl Into<Name>) -> Self {
        Self {
            singular: gvk.kind.to_lowercase().into(),
            plural: plural.into(),
            gvk,
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            verbs: Verb::ALL,
            subresources: Vec::new(),
            ttl_seconds: None,
            converter: None,
            stored_as: None,
            strategy: Arc::new(NoRules),
            table: Arc::new(NameAndAge::default()),
            deprecation: None,
        }
    }

    /// Group and plural name.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.gvk.group.clone(), self.plural.clone())
    }

    /// Group, version and kind of the stored form: its own, unless
    /// `stored_as` says otherwise.
    pub fn stored_gvk(&self) -> &GroupVersionKind {
        self.stored_as.as_ref().map_or(&self.gvk, |s| &s.gvk)
    }

    /// The group and plural name under which objects are stored: equal for
    /// all kinds that show the same objects.
    pub fn stored_resource(&self) -> GroupResource {
        GroupResource::new(self.stored_gvk().group.clone(), self.plural.clone())
    }

    /// True if the kind has that subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s.name == name)
    }
}

/// The form in which objects of a kind are stored, where it is not the served
/// one: events of two groups, autoscalers of two versions.
#[derive(Clone)]
pub struct StoredAs {
    /// Group, version and kind of the stored form, itself a served kind with
    /// the same plural name.
    pub gvk: GroupVersionKind,
    /// The way there and back.
    pub conversion: Arc<dyn Conversion>,
}

/// Turns a served object into the stored form and back. What one form cannot
/// express is kept in annotations, so that there and back changes nothing.
pub trait Conversion: Send + Sync + 'static {
    /// From the served to the stored form, `apiVersion` included.
    fn to_stored(&self, object: Value) -> Value;

    /// From the stored to the served form, `apiVersion` included.
    fn to_served(&self, object: Value) -> Value;
}

/// The rules of a kind, after `k8s.io/apiserver/pkg/registry/rest`. All
/// methods are pure; objects are whole, with metadata already checked and
/// completed by the pipeline. The defaults suit a kind that has a `spec`, a
/// `status` subresource and no rules of its own.
pub trait Strategy: Send + Sync + 'static {
    /// The schema of the served version, if it is not that of a built-in kind
    /// of the same name: what bodies are decoded by.
    fn schema(&self) -> Option<Schema> {
        None
    }

    /// Where the `scale` subresource finds its numbers.
    fn scale_paths(&self) -> ScalePaths {
        ScalePaths::default()
    }

    /// Fills in fields that the client left out.
    fn default(&self, _object: &mut Value) {}

    /// Drops or sets what a client may not choose on create. The pipeline has
    /// removed `status` if there is a `status` subresource, and has set
    /// `metadata.generation` to 1.
    fn prepare_for_create(&self, _object: &mut Value) {}

    /// Drops or carries over what a client may not change. The pipeline has
    /// restored `status` from `old` if there is a `status` subresource, and
    /// raises `metadata.generation` afterwards if anything but metadata and
    /// status changed.
    fn prepare_for_update(&self, _object: &mut Value, _old: &Value) {}

    /// As `prepare_for_update`, for a write to `status`: the pipeline has
    /// restored everything but `status` and a few metadata fields from `old`.
    fn prepare_for_status_update(&self, _object: &mut Value, _old: &Value) {}

    /// Errors of an object. In a change, those that the object had before do
    /// not count: what is stored can always be changed elsewhere.
    fn validate(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Errors of a new object, besides those of `validate`.
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Errors of a change, immutable fields above all. `validate` is run on
    /// the new object as well.
    fn validate_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Errors of a write to `status`; neither of the two above is run then.
    fn validate_status_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The form that names of this kind must have.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Values for field selectors besides `metadata.name` and
    /// `metadata.namespace`, such as `spec.nodeName` of pods. A path that is
    /// not listed here is refused as a selector.
    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// As `selectable_fields`, for those that a definition adds.
    fn added_fields(&self) -> &[String] {
        &[]
    }

    /// The value of a selectable field; by default the text at that
    /// path, with an absent one as the empty string.
    fn selectable_field(&self, object: &Value, path: &str) -> String {
        let pointer = format!("/{}", path.replace('.', "/"));
        match object.pointer(&pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// Grace period in seconds for a delete that names none; `None` if the
    /// kind is deleted at once (all but pods).
    fn graceful_period(&self, _object: &Value) -> Option<i64> {
        None
    }

    /// True if PUT without a `resourceVersion` replaces whatever there is.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// True if `metadata.generation` counts the changes of this object. By
    /// default those with a `spec` have one.
    fn tracks_generation(&self, object: &Value) -> bool {
        object.get("spec").is_some()
    }

    /// True if PUT creates an absent object.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// What becomes of dependents when the caller does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
}

/// Where an object keeps what its `scale` subresource shows, as JSON pointers.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// The number wanted.
    pub spec_replicas: Name,
    /// The number there is.
    pub status_replicas: Name,
    /// The label selector: as text, as a `LabelSelector` or as a plain map.
    pub selector: Name,
}

impl Default for ScalePaths {
    fn default() -> Self {
        Self {
            spec_replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: "/spec/selector".into(),
        }
    }
}

/// What becomes of an object's dependents when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without the owner reference.
    Orphan,
    /// They are collected afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// A strategy without rules.
#[derive(Debug)]
pub struct NoRules;

impl Strategy for NoRules {}

/// A column of a `meta.k8s.io/v1` Table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Title, as in `Ready`.
    pub name: Name,
    /// OpenAPI type: `string`, `integer`, `boolean`, `date`, `number`.
    pub r#type: Name,
    /// OpenAPI format; `name` marks the name column.
    pub format: Name,
    /// What the column shows.
    pub description: Name,
    /// 0 for always, more for `-o wide`.
    pub priority: i32,
}

/// The table of a kind without columns of its own: NAME and AGE.
#[derive(Debug)]
pub struct NameAndAge(Vec<Column>);

impl Default for NameAndAge {
    fn default() -> Self {
        let column = |name: &'static str, r#type: &'static str, format: &'static str| Column {
            name: name.into(),
            r#type: r#type.into(),
            format: format.into(),
            description: "".into(),
            priority: 0,
        };
        Self(vec![
            column("Name", "string", "name"),
            column("Created At", "date", ""),
        ])
    }
}

impl TableConvertor for NameAndAge {
    fn columns(&self) -> &[Column] {
        &self.0
    }

    fn cells(&self, object: &Value, _now: i64) -> Vec<Value> {
        let field = |path: &str| object.pointer(path).cloned().unwrap_or_default();
        vec![
            field("/metadata/name"),
            field("/metadata/creationTimestamp"),
        ]
    }
}

/// Turns objects into rows.
pub trait TableConvertor: Send + Sync + 'static {
    /// The columns, NAME first.
    fn columns(&self) -> &[Column];

    /// The cells of one object. `now` is in seconds since the epoch, for ages.
    fn cells(&self, object: &Value, now: i64) -> Vec<Value>;
}
