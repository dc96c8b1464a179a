//! Validation of resource requirements.

use coracle_machinery::names::qualified_name_errors;
use coracle_machinery::quantity::Quantity;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value};

use super::{Errors, given, str_at};

/// Resources of containers that Kubernetes itself knows.
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

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

/// True for resources that may be requested below their limit.
fn overcommit_allowed(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    native && !name.starts_with("hugepages-")
}

/// `resources` of a container.
pub(super) fn requirements(errors: &mut Errors, resources: &Value, path: &FieldPath) {
    for key in ["limits", "requests"] {
        let at = path.child(key);
        for (name, value) in entries(resources, key).into_iter().flatten() {
            resource_name(errors, name, &at);
            parse_non_negative(errors, &at.key(name), value);
        }
    }
    let limits = entries(resources, "limits");
    let requests = path.child("requests");
    for (name, value) in entries(resources, "requests").into_iter().flatten() {
        let Ok(request) = Quantity::from_value(value) else {
            continue;
        };
        let limit = limits.and_then(|l| l.get(name));
        match limit.and_then(|l| Some((l, Quantity::from_value(l).ok()?))) {
            Some((text, limit)) if request > limit => {
                let limit_text = text
                    .as_str()
                    .map_or_else(|| text.to_string(), str::to_owned);
                errors.push(FieldError::invalid(
                    &requests,
                    value.clone(),
                    format!("must be less than or equal to {name} limit of {limit_text}"),
                ));
            }
            Some((text, limit)) if request != limit && !overcommit_allowed(name) => {
                let limit_text = text
                    .as_str()
                    .map_or_else(|| text.to_string(), str::to_owned);
                errors.push(FieldError::invalid(
                    &requests,
                    value.clone(),
                    format!("must be equal to {name} limit of {limit_text}"),
                ));
            }
            None if !overcommit_allowed(name) => errors.push(FieldError::required(
                &path.child("limits"),
                "Limit must be set for non overcommitable resources",
            )),
            _ => {}
        }
    }
    for (index, claim) in super::list(resources, "claims").iter().enumerate() {
        if str_at(claim, "name").is_empty() && !given(claim, "name") {
            errors.push(FieldError::required(&path.child("claims").index(index), ""));
        }
    }
}

fn resource_name(errors: &mut Errors, name: &str, path: &FieldPath) {
    let at = path.key(name);
    let bad = qualified_name_errors(name);
    if !bad.is_empty() {
        for detail in bad {
            errors.push(FieldError::invalid(&at, name, detail));
        }
    } else if !name.contains('/')
        && !CONTAINER_RESOURCES.contains(&name)
        && !name.starts_with("hugepages-")
    {
        let details = [
            "must be a standard resource type or fully qualified",
            "must be a standard resource for containers",
        ];
        for detail in details {
            errors.push(FieldError::invalid(&at, name, detail));
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
    }
}
