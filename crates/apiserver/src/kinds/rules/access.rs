//! The rules of RBAC kinds and of runtime classes.

use coracle_machinery::names::{NameRule, dns1123_label_errors};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::text::check_required;
use super::{Errors, default_field, each_mut, immutable, list, map_mut, selectors, str_at};
use crate::kind::Strategy;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The rules of Roles and ClusterRoles.
pub(in crate::kinds) struct Role {
    /// True for Roles, which cannot grant access to paths.
    pub namespaced: bool,
}
/// The rules of RoleBindings and ClusterRoleBindings.
pub(in crate::kinds) struct Binding {
    /// True for RoleBindings, which may refer to Roles.
    pub namespaced: bool,
}
/// The rules of RuntimeClasses.
pub(in crate::kinds) struct RuntimeClass;

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, object: &mut Value) {
        if let Some(map) = object.as_object_mut() {
            // Upstream always shows the list, be it null.
            map.entry("rules").or_insert(Value::Null);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("rules");
        for (index, rule) in list(object, "rules").iter().enumerate() {
            let at = path.index(index);
            if list(rule, "verbs").is_empty() {
                let detail = "verbs must contain at least one value";
                errors.push(FieldError::required(&at.child("verbs"), detail));
            }
            let has = |key: &str| !list(rule, key).is_empty();
            if has("nonResourceURLs") {
                if self.namespaced {
                    let value = rule["nonResourceURLs"].clone();
                    let detail = "namespaced rules cannot apply to non-resource URLs";
                    errors.push(FieldError::invalid(
                        &at.child("nonResourceURLs"),
                        value,
                        detail,
                    ));
                }
                if has("apiGroups") || has("resources") || has("resourceNames") {
                    let value = rule["nonResourceURLs"].clone();
                    let detail =
                        "rules cannot apply to both regular resources and non-resource URLs";
                    errors.push(FieldError::invalid(
                        &at.child("nonResourceURLs"),
                        value,
                        detail,
                    ));
                }
                continue;
            }
            if !has("apiGroups") {
                let detail = "resource rules must supply at least one api group";
                errors.push(FieldError::required(&at.child("apiGroups"), detail));
            }
            if !has("resources") {
                let detail = "resource rules must supply at least one resource";
                errors.push(FieldError::required(&at.child("resources"), detail));
            }
        }
        let path = FieldPath::new("aggregationRule").child("clusterRoleSelectors");
        let aggregation = &object["aggregationRule"];
        if !aggregation.is_null() && list(aggregation, "clusterRoleSelectors").is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&path, detail));
        }
        for (index, selector) in list(aggregation, "clusterRoleSelectors").iter().enumerate() {
            selectors::label_selector(&mut errors, selector, &path.index(index));
        }
        errors
    }
}

impl Strategy for Binding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else {
            return;
        };
        if let Some(role) = map_mut(map, "roleRef") {
            default_field(role, "apiGroup", RBAC_GROUP);
            if role["apiGroup"] == "" {
                role.insert("apiGroup".into(), RBAC_GROUP.into());
            }
        }
        for subject in each_mut(map, "subjects") {
            let kind = subject
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if matches!(kind, "User" | "Group") {
                default_field(subject, "apiGroup", RBAC_GROUP);
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("roleRef");
        let role = &object["roleRef"];
        if str_at(role, "apiGroup") != RBAC_GROUP {
            let at = path.child("apiGroup");
            errors.push(FieldError::not_supported(
                &at,
                str_at(role, "apiGroup"),
                &[RBAC_GROUP],
            ));
        }
        let kinds: &[&str] = if self.namespaced {
            &["ClusterRole", "Role"]
        } else {
            &["ClusterRole"]
        };
        if !kinds.contains(&str_at(role, "kind")) {
            errors.push(FieldError::not_supported(
                &path.child("kind"),
                str_at(role, "kind"),
                kinds,
            ));
        }
        if str_at(role, "name").is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        for (index, subject) in list(object, "subjects").iter().enumerate() {
            self.subject(
                &mut errors,
                subject,
                &FieldPath::new("subjects").index(index),
            );
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        if object["roleRef"] != old["roleRef"] {
            let value = object["roleRef"].clone();
            let path = FieldPath::new("roleRef");
            errors.push(FieldError::invalid(&path, value, "cannot change roleRef"));
        }
        errors
    }
}

impl Binding {
    fn subject(&self, errors: &mut Errors, subject: &Value, path: &FieldPath) {
        if str_at(subject, "name").is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        let group = str_at(subject, "apiGroup");
        let at = path.child("apiGroup");
        match str_at(subject, "kind") {
            "ServiceAccount" => {
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(&at, group, &[""]));
                }
                if !self.namespaced && str_at(subject, "namespace").is_empty() {
                    errors.push(FieldError::required(&path.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != RBAC_GROUP {
                    errors.push(FieldError::not_supported(&at, group, &[RBAC_GROUP]));
                }
            }
            kind => {
                let kinds = ["Group", "ServiceAccount", "User"];
                errors.push(FieldError::not_supported(&path.child("kind"), kind, &kinds));
            }
        }
    }
}

impl Strategy for RuntimeClass {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("handler");
        check_required(
            &mut errors,
            &path,
            str_at(object, "handler"),
            dns1123_label_errors,
        );
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        immutable(&mut errors, object, old, "handler", &FieldPath::default());
        errors
    }
}
