//! The server as it is shipped: all kinds and the built-in rules.

use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_apiserver::access::UserInfo;
use coracle_apiserver::admission::{KubernetesService, ServiceAddressing};
use coracle_apiserver::builtin::{Builtin, BuiltinOptions, install};
use coracle_apiserver::callout::Callouts;
use coracle_apiserver::{ApiServer, kinds};
use coracle_pki::TokenSigner;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, store};

async fn server() -> (Caller, Builtin) {
    server_with(None).await
}

/// A server whose webhooks are called in that way.
pub async fn server_with(callouts: Option<Arc<Callouts>>) -> (Caller, Builtin) {
    let addressing = ServiceAddressing::allocate("10.96.0.0/16".parse().unwrap());
    server_of(addressing, callouts).await
}

/// A server whose services get their addresses in that way.
pub async fn server_of(
    addressing: ServiceAddressing,
    callouts: Option<Arc<Callouts>>,
) -> (Caller, Builtin) {
    let builder = ApiServer::builder(store()).kinds(kinds::builtin());
    let options = BuiltinOptions {
        signer: Arc::new(TokenSigner::generate().unwrap()),
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        anonymous: true,
        addressing,
        callouts,
        front_proxy: None,
        reach: Arc::default(),
    };
    let (builder, builtin) = install(builder, options);
    let service = KubernetesService {
        cluster_ip: Some(Ipv4Addr::new(10, 96, 0, 1)),
        endpoint_ip: Ipv4Addr::new(10, 0, 0, 1),
        endpoint_port: 6443,
    };
    builtin.prepare(Some(&service)).await.unwrap();
    (Caller(builder.build()), builtin)
}

/// Sends a request with a bearer token, or with none.
async fn with_token(caller: &Caller, method: &str, target: &str, token: &str) -> Answer {
    let mut request = Caller::request(method, target, "", "");
    request.extensions_mut().remove::<UserInfo>();
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    caller.answer(request).await
}

#[tokio::test]
async fn a_fresh_server_holds_the_default_policy() {
    let (admin, builtin) = server().await;
    builtin.prepare(None).await.unwrap();
    let namespaces = admin.get("/api/v1/namespaces").await.ok();
    assert_eq!(namespaces["items"].as_array().unwrap().len(), 4);
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin";
    let rules = admin.get(role).await.ok()["rules"].clone();
    assert_eq!(rules.as_array().unwrap().len(), 29);
    let service = admin
        .get("/api/v1/namespaces/default/services/kubernetes")
        .await
        .ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let (code, message) = admin.delete("/api/v1/namespaces/default").await.failed();
    assert_eq!(code, 403);
    assert!(
        message.ends_with("this namespace may not be deleted"),
        "{message}"
    );
}

#[tokio::test]
async fn a_pod_s_token_acts_as_its_account_until_the_pod_is_gone() {
    let (admin, _) = server().await;
    let account = json!({"metadata": {"name": "default"}});
    admin
        .post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await
        .ok();
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = admin
        .post("/api/v1/namespaces/default/pods", &pod)
        .await
        .ok();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(
        mount["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );

    let request = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1",
        "name": "p", "uid": pod["metadata"]["uid"]}}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = admin.post(path, &request).await.ok();
    let token = answer["status"]["token"].as_str().unwrap();

    let pods = "/api/v1/namespaces/default/pods";
    let (code, message) = with_token(&admin, "GET", pods, token).await.failed();
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    admin.post(bindings, &binding).await.ok();
    with_token(&admin, "GET", pods, token).await.ok();
    let elsewhere = with_token(&admin, "GET", "/api/v1/namespaces/kube-system/pods", token).await;
    assert_eq!(elsewhere.failed().0, 403);

    admin
        .delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0")
        .await
        .ok();
    assert_eq!(with_token(&admin, "GET", pods, token).await.failed().0, 401);
}

#[tokio::test]
async fn strangers_get_little() {
    let (admin, _) = server().await;
    with_token(&admin, "GET", "/version", "").await.ok();
    with_token(&admin, "GET", "/livez", "").await.ok();
    let (code, message) = with_token(&admin, "GET", "/api/v1/nodes", "")
        .await
        .failed();
    assert_eq!(code, 403);
    assert!(
        message.contains("User \"system:anonymous\" cannot list"),
        "{message}"
    );
    assert_eq!(
        with_token(&admin, "GET", "/version", "x").await.failed().0,
        401
    );
    let keys = admin.get("/openid/v1/jwks").await.ok();
    assert_eq!(keys["keys"][0]["kty"], "EC");
}

