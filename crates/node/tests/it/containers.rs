//! The node agent with real containers, against an API server in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::fake_api::FakeApi;
use crate::support::sandbox::{Containerd, enter};
use coracle_node::cri::{Cri, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};
use coracle_node::{NodeConfig, run};
use coracle_pki::CertificateAuthority;
use k8s_cri::v1::{PodSandboxConfig, PodSandboxMetadata};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

const NODE_IP: &str = "10.244.7.1";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

struct World {
    config: NodeConfig,
    client: kube::Client,
    tls: std::sync::Arc<rustls::ClientConfig>,
    stranger_tls: std::sync::Arc<rustls::ClientConfig>,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

impl World {
    fn new(dir: &Path, containerd: &Containerd) -> Self {
        let ca = CertificateAuthority::generate("test").unwrap();
        let server = ca
            .issue_server("node", &[NODE_IP.to_owned()], YEAR)
            .unwrap();
        let client = ca
            .issue_client("kube-apiserver-kubelet-client", &["system:masters"], YEAR)
            .unwrap();
        let stranger = ca.issue_client("mallory", &[], YEAR).unwrap();
        let tls = |pair: &coracle_pki::KeyCert| {
            let identity = Some((pair.cert_pem.as_str(), pair.key_pem.as_str()));
            coracle_pki::tls::client_config(ca.cert_pem(), identity).unwrap()
        };
        Self {
            config: NodeConfig {
                node_name: "n1".into(),
                node_ip: NODE_IP.parse().unwrap(),
                pod_cidr: "10.244.7.0/24".into(),
                cluster_cidr: "10.244.7.0/24".into(),
                service_cidr: "10.97.0.0/16".into(),
                cluster_dns: Some("10.97.0.10".parse().unwrap()),
                cluster_domain: "cluster.local".into(),
                cri_socket: containerd.socket(),
                cni_conf_dir: dir.join("cni-conf"),
                data_dir: dir.join("data"),
                log_dir: dir.join("logs"),
                kubelet_listen: SocketAddr::new(NODE_IP.parse().unwrap(), 10250),
                server_cert_pem: server.cert_pem,
                server_key_pem: server.key_pem,
                cluster_ca_pem: ca.cert_pem().to_owned(),
                cgroup_parent: "/kubepods-coracle-test".into(),
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                max_pods: 20,
                proxy: coracle_node::Proxied::Services,
                rules_table: "coracle-node".into(),
                policies: None,
                bridge: "cbr7".into(),
                local_volumes: None,
                load_balancer_addresses: None,
            },
            client: FakeApi::new().client(),
            tls: tls(&client),
            stranger_tls: tls(&stranger),
            agent: None,
        }
    }

    fn start_agent(&mut self) {
        let stop = CancellationToken::new();
        let (config, client, token) = (self.config.clone(), self.client.clone(), stop.clone());
        let task = tokio::spawn(async move { run(config, client, token).await.unwrap() });
        self.agent = Some((stop, task));
    }

    async fn stop_agent(&mut self) {
        let (stop, task) = self.agent.take().unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), task)
            .await
            .unwrap()
            .unwrap();
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "ns")
    }

    async fn create(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = json!("n1");
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                container["image"] = json!("local/busybox:1");
                container["imagePullPolicy"] = json!("IfNotPresent");
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "labels": {"app": name}}});
        let pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    async fn wait(&self, name: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let pod = self.pods().get_opt(name).await.unwrap();
            let value = serde_json::to_value(&pod).unwrap();
            if done(&value) {
                return value;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{name} is not {what}: {value:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ready(&self, name: &str) -> Value {
        self.wait(name, "ready", |pod| condition(pod, "Ready") == "True")
            .await
    }

    /// One request to the kubelet endpoint on a connection of its own.
    async fn kubelet(&self, request: &str, tls: &std::sync::Arc<rustls::ClientConfig>) -> Vec<u8> {
        let stream = tokio::net::TcpStream::connect(self.config.kubelet_listen)
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::try_from(NODE_IP).unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(tls));
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = async {
            let mut buffer = [0; 4096];
            while let Ok(n) = stream.read(&mut buffer).await {
                if n == 0 {
                    return;
                }
                answer.extend_from_slice(&buffer[..n]);
            }
        };
        tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .expect("an end of the answer");
        answer
    }

    /// The head of the answer to an upgrade request.
    async fn head(&self, request: &str) -> String {
        let stream = tokio::net::TcpStream::connect(self.config.kubelet_listen)
            .await
            .unwrap();
        let name = rustls::pki_types::ServerName::try_from(NODE_IP).unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(&self.tls));
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n");
        String::from_utf8_lossy(&self.kubelet(&request, &self.tls.clone()).await).into_owned()
    }

    async fn exec(&self, pod: &str, command: &[&str]) -> String {
        let words: Vec<String> = command
            .iter()
            .map(|w| format!("command={}", escape(w)))
            .collect();
        let request = format!(
            "GET /exec/ns/{pod}/main?output=1&error=1&{} HTTP/1.1\r\nHost: n1\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n",
            words.join("&")
        );
        let bytes = self.kubelet(&request, &self.tls.clone()).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        text
    }
}

