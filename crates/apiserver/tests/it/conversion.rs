//! Custom kinds whose versions a webhook converts.

use coracle_apiserver::custom_kinds::CustomKinds;
use serde_json::{Value, json};

use crate::builtin::server_with;
use crate::support::{Caller, Lines};
use crate::webhooks::Service;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAME: &str = "boats.example.com";

/// `v1` has `hostPort`, `v2` has `host` and `port`.
fn convert(path: &str, request: &Value) -> Value {
    let version = request["desiredAPIVersion"].as_str().unwrap();
    let mut objects = request["objects"].as_array().unwrap().clone();
    for object in &mut objects {
        assert_ne!(object["apiVersion"], version, "asked for nothing");
        object["apiVersion"] = json!(version);
        if version == "example.com/v2" {
            let whole = object["hostPort"].take();
            let (host, port) = whole.as_str().unwrap().split_once(':').unwrap();
            (object["host"], object["port"]) = (json!(host), json!(port));
            object.as_object_mut().unwrap().remove("hostPort");
        } else {
            let (host, port) = (object["host"].take(), object["port"].take());
            let whole = format!("{}:{}", host.as_str().unwrap(), port.as_str().unwrap());
            object["hostPort"] = json!(whole);
        }
        object["metadata"]["labels"] = json!({"converted": "yes"});
        object["metadata"]["finalizers"] = json!(["not.its/business"]);
        if path == "/renames" {
            object["metadata"]["name"] = json!("other");
        }
    }
    match path {
        "/refuses" => json!({"result": {"status": "Failure", "message": "no way"}}),
        _ => json!({"result": {"status": "Success"}, "convertedObjects": objects}),
    }
}

fn definition(service: &Service, path: &str, stored: &str) -> Value {
    let version = |name: &str, fields: Value| {
        json!({"name": name, "served": true, "storage": name == stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [
                version("v1", json!({"hostPort": {"type": "string"}})),
                version("v2", json!({"host": {"type": "string"}, "port": {"type": "string"}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v9", "v1"],
                "clientConfig": {"caBundle": service.bundle, "service": {
                    "namespace": "default", "name": "hook", "path": path,
                }},
            }},
        },
    })
}

/// Changes the definition, and has it served so.
async fn redefine(caller: &Caller, kinds: &CustomKinds, definition: Value) {
    let target = format!("{CRDS}/{NAME}");
    let mut present = caller.get(&target).await.ok();
    present["spec"] = definition["spec"].clone();
    caller.put(&target, &present).await.ok();
    kinds.load().await.unwrap();
}

fn boats(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/boats")
}

fn boat(name: &str, whole: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name},
        "hostPort": whole})
}

#[tokio::test]
async fn every_version_shows_every_object() {
    let service = Service::start(convert).await;
    let (caller, builtin) = server_with(Some(service.callouts())).await;
    let kinds = CustomKinds::new(caller.0.clone(), builtin.callouts.clone());
    let first = definition(&service, "/convert", "v1");
    caller.post(CRDS, &first).await.ok();
    kinds.load().await.unwrap();

    let (v1, v2) = (boats("v1"), boats("v2"));
    let mut watch = Lines::open(&caller, &format!("{v2}?watch=1")).await;
    let made = caller.post(&v1, &boat("a", "here:80")).await.ok();
    assert_eq!(made["hostPort"], "here:80");
    assert!(service.seen().is_empty(), "the stored version needs nobody");
    let seen = watch.next().await.unwrap();
    assert_eq!(seen["object"]["apiVersion"], "example.com/v2");
    assert_eq!(seen["object"]["host"], "here");

    let shown = caller.get(&format!("{v2}/a")).await.ok();
    assert_eq!(
        (&shown["host"], &shown["port"]),
        (&json!("here"), &json!("80"))
    );
    // Of the metadata, only labels and annotations are the webhook's to change.
    let metadata = &shown["metadata"];
    assert_eq!(metadata["labels"], json!({"converted": "yes"}));
    assert_eq!(metadata.get("finalizers"), None);
    assert_eq!(
        metadata["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );

    // Changes are made to the version that is served.
    let merge = "application/merge-patch+json";
    let patch = json!({"host": "there"}).to_string();
    let changed = caller
        .call("PATCH", &format!("{v2}/a"), merge, &patch)
        .await
        .ok();
    assert_eq!(
        (&changed["host"], &changed["port"]),
        (&json!("there"), &json!("80"))
    );
    let shown = caller.get(&format!("{v1}/a")).await.ok();
    assert_eq!(shown["hostPort"], "there:80");

    // What was stored at the former version is shown with the rest.
    redefine(&caller, &kinds, definition(&service, "/convert", "v2")).await;
    let second = json!({"apiVersion": "example.com/v2", "kind": "Boat",
        "metadata": {"name": "b"}, "host": "far", "port": "1"});
    caller.post(&v2, &second).await.ok();
    service.seen();
    let list = caller.get(&v1).await.ok();
    let shown: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["hostPort"])
        .collect();
    assert_eq!(shown, [&json!("there:80"), &json!("far:1")]);
    assert_eq!(service.seen().len(), 1, "one call for all");
    let list = caller.get(&v2).await.ok();
    let shown: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["host"])
        .collect();
    assert_eq!(shown, [&json!("there"), &json!("far")]);
    // Written anew, it is stored at the present one.
    let mut old = caller.get(&format!("{v1}/a")).await.ok();
    old["hostPort"] = json!("back:80");
    caller.put(&format!("{v1}/a"), &old).await.ok();
    service.seen();
    assert_eq!(caller.get(&format!("{v2}/a")).await.ok()["host"], "back");
    assert!(service.seen().is_empty());
}

#[tokio::test]
async fn a_webhook_that_fails_hides_nothing_and_changes_nothing() {
    let service = Service::start(convert).await;
    let (caller, builtin) = server_with(Some(service.callouts())).await;
    let kinds = CustomKinds::new(caller.0.clone(), builtin.callouts.clone());
    caller
        .post(CRDS, &definition(&service, "/refuses", "v1"))
        .await
        .ok();
    kinds.load().await.unwrap();
    caller.post(&boats("v1"), &boat("a", "here:80")).await.ok();
    let target = format!("{}/a", boats("v2"));
    for (path, why) in [
        ("/refuses", "no way"),
        (
            "/renames",
            "invalid converted object at index 0: metadata.name must be \"a\", but is \"other\"",
        ),
    ] {
        redefine(&caller, &kinds, definition(&service, path, "v1")).await;
        let (code, message) = caller.get(&target).await.failed();
        assert_eq!(code, 500);
        let expected = format!(
            "Internal error occurred: conversion webhook for example.com/v1, Kind=Boat failed: {why}"
        );
        assert_eq!(message, expected);
    }
    let kept = caller.get(&format!("{}/a", boats("v1"))).await.ok();
    assert_eq!(kept["hostPort"], "here:80");
}
