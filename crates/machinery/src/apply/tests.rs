use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::gvk::GroupVersionKind;
use crate::patch::any_json;
use crate::schema::builtin;

const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T04:04:05Z";

fn schema_of(group: &'static str, kind: &'static str) -> Schema {
    builtin()
        .kind(&GroupVersionKind::new(group, "v1", kind))
        .unwrap()
}

fn deployment() -> Schema {
    schema_of("apps", "Deployment")
}

fn options(manager: &str) -> ApplyOptions {
    ApplyOptions {
        manager: manager.into(),
        force: false,
        api_version: "apps/v1".into(),
        subresource: String::new(),
        now: NOW.into(),
    }
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn applied(live: Option<&Value>, manager: &str, spec: Value) -> Result<Value, ApiError> {
    apply(live, &object(spec), &deployment(), &options(manager))
}

fn updated(live: Option<&Value>, manager: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = live.cloned().unwrap_or_else(|| object(json!({})));
    change(&mut new);
    track_update(
        live,
        &mut new,
        Some(&deployment()),
        manager,
        "apps/v1",
        "",
        LATER,
    );
    new
}

fn owners(object: &Value) -> Vec<(String, Value)> {
    crate::object::items(object, "/metadata/managedFields")
        .iter()
        .map(|e| {
            let name = format!(
                "{}/{}",
                e["manager"].as_str().unwrap(),
                e["operation"].as_str().unwrap()
            );
            (name, e["fieldsV1"].clone())
        })
        .collect()
}

#[test]
fn an_empty_list_outlives_the_change_to_server_side_apply() {
    let schema = Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "other": {"type": "string"}, "more": {"type": "string"}}}}}))
    .unwrap();
    let config = |spec: Value| json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec});
    let all = config(json!({"set": [], "other": "x", "more": "y"}));
    let mut live = all.clone();
    // As kubectl does it: what it wrote before becomes what it applied.
    let fields = json!({"f:spec": {".": {}, "f:set": {}, "f:other": {}, "f:more": {}}});
    put_managed_fields(
        &mut live,
        vec![
            json!({"manager": "m", "operation": "Apply", "apiVersion": "a/v1", "time": NOW,
            "fieldsType": "FieldsV1", "fieldsV1": fields}),
        ],
    );
    let options = ApplyOptions {
        api_version: "a/v1".into(),
        ..options("m")
    };
    for _ in 0..2 {
        live = apply(Some(&live), &all, &schema, &options).unwrap();
        assert_eq!(without_managed_fields(&live), all);
    }
    // What is no longer applied goes.
    let fewer = config(json!({"set": [], "more": "y"}));
    live = apply(Some(&live), &fewer, &schema, &options).unwrap();
    assert_eq!(without_managed_fields(&live), fewer);
}

#[test]
fn a_first_apply_owns_what_it_sets() {
    let result = applied(
        None,
        "m",
        json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}}),
    )
    .unwrap();
    assert_eq!(
        result["metadata"]["managedFields"],
        json!([{"manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {
                "f:replicas": {}, "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:a": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}}}])
    );
    let again = applied(Some(&result), "m", result["spec"].clone()).unwrap();
    assert_eq!(again, result);
}

#[test]
fn metadata_outlives_the_last_label() {
    let mut config = object(json!({"replicas": 1}));
    config["metadata"]["labels"] = json!({"a": "b"});
    let mut live = apply(None, &config, &deployment(), &options("m")).unwrap();
    live["metadata"]["resourceVersion"] = json!("7");
    live["metadata"]["uid"] = json!("u");
    let after = applied(Some(&live), "m", json!({"replicas": 1})).unwrap();
    let mut metadata = after["metadata"].clone();
    metadata.as_object_mut().unwrap().remove("managedFields");
    assert_eq!(
        metadata,
        json!({"name": "d", "resourceVersion": "7", "uid": "u"})
    );
}

#[test]
fn fields_no_longer_applied_go() {
    let first = applied(None, "m", json!({"replicas": 2, "paused": true, "strategy": {"type": "Recreate"},
        "template": {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}}))
    .unwrap();
    let live = updated(Some(&first), "other", |o| {
        o["spec"]["minReadySeconds"] = json!(5);
        o["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 1});
    });
    let second = applied(
        Some(&live),
        "m",
        json!({"replicas": 2,
        "template": {"spec": {"containers": [{"name": "b", "image": "2"}]}}}),
    )
    .unwrap();
    assert_eq!(
        second["spec"],
        json!({"replicas": 2, "minReadySeconds": 5, "strategy": {"rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": [{"name": "b", "image": "2"}]}}})
    );
    // A field that two own stays until both let go.
    let shared = applied(Some(&second), "n", json!({"replicas": 2})).unwrap();
    let one = applied(Some(&shared), "m", json!({})).unwrap();
    assert_eq!(one["spec"]["replicas"], 2);
    assert!(one["spec"].get("template").is_none());
    let none = applied(Some(&one), "n", json!({})).unwrap();
    assert_eq!(
        none["spec"],
        json!({"minReadySeconds": 5, "strategy": {"rollingUpdate": {"maxSurge": 1}}})
    );
    // An empty object is a value: both still own the empty `spec` they applied.
    assert_eq!(owners(&none).len(), 3);
}