fn escape(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let list = pod["status"]["conditions"].as_array();
    let found = list.and_then(|l| l.iter().find(|c| c["type"] == kind));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

fn container_ids(pod: &Value) -> Vec<String> {
    let list = pod["status"]["containerStatuses"].as_array().unwrap();
    list.iter()
        .map(|c| c["containerID"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn pods_live_and_end() {
    let Some(dir) = enter("containers::pods_live_and_end") else {
        return;
    };
    let mut containerd = Containerd::start(&dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut world = World::new(&dir, &containerd);
        objects(&world).await;
        world.start_agent();
        node_is_ready(&world).await;
        full_pod(&world).await;
        streams(&world).await;
        services(&world).await;
        endings(&world).await;
        survival(&mut world, &mut containerd).await;
        lost_sandbox(&mut world).await;
        removal(&world, &dir).await;
        world.stop_agent().await;
    });
}

async fn objects(world: &World) {
    let create = PostParams::default();
    let map = json!({"metadata": {"name": "cm"}, "data": {"key": "from-map", "dir": "sub"}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "ns");
    maps.create(&create, &map).await.unwrap();
    let secret = json!({"metadata": {"name": "s"}, "data": {"password": "aHVzaA=="}});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "ns");
    secrets.create(&create, &secret).await.unwrap();
}

async fn node_is_ready(world: &World) {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let begun = Instant::now();
    loop {
        let node = nodes.get_opt("n1").await.unwrap();
        let node = serde_json::to_value(&node).unwrap();
        if condition(&node, "Ready") == "True" {
            assert_eq!(node["status"]["addresses"][0]["address"], NODE_IP);
            assert_eq!(node["metadata"]["labels"]["zone"], "a");
            assert!(
                node["status"]["nodeInfo"]["containerRuntimeVersion"]
                    .as_str()
                    .unwrap()
                    .starts_with("containerd://")
            );
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{node:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn full_pod(world: &World) {
    let spec = json!({
        "serviceAccountName": "sa",
        "initContainers": [
            {"name": "init", "command": ["sh", "-c", "echo prepared > /pages/page"],
             "volumeMounts": [{"name": "work", "mountPath": "/pages"}]},
            {"name": "side", "restartPolicy": "Always", "command": ["sleep", "10000"]}],
        "containers": [{
            "name": "main",
            "command": ["sh", "-c"],
            "args": ["echo hello $(WHO); echo oops >&2; exec httpd -f -p 8080 -h /pages"],
            "env": [{"name": "WHO", "value": "$(FROM_MAP)!"},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "envFrom": [{"prefix": "X_", "configMapRef": {"name": "cm"}}],
            "readinessProbe": {"httpGet": {"path": "/page", "port": 8080}, "periodSeconds": 1},
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
            "securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": true},
            "volumeMounts": [
                {"name": "work", "mountPath": "/pages"},
                {"name": "map", "mountPath": "/map"},
                {"name": "secret", "mountPath": "/secret"},
                {"name": "token", "mountPath": "/token"},
                {"name": "map", "mountPath": "/one", "subPath": "key"}]}],
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "map", "configMap": {"name": "cm"}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 292}},
            {"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}],
    });
    let mut spec = spec;
    spec["containers"][0]["env"].as_array_mut().unwrap().insert(
        0,
        json!({"name": "FROM_MAP", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}}),
    );
    world.create("web", spec).await;
    let pod = world.ready("web").await;
    let ip = pod["status"]["podIP"].as_str().unwrap();
    assert!(ip.starts_with("10.244.7."), "{ip}");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    assert_eq!(
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
        0
    );

    let log = world.get("/containerLogs/ns/web/main").await;
    assert!(
        log.contains("hello from-map!\n") && log.contains("oops\n"),
        "{log}"
    );
    let log = world
        .get("/containerLogs/ns/web/main?tailLines=1&timestamps=true")
        .await;
    // The two streams may come in either order.
    assert_eq!(
        log.matches("Z hello").count() + log.matches("Z oops\n").count(),
        1,
        "{log}"
    );
    let said = world
        .exec("web", &["sh", "-c", "cat /map/key /secret/password /token/token /token/name /one /etc/hosts; id -u; echo ip=$POD_IP x=$X_dir; cat /etc/resolv.conf"])
        .await;
    for part in [
        "from-map",
        "hush",
        "token-of-sa",
        "web",
        "1000",
        "x=sub",
        "nameserver 10.97.0.10",
        "search ns.svc.cluster.local svc.cluster.local cluster.local",
        &format!("ip={ip}"),
        &format!("{ip}\tweb"),
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let refused =
        "GET /containerLogs/ns/web/main HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n";
    let answer = world.kubelet(refused, &world.stranger_tls.clone()).await;
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 403"));
}

async fn streams(world: &World) {
    let upgrade = |method: &str, path: &str, protocol: &str| {
        let version = match protocol {
            "SPDY/3.1" => "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                X-Stream-Protocol-Version: portforward.k8s.io"
                .to_owned(),
            websocket => format!(
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                 Sec-WebSocket-Protocol: {websocket}"
            ),
        };
        let name = if protocol == "SPDY/3.1" {
            protocol
        } else {
            "websocket"
        };
        format!(
            "{method} {path} HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: {name}\r\n{version}\r\n\r\n"
        )
    };
    let exec = "/exec/ns/web/main?command=cat&input=1&output=1&error=1";
    for (method, path, protocol, want) in [
        ("POST", exec, "SPDY/3.1", "HTTP/1.1 101"),
        ("GET", exec, "v5.channel.k8s.io", "HTTP/1.1 403"),
        (
            "POST",
            "/attach/ns/web/main?output=1",
            "SPDY/3.1",
            "HTTP/1.1 101",
        ),
        ("POST", "/portForward/ns/web", "SPDY/3.1", "HTTP/1.1 101"),
        (
            "GET",
            "/portForward/ns/web?port=8080",
            "v4.channel.k8s.io",
            "HTTP/1.1 101",
        ),
        (
            "POST",
            "/exec/ns/none/main?command=cat",
            "SPDY/3.1",
            "HTTP/1.1 404",
        ),
    ] {
        let head = world.head(&upgrade(method, path, protocol)).await;
        assert!(head.starts_with(want), "{method} {path} {protocol}: {head}");
    }
    let talk = "echo first; sleep 1; echo second; sleep 1; echo third";
    let talker = json!({"restartPolicy": "Never",
        "containers": [{"name": "main", "command": ["sh", "-c", talk]}]});
    world.create("talker", talker).await;
    world
        .wait("talker", "running", |pod| {
            pod["status"]["phase"] == "Running"
        })
        .await;
    // Ends by itself, with the container.
    let log = world.get("/containerLogs/ns/talker/main?follow=true").await;
    assert!(log.contains("first") && log.contains("third"), "{log}");
    let page = world
        .get("/containerLogs/ns/talker/main?previous=true")
        .await;
    assert!(
        page.starts_with("HTTP/1.1 400") && page.contains("not found"),
        "{page}"
    );
    let stats = world.get("/stats/summary").await;
    assert!(stats.contains("\"podRef\""), "{stats}");
}

/// A GET by the machine itself; `None` if refused.
async fn fetch(address: &str) -> Option<String> {
    let work = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    tokio::time::timeout(Duration::from_secs(3), work)
        .await
        .ok()
        .flatten()
}

async fn fetch_until(address: &str, want: bool) {
    let begun = Instant::now();
    while fetch(address).await.is_some_and(|t| t.contains("prepared")) != want {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{address}: not {want}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn services(world: &World) {
    let pod = world.ready("web").await;
    let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let service = json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort",
        "clusterIP": "10.97.0.20", "ports": [{"port": 80, "nodePort": 30080}]}});
    let service: Service = serde_json::from_value(service).unwrap();
    let services: Api<Service> = Api::namespaced(world.client.clone(), "ns");
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    // Refused at once, not dropped, while there is no endpoint.
    let begun = Instant::now();
    loop {
        let connect = tokio::net::TcpStream::connect("10.97.0.20:80");
        let tried = tokio::time::timeout(Duration::from_secs(1), connect).await;
        if tried.is_ok_and(|t| t.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused))
        {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "not refused");
    }
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": "n1", "conditions": {"ready": true}}]});
    let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), "ns");
    slices.create(&PostParams::default(), &slice).await.unwrap();
    fetch_until("10.97.0.20:80", true).await;
    fetch_until("10.244.7.1:30080", true).await;
    let client = json!({"containers": [{"name": "main", "command": ["sleep", "10000"],
        "ports": [{"containerPort": 9, "hostPort": 9009}]}]});
    world.create("client", client).await;
    world.ready("client").await;
    // From another pod, and from the pod that is itself the endpoint.
    for pod in ["client", "web"] {
        let ask = "(echo 'GET /page HTTP/1.0'; echo) | nc -w 3 10.97.0.20 80";
        let said = world.exec(pod, &["sh", "-c", ask]).await;
        assert!(said.contains("prepared"), "{pod}: {said}");
    }
    slices
        .delete("web-1", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    fetch_until("10.97.0.20:80", false).await;
}

async fn endings(world: &World) {
    let crash = json!({"containers": [{"name": "main", "command": ["sh", "-c",
        "echo last > /dev/termination-log; exit 3"]}]});
    world.create("crash", crash).await;
    let job = json!({"restartPolicy": "Never", "containers": [{"name": "main",
        "command": ["sh", "-c", "exit 0"]}]});
    world.create("job", job).await;
    let missing = json!({"containers": [{"name": "main", "command": ["true"],
        "envFrom": [{"configMapRef": {"name": "none"}}]}]});
    world.create("missing", missing).await;
    let live = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "main",
        "command": ["sleep", "1000"], "livenessProbe": {"exec": {"command": ["test", "-e", "/no"]},
        "periodSeconds": 1, "failureThreshold": 1}}]});
    world.create("live", live).await;
    let pod = world
        .wait("crash", "in a crash loop", |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["message"], "last\n");
    assert_eq!(pod["status"]["phase"], "Running");
    world
        .wait("job", "succeeded", |pod| {
            pod["status"]["phase"] == "Succeeded"
        })
        .await;
    world
        .wait("missing", "held", |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
        })
        .await;
    world
        .wait("live", "restarted", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_i64() > Some(0)
        })
        .await;
}

