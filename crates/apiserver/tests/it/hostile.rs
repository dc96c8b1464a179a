//! Attempts to make the server call addresses that are not its users' to call.

use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::admission::ServiceAddressing;
use coracle_apiserver::aggregation::Aggregator;
use coracle_apiserver::builtin::{Builtin, BuiltinOptions, install};
use coracle_apiserver::connect::{self, Reach};
use coracle_apiserver::custom_kinds::CustomKinds;
use coracle_apiserver::{ApiServer, kinds};
use coracle_pki::{CertificateAuthority, TokenSigner};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::builtin::server_with;
use crate::support::{Caller, Lines, store};
use crate::webhooks::Service;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What lies below the cluster, as a node or an API server of a host would.
const BELOW: &str = "10.0.0.1";
/// Where the server itself stands.
const OWN: &str = "10.244.0.7";

/// A server as in a virtual cluster, and its authority.
async fn server() -> (Caller, CustomKinds, CertificateAuthority) {
    let (caller, builtin, authority) = parts().await;
    let custom = CustomKinds::new(caller.0.clone(), builtin.callouts);
    (caller, custom, authority)
}

async fn parts() -> (Caller, Builtin, CertificateAuthority) {
    parts_with(reach()).await
}

fn reach() -> Reach {
    Reach::default()
        .without([BELOW.parse().unwrap()])
        .standing_at(OWN.parse().unwrap())
}

async fn parts_with(reach: Reach) -> (Caller, Builtin, CertificateAuthority) {
    let reach = Arc::new(reach);
    let options = BuiltinOptions {
        signer: Arc::new(TokenSigner::generate().unwrap()),
        issuer: "https://kubernetes.default.svc.cluster.local".into(),
        anonymous: true,
        addressing: ServiceAddressing::allocate("10.96.0.0/16".parse().unwrap()),
        callouts: None,
        front_proxy: None,
        reach: reach.clone(),
    };
    let builder = ApiServer::builder(store()).kinds(kinds::builtin());
    let (builder, builtin) = install(builder, options);
    builtin.prepare(None).await.unwrap();
    let authority = CertificateAuthority::generate("tenant").unwrap();
    let hour = Duration::from_secs(3600);
    let calling = authority.issue_client("caller", &[], hour).unwrap();
    let identity = Some((calling.cert_pem.as_str(), calling.key_pem.as_str()));
    let tls = coracle_pki::tls::client_config(authority.cert_pem(), identity).unwrap();
    let server = connect::register(builder, tls, reach).build();
    (Caller(server), builtin, authority)
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 443}]}})
}

fn slice(service: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": 6443}],
    })
}

#[track_caller]
fn not_allowed((code, message): (u16, String), expected: u16) {
    assert_eq!(code, expected, "{message}");
    assert!(message.contains("address not allowed"), "{message}");
}

#[tokio::test]
async fn endpoints_are_elsewhere() {
    let (tenant, _, _) = server().await;
    for (address, range) in [
        ("169.254.169.254", "link-local range"),
        ("127.0.0.1", "loopback range"),
        ("0.0.0.0", "unspecified"),
        ("224.0.0.1", "link-local multicast range"),
    ] {
        let endpoints = json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": address}], "ports": [{"port": 80}]}]});
        let mut external = service("external");
        external["spec"]["externalIPs"] = json!([address]);
        for (path, object) in [
            ("/api/v1/namespaces/default/endpoints", endpoints),
            (SLICES, slice("e", address)),
            (SERVICES, external),
        ] {
            let (code, message) = tenant.post(path, &object).await.failed();
            assert_eq!(code, 422, "{path}: {message}");
            assert!(message.contains(range), "{message}");
        }
    }
}

/// Makes a pod on a node.
async fn pod_on_a_node(tenant: &Caller) {
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    tenant.post(accounts, &account).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    tenant.post(PODS, &pod).await.ok();
    let node = json!({"metadata": {"name": "n"}});
    tenant.post("/api/v1/nodes", &node).await.ok();
}

/// Says that both are at this address.
async fn both_at(tenant: &Caller, address: &str, port: u16) {
    let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}],
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    for target in ["/api/v1/nodes/n/status", &format!("{PODS}/p/status")] {
        let patch = "application/merge-patch+json";
        let body = status.to_string();
        tenant.call("PATCH", target, patch, &body).await.ok();
    }
}

