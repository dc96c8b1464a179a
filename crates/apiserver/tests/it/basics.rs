//! create, get, list, update, delete and their conflicts.

use coracle_apiserver::access::UserInfo;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Caller, server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_kube_client_works_over_the_service() {
    let service = server().map_request(|mut request: http::Request<kube::client::Body>| {
        let user = UserInfo::system_masters("controller");
        request.extensions_mut().insert(user);
        request
    });
    let client = kube::Client::new(service, "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "a"}, "data": {"k": "v"},
    }))
    .unwrap();
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let mut got = maps.get("a").await.unwrap();
    assert_eq!(got, made);
    got.data = None;
    let put = maps.replace("a", &PostParams::default(), &got).await;
    assert_ne!(
        put.unwrap().metadata.resource_version,
        got.metadata.resource_version
    );
    let stale = maps.replace("a", &PostParams::default(), &got).await;
    let kube::Error::Api(status) = stale.unwrap_err() else {
        panic!("not an answer of the API");
    };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    maps.delete("a", &Default::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn refusals_use_the_words_of_kubernetes() {
    let c = Caller(server());
    c.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    for (method, target, body, code, message) in [
        (
            "POST",
            MAPS,
            json!({"metadata": {"name": "a"}}),
            409,
            "configmaps \"a\" already exists",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/configmaps/b",
            json!(null),
            404,
            "configmaps \"b\" not found",
        ),
        (
            "GET",
            "/api/v1/nothing",
            json!(null),
            404,
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/api/v1/namespaces/x/namespaces/y",
            json!(null),
            404,
            "the server could not find the requested resource",
        ),
        (
            "POST",
            "/api/v1/configmaps",
            json!({}),
            405,
            "the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            MAPS,
            json!({"kind": "Pod"}),
            400,
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            "POST",
            MAPS,
            json!({"apiVersion": "v2"}),
            400,
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            "POST",
            MAPS,
            json!({"metadata": {"name": "b", "namespace": "c"}}),
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            "POST",
            MAPS,
            json!({}),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            json!({"metadata": {"name": "b"}}),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            json!({"metadata": {"name": "a", "resourceVersion": "999"}}),
            409,
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            json!({"metadata": {"name": "a", "uid": "x"}}),
            409,
            "",
        ),
    ] {
        let answer = c
            .call(method, target, "application/json", &body.to_string())
            .await;
        let (got, text) = answer.failed();
        assert_eq!(got, code, "{method} {target} {body} {text}");
        assert!(
            message.is_empty() || text == message,
            "{method} {target}: {text}"
        );
    }
}

#[tokio::test]
async fn updates_keep_what_the_server_owns() {
    let c = Caller(server());
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let made = c
        .post(path, &json!({"metadata": {"generateName": "d-"}, "spec": {"replicas": 1}, "status": {"x": 1}}))
        .await
        .ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("d-") && name.len() == 7, "{name}");
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(made.get("status").is_none());
    let one = format!("{path}/{name}");

    // No change, no write.
    let same = c.put(&one, &made).await.ok();
    assert_eq!(same, made);

    let status = format!("{one}/status");
    let body = json!({"metadata": {"name": name}, "spec": {"replicas": 9}, "status": {"readyReplicas": 1}});
    let told = c.put(&status, &body).await.ok();
    assert_eq!(told["spec"]["replicas"], 1);
    assert_eq!(told["status"]["readyReplicas"], 1);
    assert_eq!(told["metadata"]["generation"], 1);

    let body = json!({"metadata": {"name": name, "creationTimestamp": "2000-01-01T00:00:00Z"}, "spec": {"replicas": 2}});
    let scaled = c.put(&one, &body).await.ok();
    assert_eq!(scaled["status"]["readyReplicas"], 1);
    assert_eq!(scaled["metadata"]["generation"], 2);
    assert_eq!(scaled["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(
        scaled["metadata"]["creationTimestamp"],
        made["metadata"]["creationTimestamp"]
    );

    let dry = c
        .put(
            &format!("{one}?dryRun=All"),
            &json!({"metadata": {"name": name}, "spec": {"replicas": 3}}),
        )
        .await
        .ok();
    assert_eq!(dry["spec"]["replicas"], 3);
    assert_eq!(c.get(&one).await.ok(), scaled);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let c = Caller(server());
    let one = format!("{MAPS}/a");
    c.post(
        MAPS,
        &json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]}}),
    )
    .await
    .ok();
    let marked = c.delete(&one).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // Again changes nothing.
    assert_eq!(c.delete(&one).await.ok(), marked);
    let mut more = marked.clone();
    more["metadata"]["finalizers"] = json!(["x.y/z", "x.y/w"]);
    let (code, text) = c.put(&one, &more).await.failed();
    assert_eq!(code, 422, "{text}");
    let mut last = marked.clone();
    last["metadata"]["finalizers"] = json!([]);
    c.put(&one, &last).await.ok();
    assert_eq!(c.get(&one).await.status, 404);
}

