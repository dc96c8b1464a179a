//! Groups that another server serves, asked over real TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_apiserver::access::UserInfo;
use coracle_apiserver::admission::ServiceAddressing;
use coracle_apiserver::aggregation::Aggregator;
use coracle_apiserver::builtin::{BuiltinOptions, install};
use coracle_apiserver::callout::{Callouts, Endpoint, Resolve};
use coracle_apiserver::custom_kinds::CustomKinds;
use coracle_apiserver::documents::Documents;
use coracle_apiserver::{ApiServer, Body, kinds};
use coracle_pki::tls::Identity;
use coracle_pki::{CertificateAuthority, TokenSigner};
use futures::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{Caller, Lines, store};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1alpha1.wardle.example.com";
const GROUP: &str = "/apis/wardle.example.com/v1alpha1";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(45);
const HOUR: Duration = Duration::from_secs(3600);

/// A server of another group, which takes the word of the front proxy alone.
struct Extension {
    caller: Caller,
    /// The authority that vouches for it.
    bundle: String,
    seen: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
    _stop: DropGuard,
}

struct At(SocketAddr);

#[async_trait::async_trait]
impl Resolve for At {
    async fn resolve(&self, _: &Endpoint) -> Result<SocketAddr, String> {
        Ok(self.0)
    }
}

impl Extension {
    async fn start() -> Self {
        let own = CertificateAuthority::generate("extension").unwrap();
        let front = CertificateAuthority::generate("front-proxy-ca").unwrap();
        let names = ["ext.default.svc".to_owned()];
        let pair = own.issue_server("ext", &names, HOUR).unwrap();
        let (cert, key) = (&pair.cert_pem, &pair.key_pem);
        let tls = coracle_pki::tls::server_config(cert, key, Some(front.cert_pem()), &[]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        tokio::spawn(serve(listener, tls, Arc::clone(&seen)));

        let shown = front.issue_client("front-proxy-client", &[], HOUR).unwrap();
        let options = BuiltinOptions {
            signer: Arc::new(TokenSigner::generate().unwrap()),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            anonymous: true,
            addressing: ServiceAddressing::allocate("10.96.0.0/16".parse().unwrap()),
            callouts: Some(Arc::new(Callouts::new(Arc::new(At(address))))),
            front_proxy: Some(Identity::new(&shown).unwrap()),
            reach: Arc::default(),
        };
        let builder = ApiServer::builder(store()).kinds(kinds::builtin());
        let (builder, builtin) = install(builder, options);
        let documents = Documents::new(builder.registry(), Arc::new(|_| None));
        let documents = documents.aggregating(builtin.aggregation.clone());
        let server = builder.route(Arc::new(documents)).build();
        builtin.prepare(None).await.unwrap();
        let stop = CancellationToken::new();
        let custom = CustomKinds::new(server.clone(), builtin.callouts.clone());
        tokio::spawn(custom.run(stop.clone()));
        let aggregator = Aggregator::new(server.clone(), builtin.aggregation.clone());
        aggregator.load().await.unwrap();
        tokio::spawn(aggregator.run(stop.clone()));
        Self {
            caller: Caller(server),
            bundle: STANDARD.encode(own.cert_pem()),
            seen,
            _stop: stop.drop_guard(),
        }
    }

    fn api_service(&self) -> Value {
        json!({"metadata": {"name": NAME}, "spec": {
            "group": "wardle.example.com", "version": "v1alpha1", "caBundle": self.bundle,
            "groupPriorityMinimum": 2000, "versionPriority": 200,
            "service": {"namespace": "default", "name": "ext"},
        }})
    }

    /// The service with one endpoint behind it, and the APIService, available.
    async fn available() -> Self {
        let this = Self::start().await;
        this.service(443).await;
        this.slice(true).await;
        this.caller.post(SERVICES, &this.api_service()).await.ok();
        this.until(NAME, "Passed").await;
        this
    }

    async fn service(&self, port: u16) {
        let service = json!({"metadata": {"name": "ext"}, "spec": {"ports": [{"port": port}]}});
        let services = "/api/v1/namespaces/default/services";
        self.caller.post(services, &service).await.ok();
    }

    async fn slice(&self, ready: bool) {
        let slice = json!({
            "metadata": {"name": "ext", "labels": {"kubernetes.io/service-name": "ext"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 8443}],
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": ready}}],
        });
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let answer = self.caller.post(slices, &slice).await;
        if !answer.status.is_success() {
            self.caller.put(&format!("{slices}/ext"), &slice).await.ok();
        }
    }

    /// The condition once it has that reason.
    async fn until(&self, name: &str, reason: &str) -> Value {
        let target = format!("{SERVICES}?watch=true&fieldSelector=metadata.name={name}");
        let mut lines = Lines::open(&self.caller, &target).await;
        let found = async {
            loop {
                let event = lines.next().await.expect("an event");
                let condition = &event["object"]["status"]["conditions"][0];
                if condition["reason"] == reason {
                    return condition.clone();
                }
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("{name} is not {reason}: {}", self.state().await),
        }
    }

    /// What a failed test tells.
    async fn state(&self) -> Value {
        let services = self.caller.get(SERVICES).await.body;
        json!([services, self.caller.get(DEFINITIONS).await.body])
    }

    fn seen(&self) -> Vec<(String, HeaderMap, Bytes)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    seen: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, seen) = (TlsAcceptor::from(tls.clone()), seen.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let known = stream.get_ref().1.peer_certificates().is_some();
            let serve = service_fn(move |request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let target = head.uri.to_string();
                    let bytes = body.collect().await.unwrap().to_bytes();
                    seen.lock()
                        .unwrap()
                        .push((target.clone(), head.headers, bytes));
                    Ok::<_, Infallible>(if known { answer(&target) } else { refusal() })
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), serve)
                .await;
        });
    }
}