/// Requests that go to the kubelet of that node.
fn for_the_kubelet() -> [(&'static str, String); 3] {
    [
        ("GET", "/api/v1/nodes/n/proxy/pods".to_owned()),
        ("GET", format!("{PODS}/p/log")),
        ("POST", format!("{PODS}/p/exec?command=id&stdout=true")),
    ]
}

#[tokio::test]
async fn proxies_do_not_lead_below_the_cluster() {
    let (tenant, _, _) = server().await;
    tenant.post(SERVICES, &service("below")).await.ok();
    tenant.post(SLICES, &slice("below", BELOW)).await.ok();
    pod_on_a_node(&tenant).await;
    for (address, port) in [(BELOW, 10250), ("169.254.169.254", 80)] {
        both_at(&tenant, address, port).await;
        for (method, target) in for_the_kubelet() {
            not_allowed(tenant.call(method, &target, "", "").await.failed(), 400);
        }
        let target = format!("{PODS}/p:{port}/proxy/");
        not_allowed(tenant.get(&target).await.failed(), 400);
    }
    for name in ["below", "https:below:443"] {
        let target = format!("{SERVICES}/{name}/proxy/api/v1/secrets");
        not_allowed(tenant.get(&target).await.failed(), 400);
    }
}

/// Whatever a Node tells, with one kubelet for all: that of this server itself
/// would know the certificate that is shown to kubelets.
#[tokio::test]
async fn nodes_are_where_the_server_knows_them_to_be() {
    let kubelet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reach = reach().with_kubelet(kubelet.local_addr().unwrap());
    let (tenant, _, _) = parts_with(reach).await;
    pod_on_a_node(&tenant).await;
    for (address, port) in [(BELOW, 10250), ("169.254.169.254", 80), (OWN, 8443)] {
        both_at(&tenant, address, port).await;
        for (method, target) in for_the_kubelet() {
            let asked = tenant.call(method, &target, "", "");
            // It hangs up at once.
            let seen = async { kubelet.accept().await.map(drop) };
            let (answer, seen) = tokio::join!(asked, seen);
            seen.unwrap();
            let (code, message) = answer.failed();
            assert!(code >= 500, "{target}: {code} {message}");
        }
    }
}

#[tokio::test]
async fn extensions_do_not_lead_below_the_cluster() {
    let (tenant, builtin, _) = parts().await;
    let aggregator = Aggregator::new(tenant.0.clone(), builtin.aggregation);
    tokio::spawn(aggregator.run(CancellationToken::new()));
    tenant.post(SERVICES, &service("below")).await.ok();
    tenant.post(SLICES, &slice("below", BELOW)).await.ok();
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let extension = json!({"metadata": {"name": "v1.below.example.com"}, "spec": {
        "group": "below.example.com", "version": "v1", "insecureSkipTLSVerify": true,
        "groupPriorityMinimum": 1000, "versionPriority": 100,
        "service": {"namespace": "default", "name": "below"},
    }});
    tenant.post(services, &extension).await.ok();
    let mut lines = Lines::open(&tenant, &format!("{services}?watch=true")).await;
    let message = loop {
        let event = lines.next().await.unwrap();
        let condition = &event["object"]["status"]["conditions"][0];
        if condition["reason"] == "FailedDiscoveryCheck" {
            break condition["message"].to_string();
        }
    };
    assert!(message.contains("address not allowed"), "{message}");
    assert_eq!(tenant.get("/apis/below.example.com/v1").await.status, 503);
}

#[tokio::test]
async fn webhooks_do_not_lead_below_the_cluster() {
    let (tenant, custom, authority) = server().await;
    tenant.post(SERVICES, &service("below")).await.ok();
    tenant.post(SLICES, &slice("below", BELOW)).await.ok();
    let bundle = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(authority.cert_pem())
    };
    let url = |host: &str| json!({"caBundle": bundle, "url": format!("https://{host}/latest")});
    let below = json!({"namespace": "default", "name": "below"});
    let clients = [
        url("169.254.169.254"),
        url("127.0.0.1:2379"),
        url("localhost:6443"),
        url("[::1]:6443"),
        url("[::ffff:169.254.169.254]"),
        url(&format!("{BELOW}:6443")),
        url(&format!("{OWN}:10250")),
        json!({"caBundle": bundle, "service": below}),
    ];
    for client in &clients {
        let configuration = json!({"metadata": {"name": "hook"}, "webhooks": [{
            "name": "hook.example.com", "clientConfig": client,
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"],
                "resources": ["configmaps"], "operations": ["CREATE"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        }]});
        tenant.post(HOOKS, &configuration).await.ok();
        let map = json!({"metadata": {"name": "m"}});
        not_allowed(tenant.post(MAPS, &map).await.failed(), 500);
        tenant.delete(&format!("{HOOKS}/hook")).await.ok();
    }

    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let mut definition = json!({
        "metadata": {"name": "boats.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema},
                {"name": "v2", "served": true, "storage": false, "schema": schema},
            ],
        },
    });
    for client in &clients {
        definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
            "conversionReviewVersions": ["v1"], "clientConfig": client}});
        tenant.post(crds, &definition).await.ok();
        custom.load().await.unwrap();
        let boats = |version: &str| format!("/apis/example.com/{version}/namespaces/default/boats");
        let boat =
            json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "b"}});
        tenant.post(&boats("v1"), &boat).await.ok();
        let other = tenant.get(&format!("{}/b", boats("v2"))).await;
        not_allowed(other.failed(), 500);
        tenant.delete(&format!("{}/b", boats("v1"))).await.ok();
        let name = format!("{crds}/boats.example.com");
        tenant.delete(&name).await.ok();
        let patch = "application/merge-patch+json";
        let done = json!({"metadata": {"finalizers": null}}).to_string();
        tenant.call("PATCH", &name, patch, &done).await;
        custom.load().await.unwrap();
    }
}

