//! The tutorial's scenarios 1 to 5, each in a virtual cluster of its own, set
//! up once and then looked at again and again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::node::Node;
use super::{Cluster, lock};
use crate::scenarios::operator;
use crate::world::{Result, World, ensure, has};

/// A scenario: its virtual cluster, and whether all is as it should be.
pub struct Scenario {
    pub cluster: Cluster,
    pub check: fn(&World, &Cluster) -> Result,
}

/// Scenario 1: an ingress that the host's controller serves.
const INGRESS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec: {selector: {app: frontend}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: frontend}
spec:
  ingressClassName: nginx
  rules:
  - host: siege.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: frontend, port: {number: 80}}}}
"#;

/// Scenario 2: data on a volume of the host's class.
const STORED: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: kept}
spec:
  serviceName: kept
  selector: {matchLabels: {app: kept}}
  template:
    metadata: {labels: {app: kept}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "touch /data/log && sleep 100000"]
        readinessProbe: {exec: {command: [test, -e, /data/log]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: standard
      resources: {requests: {storage: 1Gi}}
"#;

/// Scenario 5: who calls the host's service.
const CLIENT: &str = r#"
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}
"#;

/// A deployment whose pods leave a lost node at once.
fn frontend(replicas: u32, selector: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: frontend}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: frontend}}}}
  template:
    metadata: {{labels: {{app: frontend}}}}
    spec:
      nodeSelector: {{{selector}}}
      terminationGracePeriodSeconds: 0
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}}
      - {{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 0}}
      containers: [{{name: frontend, image: nginx, imagePullPolicy: IfNotPresent}}]
---
"#
    )
}

/// Where the services of scenario 5 are on the host.
const SOURCE: &str = "siege-source";

/// Sets all of them up.
pub fn set_up(world: &World) -> Result<Vec<Scenario>> {
    // Whose failure is not to be mistaken for that of a scenario.
    for node in Node::first(super::siege::NODES).skip(1) {
        world.kubectl(&format!("label node {node} env=dev --overwrite"))?;
    }
    world.kubectl(&format!("create namespace {SOURCE}"))?;
    world.kubectl(&format!(
        "create deployment webapp --image nginx -n {SOURCE}"
    ))?;
    world.kubectl(&format!(
        "expose deployment/webapp --port 8080 --target-port 80 --name hostsvc -n {SOURCE}"
    ))?;
    let mapping = format!(
        "mapServices:\n  fromHost: [{{from: {SOURCE}/hostsvc, to: default/virtualsvc}}]\n  \
         fromVirtual: [{{from: default/frontend, to: shop}}]\n"
    );
    let all = [
        (
            "sg-ingress",
            "sync:\n  ingresses:\n    enabled: true\n",
            frontend(2, "") + INGRESS,
            ingress as fn(&World, &Cluster) -> Result,
        ),
        (
            "sg-storage",
            "sync:\n  hoststorageclasses:\n    enabled: true\n",
            STORED.to_owned(),
            storage,
        ),
        (
            "sg-operator",
            "sync:\n  fromHost:\n    storageClasses:\n      enabled: true\n",
            String::new(),
            libraries,
        ),
        (
            "sg-nodes",
            "sync:\n  nodes: {enabled: true, enableScheduler: true, nodeSelector: \"env=dev\"}\n",
            frontend(3, "env: dev"),
            chosen_nodes,
        ),
        (
            "sg-services",
            &mapping,
            frontend(2, "") + INGRESS.split("---").next().unwrap_or_default() + CLIENT,
            services,
        ),
    ];
    all.into_iter()
        .map(|(name, values, manifest, check)| {
            let file = world.file(&format!("{name}.yaml"), values)?;
            let cluster = Cluster::create(world, name, name, &format!("-f {}", file.display()))?;
            let inside = cluster.inside(world);
            if name == "sg-operator" {
                operator::install(&inside)?;
            } else {
                inside.apply(&manifest)?;
            }
            Ok(Scenario { cluster, check })
        })
        .collect()
}

/// Removes what is outside of virtual clusters.
pub fn tear_down(world: &World) -> Result {
    world.kubectl(&format!("delete namespace {SOURCE}"))?;
    world.kubectl("label nodes --all env-").map(drop)
}

