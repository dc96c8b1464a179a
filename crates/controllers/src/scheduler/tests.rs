//! Decisions on small clusters.

use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::verdict::Unplaced;
use super::volumes::PodVolumes;
use super::{filter, preempt, score};
use crate::objects::object;
use crate::objects::pod::Pod;

fn node(name: &str, extra: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut node, extra);
    node
}

fn pod(name: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod, extra);
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn cluster(nodes: &[Value], pods: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(Arc::new(object(node.clone())));
    }
    for pod in pods {
        cluster.add_pod(Arc::new(object(pod.clone())));
    }
    cluster
}

fn place(cluster: &Cluster, pod: &Value) -> Result<Vec<String>, String> {
    let pod: Pod = object(pod.clone());
    let feasible = filter::feasible(&pod, cluster, &PodVolumes::default(), &|_| None);
    feasible.map_err(|unplaced| unplaced.message(true))
}

fn on(node: &str, cpu: &str) -> Value {
    json!({"spec": {"nodeName": node, "containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn wants(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

#[test]
fn resources_and_their_refusals() {
    let cluster = cluster(
        &[node("n1", json!({})), node("n2", json!({}))],
        &[pod("x", on("n1", "1500m"))],
    );
    assert_eq!(
        place(&cluster, &pod("p", wants("1"))),
        Ok(vec!["n2".to_owned()])
    );
    assert_eq!(
        place(&cluster, &pod("p", wants("3"))),
        Err("0/2 nodes are available: 2 Insufficient cpu.".to_owned())
    );
    let gpu = json!({"spec": {"containers": [
        {"name": "c", "resources": {"limits": {"example.com/gpu": "1"}}}]}});
    assert_eq!(
        place(&cluster, &pod("p", gpu)),
        Err("0/2 nodes are available: 2 Insufficient example.com/gpu.".to_owned())
    );
}

#[test]
fn no_nodes_at_all() {
    assert_eq!(
        place(&Cluster::default(), &pod("p", json!({}))),
        Err("no nodes available to schedule pods".to_owned())
    );
}

#[test]
fn pods_are_counted() {
    let small = node("n", json!({"status": {"allocatable": {"pods": "1"}}}));
    let full = cluster(&[small], &[pod("x", on("n", "1m"))]);
    assert_eq!(
        place(&full, &pod("p", json!({}))),
        Err("0/1 nodes are available: 1 Too many pods.".to_owned())
    );
}

#[test]
fn taints_and_cordons() {
    let tainted = node(
        "n1",
        json!({"spec": {"taints": [
        {"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}}),
    );
    let cordoned = node("n2", json!({"spec": {"unschedulable": true}}));
    let cluster = cluster(&[tainted, cordoned], &[]);
    assert_eq!(
        place(&cluster, &pod("p", json!({}))),
        Err(
            "0/2 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, \
             1 node(s) were unschedulable."
                .to_owned()
        )
    );
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    assert_eq!(place(&cluster, &pod("p", tolerant)).unwrap().len(), 2);
}

#[test]
fn host_ports_clash_by_address() {
    let port = |ip: &str, node: &str| {
        json!({"spec": {"nodeName": node, "containers": [
            {"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}})
    };
    let cluster = cluster(&[node("n", json!({}))], &[pod("x", port("10.0.0.1", "n"))]);
    assert!(place(&cluster, &pod("p", port("10.0.0.2", ""))).is_ok());
    assert_eq!(
        place(&cluster, &pod("p", port("", ""))),
        Err(
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod \
             ports."
                .to_owned()
        )
    );
}

fn affinity(kind: &str, app: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "labelSelector": {"matchLabels": {"app": app}},
        "topologyKey": "kubernetes.io/hostname"}]}}}})
}

#[test]
fn pod_affinity() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let mut shy = pod("shy", affinity("podAntiAffinity", "web"));
    merge(
        &mut shy,
        json!({"spec": {"nodeName": "n1"}, "metadata": {"labels": {"app": "shy"}}}),
    );
    let cluster = cluster(&nodes, &[shy, pod("web", on("n2", "1m"))]);
    // Nobody of that kind is there, but the pod is one itself.
    let mut first = pod("p", affinity("podAffinity", "db"));
    assert_eq!(
        place(&cluster, &first),
        Err("0/2 nodes are available: 2 node(s) didn't match pod affinity rules.".to_owned())
    );
    merge(&mut first, json!({"metadata": {"labels": {"app": "db"}}}));
    assert_eq!(place(&cluster, &first).unwrap().len(), 2);
    // Near web is on n2; away from web is n1, whose pod refuses web.
    let mut near = pod("p", affinity("podAffinity", "web"));
    assert_eq!(place(&cluster, &near), Ok(vec!["n2".to_owned()]));
    merge(&mut near, json!({"metadata": {"namespace": "b"}}));
    assert_eq!(
        place(&cluster, &near).unwrap().len(),
        2,
        "first of its kind in another namespace"
    );
    let far = pod("p", affinity("podAntiAffinity", "web"));
    assert_eq!(
        place(&cluster, &far),
        Err(
            "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, \
             1 node(s) didn't satisfy existing pods anti-affinity rules."
                .to_owned()
        )
    );
}

#[test]
fn topology_spread() {
    let zone = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let nodes = [zone("n1", "a"), zone("n2", "b"), node("n3", json!({}))];
    let cluster = cluster(&nodes, &[pod("x", on("n1", "1m"))]);
    let spread = json!({"spec": {"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    assert_eq!(
        place(&cluster, &pod("p", spread)),
        Ok(vec!["n2".to_owned()])
    );
}

#[test]
fn siblings_spread_and_free_nodes_win() {
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let owned = json!({"metadata": {"ownerReferences": [{"uid": "rs", "controller": true}]}});
    let mut sibling = pod("x", on("n1", "1m"));
    merge(&mut sibling, owned.clone());
    let names = ["n1".to_owned(), "n2".to_owned()];
    let spread = cluster(&nodes, &[sibling]);
    let next: Pod = object(pod("p", owned));
    assert_eq!(score::best(&next, &spread, &names, &|_| None), "n2");
    let busy = cluster(&nodes, &[pod("y", on("n2", "1900m"))]);
    let other: Pod = object(pod("p", json!({})));
    assert_eq!(score::best(&other, &busy, &names, &|_| None), "n1");
}

#[test]
fn important_pods_displace_the_least_important() {
    let with = |name: &str, node: &str, cpu: &str, priority: i32| {
        let mut pod = pod(name, on(node, cpu));
        merge(&mut pod, json!({"spec": {"priority": priority}}));
        pod
    };
    let nodes = [node("n1", json!({})), node("n2", json!({}))];
    let cluster = cluster(
        &nodes,
        &[
            with("low", "n1", "1", 1),
            with("lower", "n1", "1", 0),
            with("high", "n2", "2", 5),
        ],
    );
    let nominate = |priority: i32, cpu: &str| {
        let pod: Pod = object(with("p", "", cpu, priority));
        let volumes = PodVolumes::default();
        let unplaced = filter::feasible(&pod, &cluster, &volumes, &|_| None).unwrap_err();
        let nomination = preempt::nominate(&pod, &cluster, &volumes, &|_| None, &unplaced);
        nomination.map(|it| {
            let victims = it.victims.iter().map(|pod| pod.metadata.name.clone());
            (it.node, victims.collect::<Vec<_>>())
        })
    };
    assert_eq!(
        nominate(9, "1"),
        Some(("n1".to_owned(), vec!["lower".to_owned()]))
    );
    assert_eq!(nominate(0, "1"), None);
    assert_eq!(nominate(9, "3"), None);
}

#[test]
fn assumed_pods_hold_their_place() {
    let mut cluster = cluster(&[node("n", json!({}))], &[]);
    cluster.assume(Arc::new(object(pod("x", wants("2")))), "n");
    assert!(place(&cluster, &pod("p", wants("1"))).is_err());
    cluster.forget("x");
    assert!(place(&cluster, &pod("p", wants("1"))).is_ok());
    assert!(matches!(
        filter::feasible(
            &object(pod("p", wants("9"))),
            &cluster,
            &PodVolumes::default(),
            &|_| None
        ),
        Err(Unplaced::Nodes(_))
    ));
}
