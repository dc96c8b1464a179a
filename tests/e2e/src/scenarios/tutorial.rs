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
    no_roles_left(world)
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
    cluster.delete()?;
    world.kubectl("label nodes --all env-")?;
    no_roles_left(world)
}

/// Nothing outside of its namespace is left of a virtual cluster.
pub fn no_roles_left(world: &World) -> Result {
    let left = world.kubectl(
        "get clusterroles,clusterrolebindings,roles,rolebindings -A -l app=coracle -o name",
    )?;
    ensure(left.is_empty(), &format!("left on the host: {left}"))
}
