//! Kinds that CustomResourceDefinitions define.

use std::sync::Arc;

use coracle_apiserver::callout::{Callouts, ClusterNetwork};
use coracle_apiserver::custom_kinds::CustomKinds;
use coracle_apiserver::{ApiServer, kinds};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Caller, Lines, store};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub fn crd(group: &str, plural: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 1, "maximum": 5}}},
                }}},
            }],
        },
    })
}

fn custom_kinds(server: ApiServer) -> CustomKinds {
    let network = ClusterNetwork::new(server.objects(), Arc::default());
    CustomKinds::new(server, Arc::new(Callouts::new(Arc::new(network))))
}

/// Waits for a state of the definition that `wanted` accepts.
async fn until(caller: &Caller, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let target = format!("{CRDS}?watch=true&fieldSelector=metadata.name={name}");
    let mut lines = Lines::open(caller, &target).await;
    loop {
        let event = lines.next().await.expect("an event");
        if wanted(&event) {
            return event["object"].clone();
        }
    }
}

fn condition(event: &Value, r#type: &str, status: &str) -> bool {
    let conditions = event["object"]["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    all.any(|c| c["type"] == r#type && c["status"] == status)
}

#[tokio::test]
async fn definitions_come_live_and_go() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server.clone());
    let namespace = json!({"metadata": {"name": "default"}});
    caller.post("/api/v1/namespaces", &namespace).await.ok();
    let stop = CancellationToken::new();
    let task = tokio::spawn(custom_kinds(server).run(stop.clone()));

    let definition = crd("stable.example.com", "crontabs", "CronTab");
    caller.post(CRDS, &definition).await.ok();
    let name = "crontabs.stable.example.com";
    let live = until(&caller, name, |e| condition(e, "Established", "True")).await;
    assert_eq!(live["status"]["acceptedNames"]["kind"], "CronTab");

    let objects = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let object = json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "x"}, "spec": {}});
    let made = caller.post(objects, &object).await.ok();
    assert_eq!(made["spec"]["n"], 1);
    let mut bad = object.clone();
    bad["metadata"]["name"] = json!("y");
    bad["spec"]["n"] = json!(9);
    assert_eq!(caller.post(objects, &bad).await.failed().0, 422);

    caller.delete(&format!("{CRDS}/{name}")).await.ok();
    until(&caller, name, |e| e["type"] == "DELETED").await;
    assert_eq!(caller.get(objects).await.failed().0, 404);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn built_in_kinds_are_not_replaced() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server.clone());
    let mut definition = crd("rbac.authorization.k8s.io", "roles", "Role");
    definition["metadata"]["annotations"] =
        json!({"api-approved.kubernetes.io": "unapproved, a test"});
    caller.post(CRDS, &definition).await.ok();
    custom_kinds(server).load().await.unwrap();
    let name = "roles.rbac.authorization.k8s.io";
    let refused = caller.get(&format!("{CRDS}/{name}")).await.ok();
    assert!(condition(
        &json!({"object": refused}),
        "NamesAccepted",
        "False"
    ));
    caller
        .get("/apis/rbac.authorization.k8s.io/v1/roles")
        .await
        .ok();
}

#[tokio::test]
async fn a_bad_schema_is_refused_at_once() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server);
    let mut definition = crd("stable.example.com", "crontabs", "CronTab");
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"] = json!({});
    let (code, message) = caller.post(CRDS, &definition).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.versions[0].schema.openAPIV3Schema"),
        "{message}"
    );
}

#[tokio::test]
async fn defaults_reach_what_was_stored_before_them() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server.clone());
    let namespace = json!({"metadata": {"name": "default"}});
    caller.post("/api/v1/namespaces", &namespace).await.ok();
    let mut definition = crd("late.example.com", "crontabs", "CronTab");
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/n";
    *definition.pointer_mut(at).unwrap() = json!({"type": "integer"});
    let made = caller.post(CRDS, &definition).await.ok();
    let custom = custom_kinds(server);
    custom.load().await.unwrap();
    let objects = "/apis/late.example.com/v1/namespaces/default/crontabs";
    let object = json!({"apiVersion": "late.example.com/v1", "kind": "CronTab", "metadata": {"name": "x"}, "spec": {}});
    assert_eq!(caller.post(objects, &object).await.ok()["spec"], json!({}));
    let mut with_default = definition.clone();
    *with_default.pointer_mut(at).unwrap() = json!({"type": "integer", "default": 7});
    let name = made["metadata"]["name"].as_str().unwrap();
    let live = caller.get(&format!("{CRDS}/{name}")).await.ok();
    with_default["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    caller
        .put(&format!("{CRDS}/{name}"), &with_default)
        .await
        .ok();
    custom.load().await.unwrap();
    let read = caller.get(&format!("{objects}/x")).await.ok();
    assert_eq!(read["spec"]["n"], 7);
    let listed = caller.get(objects).await.ok();
    assert_eq!(listed["items"][0]["spec"]["n"], 7);
}