#[tokio::test]
async fn what_answers_a_webhook_in_error_is_not_told() {
    let service = Service::start(|_, _| json!({"allowed": true})).await;
    let tenant = server_with(Some(service.callouts())).await.0;
    for (path, told) in [("/broken", "401"), ("/garbage", "no JSON")] {
        let mut configuration =
            service.configuration("ValidatingWebhookConfiguration", path, json!({}));
        configuration["metadata"]["name"] = json!("hook");
        tenant.post(HOOKS, &configuration).await.ok();
        let map = json!({"metadata": {"name": "m"}});
        let (code, message) = tenant.post(MAPS, &map).await.failed();
        assert_eq!(code, 500);
        assert!(message.contains(told), "{message}");
        assert!(!message.contains("secret"), "{message}");
        tenant.delete(&format!("{HOOKS}/hook")).await.ok();
    }
}

/// Requests of `/O=system:masters/CN=mallory` and `/O=developers/CN=ann`.
const OF_MASTERS: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIbU1JR05BZ0VBTUNzeEZ6QVZCZ05WQkFvTURuTjVjM1JsYlRwdFlYTjBaWEp6TVJBd0RnWURWUVFEREFkdApZV3hzYjNKNU1Ga3dFd1lIS29aSXpqMENBUVlJS29aSXpqMERBUWNEUWdBRWlKbWJXZndOQ3FycTdGMisrOWJTCk1VN1hxNEs5M056U2NxbS9hcXR2eFBOZ3QxbWNvcEZySVJMVnZYZlFkZGpXdEgxM0MxNk1mWjdlK2lPWmtmbjUKdzZBQU1Bb0dDQ3FHU000OUJBTUNBMGdBTUVVQ0lITFNPZGNLOC8ydE9HT1cxd3B4dlNVWFM2aUo5cEh0bGJLSApBY0NLY1NmUUFpRUFscnlpL0tGbDhRNDYwNG9mRW5ZVTBsWTFaYStvcmNJa1FvenJEcDdURlNjPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
const OF_DEVELOPERS: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIZk1JR0ZBZ0VBTUNNeEV6QVJCZ05WQkFvTUNtUmxkbVZzYjNCbGNuTXhEREFLQmdOVkJBTU1BMkZ1YmpCWgpNQk1HQnlxR1NNNDlBZ0VHQ0NxR1NNNDlBd0VIQTBJQUJLQ3NZeEZNYWtqVkQxWENjem5MTnRndkNUU2daczhqCkx2eEV1Z2tKMklCeFFRWEk5YXM2aUFiNXFmb2hQU1N4VFdSakViclk5RFFwMFhFSjVrdHlpNlNnQURBS0JnZ3EKaGtqT1BRUURBZ05KQURCR0FpRUFtNFVhQW5tWVFDNjhsSXdPR2xGOE0xVWgzU2g4d1NBN0Vpc3BYb0pXYlo0QwpJUURzZ1hKN21ZVGV0MXJSMnh4b2JwemZzSjVicUcrV0Qwd2ptVy9oUnQvaXBBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

#[tokio::test]
async fn nobody_asks_for_a_certificate_of_the_masters() {
    let (tenant, _) = server_with(None).await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    for (name, request, refused) in [
        ("masters", OF_MASTERS, true),
        ("developers", OF_DEVELOPERS, false),
    ] {
        let request = json!({"metadata": {"name": name}, "spec": {
            "request": request, "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client",
        }});
        let answer = tenant.post(path, &request).await;
        if !refused {
            answer.ok();
            continue;
        }
        let (code, message) = answer.failed();
        assert_eq!(code, 403, "{message}");
        assert!(
            message.ends_with(
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is \
                 not allowed"
            ),
            "{message}"
        );
    }
}
