//! Deployments, stateful sets, daemon sets and services.

use serde_json::{Value, json};

use crate::support::{Cluster, template};

const PODS: &str = "/api/v1/namespaces/default/pods";
const APPS: &str = "/apis/apps/v1/namespaces/default";

fn workload(name: &str, replicas: Option<i64>, image: &str) -> Value {
    let mut body = json!({
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(image)},
    });
    if let Some(replicas) = replicas {
        body["spec"]["replicas"] = replicas.into();
    }
    body
}

fn is_complete(replicas: i64) -> impl Fn(&Result<Value, u16>) -> bool {
    move |answer| {
        answer.as_ref().is_ok_and(|it| {
            let status = &it["status"];
            status["observedGeneration"] == it["metadata"]["generation"]
                && status["updatedReplicas"] == replicas
                && status["replicas"] == replicas
                && status["availableReplicas"] == replicas
        })
    }
}

#[tokio::test]
async fn a_deployment_rolls_scales_and_is_undone() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.add_node("n2").await;
    cluster
        .create(
            &format!("{APPS}/deployments"),
            workload("web", Some(3), "v1"),
        )
        .await;
    let path = format!("{APPS}/deployments/web");
    cluster.until(&path, is_complete(3)).await;
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    cluster
        .create("/api/v1/namespaces/default/services", service)
        .await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                  ?labelSelector=kubernetes.io/service-name=web";
    let ready = |slice: &Value, count: usize| {
        slice["endpoints"].as_array().is_some_and(|endpoints| {
            endpoints.len() == count && endpoints.iter().all(|it| it["conditions"]["ready"] == true)
        })
    };
    cluster.until_all(slices, 1, |slice| ready(slice, 3)).await;
    cluster
        .until("/api/v1/namespaces/default/endpoints/web", |answer| {
            answer.as_ref().is_ok_and(|it| {
                it["subsets"][0]["addresses"]
                    .as_array()
                    .is_some_and(|it| it.len() == 3)
            })
        })
        .await;
    // A new template.
    let image = |image: &str| json!({"spec": {"template": template(image)}});
    cluster.patch(&path, image("v2")).await;
    cluster.until(&path, is_complete(3)).await;
    let deployment = cluster.get(&path).await.unwrap();
    let revision = "deployment.kubernetes.io/revision";
    assert_eq!(deployment["metadata"]["annotations"][revision], "2");
    let pods = cluster.list(PODS).await;
    assert!(
        pods.iter()
            .all(|pod| pod["spec"]["containers"][0]["image"] == "v2")
    );
    let reasons: Vec<&str> = deployment["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| condition["reason"].as_str().unwrap())
        .collect();
    assert!(reasons.contains(&"NewReplicaSetAvailable"), "{reasons:?}");
    assert!(reasons.contains(&"MinimumReplicasAvailable"), "{reasons:?}");
    // Scaled, and back to the first template.
    cluster.patch(&path, json!({"spec": {"replicas": 5}})).await;
    cluster.until(&path, is_complete(5)).await;
    cluster.patch(&path, image("v1")).await;
    cluster.until(&path, is_complete(5)).await;
    let sets = cluster.list(&format!("{APPS}/replicasets")).await;
    assert_eq!(sets.len(), 2);
    cluster.until_all(slices, 1, |slice| ready(slice, 5)).await;
    // A pod that is lost is made again.
    let pod = cluster.list(PODS).await[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    cluster
        .delete(&format!("{PODS}/{pod}"), json!({}))
        .await
        .unwrap();
    cluster.until_gone(&format!("{PODS}/{pod}")).await;
    cluster.until(&path, is_complete(5)).await;
    assert_eq!(cluster.list(PODS).await.len(), 5);
    cluster.stop().await;
}

#[tokio::test]
async fn stateful_pods_are_numbered_updated_and_scaled_down() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n").await;
    let mut body = workload("db", Some(3), "v1");
    body["spec"]["serviceName"] = "db".into();
    cluster.create(&format!("{APPS}/statefulsets"), body).await;
    let path = format!("{APPS}/statefulsets/db");
    cluster.until(&path, is_complete(3)).await;
    let names: Vec<Value> = cluster
        .list(PODS)
        .await
        .iter()
        .map(|pod| pod["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    cluster
        .patch(&path, json!({"spec": {"template": template("v2")}}))
        .await;
    let set = cluster
        .until(&path, |answer| {
            is_complete(3)(answer)
                && answer.as_ref().is_ok_and(|it| {
                    it["status"]["currentRevision"] == it["status"]["updateRevision"]
                })
        })
        .await;
    assert_eq!(set["status"]["currentReplicas"], 3);
    let pods = cluster.list(PODS).await;
    assert!(
        pods.iter()
            .all(|pod| pod["spec"]["containers"][0]["image"] == "v2")
    );
    let revisions = cluster.list(&format!("{APPS}/controllerrevisions")).await;
    assert_eq!(revisions.len(), 2);
    cluster.patch(&path, json!({"spec": {"replicas": 1}})).await;
    cluster
        .until_all(PODS, 1, |pod| pod["metadata"]["name"] == "db-0")
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn daemons_run_on_every_node() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster
        .create(&format!("{APPS}/daemonsets"), workload("agent", None, "v1"))
        .await;
    let path = format!("{APPS}/daemonsets/agent");
    let available = |count: i64| {
        move |answer: &Result<Value, u16>| {
            answer.as_ref().is_ok_and(|it| {
                it["status"]["numberAvailable"] == count
                    && it["status"]["updatedNumberScheduled"] == count
            })
        }
    };
    cluster.until(&path, available(1)).await;
    cluster.add_node("n2").await;
    cluster.until(&path, available(2)).await;
    cluster
        .patch(&path, json!({"spec": {"template": template("v2")}}))
        .await;
    cluster
        .until_all(PODS, 2, |pod| {
            pod["spec"]["containers"][0]["image"] == "v2" && pod["status"]["phase"] == "Running"
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_pod_that_its_job_lost_may_go() {
    let mut cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let mut pod = template("v1");
    pod["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"metadata": {"name": "work"}, "spec": {"template": pod}});
    cluster.create(jobs, job).await;
    let tracked = |pod: &Value| {
        let finalizers = pod["metadata"]["finalizers"].to_string();
        finalizers.contains("batch.kubernetes.io/job-tracking")
    };
    cluster.until_all(PODS, 1, tracked).await;
    let name = cluster.list(PODS).await[0]["metadata"]["name"].clone();
    let first = format!("{PODS}/{}", name.as_str().unwrap());
    let label = json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "other"}}});
    cluster.patch(&first, label).await;
    cluster
        .until(&first, |pod| {
            pod.as_ref()
                .is_ok_and(|pod| !tracked(pod) && pod["metadata"]["ownerReferences"].is_null())
        })
        .await;
    // The job has made another one.
    cluster.until_all(PODS, 2, |_| true).await;
    cluster.stop().await;
}

#[tokio::test]
async fn endpoints_of_a_service_without_a_selector_are_mirrored() {
    let cluster = Cluster::start().await;
    let core = "/api/v1/namespaces/default";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let of_db = |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "db";
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 80}]}});
    cluster.create(&format!("{core}/services"), service).await;
    let endpoints = json!({"metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 8080}]}]});
    cluster
        .create(&format!("{core}/endpoints"), endpoints)
        .await;
    let found = |slices: &Result<Value, u16>, address: &str| {
        let items = slices
            .as_ref()
            .ok()
            .and_then(|list| list["items"].as_array());
        items
            .into_iter()
            .flatten()
            .any(|slice| of_db(slice) && slice["endpoints"][0]["addresses"][0] == address)
    };
    cluster.until(slices, |all| found(all, "10.1.2.3")).await;
    let change =
        json!({"subsets": [{"addresses": [{"ip": "10.1.2.4"}], "ports": [{"port": 8080}]}]});
    let path = format!("{core}/endpoints/db");
    cluster.patch(&path, change).await;
    cluster.until(slices, |all| found(all, "10.1.2.4")).await;
    cluster.delete(&path, Value::Null).await.unwrap();
    cluster
        .until(slices, |all| {
            let items = all.as_ref().ok().and_then(|list| list["items"].as_array());
            items.is_some_and(|items| !items.iter().any(of_db))
        })
        .await;
    cluster.stop().await;
}
