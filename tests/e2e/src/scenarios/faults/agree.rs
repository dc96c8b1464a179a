//! What must agree once everything has settled: virtual objects with the
//! host's, and the host's with what its runtime and file system have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::kill::is_shim;
use super::node::Node;
use super::{Cluster, STILL, items};
use crate::process::Process;
use crate::world::{Result, World, ensure};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// Waits until `check` succeeds; fails with its last error.
pub fn within<T>(patience: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let _waiting = crate::show::wait();
    loop {
        let error = match check() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if started.elapsed() > patience {
            return Err(format!("not within {} s: {error}", patience.as_secs()));
        }
        std::thread::sleep(INTERVAL);
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn name(object: &Value) -> String {
    format!(
        "{} {}/{}",
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

/// Pods that nobody touches, each with all that a restart would change.
pub fn still_pods(world: &World, clusters: &[Cluster]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for cluster in clusters {
        let pods = within(crate::world::PATIENCE, || {
            cluster.items(world, &format!("pods -n {STILL}"))
        })?;
        for pod in pods {
            let states = pod["status"]["initContainerStatuses"]
                .as_array()
                .into_iter()
                .chain(pod["status"]["containerStatuses"].as_array())
                .flatten()
                .map(|status| {
                    format!(
                        "{} {} {} {}",
                        status["name"],
                        status["containerID"],
                        status["restartCount"],
                        status["state"]
                    )
                });
            let states: Vec<String> = states.collect();
            found.push(format!(
                "{} {} {} {} {}",
                cluster.name,
                name(&pod),
                text(&pod, "/metadata/uid"),
                pod["status"]["podIP"],
                states.join(" ")
            ));
        }
    }
    found.sort();
    Ok(found)
}

/// How often each container of the control planes was restarted.
pub fn restarts(world: &World, namespace: &str) -> Result<BTreeMap<String, u64>> {
    let pods = host(world, "pods", namespace, "app=coracle")?;
    let mut found = BTreeMap::new();
    for pod in pods {
        let statuses = pod["status"]["containerStatuses"].as_array();
        for status in statuses.into_iter().flatten() {
            let container = format!(
                "{}/{}",
                text(&pod, "/metadata/name"),
                status["name"].as_str().unwrap_or_default()
            );
            found.insert(container, status["restartCount"].as_u64().unwrap_or(0));
        }
    }
    Ok(found)
}

fn host(world: &World, kinds: &str, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    items(&world.kubectl(&format!(
        "--context coracle-host get {kinds} -n {namespace} -l {selector} -o json"
    ))?)
}

/// Each virtual object that has a counterpart has exactly one, and each
/// counterpart has its virtual object.
pub fn virtual_and_host(world: &World, cluster: &Cluster) -> Result {
    let namespace = cluster.namespace;
    let selector = format!("coracle.dev/managed-by={}", cluster.name);
    let inside = cluster.items(
        world,
        "pods,services,configmaps,secrets,endpoints,endpointslices,persistentvolumeclaims,\
         deployments,replicasets,statefulsets -A",
    )?;
    let outside = host(
        world,
        "pods,services,configmaps,secrets,endpoints,endpointslices,persistentvolumeclaims",
        namespace,
        &selector,
    )?;
    let mut by_uid = BTreeMap::<&str, &Value>::new();
    for object in &inside {
        by_uid.insert(text(object, "/metadata/uid"), object);
    }
    let mut counterparts = BTreeMap::<(&str, &str), Vec<&Value>>::new();
    let services: BTreeSet<&str> = outside
        .iter()
        .filter(|object| text(object, "/kind") == "Service")
        .map(|object| text(object, "/metadata/name"))
        .collect();
    for object in &outside {
        // Services of a mapping have names of their own.
        let alias = text(object, "/metadata/annotations/coracle.dev~1object-kind");
        if is_endpoints_of(object, &services) || alias == "ServiceAlias" {
            continue;
        }
        let uid = text(object, "/metadata/annotations/coracle.dev~1object-uid");
        let own = by_uid.contains_key(uid);
        ensure(own, &format!("{} has no virtual object", name(object)))?;
        let kind = text(object, "/kind");
        counterparts.entry((kind, uid)).or_default().push(object);
    }
    for object in &inside {
        match text(object, "/kind") {
            "Pod" => pod_agrees(object, &counterparts)?,
            "Service" => service_agrees(object, &counterparts)?,
            "Deployment" | "ReplicaSet" | "StatefulSet" => {
                let wanted = object["spec"]["replicas"].as_u64().unwrap_or(0);
                let ready = object["status"]["readyReplicas"].as_u64().unwrap_or(0);
                let all = object["status"]["replicas"].as_u64().unwrap_or(0);
                ensure(
                    wanted == ready && wanted == all,
                    &format!(
                        "{} has {ready} of {wanted} ready, {all} in all",
                        name(object)
                    ),
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// True for what the host's own controllers make for a service.
fn is_endpoints_of(object: &Value, services: &BTreeSet<&str>) -> bool {
    let service = match text(object, "/kind") {
        "Endpoints" => text(object, "/metadata/name"),
        "EndpointSlice" => text(object, "/metadata/labels/kubernetes.io~1service-name"),
        _ => return false,
    };
    services.contains(service)
}

type Counterparts<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Value>>;

fn only<'a>(object: &Value, counterparts: &Counterparts<'a>) -> Result<&'a Value> {
    let key = (text(object, "/kind"), text(object, "/metadata/uid"));
    match counterparts.get(&key).map(Vec::as_slice) {
        Some([one]) => Ok(one),
        Some(several) => Err(format!(
            "{} has {} on the host",
            name(object),
            several.len()
        )),
        None => Err(format!("{} has none on the host", name(object))),
    }
}

fn pod_agrees(pod: &Value, counterparts: &Counterparts) -> Result {
    let running =
        text(pod, "/status/phase") == "Running" && pod["metadata"]["deletionTimestamp"].is_null();
    ensure(
        running,
        &format!("{} does not run: {}", name(pod), pod["status"]),
    )?;
    let host = only(pod, counterparts)?;
    for field in [
        "phase",
        "podIP",
        "containerStatuses",
        "initContainerStatuses",
    ] {
        let inside = &pod["status"][field];
        let mut outside = host["status"][field].clone();
        if field == "initContainerStatuses" {
            without_the_syncers(&mut outside, pod);
        }
        ensure(
            *inside == outside,
            &format!(
                "{}: {field} is {inside} inside and {outside} outside",
                name(pod)
            ),
        )?;
    }
    let ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    ensure(ready, &format!("{} is not ready", name(pod)))
}

/// Leaves the containers that the pod has inside, `null` if there are none.
fn without_the_syncers(statuses: &mut Value, pod: &Value) {
    let own = |status: &Value| {
        let containers = pod["spec"]["initContainers"].as_array();
        let mut containers = containers.into_iter().flatten();
        containers.any(|container| container["name"] == status["name"])
    };
    if let Some(all) = statuses.as_array_mut() {
        all.retain(own);
        if all.is_empty() {
            *statuses = Value::Null;
        }
    }
}

fn service_agrees(service: &Value, counterparts: &Counterparts) -> Result {
    // The one that the virtual cluster itself is reached by, and those that
    // stand for services of the host.
    let imported = !text(service, "/metadata/labels/coracle.dev~1imported").is_empty();
    if imported || text(service, "/metadata/name") == "kubernetes" {
        return Ok(());
    }
    let host = only(service, counterparts)?;
    let (inside, outside) = (&service["spec"]["clusterIP"], &host["spec"]["clusterIP"]);
    ensure(
        inside == outside,
        &format!("{}: {inside} inside, {outside} outside", name(service)),
    )
}

/// The host's pods with what the runtimes, the file system and the network
/// have: nothing is missing, nothing is too much.
pub fn runtime(world: &World, nodes: u8) -> Result {
    let pods = items(&world.kubectl("--context coracle-host get pods -A -o json")?)?;
    for node in Node::first(nodes) {
        let name = node.to_string();
        let uids = pods
            .iter()
            .filter(|pod| text(pod, "/spec/nodeName") == name)
            .map(|pod| text(pod, "/metadata/uid").to_owned());
        on_node(world, node, &uids.collect()).map_err(|error| format!("{node}: {error}"))?;
    }
    let links = "ip -o link show type veth | wc -l";
    counted(world, "links", links, pods.len())?;
    let namespaces = "grep -o '[^ ]*netns/cni-[^ ]*' /proc/self/mounts | sort -u | wc -l";
    counted(world, "network namespaces", namespaces, pods.len())
}

fn counted(world: &World, what: &str, command: &str, pods: usize) -> Result {
    let found = world.shell(command).out;
    ensure(
        found.trim() == pods.to_string(),
        &format!("{} {what} for {pods} pods", found.trim()),
    )
}

fn on_node(world: &World, node: Node, uids: &BTreeSet<String>) -> Result {
    let ctr = format!("ctr -a {} -n k8s.io", node.socket(world));
    let running: BTreeSet<String> = world
        .script(&format!("{ctr} tasks list"))?
        .lines()
        .filter(|line| line.contains("RUNNING"))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let mut sandboxes = Vec::new();
    let mut sandbox_ids = BTreeSet::new();
    for id in world.script(&format!("{ctr} containers list -q"))?.lines() {
        let info: Value =
            serde_json::from_str(&world.script(&format!("{ctr} containers info {id}"))?)
                .map_err(|e| e.to_string())?;
        let label = |key: &str| info["Labels"][key].as_str().unwrap_or_default().to_owned();
        let uid = label("io.kubernetes.pod.uid");
        ensure(
            uids.contains(&uid),
            &format!("the container {id} belongs to no pod: {}", info["Labels"]),
        )?;
        if label("io.cri-containerd.kind") == "sandbox" && running.contains(id) {
            sandboxes.push(uid);
            sandbox_ids.insert(id.to_owned());
        }
    }
    sandboxes.sort();
    let wanted: Vec<String> = uids.iter().cloned().collect();
    ensure(
        sandboxes == wanted,
        &format!("sandboxes {sandboxes:?} for pods {wanted:?}"),
    )?;
    let shims = shims(world, node)?;
    let strange: Vec<String> = shims
        .difference(&sandbox_ids)
        .map(|id| about(world, id))
        .collect();
    ensure(
        shims == sandbox_ids,
        &format!(
            "{} shims for {} sandboxes; without one: {}",
            shims.len(),
            sandbox_ids.len(),
            strange.join("; ")
        ),
    )?;
    let data = format!("{}/node", node.root(world));
    let addresses = format!("find {data}/cni -name '10.*' | wc -l");
    counted(world, "addresses", &addresses, uids.len())?;
    let volumes = format!("ls {data}/pods | wc -l");
    counted(world, "volume directories", &volumes, uids.len())?;
    let logs = format!("ls {} | wc -l", node.pod_logs(world));
    counted(world, "log directories", &logs, uids.len())
}

/// The ids of the sandboxes whose shims run on a node.
pub fn shims(world: &World, node: Node) -> Result<BTreeSet<String>> {
    let socket = node.socket(world);
    let shims = Process::all()?
        .into_iter()
        .filter(|process| is_shim(&process.command) && process.command.contains(&socket));
    let ids = shims.filter_map(|shim| {
        let at = shim.command.iter().position(|word| word == "-id")?;
        shim.command.get(at + 1).cloned()
    });
    Ok(ids.collect())
}

/// What there is to know about a shim, for whoever looks for the cause.
fn about(world: &World, id: &str) -> String {
    let run = world.shell(&format!(
        "data={}; grep -h {id} $data/log/containerd.log* $data/log/supervisor.log | cut -c1-250 | tail -n 12; \
         ls -d $data/run/io.containerd.runtime.v2.task/k8s.io/{id} 2>&1; \
         pid=$(pgrep -f -- '-id {id}' | head -n 1); \
         ps -o pid,ppid,etime,args --ppid $pid",
        world.data_dir()
    ));
    format!("{id}:\n{}{}", run.out, run.err)
}

/// Nothing of the scenario is left on the host.
pub fn nothing_left(world: &World, namespace: &str, nodes: u8) -> Result {
    within(crate::world::PATIENCE, || {
        let left = world.kubectl(&format!(
            "--context coracle-host get pods,services,secrets,configmaps,endpointslices,\
             statefulsets,roles,rolebindings,persistentvolumeclaims -n {namespace} -o name"
        ))?;
        let left: Vec<&str> = left
            .lines()
            .filter(|line| !line.contains("kube-root-ca.crt"))
            .collect();
        ensure(left.is_empty(), &format!("left: {left:?}"))?;
        runtime(world, nodes)
    })
}