fn refusal() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn answer(target: &str) -> Response<Body> {
    let json = |value: Value| Response::new(Body::full(value.to_string()));
    match target {
        GROUP => json(json!({"kind": "APIResourceList", "resources": [{
            "name": "flunders", "singularName": "flunder", "namespaced": true,
            "kind": "Flunder", "verbs": ["get", "list", "watch"],
        }]})),
        "/openapi/v3" => json(json!({"paths": {"apis/wardle.example.com/v1alpha1": {
            "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC"}}})),
        "/apis/wardle.example.com/v1alpha1/away" => {
            let mut response = refusal();
            *response.status_mut() = StatusCode::FOUND;
            let elsewhere = "https://169.254.169.254/".parse().unwrap();
            response.headers_mut().insert("location", elsewhere);
            response
        }
        watch if watch.ends_with("watch=true") => {
            let first = futures::stream::iter([Ok(Bytes::from_static(b"{\"type\":\"ADDED\"}\n"))]);
            Response::new(Body::stream(first.chain(futures::stream::pending())))
        }
        other => json(json!({"target": other})),
    }
}

#[tokio::test]
async fn requests_are_passed_on_in_the_name_of_the_caller() {
    let extension = Extension::available().await;
    let admin = &extension.caller;
    extension.seen();
    let target = format!("{GROUP}/namespaces/default/flunders?fieldManager=me");
    let mut request = Caller::request("POST", &target, "application/json", "{\"a\": 1}");
    let headers = request.headers_mut();
    headers.insert("authorization", "Bearer secret".parse().unwrap());
    headers.insert("x-remote-user", "forged".parse().unwrap());
    headers.insert("x-remote-extra-forged", "yes".parse().unwrap());
    let made = admin.answer(request).await.ok();
    assert_eq!(made["target"], target);
    let seen = extension.seen();
    let (_, headers, body) = &seen[0];
    assert_eq!(headers["x-remote-user"], "admin");
    let groups: Vec<_> = headers.get_all("x-remote-group").iter().collect();
    assert_eq!(groups, ["system:masters", "system:authenticated"]);
    assert!(headers.get("authorization").is_none());
    assert!(headers.get("x-remote-extra-forged").is_none());
    assert_eq!(body, "{\"a\": 1}");

    // Who may not is refused here.
    let mut request = Caller::request("GET", &target, "", "");
    let jane = UserInfo::authenticated("jane", &[]);
    request.extensions_mut().insert(jane);
    assert_eq!(admin.answer(request).await.failed().0, 403);
    assert!(extension.seen().is_empty());

    // A watch passes while it lasts, and nobody is sent elsewhere.
    let mut watch = Lines::open(admin, &format!("{GROUP}/flunders?watch=true")).await;
    assert_eq!(watch.next().await.unwrap()["type"], "ADDED");
    let away = admin.get(&format!("{GROUP}/away")).await;
    assert_eq!(away.status, 502);
    assert!(away.headers.get("location").is_none());
}

