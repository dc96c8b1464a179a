//! Admission policies in expressions, and match conditions of webhooks.

use serde_json::{Value, json};

use crate::builtin::server_with;
use crate::support::Caller;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn rules() -> Value {
    json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        "operations": ["CREATE", "UPDATE"],
    }])
}

async fn bound(admin: &Caller, kind: &str, spec: Value, binding: Value) {
    let policy = json!({"metadata": {"name": "p"}, "spec": spec});
    let path = format!("{GROUP}/{kind}admissionpolicies");
    admin.post(&path, &policy).await.ok();
    let mut spec = json!({"policyName": "p"});
    for (key, value) in binding.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let binding = json!({"metadata": {"name": "b"}, "spec": spec});
    let path = format!("{GROUP}/{kind}admissionpolicybindings");
    admin.post(&path, &binding).await.ok();
}

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn validating_policies_refuse_and_warn() {
    let (admin, _) = server_with(None).await;
    let spec = json!({
        "matchConstraints": {"resourceRules": rules()},
        "matchConditions": [{"name": "not-free", "expression": "object.metadata.name != 'free'"}],
        "variables": [
            {"name": "data", "expression": "object.?data.orValue({})"},
            {"name": "size", "expression": "variables.data.size()"},
            {"name": "fails", "expression": "object.nope"},
        ],
        "validations": [
            {"expression": "variables.size <= 1", "messageExpression": "'%d entries'.format([variables.size])"},
            {"expression": "namespaceObject.metadata.name == request.namespace && request.operation == 'CREATE'"},
        ],
    });
    bound(
        &admin,
        "validating",
        spec,
        json!({"validationActions": ["Deny", "Warn"]}),
    )
    .await;
    admin.post(MAPS, &map("x", json!({"a": "1"}))).await.ok();
    let big = json!({"a": "1", "b": "2"});
    admin.post(MAPS, &map("free", big.clone())).await.ok();
    let answer = admin.post(MAPS, &map("y", big)).await;
    let (code, message) = answer.failed();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        "configmaps \"y\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied \
         request: 2 entries"
    );
    let (_, message) = admin
        .put(&format!("{MAPS}/x"), &map("x", json!({})))
        .await
        .failed();
    assert!(
        message.ends_with("request.operation == 'CREATE'"),
        "{message}"
    );
    admin
        .delete(&format!("{GROUP}/validatingadmissionpolicybindings/b"))
        .await
        .ok();
    admin
        .put(&format!("{MAPS}/x"), &map("x", json!({})))
        .await
        .ok();
}

#[tokio::test]
async fn policies_take_parameters() {
    let (admin, _) = server_with(None).await;
    let limits = map("limits", json!({"most": "1"}));
    admin
        .post("/api/v1/namespaces/kube-public/configmaps", &limits)
        .await
        .ok();
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": rules()},
        "validations": [{
            "expression": "object.?data.orValue({}).size() <= int(params.data.most)",
            "message": "too many", "reason": "Forbidden",
        }],
    });
    let reference = json!({
        "name": "limits", "namespace": "kube-public", "parameterNotFoundAction": "Deny",
    });
    let binding = json!({"paramRef": reference, "validationActions": ["Deny"]});
    bound(&admin, "validating", spec, binding).await;
    admin.post(MAPS, &map("x", json!({"a": "1"}))).await.ok();
    let (code, message) = admin
        .post(MAPS, &map("y", json!({"a": "1", "b": "2"})))
        .await
        .failed();
    assert_eq!(code, 403);
    assert!(message.ends_with("denied request: too many"), "{message}");
    admin
        .delete("/api/v1/namespaces/kube-public/configmaps/limits")
        .await
        .ok();
    let (_, message) = admin.post(MAPS, &map("z", json!({}))).await.failed();
    assert!(message.contains("no params found"), "{message}");
}

#[tokio::test]
async fn mutating_policies_change_objects() {
    let (admin, _) = server_with(None).await;
    let apply = "Object{metadata: Object.metadata{labels: {'team': 'a'}}, data: {'x': '1'}}";
    let patch = "[JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('b'), \
                 value: object.metadata.labels.team}]";
    let spec = json!({
        "matchConstraints": {"resourceRules": rules()},
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": apply}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}},
        ],
    });
    bound(&admin, "mutating", spec, json!({})).await;
    let made = admin.post(MAPS, &map("x", json!({"y": "2"}))).await.ok();
    assert_eq!(made["data"], json!({"x": "1", "y": "2", "b": "a"}));
    assert_eq!(made["metadata"]["labels"], json!({"team": "a"}));
}

#[tokio::test]
async fn expressions_are_checked_when_they_are_written() {
    let (admin, _) = server_with(None).await;
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": rules()},
        "validations": [{"expression": "object.x ="}],
    }});
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let (code, message) = admin.post(&path, &policy).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.validations[0].expression: Invalid value"),
        "{message}"
    );
    let webhooks = json!({"metadata": {"name": "w"}, "webhooks": [{
        "name": "w.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://192.0.2.1/"}, "rules": rules(),
        "matchConditions": [{"name": "c", "expression": "nope == 1"}],
    }]});
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let (code, message) = admin.post(&path, &webhooks).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.contains("compilation failed: ERROR: <input>:1:1: undeclared"),
        "{message}"
    );
    // A condition that does not hold keeps the webhook out of it.
    let mut fine = webhooks.clone();
    fine["webhooks"][0]["matchConditions"][0]["expression"] =
        json!("object.metadata.name == 'nobody'");
    admin.post(&path, &fine).await.ok();
    admin.post(MAPS, &map("x", json!({}))).await.ok();
    fine["webhooks"][0]["matchConditions"][0]["expression"] = json!("object.nope");
    admin.put(&format!("{path}/w"), &fine).await.ok();
    let (code, message) = admin.post(MAPS, &map("y", json!({}))).await.failed();
    assert!(
        code == 403 && message.contains("matchCondition 'c'"),
        "{message}"
    );
}
