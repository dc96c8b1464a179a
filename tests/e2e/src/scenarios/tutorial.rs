//! The tutorial's scenarios after the first walk-through, with its own values
//! files: what is reused of the host, and what is mapped to it and from it.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// Ingresses reach a host that has no controller for them, and come back.
pub fn ingress(world: &World) -> Result {
    world.apply(
        "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: nginx}\n\
         spec: {controller: example.com/ingress}\n",
    )?;
    let values = world.file(
        "ingress-values.yaml",
        "sync:\n  ingresses:\n    enabled: true\n",
    )?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, "ingress-demo", "e2e-ingress", &options)?;
    let inside = &cluster.inside;
    inside.eventually("the class", || inside.kubectl("get ingressclass nginx"))?;
    inside.kubectl("create deployment frontend --image nginx")?;
    inside.kubectl("expose deployment/frontend --type ClusterIP --name frontend --port 80")?;
    inside.apply(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: frontend}
spec:
  ingressClassName: nginx
  rules:
  - host: frontend.example.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: frontend, port: {number: 80}}}
"#,
    )?;
    let host_name = "frontend-x-default-x-ingress-demo";
    let backend = "{.spec.rules[0].http.paths[0].backend.service.name}";
    let found = world.eventually("the host's ingress", || {
        world.kubectl(&format!(
            "get ingress {host_name} -n e2e-ingress -o jsonpath={backend}"
        ))
    })?;
    ensure(found == host_name, &format!("it leads to {found}"))?;
    // What a controller of the host says shows inside.
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"}]}}}"#;
    world.kubectl(&format!(
        "patch ingress {host_name} -n e2e-ingress --subresource status --type merge -p '{status}'"
    ))?;
    inside.eventually("the address", || {
        has(&inside.kubectl("get ingress frontend")?, "192.0.2.7")
    })?;
    cluster.delete()?;
    world.kubectl("delete ingressclass nginx")?;
    no_roles_left(world, &["ingress-demo"])
}

/// Workloads stay on nodes of the user's choice.
pub fn specific_nodes(world: &World) -> Result {
    world.kubectl("label nodes --all env=dev --overwrite")?;
    let values = world.file(
        "specific-nodes.yaml",
        "sync:\n  nodes:\n    enabled: true\n    enableScheduler: true\n    nodeSelector: \"env=dev\"\n",
    )?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, "specific-nodes", "e2e-nodes", &options)?;
    let inside = &cluster.inside;
    inside.eventually("the node", || {
        has(&inside.kubectl("get nodes --show-labels")?, "env=dev")
    })?;
    inside.apply(
        r#"
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
      containers: [{name: frontend, image: nginx, imagePullPolicy: IfNotPresent}]
"#,
    )?;
    inside.kubectl("rollout status deployment frontend --timeout 120s")?;
    let node = inside.kubectl("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let outside = world.kubectl("get pods -n e2e-nodes -o wide")?;
    let synced = outside
        .lines()
        .filter(|l| l.contains("-x-default-x-specific-nodes") && l.contains(&node));
    ensure(synced.count() == 3, &outside)?;
    storage_of_scheduled_pods(&cluster)?;
    room_for_others(world, &cluster)?;
    node_ports_at_own_addresses(world, &cluster)?;
    cluster.delete()?;
    world.kubectl("label nodes --all env-")?;
    no_roles_left(world, &["specific-nodes"])
}

/// A volume is made where the scheduler inside puts its first pod.
fn storage_of_scheduled_pods(cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    inside.eventually("the class", || inside.kubectl("get storageclass standard"))?;
    inside.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  resources: {requests: {storage: 1Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: kept}}]
"#,
    )?;
    inside.kubectl("wait pod keeper --for condition=Ready --timeout 120s")?;
    has(&inside.kubectl("get pvc kept")?, "Bound")
}

/// What pods of others ask for is not given away a second time.
fn room_for_others(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    let cpu = "get nodes -o jsonpath={.items[0].status.allocatable.cpu}";
    let all = world.kubectl(cpu)?;
    world.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: neighbour}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    resources: {{requests: {{cpu: 500m}}, limits: {{cpu: {all}}}}}
"#
    ))?;
    let milli = |text: &str| match text.strip_suffix('m') {
        Some(milli) => milli.parse::<i64>(),
        None => text.parse::<i64>().map(|whole| whole * 1000),
    };
    let milli = |text: &str| milli(text.trim()).map_err(|e| format!("{text:?}: {e}"));
    let whole = milli(&all)?;
    let left = inside.eventually("less is left", || {
        let left = milli(&inside.kubectl(cpu)?)?;
        ensure(left <= whole - 500, &format!("{left} of {whole} are left"))?;
        Ok(left)
    })?;
    inside.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    resources: {{requests: {{cpu: {}m}}}}
"#,
        left + 1
    ))?;
    inside.eventually("the scheduler's refusal", || {
        let told = "get events --field-selector involvedObject.name=greedy";
        has(&inside.kubectl(told)?, "Insufficient cpu")
    })?;
    world.kubectl("delete pod neighbour")?;
    inside.kubectl("wait pod greedy --for condition=Ready --timeout 120s")?;
    inside
        .kubectl("delete pod greedy --grace-period 0 --force")
        .map(drop)
}

/// Nodes that show their own addresses: node ports answer there, and kubelets
/// are still reached.
fn node_ports_at_own_addresses(world: &World, cluster: &VirtualCluster) -> Result {
    let inside = &cluster.inside;
    let address =
        "get nodes -o 'jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}'";
    let own = world.kubectl(address)?;
    ensure(inside.kubectl(address)? != own, "the node's own address")?;
    let values = world.file(
        "own-addresses.yaml",
        "sync:\n  nodes:\n    enabled: true\n    enableScheduler: true\n    nodeSelector: \"env=dev\"\n    fakeKubeletIPs: false\n",
    )?;
    world.coracle(&format!(
        "create specific-nodes -n e2e-nodes --upgrade --connect=false -f {}",
        values.display()
    ))?;
    inside.eventually("the node's own address", || {
        has(&inside.kubectl(address)?, &own)
    })?;
    inside.kubectl("expose deployment frontend --type NodePort --port 80")?;
    let port = inside.eventually("the node port", || {
        let ports = "get service frontend -o jsonpath={.spec.ports[0].nodePort}";
        let port = inside.kubectl(ports)?;
        ensure(!port.is_empty(), "it has none yet")?;
        Ok(port)
    })?;
    inside.kubectl("run visitor --image busybox --image-pull-policy IfNotPresent -- sleep 3600")?;
    inside.kubectl("wait pod visitor --for condition=Ready --timeout 120s")?;
    inside.eventually("an answer at the node port", || {
        // By way of the kubelet, which is the syncer's still.
        let page = format!("exec visitor -- wget -qO- http://{own}:{port}/");
        has(&inside.kubectl(&page)?, "Welcome to nginx")
    })
}

/// No right is left of virtual clusters, in no namespace.
pub fn no_roles_left(world: &World, names: &[&str]) -> Result {
    let left = world.kubectl(&format!(
        "get clusterroles,clusterrolebindings,roles,rolebindings -A -o name \
         -l 'app=coracle,release in ({})'",
        names.join(",")
    ))?;
    ensure(left.is_empty(), &format!("left on the host: {left}"))
}
