//! Services whose addresses come from the host's cluster: who creates one is
//! answered once the syncer has written them.

use coracle_apiserver::access::UserInfo;
use coracle_apiserver::admission::ServiceAddressing;
use serde_json::{Value, json};

use crate::builtin::server_of;
use crate::support::{Caller, Lines};

const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn server() -> Caller {
    let syncer = "syncer".to_owned();
    server_of(ServiceAddressing::FromHost { syncer }, None)
        .await
        .0
}

/// Writes as the syncer does, which must not wait for itself.
async fn as_syncer(caller: &Caller, method: &str, target: &str, body: &Value) -> Value {
    let mut request = Caller::request(method, target, "application/json", &body.to_string());
    request
        .extensions_mut()
        .insert(UserInfo::system_masters("syncer"));
    caller.answer(request).await.ok()
}

#[tokio::test]
async fn a_service_is_answered_with_the_addresses_of_the_host() {
    let caller = server().await;
    let target = format!("{SERVICES}?watch=1&fieldSelector=metadata.name=web");
    let mut watch = Lines::open(&caller, &target).await;
    let syncer = async {
        // What is created comes without an address, and gets one.
        let mut service = watch.next().await.unwrap()["object"].clone();
        assert_eq!(service["spec"].get("clusterIP"), None);
        service["spec"]["clusterIP"] = json!("10.1.2.3");
        let target = format!("{SERVICES}/web");
        as_syncer(&caller, "PUT", &target, &service).await;
        // The type changes, so it gets a port, too.
        loop {
            let mut service = watch.next().await.unwrap()["object"].clone();
            if service["spec"]["type"] == "NodePort" {
                service["spec"]["ports"][0]["nodePort"] = json!(30_123);
                as_syncer(&caller, "PUT", &target, &service).await;
                return;
            }
        }
    };
    let client = async {
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"ports": [{"port": 80}]},
        });
        let mut created = caller.post(SERVICES, &service).await;
        assert_eq!(created.status, 201);
        assert_eq!(created.body["spec"]["clusterIP"], "10.1.2.3");
        created.body["spec"]["type"] = json!("NodePort");
        let target = format!("{SERVICES}/web");
        let changed = caller.put(&target, &created.body).await.ok();
        assert_eq!(changed["spec"]["ports"][0]["nodePort"], 30_123);
        let now = caller.get(&target).await.ok();
        assert_eq!(changed, now, "the answer is the object as it is");
    };
    tokio::join!(syncer, client);
}

#[tokio::test]
async fn the_answer_comes_even_if_the_addresses_do_not() {
    let caller = server().await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let created = caller.post(SERVICES, &service).await.ok();
    assert_eq!(created["spec"].get("clusterIP"), None);
    // Nobody waits for what will not come.
    let headless = json!({
        "metadata": {"name": "headless"},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    });
    let started = tokio::time::Instant::now();
    caller.post(SERVICES, &headless).await.ok();
    let dry = json!({"metadata": {"name": "dry"}, "spec": {"ports": [{"port": 80}]}});
    let target = format!("{SERVICES}?dryRun=All");
    caller.post(&target, &dry).await.ok();
    let own = json!({"metadata": {"name": "own"}, "spec": {"ports": [{"port": 80}]}});
    as_syncer(&caller, "POST", SERVICES, &own).await;
    assert!(started.elapsed().as_secs() < 3);
}
