//! Validation of resource requirements.

use coracle_machinery::names::qualified_name_errors;
use coracle_machinery::quantity::Quantity;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value};

use super::Errors;

/// Resources of containers that Kubernetes itself knows.
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Objects that a quota counts, in whole numbers.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// What a quota sums up besides.
const SUMMED: [&str; 10] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
const HUGE_PAGES: &str = "hugepages-";

/// The quantity, or an error that names it.
pub(super) fn parse(errors: &mut Errors, path: &FieldPath, value: &Value) -> Option<Quantity> {
    match Quantity::from_value(value) {
        Ok(quantity) => Some(quantity),
        Err(error) => {
            errors.push(FieldError::invalid(path, value.clone(), error.to_string()));
            None
        }
    }
}

/// The quantity, which must not be negative.
pub(super) fn parse_non_negative(
    errors: &mut Errors,
    path: &FieldPath,
    value: &Value,
) -> Option<Quantity> {
    let quantity = parse(errors, path, value)?;
    if quantity.is_negative() {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            "must be greater than or equal to 0",
        ));
        return None;
    }
    Some(quantity)
}

fn entries<'a>(resources: &'a Value, key: &str) -> Option<&'a Map<String, Value>> {
    resources[key].as_object()
}

/// A quantity as it was written.
pub(super) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// True for resources that may be requested below their limit.
pub(super) fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// True for names without a domain and for those of Kubernetes.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// True for resources that others than Kubernetes define.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name_errors(&format!("requests.{name}")).is_empty()
}

/// True for names without a domain that a quota may bound.
pub(super) fn is_quota_resource(name: &str) -> bool {
    COUNTED.contains(&name)
        || SUMMED.contains(&name)
        || name.starts_with(HUGE_PAGES)
        || name.starts_with("requests.hugepages-")
}

/// The name of a resource.
pub(super) fn resource_name(errors: &mut Errors, name: &str, path: &FieldPath) {
    let bad = qualified_name_errors(name);
    let unknown = !name.contains('/') && !is_quota_resource(name) && name != "storage";
    if bad.is_empty() && unknown {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
    for detail in bad {
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// The name of a resource that containers use.
pub(super) fn container_resource_name(errors: &mut Errors, name: &str, path: &FieldPath) {
    resource_name(errors, name, path);
    if !name.contains('/') {
        if !CONTAINER_RESOURCES.contains(&name) && !name.starts_with(HUGE_PAGES) {
            let detail = "must be a standard resource for containers";
            errors.push(FieldError::invalid(path, name, detail));
        }
    } else if !is_native(name) && !is_extended(name) {
        let detail = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// An amount of a resource.
pub(super) fn amount(errors: &mut Errors, name: &str, value: &Value, path: &FieldPath) {
    let counted = COUNTED.contains(&name) || is_extended(name);
    if let Some(quantity) = parse_non_negative(errors, path, value)
        && counted
        && quantity.milli_value() % 1000 != 0
    {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            "must be an integer",
        ));
    }
}

/// An error unless an amount of huge pages is made of whole ones.
fn huge_pages(errors: &mut Errors, name: &str, value: &Value, path: &FieldPath) {
    let (Some(size), Ok(amount)) = (name.strip_prefix(HUGE_PAGES), Quantity::from_value(value))
    else {
        return;
    };
    let size = Quantity::parse(size)
        .ok()
        .filter(|s| s.value() > 0 && s.milli_value() % 1000 == 0);
    if size.is_none_or(|size| amount.value() % size.value() != 0) {
        let text = text(value);
        let detail = format!("{text} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, text, detail));
    }
}

/// `resources` of a container.
pub(super) fn requirements(errors: &mut Errors, resources: &Value, path: &FieldPath) {
    for key in ["limits", "requests"] {
        let at = path.child(key);
        for (name, value) in entries(resources, key).into_iter().flatten() {
            let at = at.key(name);
            container_resource_name(errors, name, &at);
            amount(errors, name, value, &at);
            huge_pages(errors, name, value, &at);
        }
    }
    let named = |wanted: fn(&str) -> bool| {
        let keys = ["limits", "requests"].into_iter();
        let mut entries = keys.flat_map(|key| entries(resources, key)).flatten();
        entries.any(|(name, _)| wanted(name))
    };
    if named(|name| name.starts_with(HUGE_PAGES)) && !named(|name| matches!(name, "cpu" | "memory"))
    {
        let detail = "HugePages require cpu or memory";
        errors.push(FieldError::forbidden(path, detail));
    }
    let limits = entries(resources, "limits");
    let requests = path.child("requests");
    for (name, value) in entries(resources, "requests").into_iter().flatten() {
        let Ok(request) = Quantity::from_value(value) else {
            continue;
        };
        let limit = limits.and_then(|l| l.get(name));
        match limit.and_then(|l| Some((l, Quantity::from_value(l).ok()?))) {
            Some((shown, limit)) if request > limit => {
                errors.push(FieldError::invalid(
                    &requests,
                    value.clone(),
                    format!(
                        "must be less than or equal to {name} limit of {}",
                        text(shown)
                    ),
                ));
            }
            Some((shown, limit)) if request != limit && !overcommit_allowed(name) => {
                errors.push(FieldError::invalid(
                    &requests,
                    value.clone(),
                    format!("must be equal to {name} limit of {}", text(shown)),
                ));
            }
            None if !overcommit_allowed(name) => errors.push(FieldError::required(
                &path.child("limits"),
                "Limit must be set for non overcommitable resources",
            )),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_stay_below_limits() {
        let texts = |resources: Value| {
            let mut errors = Vec::new();
            requirements(&mut errors, &resources, &FieldPath::new("r"));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(texts(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}})).is_empty());
        assert_eq!(
            texts(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}})),
            ["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"]
        );
        assert_eq!(
            texts(json!({"requests": {"memory": "-1"}})),
            ["r.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
        );
        assert_eq!(texts(json!({"limits": {"foo": 1}})).len(), 2);
        assert_eq!(texts(json!({"limits": {"cpu": "x"}})).len(), 1);
        assert!(
            texts(json!({"limits": {"hugepages-2Mi": "4Mi", "cpu": 1, "a.b/c": 2}})).is_empty()
        );
        assert_eq!(
            texts(json!({"limits": {"hugepages-2Mi": "3Mi", "cpu": 1}})),
            [
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi"
            ]
        );
        assert_eq!(
            texts(json!({"limits": {"hugepages-2Mi": "4Mi"}})),
            ["r: Forbidden: HugePages require cpu or memory"]
        );
        assert_eq!(
            texts(json!({"limits": {"a.b/c": "1500m"}})),
            ["r.limits[a.b/c]: Invalid value: \"1500m\": must be an integer"]
        );
    }
}
