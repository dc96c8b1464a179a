//! A tenant that tries to get at its host and its neighbour, with real
//! containers: each attempt is refused, and is told inside.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const NAMESPACE: &str = "e2e-hostile";

/// A pod to start from, one that would have the node's files, and one that
/// guesses the names of the neighbour's secrets on the host.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: files}
spec:
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    volumeMounts: [{name: root, mountPath: /host}]
  volumes: [{name: root, hostPath: {path: /}}]
---
apiVersion: v1
kind: Pod
metadata: {name: guess}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    volumeMounts: [{name: key, mountPath: /key}]
  volumes: [{name: key, secret: {secretName: vc-beta}}]
"#;

/// A node, a service and a webhook that are the host's API server at ADDRESS.
const DOORS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: door}
---
apiVersion: v1
kind: Service
metadata: {name: door}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: door, labels: {kubernetes.io/service-name: door}}
addressType: IPv4
endpoints: [{addresses: [ADDRESS]}]
ports: [{port: 443}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: door}
webhooks:
- name: door.example.com
  clientConfig: {url: "https://ADDRESS/version", caBundle: AUTHORITY}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]
  sideEffects: None
  admissionReviewVersions: [v1]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}
"#;

/// The address at which clouds keep their metadata, as an endpoint.
const METADATA: &str = r#"
apiVersion: v1
kind: Endpoints
metadata: {name: door}
subsets: [{addresses: [{ip: 169.254.169.254}], ports: [{port: 80}]}]
"#;

/// Two neighbours in one host namespace, one of them hostile.
pub fn attempts(world: &World) -> Result {
    let beta = VirtualCluster::create(world, "beta", NAMESPACE, "")?;
    let alpha = VirtualCluster::create(
        world,
        "alpha",
        NAMESPACE,
        "--set policies.podSecurityStandard=baseline",
    )?;
    alpha.inside.apply(PODS)?;
    containers(world, &alpha)?;
    kubelet(&alpha)?;
    network(world, &alpha)?;
    // The neighbour did not notice.
    beta.inside.kubectl("get nodes")?;
    alpha.delete()?;
    beta.delete()
}

/// Waits for an event inside about an object.
fn told(cluster: &VirtualCluster<'_>, name: &str, part: &str) -> Result {
    cluster.inside.eventually(part, || {
        let events = format!(
            "get events --field-selector involvedObject.name={name} -o jsonpath={{.items[*].message}}"
        );
        has(&cluster.inside.kubectl(&events)?, part)
    })
}

/// What a container would have of the node or of the neighbour.
fn containers(world: &World, alpha: &VirtualCluster<'_>) -> Result {
    told(alpha, "files", "hostPath volumes")?;
    let absent = world.try_kubectl(&format!("get pod files-x-default-x-alpha -n {NAMESPACE}"));
    has(&absent.err, "not found")?;

    let inside = &alpha.inside;
    inside.kubectl("wait pod probe --for condition=Ready --timeout 120s")?;
    inside.kubectl(
        "debug probe --image busybox --image-pull-policy IfNotPresent --profile sysadmin -c root \
         -- sleep 3600",
    )?;
    told(alpha, "probe", "privileged")?;
    let later = world.kubectl(&format!(
        "get pod probe-x-default-x-alpha -n {NAMESPACE} -o jsonpath={{.spec.ephemeralContainers}}"
    ))?;
    ensure(later.is_empty(), &later)?;

    // The neighbour's kubeconfig is there, under that very name.
    world.kubectl(&format!("get secret vc-beta -n {NAMESPACE}"))?;
    let volume = world.eventually("the pod that guesses", || {
        world.kubectl(&format!(
            "get pod guess-x-default-x-alpha -n {NAMESPACE} -o \
             jsonpath={{.spec.volumes[?(@.name==\"key\")].secret.secretName}}"
        ))
    })?;
    ensure(volume == "vc-beta-x-default-x-alpha", &volume)?;
    told(alpha, "guess", "not found")
}

/// Pods of others through the endpoint of the nodes.
fn kubelet(alpha: &VirtualCluster<'_>) -> Result {
    let inside = &alpha.inside;
    let node = inside.kubectl("get pod probe -o jsonpath={.spec.nodeName}")?;
    let proxy = format!("get --raw /api/v1/nodes/{node}/proxy");
    let listed = inside.kubectl(&format!("{proxy}/pods"))?;
    has(&listed, "\"probe\"")?;
    for foreign in ["beta-0", "alpha-0", "x-alpha"] {
        ensure(!listed.contains(foreign), &listed)?;
    }
    for path in [
        "containerLogs/e2e-hostile/beta-0/control-plane",
        "containerLogs/default/beta-0/control-plane",
        "containerLogs/default/..%2Fbeta-0/control-plane",
        "containerLogs/default/probe%2F..%2F..%2Fbeta-0/main",
        "containerLogs/default/probe-x-default-x-alpha/main",
        "exec/e2e-hostile/beta-0/syncer?command=id",
        "run/default/probe/main?cmd=id",
        "configz",
    ] {
        let run = inside.try_kubectl(&format!("{proxy}/{path}"));
        ensure(run.code != 0, &format!("{path}: {}", run.out))?;
        has(&run.err, "the server could not find the requested resource")?;
    }
    let exec = inside.try_kubectl("exec beta-0 -n e2e-hostile -- id");
    has(&exec.err, "not found")
}

/// The control plane as a way into the network of the host.
fn network(world: &World, alpha: &VirtualCluster<'_>) -> Result {
    let inside = &alpha.inside;
    let file = world.file("metadata.yaml", METADATA)?;
    let run = inside.try_kubectl(&format!("create -f {}", file.display()));
    has(&run.err, "may not be in the link-local range")?;

    let address = world.kubectl("get service kubernetes -o jsonpath={.spec.clusterIP}")?;
    let authority = inside.kubectl(
        "config view --raw --minify -o jsonpath={.clusters[0].cluster.certificate-authority-data}",
    )?;
    let doors = DOORS
        .replace("ADDRESS", &address)
        .replace("AUTHORITY", &authority);
    inside.apply(&doors)?;
    let status = format!(
        r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}],"daemonEndpoints":{{"kubeletEndpoint":{{"Port":443}}}}}}}}"#
    );
    inside.kubectl(&format!(
        "patch node door --subresource status --type merge -p '{status}'"
    ))?;
    // All nodes are reached through the syncer, which has pods only.
    let node = inside.try_kubectl("get --raw /api/v1/nodes/door/proxy/version");
    ensure(node.code != 0, &node.out)?;
    has(
        &node.err,
        "the server could not find the requested resource",
    )?;
    for door in [
        "get --raw /api/v1/namespaces/default/services/https:door:443/proxy/version",
        "create configmap through-the-door",
    ] {
        let run = inside.try_kubectl(door);
        ensure(run.code != 0, &format!("{door}: {}", run.out))?;
        has(&run.err, "address not allowed")?;
    }
    Ok(())
}