#[tokio::test]
async fn reviews_answer() {
    let (admin, _) = server().await;
    let review = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    let group = "/apis/authorization.k8s.io/v1";
    let answer = admin
        .post(&format!("{group}/selfsubjectaccessreviews"), &review)
        .await;
    assert_eq!(answer.status, 201);
    let answer = answer.ok();
    assert_eq!(answer["kind"], "SelfSubjectAccessReview");
    assert_eq!(answer["status"]["allowed"], true);
    let mut review = review;
    review["spec"]["user"] = json!("ann");
    let answer = admin
        .post(&format!("{group}/subjectaccessreviews"), &review)
        .await
        .ok();
    assert_eq!(answer["status"], json!({"allowed": false}));
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = admin.post(who, &json!({})).await.ok();
    assert_eq!(answer["status"]["userInfo"]["username"], "admin");
    let rules = json!({"spec": {"namespace": "default"}});
    let answer = admin
        .post(&format!("{group}/selfsubjectrulesreviews"), &rules)
        .await
        .ok();
    assert_eq!(answer["status"]["resourceRules"][0]["verbs"], json!(["*"]));
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold() {
    let (admin, _) = server().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let subject = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]);
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "subjects": subject,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    };
    let bindings = format!("{rbac}/namespaces/default/rolebindings");
    admin.post(&bindings, &bind("a", "admin")).await.ok();
    let as_ann = |body: Value| {
        let text = body.to_string();
        let mut request = Caller::request("POST", &bindings, "application/json", &text);
        request
            .headers_mut()
            .insert("impersonate-user", "ann".parse().unwrap());
        admin.answer(request)
    };
    as_ann(bind("b", "view")).await.ok();
    let (code, message) = as_ann(bind("c", "cluster-admin")).await.failed();
    assert_eq!(code, 403);
    assert!(
        message.contains("attempting to grant RBAC permissions not currently held"),
        "{message}"
    );
}

#[tokio::test]
async fn services_get_addresses() {
    let (admin, _) = server().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({"metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
    };
    let a = admin.post(services, &service("a")).await.ok();
    let b = admin.post(services, &service("b")).await.ok();
    assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
    assert_ne!(
        a["spec"]["ports"][0]["nodePort"],
        b["spec"]["ports"][0]["nodePort"]
    );
    assert!(a["spec"]["ports"][0]["nodePort"].as_i64().unwrap() >= 30_000);
    let mut taken = service("c");
    taken["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
    let (code, message) = admin.post(services, &taken).await.failed();
    assert_eq!(code, 422);
    assert!(
        message.ends_with("provided IP is already allocated"),
        "{message}"
    );
    // Sent back as it was read, or without what was allocated, it stays.
    let mut again = service("a");
    again["metadata"]["labels"] = json!({"x": "y"});
    let again = admin.put(&format!("{services}/a"), &again).await.ok();
    assert_eq!(again["spec"], a["spec"]);
}

/// The form of a request for a certificate, as base64: nobody signs it.
const CERTIFICATE_REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUFBPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

#[tokio::test]
async fn requesters_of_certificates_are_who_asks() {
    let (admin, _) = server().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = json!({"metadata": {"name": "c"}, "spec": {
        "request": CERTIFICATE_REQUEST, "signerName": "example.com/s", "usages": ["client auth"],
        "username": "somebody-else", "groups": ["system:masters"],
    }});
    let mut asked = Caller::request("POST", path, "application/json", &request.to_string());
    let mut user = UserInfo::authenticated("ann", &[]);
    user.uid = "7".into();
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": ["certificates.k8s.io"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval"],
        "verbs": ["create", "update"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    admin
        .post(&format!("{rbac}/clusterroles"), &role)
        .await
        .ok();
    let binding = json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "ann"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}});
    admin
        .post(&format!("{rbac}/clusterrolebindings"), &binding)
        .await
        .ok();
    asked.extensions_mut().insert(user.clone());
    let made = admin.answer(asked).await.ok();
    assert_eq!(made["spec"]["username"], "ann");
    assert_eq!(made["spec"]["uid"], "7");
    assert_eq!(made["spec"]["groups"], json!(["system:authenticated"]));
    // The right to write approvals is not yet one for every signer.
    let mut approved = made.clone();
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r"}]});
    let target = format!("{path}/c/approval");
    let mut asked = Caller::request("PUT", &target, "application/json", &approved.to_string());
    asked.extensions_mut().insert(user);
    let (code, message) = admin.answer(asked).await.failed();
    assert_eq!(code, 403);
    assert!(
        message.contains("not permitted to approve requests with signerName"),
        "{message}"
    );
    approved["metadata"]["annotations"] = json!({"why": "asked"});
    approved["spec"]["signerName"] = json!("example.com/other");
    let done = admin.put(&target, &approved).await.ok();
    assert_eq!(done["metadata"]["annotations"]["why"], "asked");
    assert_eq!(done["status"]["conditions"][0]["type"], "Approved");
    assert_eq!(done["spec"], made["spec"]);
}

#[tokio::test]
async fn writes_of_a_status_may_annotate() {
    let (admin, _) = server().await;
    let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend":
        {"service": {"name": "s", "port": {"number": 80}}}}});
    admin.post(path, &ingress).await.ok();
    let patch = json!({"metadata": {"annotations": {"a": "b"}}}).to_string();
    let merge = "application/merge-patch+json";
    let patched = admin
        .call("PATCH", &format!("{path}/i/status"), merge, &patch)
        .await
        .ok();
    assert_eq!(patched["metadata"]["annotations"]["a"], "b");
}

#[tokio::test]
async fn writes_of_a_deployment_s_status_do_not_label() {
    let (admin, _) = server().await;
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d", "labels": {"a": "b"}}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin.post(path, &deployment).await.ok();
    let patch = json!({"metadata": {"labels": {"a": "c"}}, "status": {"replicas": 1}}).to_string();
    let merge = "application/merge-patch+json";
    let target = format!("{path}/d/status");
    let patched = admin.call("PATCH", &target, merge, &patch);
    let patched = patched.await.ok();
    assert_eq!(patched["metadata"]["labels"]["a"], "b");
    assert_eq!(patched["status"]["replicas"], 1);
}
