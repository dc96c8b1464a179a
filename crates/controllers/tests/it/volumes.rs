//! Claims and volumes.

use serde_json::{Value, json};

use crate::support::Cluster;

const CLAIM: &str = "/api/v1/namespaces/default/persistentvolumeclaims/data";
const VOLUME: &str = "/api/v1/persistentvolumes/disk";

fn in_phase(answer: &Result<Value, u16>, phase: &str) -> bool {
    answer
        .as_ref()
        .is_ok_and(|found| found["status"]["phase"] == phase)
}

#[tokio::test]
async fn claims_are_bound_and_protected() {
    let cluster = Cluster::start().await;
    let volume = json!({"metadata": {"name": "disk"}, "spec": {
        "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/data"},
    }});
    cluster.create("/api/v1/persistentvolumes", volume).await;
    cluster.until(VOLUME, |v| in_phase(v, "Available")).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}},
    }});
    cluster
        .create("/api/v1/namespaces/default/persistentvolumeclaims", claim)
        .await;
    let claim = cluster.until(CLAIM, |c| in_phase(c, "Bound")).await;
    assert_eq!(claim["spec"]["volumeName"], "disk");
    assert_eq!(claim["status"]["capacity"]["storage"], "2Gi");
    let volume = cluster.until(VOLUME, |v| in_phase(v, "Bound")).await;
    assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);

    // A pod that was placed holds the claim, and the claim its volume.
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "user"}, "spec": {
        "nodeName": "somewhere", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    }});
    cluster.create(pods, pod).await;
    cluster.delete(VOLUME, json!({})).await.unwrap();
    cluster.delete(CLAIM, json!({})).await.unwrap();
    let marked = |found: &Result<Value, u16>| {
        let found = found.as_ref();
        found.is_ok_and(|f| f["metadata"]["deletionTimestamp"].is_string())
    };
    cluster.until(CLAIM, marked).await;
    cluster.until(VOLUME, marked).await;
    cluster
        .delete(
            &format!("{pods}/user"),
            json!({"gracePeriodSeconds": 0, "kind": "DeleteOptions", "apiVersion": "v1"}),
        )
        .await
        .unwrap();
    cluster.until_gone(CLAIM).await;
    cluster.until_gone(VOLUME).await;
    cluster.stop().await;
}
