//! The forms of PATCH.

use serde_json::{Value, json};

use crate::support::{Caller, server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn with_pod() -> Caller {
    let c = Caller(server());
    let pod = json!({
        "metadata": {"name": "p", "labels": {"a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]},
    });
    c.post(PODS, &pod).await.ok();
    c
}

async fn patch(c: &Caller, kind: &str, body: Value) -> crate::support::Answer {
    let target = format!("{PODS}/p");
    c.call("PATCH", &target, kind, &body.to_string()).await
}

#[tokio::test]
async fn each_form_patches_in_its_own_way() {
    let c = with_pod().await;
    let got = patch(
        &c,
        JSON,
        json!([{"op": "add", "path": "/metadata/labels/b", "value": "2"}]),
    )
    .await
    .ok();
    assert_eq!(got["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    let got = patch(&c, MERGE, json!({"metadata": {"labels": {"a": null}}}))
        .await
        .ok();
    assert_eq!(got["metadata"]["labels"], json!({"b": "2"}));
    let got = patch(
        &c,
        STRATEGIC,
        json!({"spec": {"containers": [{"name": "d", "image": "k"}]}}),
    )
    .await
    .ok();
    let images: Vec<&Value> = got["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["image"])
        .collect();
    assert_eq!(images, ["i", "k"]);
    assert_eq!(got["metadata"]["generation"], 2);
    let got = patch(
        &c,
        MERGE,
        json!({"spec": {"containers": [{"name": "d", "image": "l"}]}}),
    )
    .await
    .ok();
    assert_eq!(got["spec"]["containers"].as_array().unwrap().len(), 1);
    // Nothing changes, nothing is written.
    let same = patch(&c, MERGE, json!({"metadata": {"labels": {"b": "2"}}}))
        .await
        .ok();
    assert_eq!(same, got);
}

#[tokio::test]
async fn bad_patches_are_refused() {
    let c = with_pod().await;
    for (kind, body, code) in [
        (
            JSON,
            json!([{"op": "remove", "path": "/metadata/labels/zz"}]),
            422,
        ),
        (JSON, json!({"op": "remove"}), 400),
        (MERGE, json!([]), 400),
        (MERGE, json!({"metadata": {"name": "q"}}), 400),
        (MERGE, json!({"metadata": {"resourceVersion": "999"}}), 409),
        (MERGE, json!({"metadata": {"uid": "x"}}), 409),
        ("application/json", json!({}), 415),
        ("text/plain", json!({}), 415),
    ] {
        let answer = patch(&c, kind, body.clone()).await;
        assert_eq!(answer.status, code, "{kind} {body} {}", answer.body);
    }
    let target = format!("{PODS}/absent");
    assert_eq!(c.call("PATCH", &target, MERGE, "{}").await.status, 404);
    let target = format!("{PODS}/p?fieldValidation=Strict");
    let answer = c
        .call("PATCH", &target, MERGE, r#"{"spec":{"nonsense":1}}"#)
        .await;
    assert!(answer.status.is_client_error(), "{}", answer.body);
    let target = format!("{PODS}/p");
    let answer = c
        .call("PATCH", &target, MERGE, r#"{"spec":{"nonsense":1}}"#)
        .await;
    let warning = answer.headers["warning"].to_str().unwrap();
    assert_eq!(warning, "299 - \"unknown field \\\"spec.nonsense\\\"\"");
}

#[tokio::test]
async fn the_text_of_a_body_is_checked() {
    let c = with_pod().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata:\n  a: \"1\"\n  a: \"2\"\nfoo: 1\n";
    let maps = "/api/v1/namespaces/default/configmaps";
    let post = |validation: &str| {
        let target = format!("{maps}?fieldValidation={validation}");
        let c = c.clone();
        async move { c.call("POST", &target, "application/yaml", yaml).await }
    };
    let strict = post("Strict").await;
    assert_eq!(strict.status, 400);
    assert!(
        strict.message().ends_with(
            "strict decoding error: yaml: unmarshal errors:\n  line 6: key \"a\" already set in \
             map, unknown field \"foo\""
        ),
        "{}",
        strict.body
    );
    let warned = post("Warn").await;
    assert_eq!(warned.status, 201, "{}", warned.body);
    assert_eq!(warned.headers.get_all("warning").iter().count(), 2);
    assert_eq!(c.get(&format!("{maps}/y")).await.ok()["data"]["a"], "2");

    let map = format!("{maps}/y?fieldValidation=Strict");
    for (kind, body, fault) in [
        (
            MERGE,
            r#"{"data":{"q":"1","q":"2"}}"#,
            "duplicate field \"data.q\"",
        ),
        (
            JSON,
            r#"[{"op":"add","path":"/data/q","value":"1","x":1}]"#,
            "json patch unknown field \"[0].x\"",
        ),
    ] {
        let answer = c.call("PATCH", &map, kind, body).await;
        assert!(answer.message().ends_with(fault), "{}", answer.body);
    }
    // An apply takes no unknown field, however fields are validated.
    let target = format!("{maps}/z?fieldManager=m&fieldValidation=Ignore");
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z, namespace: default, foo: 1}\n";
    let answer = c
        .call("PATCH", &target, "application/apply-patch+yaml", body)
        .await;
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.message(),
        "failed to create typed patch object (default/z; v1, Kind=ConfigMap): .metadata.foo: \
         field not declared in schema"
    );
}

#[tokio::test]
async fn concurrent_patches_all_take_effect() {
    let c = with_pod().await;
    let all = (0..5).map(|i| {
        let c = c.clone();
        async move {
            let body = json!({"metadata": {"labels": {format!("l{i}"): "x"}}});
            patch(&c, MERGE, body).await.ok()
        }
    });
    futures::future::join_all(all).await;
    let got = c.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(got["metadata"]["labels"].as_object().unwrap().len(), 6);
}

#[tokio::test]
async fn apply_creates_owns_and_conflicts() {
    let c = Caller(server());
    let maps = "/api/v1/namespaces/default/configmaps";
    let apply = |manager: &str, force: bool, body: &str| {
        let target = format!(
            "{maps}/m?fieldManager={manager}{}",
            if force { "&force=true" } else { "" }
        );
        let (c, body) = (c.clone(), body.to_owned());
        async move {
            c.call("PATCH", &target, "application/apply-patch+yaml", &body)
                .await
        }
    };
    let yaml =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: \"1\"\n  b: \"2\"\n";
    let made = apply("one", false, yaml).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    assert_eq!(made["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    // Again changes nothing.
    assert_eq!(apply("one", false, yaml).await.ok(), made);
    let other =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"9"}}"#;
    let (code, text) = apply("two", false, other).await.failed();
    assert_eq!(code, 409, "{text}");
    let taken = apply("two", true, other).await.ok();
    assert_eq!(taken["data"], json!({"a": "9", "b": "2"}));
    // What is no longer applied goes.
    let less = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{}}"#;
    assert_eq!(
        apply("one", false, less).await.ok()["data"],
        json!({"a": "9"})
    );
    let target = format!("{maps}/m");
    let (code, text) = c
        .call("PATCH", &target, "application/apply-patch+yaml", yaml)
        .await
        .failed();
    assert_eq!(code, 422, "{text}");
    let (code, _) = apply("one", false, "{kind: [").await.failed();
    assert_eq!(code, 400);
    let bomb = "a: &a [x,x]\nb: [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]";
    let (code, _) = apply("one", false, bomb).await.failed();
    assert_eq!(code, 400);
}

#[tokio::test]
async fn updates_are_tracked_by_manager() {
    let c = Caller(server());
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1"}});
    let made = c
        .post(&format!("{maps}?fieldManager=maker"), &map)
        .await
        .ok();
    let managed = &made["metadata"]["managedFields"];
    assert_eq!(managed[0]["manager"], "maker");
    assert_eq!(managed[0]["operation"], "Update");
    assert!(
        managed[0]["fieldsV1"]["f:data"]["f:a"].is_object(),
        "{managed}"
    );
    let body = r#"{"data":{"b":"2"}}"#;
    let target = format!("{maps}/m?fieldManager=other");
    let got = c.call("PATCH", &target, MERGE, body).await.ok();
    assert_eq!(
        got["metadata"]["managedFields"].as_array().unwrap().len(),
        2
    );
}