#[tokio::test]
async fn rules_of_definitions_are_kept() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server.clone());
    let namespace = json!({"metadata": {"name": "default"}});
    caller.post("/api/v1/namespaces", &namespace).await.ok();
    let mut definition = crd("rules.example.com", "scales", "Scale");
    let spec =
        &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    *spec = json!({
        "type": "object",
        "properties": {
            "min": {"type": "integer"},
            "max": {"type": "integer"},
            "class": {"type": "string", "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "class is immutable"},
            ]},
        },
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'%d is more than %d'.format([self.min, self.max])"},
        ],
    });
    let mut wrong = definition.clone();
    let at =
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/x-kubernetes-validations/0/rule";
    *wrong.pointer_mut(at).unwrap() = json!("self.min <= nope");
    let (code, message) = caller.post(CRDS, &wrong).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.contains("undeclared reference to 'nope'"),
        "{message}"
    );

    caller.post(CRDS, &definition).await.ok();
    custom_kinds(server).load().await.unwrap();
    let objects = "/apis/rules.example.com/v1/namespaces/default/scales";
    let object = |min: i64, class: &str| {
        json!({"apiVersion": "rules.example.com/v1", "kind": "Scale", "metadata": {"name": "x"},
            "spec": {"min": min, "max": 3, "class": class}})
    };
    let (code, message) = caller.post(objects, &object(4, "a")).await.failed();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "Scale.rules.example.com \"x\" is invalid: spec: Invalid value: \"object\": 4 is more than 3"
    );
    let made = caller.post(objects, &object(1, "a")).await.ok();
    let mut changed = object(2, "a");
    changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let made = caller.put(&format!("{objects}/x"), &changed).await.ok();
    let mut changed = object(2, "b");
    changed["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let (code, message) = caller.put(&format!("{objects}/x"), &changed).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.ends_with("spec.class: Invalid value: \"string\": class is immutable"),
        "{message}"
    );
}

#[tokio::test]
async fn a_version_that_is_stored_stays() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server);
    let definition = crd("kept.example.com", "boxes", "Box");
    caller.post(CRDS, &definition).await.ok();
    let mut version = definition["spec"]["versions"][0].clone();
    version["name"] = json!("v2");
    let target = format!("{CRDS}/boxes.kept.example.com");
    let patch = json!({"spec": {"versions": [version.clone()]}}).to_string();
    let merge = "application/merge-patch+json";
    let answer = caller.call("PATCH", &target, merge, &patch).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.message().contains(
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"
        ),
        "{}",
        answer.body
    );
    let mut first = definition["spec"]["versions"][0].clone();
    first["storage"] = json!(false);
    let both = json!({"spec": {"versions": [version.clone(), first]}}).to_string();
    caller.call("PATCH", &target, merge, &both).await.ok();
    // Once nothing is stored in it any more, the user says so, and it may go.
    let status = json!({"status": {"storedVersions": ["v2"]}}).to_string();
    let at = format!("{target}/status");
    caller.call("PATCH", &at, merge, &status).await.ok();
    let answer = caller.call("PATCH", &target, merge, &patch).await;
    assert!(answer.status.is_success(), "{}", answer.body);
}

#[tokio::test]
async fn fields_may_be_selected_and_versions_deprecated() {
    let server = ApiServer::builder(store()).kinds(kinds::builtin()).build();
    let caller = Caller(server.clone());
    let namespace = json!({"metadata": {"name": "default"}});
    caller.post("/api/v1/namespaces", &namespace).await.ok();
    let cancel = CancellationToken::new();
    let custom = custom_kinds(server);
    let run = tokio::spawn({
        let cancel = cancel.clone();
        async move { custom.run(cancel).await }
    });
    let mut crd = crd("ex.io", "widgets", "Widget");
    let version = &mut crd["spec"]["versions"][0];
    version["selectableFields"] = json!([{"jsonPath": ".spec.n"}]);
    version["deprecated"] = json!(true);
    caller.post(CRDS, &crd).await.ok();
    until(&caller, "widgets.ex.io", |e| {
        condition(e, "Established", "True")
    })
    .await;
    let widgets = "/apis/ex.io/v1/namespaces/default/widgets";
    for n in [2, 3] {
        let widget = json!({"apiVersion": "ex.io/v1", "kind": "Widget",
            "metadata": {"name": format!("w{n}")}, "spec": {"n": n}});
        let answer = caller.post(widgets, &widget).await;
        assert_eq!(
            answer.headers["warning"].to_str().unwrap(),
            "299 - \"ex.io/v1 Widget is deprecated\""
        );
    }
    let found = caller
        .get(&format!("{widgets}?fieldSelector=spec.n%3D3"))
        .await
        .ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(found["items"][0]["metadata"]["name"], "w3");
    let (code, message) = caller
        .get(&format!("{widgets}?fieldSelector=spec.m%3D3"))
        .await
        .failed();
    assert_eq!(
        (code, message.as_str()),
        (400, "field label not supported: spec.m")
    );
    cancel.cancel();
    run.await.unwrap();
}
