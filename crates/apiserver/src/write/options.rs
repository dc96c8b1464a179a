//! CreateOptions, UpdateOptions, PatchOptions and DeleteOptions.

use coracle_machinery::schema::FieldValidation;
use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind};
use serde_json::{Map, Value};

use crate::query::Query;

/// Longest `fieldManager`.
const MANAGER_MAX: usize = 128;

/// Options of any write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// Who owns the fields that are set.
    pub field_manager: String,
    /// What about unknown fields.
    pub field_validation: FieldValidation,
    /// Take fields from other owners (server-side apply).
    pub force: bool,
    /// The object comes from a server-side apply, which has tracked fields.
    pub applied: bool,
    /// The options as an object, for admission.
    pub object: Value,
}

impl WriteOptions {
    /// Reads query parameters. `kind` is `CreateOptions` or another;
    /// `user_agent` names the manager if no parameter does.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(query: &Query, kind: &'static str, user_agent: &str) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                errors.push(FieldError::not_supported(
                    &FieldPath::new("fieldValidation"),
                    other,
                    &["Ignore", "Strict", "Warn", ""],
                ));
                FieldValidation::Warn
            }
        };
        let given = query.get("fieldManager").unwrap_or_default();
        let path = FieldPath::new("fieldManager");
        if given.len() > MANAGER_MAX {
            let why = format!("may not be more than {MANAGER_MAX} bytes");
            errors.push(FieldError::invalid(&path, given, why));
        } else if given.chars().any(char::is_control) {
            errors.push(FieldError::invalid(
                &path,
                given,
                "should only contain printable characters",
            ));
        }
        fail(kind, &errors)?;
        let mut object = Map::new();
        object.insert("kind".into(), kind.into());
        object.insert("apiVersion".into(), "meta.k8s.io/v1".into());
        if dry_run {
            object.insert("dryRun".into(), vec!["All"].into());
        }
        if !given.is_empty() {
            object.insert("fieldManager".into(), given.into());
        }
        if let Some(text) = query.get("fieldValidation") {
            object.insert("fieldValidation".into(), text.into());
        }
        let field_manager = if given.is_empty() {
            manager_of(user_agent)
        } else {
            given.to_owned()
        };
        Ok(Self {
            dry_run,
            field_manager,
            field_validation,
            force: query.flag("force"),
            applied: false,
            object: Value::Object(object),
        })
    }

    /// Checks what only concerns patches, and notes whether it is an apply.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn for_patch(mut self, query: &Query, apply: bool) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        if apply && query.get("fieldManager").is_none() {
            let path = FieldPath::new("fieldManager");
            errors.push(FieldError::required(&path, "is required for apply patch"));
        }
        if !apply && query.optional_flag("force").is_some() {
            let path = FieldPath::new("force");
            let why = "may not be specified for non-apply patch";
            errors.push(FieldError::forbidden(&path, why));
        }
        fail("PatchOptions", &errors)?;
        self.applied = apply;
        Ok(self)
    }
}

/// The program name in front of a user agent's version.
fn manager_of(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let printable = name.chars().filter(|c| !c.is_control());
    let mut name: String = printable.take(MANAGER_MAX / 4).collect();
    if name.is_empty() {
        name.push_str("unknown");
    }
    name
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<FieldError>) -> bool {
    let mut on = false;
    for value in values {
        if value == "All" {
            on = true;
        } else if !value.is_empty() {
            let path = FieldPath::new("dryRun");
            errors.push(FieldError::not_supported(&path, value, &["All"]));
        }
    }
    on
}

fn fail(kind: &'static str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let kind = GroupKind::new("meta.k8s.io", kind);
    Err(ApiError::invalid(&kind, "", errors))
}

/// What becomes of dependents, as the caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of `propagationPolicy`")]
pub enum Policy {
    Orphan,
    Background,
    Foreground,
}

/// DeleteOptions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `propagationPolicy` or the older `orphanDependents`.
    pub policy: Option<Policy>,
    /// `dryRun`.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body (null if there is none) or else the query.
    ///
    /// # Errors
    /// `Invalid` and `BadRequest`.
    pub fn parse(query: &Query, body: &Value) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let mut options = Self::default();
        let orphan;
        let policy;
        if body.is_null() {
            options.grace_period = query.integer("gracePeriodSeconds")?;
            orphan = query.optional_flag("orphanDependents");
            policy = query.get("propagationPolicy").map(str::to_owned);
            options.dry_run = dry_run(query.all("dryRun"), &mut errors);
        } else {
            let text = |pointer: &str| {
                let value = body.pointer(pointer).and_then(Value::as_str);
                value.map(str::to_owned)
            };
            options.grace_period = body.get("gracePeriodSeconds").and_then(Value::as_i64);
            options.uid = text("/preconditions/uid");
            options.resource_version = text("/preconditions/resourceVersion");
            orphan = body.get("orphanDependents").and_then(Value::as_bool);
            policy = text("/propagationPolicy");
            let modes = body.get("dryRun").and_then(Value::as_array);
            let modes = modes.into_iter().flatten().filter_map(Value::as_str);
            options.dry_run = dry_run(modes, &mut errors);
            options.dry_run |= dry_run(query.all("dryRun"), &mut errors);
        }
        let path = FieldPath::new("propagationPolicy");
        if orphan.is_some() && policy.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, policy.clone(), why));
        }
        options.policy = match policy.as_deref() {
            None | Some("") => orphan.map(|orphan| {
                if orphan {
                    Policy::Orphan
                } else {
                    Policy::Background
                }
            }),
            Some("Orphan") => Some(Policy::Orphan),
            Some("Background") => Some(Policy::Background),
            Some("Foreground") => Some(Policy::Foreground),
            Some(other) => {
                let supported = &["Background", "Foreground", "Orphan", "nil"];
                errors.push(FieldError::not_supported(&path, other, supported));
                None
            }
        };
        fail("DeleteOptions", &errors)?;
        Ok(options)
    }
}