async fn survival(world: &mut World, containerd: &mut Containerd) {
    let before = container_ids(&world.ready("web").await);
    world.stop_agent().await;
    world.start_agent();
    node_is_ready(world).await;
    containerd.crash();
    // A new pod shows that both have caught up.
    world
        .create(
            "after",
            json!({"containers": [{"name": "main", "command": ["sleep", "10000"]}]}),
        )
        .await;
    world.ready("after").await;
    assert_eq!(container_ids(&world.ready("web").await), before);
    let said = world.exec("web", &["echo", "still here"]).await;
    assert!(said.contains("still here"));
}

/// A sandbox that never had a container, as a crash leaves it, makes room for
/// the next.
async fn lost_sandbox(world: &mut World) {
    world.stop_agent().await;
    let spec = json!({"containers": [{"name": "main", "command": ["sleep", "10000"]}]});
    world.create("early", spec).await;
    let uid = world.pods().get("early").await.unwrap().metadata.uid;
    let uid = uid.unwrap();
    let cri = Cri::new(&world.config.cri_socket);
    let labels = [
        (LABEL_POD_NAME, "early"),
        (LABEL_POD_NAMESPACE, "ns"),
        (LABEL_POD_UID, &uid),
    ];
    let sandbox = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "early".into(),
            uid: uid.clone(),
            namespace: "ns".into(),
            attempt: 0,
        }),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..PodSandboxConfig::default()
    };
    let lost = cri.run_sandbox(sandbox).await.unwrap();
    cri.stop_sandbox(&lost).await.unwrap();
    world.start_agent();
    world.ready("early").await;
    let left = cri.list_sandboxes(Some(&uid)).await.unwrap();
    assert!(left.len() == 1 && left[0].id != lost, "{left:?}");
    let states = cri.sandbox_states().await.unwrap();
    assert_eq!(states.get(&left[0].id), Some(&true));
    let records = cri.recorded_containers().await.unwrap();
    let record = records.iter().find(|record| record.id == left[0].id);
    let namespace = record.unwrap().network_namespace().unwrap();
    assert!(Path::new(&namespace).exists(), "{namespace}");
    assert!(records.iter().all(|record| record.id != lost));
}

async fn removal(world: &World, dir: &Path) {
    let names = [
        "web", "talker", "client", "crash", "job", "missing", "live", "after", "early",
    ];
    for name in names {
        world
            .pods()
            .delete(name, &DeleteParams::default().grace_period(1))
            .await
            .unwrap();
    }
    for name in names {
        world.wait(name, "gone", Value::is_null).await;
    }
    let cri = Cri::new(&world.config.cri_socket);
    let begun = Instant::now();
    while !cri.list_sandboxes(None).await.unwrap().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "sandboxes are left"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let data = dir.join("data/pods");
    assert!(!mounts.contains(&*data.to_string_lossy()), "{mounts}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}
