//! The rules of kinds that extend the API server.

use coracle_machinery::cel::Program;
use coracle_machinery::names::{
    NameRule, dns1035_label_errors, dns1123_subdomain_errors, qualified_name_errors,
};
use coracle_machinery::object::name;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value, json};

use super::text::{check, check_required};
use super::{
    Errors, default_field, definitions, each_mut, given, immutable, list, map_mut, one_of,
    selectors, spec_mut, str_at,
};
use crate::admission::{CONDITION_VARIABLES, expression_errors};
use crate::kind::Strategy;

/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The rules of CustomResourceDefinitions.
pub(in crate::kinds) struct CustomResourceDefinition;
/// The rules of validating and mutating webhook configurations.
pub(in crate::kinds) struct WebhookConfiguration {
    /// True for mutating webhooks.
    pub mutating: bool,
}
/// The rules of admission policies.
pub(in crate::kinds) struct AdmissionPolicy {
    /// True for mutating policies.
    pub mutating: bool,
}
/// The rules of bindings of admission policies.
pub(in crate::kinds) struct AdmissionBinding;
/// The rules of APIServices.
pub(in crate::kinds) struct ApiService;

/// A version that objects may still be stored in cannot go.
fn stored_versions(errors: &mut Errors, object: &Value) {
    let at = FieldPath::new("status").child("storedVersions");
    let versions = list(&object["spec"], "versions");
    for (index, stored) in list(&object["status"], "storedVersions").iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *stored) {
            let name = stored.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must \
                 remain in spec.versions until a storage migration ensures no data remains \
                 persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.push(FieldError::invalid(&at.index(index), name, detail));
        }
    }
}

impl Strategy for CustomResourceDefinition {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Errors {
        let mut errors = Vec::new();
        stored_versions(&mut errors, object);
        errors
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        if let Some(names) = map_mut(spec, "names") {
            let kind = names
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if !kind.is_empty() {
                default_field(names, "singular", kind.to_lowercase());
                default_field(names, "listKind", format!("{kind}List"));
            }
        }
        default_field(spec, "conversion", json!({"strategy": "None"}));
    }

    fn prepare_for_create(&self, object: &mut Value) {
        let versions = list(&object["spec"], "versions").iter();
        let stored: Vec<Value> = versions
            .filter(|v| v["storage"] == true)
            .map(|v| v["name"].clone())
            .collect();
        if let Some(map) = object.as_object_mut() {
            let status = map.entry("status").or_insert_with(|| json!({}));
            if !status.is_object() {
                *status = json!({});
            }
            status["storedVersions"] = Value::Array(stored);
        }
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return;
        };
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|f| f == CLEANUP)
        {
            list.push(CLEANUP.into());
        }
    }

    fn prepare_for_update(&self, object: &mut Value, _old: &Value) {
        let versions = list(&object["spec"], "versions").iter();
        let stored = versions
            .filter(|v| v["storage"] == true)
            .map(|v| v["name"].clone())
            .next();
        let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else {
            return;
        };
        let known = status.entry("storedVersions").or_insert_with(|| json!([]));
        if let (Some(known), Some(stored)) = (known.as_array_mut(), stored)
            && !known.contains(&stored)
        {
            known.push(stored);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let names = &spec["names"];
        let expected = format!("{}.{}", str_at(names, "plural"), str_at(spec, "group"));
        if name(object) != expected {
            let at = FieldPath::new("metadata").child("name");
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.push(FieldError::invalid(&at, name(object), detail));
        }
        check_required(
            &mut errors,
            &path.child("group"),
            str_at(spec, "group"),
            dns1123_subdomain_errors,
        );
        if !str_at(spec, "group").contains('.') && !str_at(spec, "group").is_empty() {
            let detail = "should be a domain with at least one dot";
            errors.push(FieldError::invalid(
                &path.child("group"),
                str_at(spec, "group"),
                detail,
            ));
        }
        let scopes = ["Cluster", "Namespaced"];
        if !scopes.contains(&str_at(spec, "scope")) {
            errors.push(FieldError::not_supported(
                &path.child("scope"),
                str_at(spec, "scope"),
                &scopes,
            ));
        }
        let at = path.child("names");
        check_required(
            &mut errors,
            &at.child("plural"),
            str_at(names, "plural"),
            dns1035_label_errors,
        );
        let kind = str_at(names, "kind").to_lowercase();
        if kind.is_empty() {
            errors.push(FieldError::required(&at.child("kind"), ""));
        } else {
            check(&mut errors, &at.child("kind"), &kind, dns1035_label_errors);
        }
        for key in ["shortNames", "categories"] {
            for (index, text) in list(names, key).iter().enumerate() {
                let text = text.as_str().unwrap_or_default();
                check(
                    &mut errors,
                    &at.child(key).index(index),
                    text,
                    dns1035_label_errors,
                );
            }
        }
        crd_versions(&mut errors, spec, &path.child("versions"));
        definitions::approval_and_pruning(&mut errors, object);
        stored_versions(&mut errors, object);
        let conversion = &spec["conversion"];
        let at = path.child("conversion");
        let strategy = str_at(conversion, "strategy");
        if !["None", "Webhook"].contains(&strategy) {
            let known = ["None", "Webhook"];
            errors.push(FieldError::not_supported(
                &at.child("strategy"),
                strategy,
                &known,
            ));
        } else if strategy == "Webhook" {
            let webhook = &conversion["webhook"];
            if !webhook["clientConfig"].is_object() {
                let detail = "required when strategy is set to Webhook";
                errors.push(FieldError::required(
                    &at.child("webhookClientConfig"),
                    detail,
                ));
            }
            if list(webhook, "conversionReviewVersions").is_empty() {
                errors.push(FieldError::required(
                    &at.child("conversionReviewVersions"),
                    "",
                ));
            }
        }
        if errors.is_empty()
            && let Err(found) = crate::kinds::custom(object)
        {
            errors = found;
        }
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let (new, old) = (&object["spec"], &old["spec"]);
        for key in ["group", "scope"] {
            immutable(&mut errors, new, old, key, &path);
        }
        for key in ["plural", "kind"] {
            immutable(
                &mut errors,
                &new["names"],
                &old["names"],
                key,
                &path.child("names"),
            );
        }
        errors
    }
}

