//! A host of several nodes: the rest of the tutorial's scenario of chosen
//! nodes, and what happens when one of them dies.

use super::policies;
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The tutorial's values.
const VALUES: &str = "sync:\n  nodes:\n    enabled: true\n    enableScheduler: true\n    nodeSelector: \"env=dev\"\n";

/// The second node and the third.
const SECOND: &str = "node-1-2";
const THIRD: &str = "node-1-3";

/// The tutorial's application. Its pods leave a lost node at once.
const FRONTEND: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend, labels: {app: frontend}}
spec:
  replicas: 3
  selector: {matchLabels: {app: frontend}}
  template:
    metadata: {labels: {app: frontend}}
    spec:
      nodeSelector: {env: dev}
      terminationGracePeriodSeconds: 0
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 0}
      containers: [{name: frontend, image: nginx, imagePullPolicy: IfNotPresent}]
"#;

/// Chosen nodes among several.
pub fn several(world: &World) -> Result {
    if !world.own_host() {
        println!("needs a host of its own: left out");
        return Ok(());
    }
    let data = world.data_dir();
    // The rules of a policy go with the host and come with it.
    world.apply(&policies::policy(
        "kept",
        "{podSelector: {}, policyTypes: [Ingress, Egress]}",
    ))?;
    let rules = |wanted: bool| {
        let found = world.shell(policies::TABLE).code == 0;
        ensure(found == wanted, "the rules of policies")
    };
    world.eventually("rules of a policy", || rules(true))?;
    world.apply(EAGER)?;
    world.kubectl("wait pod eager --for condition=Ready --timeout 60s")?;
    world.coracle(&format!("host down --data-dir {data}"))?;
    rules(false)?;
    world.coracle(&format!(
        "host up --data-dir {data} --node-name node-1 --nodes 3"
    ))?;
    for node in ["node-1", SECOND, THIRD] {
        world.kubectl(&format!(
            "wait node {node} --for condition=Ready --timeout 60s"
        ))?;
    }
    rules(true)?;
    never_out(world)?;
    world.kubectl("delete networkpolicy kept")?;
    pods_reach_each_other(world)?;

    world.kubectl(&format!("label node {THIRD} env=dev"))?;
    let values = world.file("specific-nodes.yaml", VALUES)?;
    let options = format!("-f {}", values.display());
    // The control plane must not be on the node that is to die.
    world.kubectl(&format!("cordon {THIRD}"))?;
    let cluster = VirtualCluster::create(world, "chosen", "e2e-chosen", &options)?;
    world.kubectl(&format!("uncordon {THIRD}"))?;
    chosen_nodes(world, &cluster)?;
    lost_node(world, &cluster)?;
    cluster.delete()?;
    world.kubectl("label nodes --all env-").map(drop)
}

/// A pod that asks the host's API server as soon as it starts.
const EAGER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: eager}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "timeout 2 nc 10.244.0.1 6443 </dev/null && echo reached; echo tried; exec sleep 3600"]
---
"#;

/// The rules were there before the pods that the host started again.
fn never_out(world: &World) -> Result {
    world.eventually("the pod runs again", || {
        let count = "{.status.containerStatuses[0].restartCount}";
        let count = world.kubectl(&format!("get pod eager -o jsonpath={count}"))?;
        ensure(count != "0", "it has not been started again")?;
        has(&world.kubectl("logs eager")?, "tried")
    })?;
    let log = world.kubectl("logs eager")?;
    ensure(!log.contains("reached"), &log)?;
    world.kubectl("delete pod eager").map(drop)
}

/// Pods on any node reach those on every other, directly and by a service.
fn pods_reach_each_other(world: &World) -> Result {
    world.apply(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo $NODE > /www/index.html && exec httpd -f -p 80 -h /www"]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: everywhere}
spec: {selector: {app: everywhere}, ports: [{port: 80}]}
"#,
    )?;
    world.kubectl("rollout status daemonset everywhere --timeout 120s")?;
    let names =
        world.kubectl("get pods -l app=everywhere -o jsonpath={.items[*].metadata.name}")?;
    let addresses =
        world.kubectl("get pods -l app=everywhere -o jsonpath={.items[*].status.podIP}")?;
    let all = addresses.split_whitespace().count();
    ensure(all == 3, &format!("pods have the addresses {addresses}"))?;
    for pod in names.split_whitespace() {
        let script = format!(
            "for a in {addresses} everywhere everywhere; do wget -qO- http://$a || exit 1; done"
        );
        world.eventually("all pods answer", || {
            let answers = world.kubectl(&format!("exec {pod} -- sh -c '{script}'"))?;
            let three = ["node-1\n", SECOND, THIRD]
                .iter()
                .all(|node| answers.contains(node));
            ensure(three && answers.lines().count() == all + 2, &answers)
        })?;
    }
    // Unless a policy forbids it.
    let policy = "{podSelector: {matchLabels: {app: everywhere}}, policyTypes: [Egress]}";
    world.apply(&policies::policy("nowhere", policy))?;
    for pod in names.split_whitespace() {
        let own = world.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"))?;
        for address in addresses.split_whitespace().filter(|a| *a != own) {
            policies::reaches(
                world,
                &format!("exec {pod} --"),
                &format!("http://{address}"),
                false,
            )?;
        }
    }
    world
        .kubectl("delete networkpolicy/nowhere daemonset/everywhere service/everywhere")
        .map(drop)
}

