//! Kubeconfigs with the token of a service account of the virtual cluster.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_config::model::TokenAccount;
use coracle_machinery::object;
use serde_json::{Value, json};

use crate::clusters::World;

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const SECRET: &str = "/api/v1/namespaces/demo/secrets/robots";

fn robot(role: &str) -> Option<TokenAccount> {
    Some(TokenAccount {
        name: "robot".into(),
        namespace: "ci".into(),
        cluster_role: role.into(),
    })
}

fn decoded(secret: &Value, key: &str) -> String {
    let bytes = STANDARD.decode(object::text(secret, &format!("/data/{key}")));
    String::from_utf8(bytes.unwrap()).unwrap()
}

/// Who a token is, as the virtual cluster sees it.
async fn who(world: &World, token: &str) -> Value {
    let review = json!({"spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = world.inside.create(path, review).await;
    answer["status"]["user"]["username"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_holds_the_token_of_an_account_that_is_made() {
    let mut world = World::new().await;
    world.additional = vec!["robots".into()];
    world.account = robot("view");
    world.start(world.host.client()).await;
    let secret = world.host.appears(SECRET).await;
    let token = decoded(&secret, "token");
    assert_eq!(who(&world, &token).await, "system:serviceaccount:ci:robot");
    let config: Value = serde_json::from_str(&decoded(&secret, "config")).unwrap();
    assert_eq!(config["users"][0]["user"], json!({"token": token}));
    let bound = format!("{BINDINGS}/coracle:kubeconfig:ci:robot:view");
    let binding = world.inside.get(&bound).await.unwrap();
    assert_eq!(binding["roleRef"]["name"], "view");
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "ServiceAccount", "namespace": "ci", "name": "robot"}])
    );

    // Other values: another role, and no longer the one before.
    world.stop().await;
    world.account = robot("edit");
    world
        .inside
        .delete("/api/v1/namespaces/ci/serviceaccounts/robot", None)
        .await;
    world.start(world.host.client()).await;
    world.inside.disappears(&bound).await;
    world
        .inside
        .appears(&format!("{BINDINGS}/coracle:kubeconfig:ci:robot:edit"))
        .await;
    // The account is another, so its token is as well.
    let renewed = |secret: &Value| decoded(secret, "token") != token;
    let secret = world.host.until(SECRET, "the old token", renewed).await;
    let renewed = decoded(&secret, "token");
    assert_eq!(
        who(&world, &renewed).await,
        "system:serviceaccount:ci:robot"
    );

    world.stop().await;
    world.account = None;
    world.start(world.host.client()).await;
    world
        .inside
        .disappears(&format!("{BINDINGS}/coracle:kubeconfig:ci:robot:edit"))
        .await;
}