fn crd_versions(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let versions = list(spec, "versions");
    let mut names = std::collections::BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        let name = str_at(version, "name");
        check_required(errors, &at.child("name"), name, dns1035_label_errors);
        if !names.insert(name) {
            let detail = "must contain unique version names";
            errors.push(FieldError::invalid(path, name, detail));
        }
        definitions::version(errors, version, &at);
        let schema = &version["schema"]["openAPIV3Schema"];
        let at = at.child("schema").child("openAPIV3Schema");
        if schema.is_null() {
            errors.push(FieldError::required(&at, "schemas are required"));
        } else if str_at(schema, "type") != "object" {
            if str_at(schema, "type").is_empty() {
                errors.push(FieldError::required(
                    &at.child("type"),
                    "must not be empty at the root",
                ));
            } else {
                let detail = "must be object at the root";
                errors.push(FieldError::invalid(
                    &at.child("type"),
                    str_at(schema, "type"),
                    detail,
                ));
            }
        }
    }
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid(path, spec["versions"].clone(), detail));
    }
}

impl Strategy for WebhookConfiguration {
    fn tracks_generation(&self, _object: &Value) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(map) = object.as_object_mut() else {
            return;
        };
        for webhook in each_mut(map, "webhooks") {
            default_field(webhook, "failurePolicy", "Fail");
            default_field(webhook, "matchPolicy", "Equivalent");
            default_field(webhook, "namespaceSelector", json!({}));
            default_field(webhook, "objectSelector", json!({}));
            default_field(webhook, "timeoutSeconds", 10);
            if self.mutating {
                default_field(webhook, "reinvocationPolicy", "Never");
            }
            if let Some(service) =
                map_mut(webhook, "clientConfig").and_then(|c| map_mut(c, "service"))
            {
                default_field(service, "port", 443);
            }
            for rule in each_mut(webhook, "rules") {
                default_field(rule, "scope", "*");
            }
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let mut names = std::collections::BTreeSet::new();
        for (index, webhook) in list(object, "webhooks").iter().enumerate() {
            let path = FieldPath::new("webhooks").index(index);
            let name = str_at(webhook, "name");
            check_required(
                &mut errors,
                &path.child("name"),
                name,
                dns1123_subdomain_errors,
            );
            if name.split('.').count() < 3 {
                let detail = "should be a domain with at least three segments separated by dots";
                errors.push(FieldError::invalid(&path.child("name"), name, detail));
            }
            if !names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            self.webhook(&mut errors, webhook, &path);
        }
        errors
    }
}

impl WebhookConfiguration {
    fn webhook(&self, errors: &mut Errors, webhook: &Value, path: &FieldPath) {
        for (index, rule) in list(webhook, "rules").iter().enumerate() {
            let at = path.child("rules").index(index);
            for key in ["operations", "apiGroups", "apiVersions", "resources"] {
                if list(rule, key).is_empty() {
                    errors.push(FieldError::required(&at.child(key), ""));
                }
            }
            one_of(errors, rule, "scope", &at, &["*", "Cluster", "Namespaced"]);
        }
        one_of(errors, webhook, "failurePolicy", path, &["Fail", "Ignore"]);
        one_of(
            errors,
            webhook,
            "matchPolicy",
            path,
            &["Equivalent", "Exact"],
        );
        let effects = str_at(webhook, "sideEffects");
        let allowed = ["None", "NoneOnDryRun"];
        if !allowed.contains(&effects) {
            errors.push(FieldError::not_supported(
                &path.child("sideEffects"),
                effects,
                &allowed,
            ));
        }
        if let Some(seconds) = webhook["timeoutSeconds"].as_i64()
            && !(1..=30).contains(&seconds)
        {
            let detail = "the timeout value must be between 1 and 30 seconds";
            errors.push(FieldError::invalid(
                &path.child("timeoutSeconds"),
                seconds,
                detail,
            ));
        }
        for key in ["namespaceSelector", "objectSelector"] {
            selectors::label_selector(errors, &webhook[key], &path.child(key));
        }
        match_conditions(errors, webhook, path);
        let config = &webhook["clientConfig"];
        let at = path.child("clientConfig");
        if given(config, "url") == given(config, "service") {
            errors.push(FieldError::required(
                &at,
                "exactly one of url or service is required",
            ));
        }
        let versions = list(webhook, "admissionReviewVersions");
        if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
            let at = path.child("admissionReviewVersions");
            let detail = "must include at least one of v1, v1beta1";
            errors.push(FieldError::invalid(&at, versions.to_vec(), detail));
        }
    }
}

