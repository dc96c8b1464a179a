//! Namespaces and what they hold.

use serde_json::{Value, json};

use crate::support::Cluster;

#[tokio::test]
async fn namespaces_are_furnished_and_emptied() {
    let cluster = Cluster::start().await;
    cluster
        .create("/api/v1/namespaces", json!({"metadata": {"name": "a"}}))
        .await;
    cluster
        .until(
            "/api/v1/namespaces/a/serviceaccounts/default",
            Result::is_ok,
        )
        .await;
    let map = "/api/v1/namespaces/a/configmaps/kube-root-ca.crt";
    let found = cluster.until(map, Result::is_ok).await;
    assert_eq!(found["data"]["ca.crt"], "the authority");
    // Both come back.
    cluster.delete(map, json!({})).await.unwrap();
    cluster.until(map, Result::is_ok).await;
    // A finalizer holds the namespace up, and its status says so.
    let held = "/api/v1/namespaces/a/configmaps/held";
    cluster
        .create(
            "/api/v1/namespaces/a/configmaps",
            json!({
                "metadata": {"name": "held", "finalizers": ["example.com/hold"]},
            }),
        )
        .await;
    cluster
        .delete("/api/v1/namespaces/a", json!({}))
        .await
        .unwrap();
    let namespace = cluster
        .until("/api/v1/namespaces/a", |answer| {
            let conditions = answer
                .as_ref()
                .ok()
                .and_then(|it| it["status"]["conditions"].as_array());
            conditions.is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition["type"] == "NamespaceFinalizersRemaining"
                        && condition["status"] == "True"
                })
            })
        })
        .await;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    cluster
        .patch(held, json!({"metadata": {"finalizers": null}}))
        .await;
    cluster.until_gone("/api/v1/namespaces/a").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_secret_for_a_token_is_filled_and_ends_with_its_account() {
    let cluster = Cluster::start().await;
    let core = "/api/v1/namespaces/default";
    cluster
        .create(
            &format!("{core}/serviceaccounts"),
            json!({"metadata": {"name": "robot"}}),
        )
        .await;
    let secret = json!({
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot-token",
            "annotations": {"kubernetes.io/service-account.name": "robot"}},
    });
    cluster.create(&format!("{core}/secrets"), secret).await;
    let path = format!("{core}/secrets/robot-token");
    let filled = |answer: &Result<Value, u16>| {
        answer.as_ref().is_ok_and(|secret| {
            ["token", "ca.crt", "namespace"]
                .iter()
                .all(|field| secret["data"][*field].is_string())
                && secret["metadata"]["annotations"]["kubernetes.io/service-account.uid"]
                    .is_string()
        })
    };
    cluster.until(&path, filled).await;
    cluster
        .delete(&format!("{core}/serviceaccounts/robot"), Value::Null)
        .await
        .unwrap();
    cluster.until_gone(&path).await;
    cluster.stop().await;
}