fn ingress(world: &World, cluster: &Cluster) -> Result {
    let address = "get service -n ingress-nginx \
                   -o jsonpath={.items[?(@.spec.type==\"LoadBalancer\")].status.loadBalancer.ingress[0].ip}";
    let address = world.kubectl(address)?;
    has(
        &cluster.kubectl(world, "get ingress frontend")?,
        address.trim(),
    )?;
    let page = world.script(&format!(
        "curl -sS --max-time 10 --connect-to ::{}: http://siege.example.com",
        address.trim()
    ))?;
    has(&page, "Welcome to nginx!")
}

fn storage(world: &World, cluster: &Cluster) -> Result {
    has(&cluster.kubectl(world, "get pvc data-kept-0")?, "Bound")
}

fn libraries(world: &World, cluster: &Cluster) -> Result {
    for library in cluster.items(world, "libraries -A")? {
        ensure(
            library["status"]["phase"] == "Open",
            &format!("{}: {}", library["metadata"]["name"], library["status"]),
        )?;
    }
    // The webhook is asked.
    let vast = operator::library("vast", 9);
    let file = world.file("vast.yaml", &vast)?;
    let refused = cluster.kubectl(world, &format!("create -f {}", file.display()));
    let refusal = refused.err().ok_or("the webhook let a library pass")?;
    has(&refusal, "no more than 3 are lent out")
}

fn chosen_nodes(world: &World, cluster: &Cluster) -> Result {
    let chosen: Vec<String> = Node::first(super::siege::NODES)
        .skip(1)
        .map(|node| node.to_string())
        .collect();
    let nodes = cluster.items(world, "nodes")?;
    let names: Vec<&str> = nodes
        .iter()
        .filter_map(|node| node["metadata"]["name"].as_str())
        .collect();
    ensure(names == chosen, &format!("nodes inside: {names:?}"))?;
    for node in &nodes {
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure(ready, &format!("{} is not ready", node["metadata"]["name"]))?;
    }
    for pod in cluster.items(world, "pods -A")? {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        ensure(
            chosen.iter().any(|name| name == node),
            &format!("{} is on {node:?}", pod["metadata"]["name"]),
        )?;
    }
    Ok(())
}

fn services(world: &World, cluster: &Cluster) -> Result {
    let shop = format!(
        "get service shop -n {} -o jsonpath={{.spec.clusterIP}}",
        cluster.namespace
    );
    let shop = world.kubectl(&shop)?;
    let page = world.script(&format!("curl -sS --max-time 10 http://{shop}"))?;
    has(&page, "Welcome to nginx!")?;
    let page = world.script(&format!(
        "timeout 20 kubectl --kubeconfig {} exec deploy/client -- wget -qO- http://virtualsvc:8080",
        cluster.kubeconfig
    ))?;
    has(&page, "Welcome to nginx!")
}

/// Lines that a pod was seen to have written onto its volume.
#[derive(Default)]
pub struct Lines(Mutex<Vec<u64>>);

/// Pause after a line that was not written.
const RETRY: Duration = Duration::from_millis(500);

impl Lines {
    /// Has a pod of scenario 2 write line after line until told to stop.
    pub fn write(&self, world: &World, cluster: &Cluster, stop: &AtomicBool) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let script = format!("echo line {number}. >> /data/log && echo written");
            let run = world.shell(&format!(
                "timeout 30 kubectl --kubeconfig {} exec kept-0 -- sh -c '{script}'",
                cluster.kubeconfig
            ));
            // Where WebSocket fails, kubectl falls back to SPDY, and takes the end
            // of such a connection for a good end of the command.
            if run.code == 0 && run.out == "written\n" {
                lock(&self.0).push(number);
            } else {
                std::thread::sleep(RETRY);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Every line is there.
    pub fn check(&self, world: &World, cluster: &Cluster) -> Result {
        let log = cluster.kubectl(world, "exec kept-0 -- cat /data/log")?;
        for number in lock(&self.0).iter() {
            has(&log, &format!("line {number}.\n"))?;
        }
        Ok(())
    }
}