/// Match conditions of more than this many are refused, as upstream does.
const MAX_MATCH_CONDITIONS: usize = 64;

fn match_conditions(errors: &mut Errors, webhook: &Value, path: &FieldPath) {
    let path = path.child("matchConditions");
    let conditions = list(webhook, "matchConditions");
    if conditions.len() > MAX_MATCH_CONDITIONS {
        let detail = format!("must have at most {MAX_MATCH_CONDITIONS} items");
        errors.push(FieldError::invalid(&path, conditions.len(), detail));
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let name = str_at(condition, "name");
        check_required(errors, &at.child("name"), name, qualified_name_errors);
        if !names.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let expression = str_at(condition, "expression").trim();
        if expression.is_empty() {
            errors.push(FieldError::required(&at.child("expression"), ""));
        } else if let Err(why) = Program::compile(expression, CONDITION_VARIABLES) {
            let detail = format!("compilation failed: {why}");
            errors.push(FieldError::invalid(
                &at.child("expression"),
                expression,
                detail,
            ));
        }
    }
}

impl Strategy for AdmissionPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "failurePolicy", "Fail");
        if self.mutating {
            default_field(spec, "reinvocationPolicy", "Never");
        }
        if let Some(constraints) = map_mut(spec, "matchConstraints") {
            match_resources(constraints);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        expression_errors(object, self.mutating)
    }
}

impl Strategy for AdmissionBinding {
    fn default(&self, object: &mut Value) {
        if let Some(resources) = spec_mut(object).and_then(|s| map_mut(s, "matchResources")) {
            match_resources(resources);
        }
    }
}

fn match_resources(resources: &mut Map<String, Value>) {
    default_field(resources, "matchPolicy", "Equivalent");
    default_field(resources, "namespaceSelector", json!({}));
    default_field(resources, "objectSelector", json!({}));
    for key in ["resourceRules", "excludeResourceRules"] {
        for rule in each_mut(resources, key) {
            default_field(rule, "scope", "*");
        }
    }
}

impl Strategy for ApiService {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, object: &mut Value) {
        if let Some(service) = spec_mut(object).and_then(|s| map_mut(s, "service")) {
            default_field(service, "port", 443);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let spec = &object["spec"];
        let expected = format!("{}.{}", str_at(spec, "version"), str_at(spec, "group"));
        if name(object) != expected {
            let at = FieldPath::new("metadata").child("name");
            let detail = format!("must be `spec.version+\".\"+spec.group`: \"{expected}\"");
            errors.push(FieldError::invalid(&at, name(object), detail));
        }
        api_service(&mut errors, spec);
        errors
    }

    fn validate_status_update(&self, object: &Value, _old: &Value) -> Errors {
        let mut errors = Vec::new();
        let at = FieldPath::new("status").child("conditions");
        for (index, condition) in list(&object["status"], "conditions").iter().enumerate() {
            let allowed = &["True", "False", "Unknown"];
            one_of(&mut errors, condition, "status", &at.index(index), allowed);
        }
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[]
    }
}

fn api_service(errors: &mut Errors, spec: &Value) {
    let at = FieldPath::new("spec");
    let (group, version) = (str_at(spec, "group"), str_at(spec, "version"));
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&at.child("group"), detail));
    }
    if !group.is_empty() {
        check(errors, &at.child("group"), group, dns1123_subdomain_errors);
    }
    check(errors, &at.child("version"), version, dns1035_label_errors);
    for (key, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let priority = spec[key].as_i64().unwrap_or_default();
        if !(1..=most).contains(&priority) {
            let detail = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(&at.child(key), priority, detail));
        }
    }
    let bundle = str_at(spec, "caBundle");
    let insecure = spec["insecureSkipTLSVerify"] == true;
    let service = &spec["service"];
    if !service.is_object() {
        if !bundle.is_empty() {
            let detail = "local APIServices may not have a caBundle";
            let size = format!("{} bytes", bundle.len() / 4 * 3);
            errors.push(FieldError::invalid(&at.child("caBundle"), size, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            let at = at.child("insecureSkipTLSVerify");
            errors.push(FieldError::invalid(&at, true, detail));
        }
        return;
    }
    for key in ["namespace", "name"] {
        if str_at(service, key).is_empty() {
            errors.push(FieldError::required(&at.child("service").child(key), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or_default();
    if !(1..=65_535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        let at = at.child("service").child("port");
        errors.push(FieldError::invalid(&at, port, detail));
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        let at = at.child("insecureSkipTLSVerify");
        errors.push(FieldError::invalid(&at, true, detail));
    }
}