#[test]
fn conflicts_read_like_upstream() {
    let live = updated(None, "kubectl-client-side-apply", |o| {
        o["spec"] = json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "1"}]}}});
    });
    let error = applied(Some(&live), "m", json!({"replicas": 3})).unwrap_err();
    assert_eq!(error.code(), 409);
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    assert_eq!(
        error.details["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}])
    );
    let spec =
        json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "2"}]}}});
    let error = applied(Some(&live), "m", spec.clone()).unwrap_err();
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.template.spec.containers[name=\"a\"].image"
    );
    let mut force = options("m");
    force.force = true;
    let forced = apply(Some(&live), &object(spec), &deployment(), &force).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    let owners = owners(&forced);
    assert_eq!(owners[0].0, "m/Apply");
    assert!(owners[1].1.pointer("/f:spec/f:replicas").is_none());
    // The same value is no conflict.
    assert!(applied(Some(&live), "m", json!({"replicas": 1})).is_ok());
}

#[test]
fn updates_are_tracked() {
    let live = updated(None, "a", |o| {
        o["metadata"]["labels"] = json!({"x": "1"});
        o["metadata"]["uid"] = json!("u");
        o["spec"]["replicas"] = json!(1);
    });
    assert_eq!(
        owners(&live),
        [(
            "a/Update".to_owned(),
            json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {".": {}, "f:replicas": {}}})
        )]
    );
    let changed = updated(Some(&live), "b", |o| o["spec"]["replicas"] = json!(2));
    assert_eq!(
        owners(&changed),
        [
            (
                "a/Update".to_owned(),
                json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {}})
            ),
            ("b/Update".to_owned(), json!({"f:spec": {"f:replicas": {}}}))
        ]
    );
    let removed = updated(Some(&changed), "c", |o| {
        o["spec"].as_object_mut().unwrap().remove("replicas");
    });
    assert_eq!(owners(&removed).len(), 1);
    let same = updated(Some(&changed), "c", |o| {
        o["metadata"]["resourceVersion"] = json!("9")
    });
    assert_eq!(owners(&same), owners(&changed));
}

#[test]
fn entries_may_be_edited_and_untracked_objects_stay_so() {
    let live = updated(None, "a", |o| o["spec"]["replicas"] = json!(1));
    let cleared = updated(Some(&live), "b", |o| {
        o["metadata"]["managedFields"] = json!([{}])
    });
    assert!(owners(&cleared).is_empty());
    let untracked = updated(Some(&cleared), "b", |o| o["spec"]["replicas"] = json!(2));
    assert!(owners(&untracked).is_empty());
    let broken = updated(Some(&live), "b", |o| {
        o["metadata"]["managedFields"] = json!([{"operation": "x"}])
    });
    assert_eq!(owners(&broken), owners(&live));
    let absent = updated(Some(&live), "b", |o| {
        o["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("managedFields");
    });
    assert_eq!(owners(&absent), owners(&live));
    // Applying to an untracked object makes an owner for what was there.
    let applied = applied(Some(&untracked), "m", json!({"paused": true})).unwrap();
    let names: Vec<String> = owners(&applied).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["m/Apply", "before-first-apply/Update"]);
}

#[test]
fn many_updaters_are_joined() {
    let mut live = updated(None, "first", |o| {
        o["metadata"]["annotations"] = json!({"a": "0"})
    });
    for i in 0..20 {
        live = updated(Some(&live), &format!("m{i}"), |o| {
            o["metadata"]["annotations"][format!("k{i}")] = json!("v");
        });
    }
    let names: Vec<String> = owners(&live).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10);
    assert!(names.contains(&"ancient-changes/Update".to_owned()));
}

#[test]
fn lists_keep_the_order_of_the_configuration() {
    let container = |name: &str| json!({"name": name, "image": "i"});
    let list = |names: &[&str]| -> Value { names.iter().map(|n| container(n)).collect() };
    let spec = |names: &[&str]| json!({"template": {"spec": {"containers": list(names)}}});
    for (live, config, result) in [
        (&["a", "b", "c"][..], &["b"][..], &["a", "b", "c"][..]),
        (&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]),
        (&["a", "b"], &["x", "b"], &["a", "x", "b"]),
        (&["a"], &["x", "a"], &["x", "a"]),
        (&[], &["x", "a"], &["x", "a"]),
        (&["a", "b"], &[], &["a", "b"]),
    ] {
        let live = updated(None, "u", |o| o["spec"] = spec(live));
        let merged = applied(Some(&live), "m", spec(config)).unwrap();
        assert_eq!(merged["spec"], spec(result), "{config:?}");
    }
}