#[tokio::test]
async fn discovery_tells_of_what_others_serve() {
    let extension = Extension::available().await;
    let admin = &extension.caller;
    let groups = admin.get("/apis").await.ok();
    let groups = groups["groups"].as_array().unwrap().clone();
    let found = groups.iter().find(|g| g["name"] == "wardle.example.com");
    assert_eq!(found.unwrap()["preferredVersion"]["version"], "v1alpha1");
    let group = admin.get("/apis/wardle.example.com").await.ok();
    assert_eq!(group["kind"], "APIGroup");
    let list = admin.get(GROUP).await.ok();
    assert_eq!(list["resources"][0]["name"], "flunders");
    let index = admin.get("/openapi/v3").await.ok();
    let url = &index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"];
    let expected = "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=ABC";
    assert_eq!(url, expected);
    assert_eq!(admin.get(expected).await.ok()["target"], expected);
    let aggregated = aggregated(admin).await;
    assert_eq!(aggregated["versions"][0]["freshness"], "Current");
    let flunders = &aggregated["versions"][0]["resources"][0];
    assert_eq!(flunders["responseKind"]["kind"], "Flunder");
    assert_eq!(flunders["scope"], "Namespaced");
    let name = format!("{SERVICES}/{NAME}");
    admin.delete(&name).await.ok();
    let mut changes = Lines::open(admin, &format!("{SERVICES}?watch=true")).await;
    while admin.get(GROUP).await.status != 404 {
        tokio::select! {
            _ = changes.next() => {}
            () = tokio::task::yield_now() => {}
        }
    }
}

async fn aggregated(caller: &Caller) -> Value {
    let mut request = Caller::request("GET", "/apis", "", "");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    request
        .headers_mut()
        .insert("accept", accept.parse().unwrap());
    let all = caller.answer(request).await.ok();
    let mut items = all["items"].as_array().unwrap().iter();
    let found = items.find(|g| g["metadata"]["name"] == "wardle.example.com");
    found.unwrap().clone()
}

