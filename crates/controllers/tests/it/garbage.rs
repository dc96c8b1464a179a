//! Owners and what becomes of their dependents.

use serde_json::{Value, json};

use crate::support::{Cluster, template};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_deployment() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n").await;
    let spec = json!({
        "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template("ok"),
    });
    cluster
        .create(
            DEPLOYMENTS,
            json!({"metadata": {"name": "web"}, "spec": spec}),
        )
        .await;
    cluster
        .until_all(PODS, 2, |pod| pod["status"]["phase"] == "Running")
        .await;
    cluster
}

#[tokio::test]
async fn background_deletion_takes_everything_along() {
    let cluster = with_deployment().await;
    cluster
        .delete(&format!("{DEPLOYMENTS}/web"), json!({}))
        .await
        .unwrap();
    cluster.until_all(SETS, 0, |_| true).await;
    cluster.until_all(PODS, 0, |_| true).await;
    cluster.stop().await;
}

#[tokio::test]
async fn foreground_deletion_ends_with_the_owner() {
    let cluster = with_deployment().await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster
        .delete(&path, json!({"propagationPolicy": "Foreground"}))
        .await
        .unwrap();
    cluster.until_gone(&path).await;
    assert!(cluster.list(SETS).await.is_empty());
    assert!(cluster.list(PODS).await.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn orphans_stay() {
    let cluster = with_deployment().await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster
        .delete(&path, json!({"propagationPolicy": "Orphan"}))
        .await
        .unwrap();
    cluster.until_gone(&path).await;
    let sets = cluster
        .until_all(SETS, 1, |set| {
            set["metadata"]["ownerReferences"]
                .as_array()
                .is_none_or(Vec::is_empty)
        })
        .await;
    assert_eq!(sets[0]["spec"]["replicas"], 2);
    assert_eq!(cluster.list(PODS).await.len(), 2);
    cluster.stop().await;
}

#[tokio::test]
async fn an_owner_that_never_was_counts_as_gone() {
    let cluster = Cluster::start().await;
    let owned =
        |name: &str, owner: Value| json!({"metadata": {"name": name, "ownerReferences": [owner]}});
    let real = cluster
        .create(MAPS, json!({"metadata": {"name": "owner"}}))
        .await;
    let reference = |name: &str, uid: &Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid});
    cluster
        .create(
            MAPS,
            owned("kept", reference("owner", &real["metadata"]["uid"])),
        )
        .await;
    cluster
        .create(
            MAPS,
            owned("lost", reference("owner", &json!("another-uid"))),
        )
        .await;
    cluster.until_gone(&format!("{MAPS}/lost")).await;
    assert!(cluster.get(&format!("{MAPS}/kept")).await.is_ok());
    cluster
        .delete(&format!("{MAPS}/owner"), json!({}))
        .await
        .unwrap();
    cluster.until_gone(&format!("{MAPS}/kept")).await;
    cluster.stop().await;
}