#[test]
fn bad_configurations_are_refused() {
    for spec in [
        json!({"template": {"spec": {"containers": [{"image": "i"}]}}}),
        json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}}),
        json!({"template": {"spec": {"containers": ["a"]}}}),
    ] {
        assert_eq!(applied(None, "m", spec).unwrap_err().code(), 400);
    }
    assert!(applied(None, "", json!({})).is_err());
    assert!(applied(None, &"m".repeat(129), json!({})).is_err());
    let mut config = object(json!({}));
    config["metadata"]["managedFields"] = json!([{}]);
    assert!(apply(None, &config, &deployment(), &options("m")).is_err());
    assert!(apply(None, &json!([]), &deployment(), &options("m")).is_err());
}

#[test]
fn free_parts_are_deduced() {
    let schema = Schema::from_crd(&json!({"type": "object", "properties": {"spec": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}))
    .unwrap();
    let config = json!({"metadata": {"name": "x"}, "spec": {"a": {"b": [1, 2]}, "c": 1}});
    let result = apply(None, &config, &schema, &options("m")).unwrap();
    assert_eq!(
        owners(&result)[0].1,
        json!({"f:spec": {"f:a": {".": {}, "f:b": {}}, "f:c": {}}})
    );
    let mut new = config.clone();
    track_update(None, &mut new, None, "m", "a/v1", "status", NOW);
    assert_eq!(new["metadata"]["managedFields"][0]["subresource"], "status");
}

fn any_object() -> impl Strategy<Value = Value> {
    let container = ("[a-c]", any_json()).prop_map(|(name, env)| json!({"name": name, "env": env}));
    (
        prop::collection::vec(container, 0..4),
        any_json(),
        any_json(),
    )
        .prop_map(|(c, free, managed)| {
            json!({"metadata": {"labels": free, "managedFields": managed},
            "spec": {"template": {"spec": {"containers": c}}}})
        })
}

fn any_spec() -> impl Strategy<Value = Value> {
    let containers = prop::collection::btree_map("[a-d]", "[x-z]", 1..4);
    let labels = prop::collection::btree_map("[a-d]", "[x-z]", 1..4);
    (containers, labels, prop::option::of(0..3)).prop_map(|(containers, labels, replicas)| {
        let list: Value = containers
            .iter()
            .map(|(n, i)| json!({"name": n, "image": i}))
            .collect();
        let mut spec =
            json!({"template": {"metadata": {"labels": labels}, "spec": {"containers": list}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = json!(replicas);
        }
        spec
    })
}

proptest! {
    #[test]
    fn nothing_panics(live in any_object(), config in any_object(), any in any_json()) {
        for (live, config) in [(&live, &config), (&live, &any), (&any, &config)] {
            let mut options = options("m");
            options.force = true;
            let _ = apply(Some(live), config, &deployment(), &options);
            let mut new = config.clone();
            track_update(Some(live), &mut new, Some(&deployment()), "m", "v1", "", NOW);
            track_update(None, &mut new, None, "m", "v1", "", NOW);
        }
    }

    #[test]
    fn applying_twice_is_applying_once(a in any_spec(), b in any_spec()) {
        let live = updated(None, "u", |o| o["spec"] = a);
        let mut force = options("m");
        force.force = true;
        let once = apply(Some(&live), &object(b.clone()), &deployment(), &force).unwrap();
        let mut later = force.clone();
        later.now = LATER.into();
        let twice = apply(Some(&once), &object(b), &deployment(), &later).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn letting_go_undoes_an_apply(a in any_spec(), b in any_spec()) {
        let first = applied(None, "a", a.clone()).unwrap();
        let mut force = options("b");
        force.force = true;
        let second = apply(Some(&first), &object(b), &deployment(), &force).unwrap();
        let third = apply(Some(&second), &object(a), &deployment(), &{
            let mut o = options("a");
            o.force = true;
            o
        }).unwrap();
        let last = applied(Some(&third), "b", json!({})).unwrap();
        let sorted = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(list) = spec.pointer_mut("/template/spec/containers").and_then(Value::as_array_mut) {
                list.sort_by_key(|c| c["name"].to_string());
            }
            spec
        };
        prop_assert_eq!(sorted(&last), sorted(&first));
    }
}