#[tokio::test]
async fn deletes_honour_preconditions_grace_and_propagation() {
    let c = Caller(server());
    let pods = "/api/v1/namespaces/default/pods";
    let delete = |target: String, options: serde_json::Value| {
        let c = c.clone();
        async move {
            c.call("DELETE", &target, "application/json", &options.to_string())
                .await
        }
    };
    for name in ["a", "b"] {
        c.post(
            pods,
            &json!({"metadata": {"name": name}, "spec": {"nodeName": "n"}}),
        )
        .await
        .ok();
    }
    let (code, _) = delete(format!("{pods}/a"), json!({"preconditions": {"uid": "x"}}))
        .await
        .failed();
    assert_eq!(code, 409);
    let marked = delete(format!("{pods}/a"), json!({"gracePeriodSeconds": 20}))
        .await
        .ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
    assert_eq!(marked["metadata"]["generation"], 2);
    // It can be shortened, not lengthened.
    let same = delete(format!("{pods}/a"), json!({"gracePeriodSeconds": 25}))
        .await
        .ok();
    assert_eq!(same, marked);
    let shorter = delete(format!("{pods}/a"), json!({"gracePeriodSeconds": 5}))
        .await
        .ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let gone = delete(format!("{pods}/a"), json!({"gracePeriodSeconds": 0}))
        .await
        .ok();
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["name"], "a");

    let held = delete(
        format!("{pods}/b"),
        json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"}),
    )
    .await
    .ok();
    assert_eq!(
        held["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    let orphan = delete(format!("{pods}/b"), json!({"propagationPolicy": "Orphan"}))
        .await
        .ok();
    assert_eq!(orphan["metadata"]["finalizers"], json!(["orphan"]));
    let (code, _) = delete(
        format!("{pods}/b"),
        json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
    )
    .await
    .failed();
    assert_eq!(code, 422);

    for name in ["x", "y"] {
        c.post(
            MAPS,
            &json!({"metadata": {"name": name, "labels": {"l": name}}}),
        )
        .await
        .ok();
    }
    c.delete(&format!("{MAPS}?labelSelector=l%3Dx")).await.ok();
    let left = c.get(MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "y");
}

#[tokio::test]
async fn callers_have_to_be_known_and_allowed() {
    let server = server();
    let c = Caller(server.clone());
    let mut request = Caller::request("GET", MAPS, "", "");
    request.extensions_mut().clear();
    assert_eq!(c.send(request).await.status(), 401);
    let mut request = Caller::request("GET", MAPS, "", "");
    request
        .extensions_mut()
        .insert(UserInfo::authenticated("ann", &[]));
    assert_eq!(c.send(request).await.status(), 403);
    let mut request = Caller::request("GET", MAPS, "", "");
    request.headers_mut().insert(
        "accept",
        "application/vnd.kubernetes.protobuf".parse().unwrap(),
    );
    assert_eq!(c.send(request).await.status(), 406);
    let answer = c.call("POST", MAPS, "application/xml", "x").await;
    assert_eq!(answer.status, 415);
    let answer = c
        .call("POST", MAPS, "application/json", &" ".repeat(4 << 20))
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(c.get("/readyz?verbose").await.status, 200);
    assert_eq!(c.get("/version").await.ok()["minor"], "36");
    let metrics = c.get("/metrics").await;
    assert!(
        metrics
            .body
            .as_str()
            .unwrap()
            .contains("apiserver_request_total{verb=\"LIST\"")
    );
}