#[tokio::test]
async fn the_status_tells_what_is_missing() {
    let extension = Extension::start().await;
    let admin = &extension.caller;
    admin.post(SERVICES, &extension.api_service()).await.ok();
    let missing = extension.until(NAME, "ServiceNotFound").await;
    assert_eq!(
        missing["message"],
        "service/ext in \"default\" is not present"
    );
    let answer = admin.get(GROUP).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "service unavailable\n");
    // The others are found nevertheless.
    assert_eq!(aggregated(admin).await["versions"][0]["freshness"], "Stale");
    admin.get("/apis/apps/v1").await.ok();

    extension.service(80).await;
    extension.until(NAME, "ServicePortError").await;
    admin
        .delete("/api/v1/namespaces/default/services/ext")
        .await
        .ok();
    extension.service(443).await;
    extension.until(NAME, "EndpointsNotFound").await;
    extension.slice(false).await;
    extension.until(NAME, "MissingEndpoints").await;
    extension.slice(true).await;
    let passed = extension.until(NAME, "Passed").await;
    assert_eq!(passed["status"], "True");
    admin.get(GROUP).await.ok();

    // Another authority does not vouch for it.
    let other = CertificateAuthority::generate("other").unwrap();
    let mut changed = admin.get(&format!("{SERVICES}/{NAME}")).await.ok();
    changed["spec"]["caBundle"] = json!(STANDARD.encode(other.cert_pem()));
    admin
        .put(&format!("{SERVICES}/{NAME}"), &changed)
        .await
        .ok();
    let failed = extension.until(NAME, "FailedDiscoveryCheck").await;
    let message = failed["message"].as_str().unwrap();
    assert!(message.starts_with(
        "failing or missing response from https://ext.default.svc:443/apis/wardle.example.com/v1alpha1: "
    ), "{message}");
    let mut open = admin.get(&format!("{SERVICES}/{NAME}")).await.ok();
    open["spec"]["caBundle"] = Value::Null;
    open["spec"]["insecureSkipTLSVerify"] = json!(true);
    admin.put(&format!("{SERVICES}/{NAME}"), &open).await.ok();
    extension.until(NAME, "Passed").await;
}

#[tokio::test]
async fn what_is_served_here_has_its_objects_and_stays_here() {
    let extension = Extension::available().await;
    let admin = &extension.caller;
    let local = extension.until("v1.apps", "Local").await;
    assert_eq!(local["status"], "True");
    let mut apps = admin.get(&format!("{SERVICES}/v1.apps")).await.ok();
    apps["spec"]["service"] = json!({"namespace": "default", "name": "ext"});
    apps["spec"]["insecureSkipTLSVerify"] = json!(true);
    admin.put(&format!("{SERVICES}/v1.apps"), &apps).await.ok();
    let list = admin.get("/apis/apps/v1").await.ok();
    assert_eq!(list["resources"][0]["name"], "controllerrevisions");

    let definition = crate::custom::crd("stable.example.com", "crontabs", "CronTab");
    admin.post(DEFINITIONS, &definition).await.ok();
    extension.until("v1.stable.example.com", "Local").await;
    let made = admin
        .get(&format!("{SERVICES}/v1.stable.example.com"))
        .await
        .ok();
    assert_eq!(made["spec"]["groupPriorityMinimum"], 1000);
    assert_eq!(made["spec"]["versionPriority"], 100);
    let mut changes = Lines::open(admin, &format!("{SERVICES}?watch=true")).await;
    let name = "crontabs.stable.example.com";
    admin.delete(&format!("{DEFINITIONS}/{name}")).await.ok();
    let gone = async { while changes.told().await != "DELETED v1.stable.example.com" {} };
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        panic!("it is still there: {}", extension.state().await);
    }
}

#[tokio::test]
async fn api_services_are_validated() {
    let extension = Extension::start().await;
    let post = async |edit: &dyn Fn(&mut Value)| {
        let mut service = extension.api_service();
        edit(&mut service);
        extension.caller.post(SERVICES, &service).await.failed()
    };
    let (code, message) = post(&|s| s["spec"]["insecureSkipTLSVerify"] = json!(true)).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("may not be true if caBundle is present"),
        "{message}"
    );
    let (_, message) = post(&|s| s["spec"]["service"] = Value::Null).await;
    assert!(
        message.contains("local APIServices may not have a caBundle"),
        "{message}"
    );
    let (_, message) = post(&|s| s["spec"]["groupPriorityMinimum"] = json!(20_001)).await;
    assert!(
        message.contains("must be positive and less than 20000"),
        "{message}"
    );
    let (_, message) = post(&|s| s["spec"]["version"] = json!("V1")).await;
    assert!(message.contains("spec.version"), "{message}");
}
