use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::gvk::GroupVersionKind;
use crate::patch::any_json;
use crate::schema::builtin;

fn pod_schema() -> Schema {
    builtin()
        .kind(&GroupVersionKind::new("", "v1", "Pod"))
        .unwrap()
}

fn pod_patch(spec: Value, patch: Value) -> Result<Value, ApiError> {
    let object = json!({"spec": spec});
    let merged = strategic_merge_patch(&object, &json!({"spec": patch}), &pod_schema())?;
    Ok(merged["spec"].clone())
}

#[test]
fn lists_and_maps_merge_as_upstream() {
    let two = || json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]});
    for (what, current, patch, result) in [
        (
            "an item is merged by its key and keeps its place",
            two(),
            json!({"containers": [{"name": "b", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}),
        ),
        (
            "a new item comes first",
            two(),
            json!({"containers": [{"name": "c", "image": "3", "env": null}]}),
            json!({"containers": [{"name": "c", "image": "3"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
        ),
        (
            "an item is deleted",
            two(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "2"}]}),
        ),
        (
            "a list is replaced",
            two(),
            json!({"containers": [{"name": "c", "image": "3"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c", "image": "3"}]}),
        ),
        (
            "the order is set",
            two(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "4"}]}),
            json!({"containers": [{"name": "b", "image": "4"}, {"name": "a", "image": "1"}]}),
        ),
        (
            "the order is set alone",
            two(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "1"}]}),
        ),
        (
            "a map is merged, null removes",
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null, "c": "3"}, "nodeName": null}),
            json!({"nodeSelector": {"b": "2", "c": "3"}}),
        ),
        (
            "a map is replaced",
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
            json!({"nodeSelector": {"c": "3"}}),
        ),
        (
            "a map is emptied",
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        (
            "a list without merge strategy is replaced",
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            "a volume changes its source",
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        ),
        (
            "directives vanish where nothing was",
            json!({}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"]}, {"name": "w", "$patch": "delete"}], "nodeSelector": {"$patch": "replace", "a": "b"}}),
            json!({"volumes": [{"name": "v"}], "nodeSelector": {"a": "b"}}),
        ),
        (
            "a field of another type is replaced",
            json!({"nodeSelector": "odd"}),
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"a": "1"}}),
        ),
    ] {
        assert_eq!(pod_patch(current, patch).unwrap(), result, "{what}");
    }
}

#[test]
fn scalar_lists_merge() {
    let object = json!({"metadata": {"finalizers": ["a/a", "b/b", "c/c"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b/b"],
        "$setElementOrder/finalizers": ["a/a", "d/d", "c/c"], "finalizers": ["d/d"]}});
    let merged = strategic_merge_patch(&object, &patch, &pod_schema()).unwrap();
    // As upstream, the order is set before items are deleted.
    assert_eq!(
        merged,
        json!({"metadata": {"finalizers": ["a/a", "d/d", "c/c"]}})
    );
}

#[test]
fn service_ports_are_told_apart_by_number() {
    let schema = builtin()
        .kind(&GroupVersionKind::new("", "v1", "Service"))
        .unwrap();
    let object = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
    let patch = json!({"spec": {"ports": [{"port": 81, "name": "c"}]}});
    assert_eq!(
        strategic_merge_patch(&object, &patch, &schema).unwrap()["spec"]["ports"],
        json!([{"port": 80, "name": "a"}, {"port": 81, "name": "c"}])
    );
}

#[test]
fn bad_patches_are_refused() {
    let current =
        || json!({"containers": [{"name": "a"}], "nodeSelector": {}, "volumes": [{"name": "v"}]});
    for (patch, code) in [
        (json!({"containers": [{"image": "x"}]}), 422),
        (json!({"containers": [{"$patch": "delete"}]}), 422),
        (json!({"containers": [{"name": "a", "$patch": "odd"}]}), 422),
        (json!({"containers": ["a"]}), 422),
        (json!({"nodeSelector": {"$patch": 5}}), 422),
        (json!({"volumes": [{"name": "v", "$retainKeys": "x"}]}), 400),
        (
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}),
            400,
        ),
        (json!({"$setElementOrder/containers": 1}), 400),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
            400,
        ),
        (json!({"$deleteFromPrimitiveList/containers": 1}), 400),
    ] {
        let error = pod_patch(current(), patch.clone()).unwrap_err();
        assert_eq!(error.code(), code, "{patch}");
    }
    assert!(strategic_merge_patch(&json!({}), &json!([]), &pod_schema()).is_err());
}

fn spec() -> impl Strategy<Value = Value> {
    let container = ("[a-c]", prop::option::of("[x-z]"), any_json())
        .prop_map(|(name, image, env)| json!({"name": name, "image": image, "env": env}));
    let lists = prop::collection::vec(container, 0..4);
    (lists, any_json()).prop_map(
        |(containers, other)| json!({"spec": {"containers": containers, "nodeSelector": other}}),
    )
}

proptest! {
    #[test]
    fn no_patch_panics(current in any_json(), patch in any_json(), a in spec(), b in spec()) {
        for (current, patch) in [(&current, &patch), (&a, &b), (&a, &patch), (&current, &b)] {
            let _ = strategic_merge_patch(current, patch, &pod_schema());
        }
    }

    #[test]
    fn patching_twice_is_patching_once(
        images in prop::collection::btree_map("[a-e]", "[x-z]", 0..5),
        patch in prop::collection::btree_map("[a-e]", "[x-z]", 0..5),
    ) {
        let list = |map: &std::collections::BTreeMap<String, String>| -> Value {
            map.iter().map(|(name, image)| json!({"name": name, "image": image})).collect()
        };
        let object = json!({"spec": {"containers": list(&images)}});
        let patch = json!({"spec": {"containers": list(&patch)}});
        let once = strategic_merge_patch(&object, &patch, &pod_schema()).unwrap();
        prop_assert_eq!(strategic_merge_patch(&once, &patch, &pod_schema()).unwrap(), once);
    }
}