/// Only chosen nodes show inside, and pods land on no other.
fn chosen_nodes(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    let shown = |nodes: &str| {
        inside.eventually("the chosen nodes", || {
            let found = inside.kubectl("get nodes -o jsonpath={.items[*].metadata.name}")?;
            ensure(found == nodes, &format!("{found} in place of {nodes}"))
        })
    };
    shown(THIRD)?;
    has(&inside.kubectl("get nodes --show-labels")?, "env=dev")?;
    inside.apply(FRONTEND)?;
    inside.kubectl("rollout status deployment frontend --timeout 120s")?;
    on_node(world, THIRD, 3)?;
    let pod = "get pods -l app=frontend -o jsonpath={.items[0].metadata.name}";
    let pod = inside.kubectl(pod)?;
    has(
        &inside.kubectl(&format!("exec {pod} -- cat /etc/hostname"))?,
        &pod,
    )?;

    // Whoever asks for another node does not get there.
    inside.apply(&elsewhere(
        "selected",
        "nodeSelector: {kubernetes.io/hostname: node-1-2}",
    ))?;
    inside.apply(&elsewhere("named", "nodeName: node-1-2"))?;
    inside.eventually("the scheduler's refusal", || {
        has(
            &inside.kubectl("get events --field-selector involvedObject.name=selected")?,
            "didn't match Pod's node affinity/selector",
        )
    })?;

    let outside = world.kubectl("get pods -n e2e-chosen -o wide")?;
    let there = |line: &str| line.starts_with("named-") && line.contains(SECOND);
    ensure(!outside.lines().any(there), &outside)?;
    inside.kubectl("delete pod selected named --grace-period 0 --force")?;
    inside.eventually("they are gone", || {
        let left = inside.kubectl("get pods -o name")?;
        ensure(left.lines().count() == 3, &left)
    })?;

    // A label makes a node appear.
    world.kubectl(&format!("label node {SECOND} env=dev"))?;
    shown(&format!("{SECOND} {THIRD}"))
}

fn elsewhere(name: &str, place: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {place}
  containers: [{{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}}]
"#
    )
}

/// Fails unless so many pods of the application run on a node of the host.
fn on_node(world: &World, node: &str, wanted: usize) -> Result {
    let pods = world.kubectl("get pods -n e2e-chosen -o wide")?;
    let there = pods
        .lines()
        .filter(|l| l.starts_with("frontend-") && l.contains("Running"))
        .filter(|l| l.split_whitespace().any(|column| column == node));
    ensure(there.count() == wanted, &pods)
}

/// A node that dies is not ready inside, and its pods go elsewhere; when it is
/// back, it is ready and rid of them.
fn lost_node(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    // Written so that it does not match the shell that looks for it.
    let agent = format!("pgrep -f -- '[-]-name={THIRD} '");
    let signal = |signal: &str| world.script(&format!("kill -{signal} $({agent})"));
    // As far as anybody can tell: it says nothing any more.
    signal("STOP")?;
    let moved = inside
        .eventually("the node is lost", || {
            has(&inside.kubectl(&format!("get node {THIRD}"))?, "NotReady")
        })
        .and_then(|()| {
            world.eventually("the pods run elsewhere", || on_node(world, SECOND, 3))?;
            inside.kubectl("rollout status deployment frontend --timeout 60s")
        });
    signal("CONT")?;
    moved?;
    inside.kubectl(&format!(
        "wait node {THIRD} --for condition=Ready --timeout 60s"
    ))?;
    inside.eventually("the old pods are gone", || {
        let left = inside.kubectl("get pods -o name")?;
        ensure(left.lines().count() == 3, &left)
    })
}
