//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes'
//! strategic merge patch.

mod strategic;

use json_patch::{Patch, PatchOperation};
use serde_json::{Map, Value};

use crate::error::{ApiError, Reason};
use crate::schema::MAX_BODY_BYTES;

pub use strategic::strategic_merge_patch;

/// The most operations of one JSON patch; upstream's limit.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// The deepest nesting of a patched object. Copies could deepen it further
/// than any reader bears.
const MAX_DEPTH: usize = 120;

/// Applies a JSON patch.
///
/// # Errors
/// `BadRequest` if the patch cannot be read, `RequestEntityTooLarge` if it has
/// too many operations, `Invalid` if it does not apply.
pub fn json_patch(current: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    let Patch(operations) = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, \
                 got {}",
                operations.len()
            ),
        ));
    }
    let mut object = current.clone();
    let mut copied = 0;
    for operation in &operations {
        check_growth(&object, operation, &mut copied)?;
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(operation))
            .map_err(|error| unprocessable(error.to_string()))?;
    }
    Ok(object)
}

/// Refuses what would grow the object beyond any request's size or depth.
fn check_growth(
    object: &Value,
    operation: &PatchOperation,
    copied: &mut usize,
) -> Result<(), ApiError> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Move(from) => (&from.path, object.pointer(from.from.as_str())),
        PatchOperation::Copy(from) => {
            let value = object.pointer(from.from.as_str());
            *copied += value.map_or(0, |v| v.to_string().len());
            (&from.path, value)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    if *copied > MAX_BODY_BYTES {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("the copies of a JSON patch may have {MAX_BODY_BYTES} bytes together"),
        ));
    }
    if path.count() + value.map_or(0, depth) > MAX_DEPTH {
        return Err(unprocessable(format!(
            "the object is nested deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(())
}

/// The number of levels below a value. Values here come from a bounded parser
/// or from `check_growth`, so the recursion is bounded, too.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Applies a merge patch: null removes, lists are replaced.
pub fn merge_patch(current: &Value, patch: &Value) -> Value {
    let mut object = current.clone();
    merge_into(&mut object, patch);
    object
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge_into(map.entry(name.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// A patch that can be read but not applied.
fn unprocessable(why: String) -> ApiError {
    ApiError::new(Reason::Invalid, why)
}

#[cfg(test)]
pub(crate) use tests::any_json;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(current: Value, patch: Value) -> Result<Value, u16> {
        json_patch(&current, patch.to_string().as_bytes()).map_err(|e| e.code())
    }

    #[test]
    fn json_patches_apply_or_are_refused() {
        let object = || json!({"a": {"b": [1, 2]}});
        let patch = json!([{"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/a/b/0"},
            {"op": "copy", "from": "/a/b", "path": "/c"}, {"op": "replace", "path": "/c/0", "value": 9}]);
        assert_eq!(
            patched(object(), patch),
            Ok(json!({"a": {"b": [2, 3]}, "c": [9, 3]}))
        );
        let patch = json!([{"op": "test", "path": "/a", "value": 1}]);
        assert_eq!(patched(object(), patch), Err(422));
        assert_eq!(
            patched(object(), json!([{"op": "remove", "path": "/x"}])),
            Err(422)
        );
        assert_eq!(patched(object(), json!([{"op": "x"}])), Err(400));
        assert_eq!(patched(object(), json!({})), Err(400));
        let many: Vec<Value> = (0..=MAX_JSON_PATCH_OPERATIONS)
            .map(|_| json!({"op": "remove", "path": "/x"}))
            .collect();
        assert_eq!(patched(object(), Value::Array(many)), Err(413));
    }

    #[test]
    fn json_patches_cannot_explode() {
        let copies: Vec<Value> = (0..200)
            .map(|_| json!({"op": "copy", "from": "", "path": "/a"}))
            .collect();
        assert_eq!(patched(json!({"a": 1}), Value::Array(copies)), Err(422));
        let copies: Vec<Value> = (0..200)
            .map(|i| json!({"op": "copy", "from": "/a", "path": format!("/b{i}")}))
            .collect();
        assert_eq!(
            patched(json!({"a": "x".repeat(100_000)}), Value::Array(copies)),
            Err(413)
        );
        let into_itself = json!([{"op": "move", "from": "/a", "path": "/a/b"}]);
        assert_eq!(patched(json!({"a": {}}), into_itself), Err(422));
    }

    #[test]
    fn merge_patches_follow_the_rfc() {
        for (current, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (
                json!([1, 2]),
                json!({"a": "b", "c": null}),
                json!({"a": "b"}),
            ),
        ] {
            assert_eq!(merge_patch(&current, &patch), result);
        }
    }

    /// Any JSON of a few levels.
    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(current in any_json(), patch in any_json()) {
            let once = merge_patch(&current, &patch);
            prop_assert_eq!(merge_patch(&once, &patch), once);
        }

        #[test]
        fn no_json_patch_panics(
            current in any_json(), op in "add|remove|replace|move|copy|test",
            from in "(/[a-c0-1-]){0,3}", path in "(/[a-c0-1-]){0,3}", value in any_json(),
        ) {
            let operation = json!({"op": op, "from": from, "path": path, "value": value});
            let _ = patched(current, json!([operation, operation]));
        }
    }
}
