//! What a pod of a virtual cluster finds: services by name, its API server,
//! and nothing of the host.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend, labels: {app: frontend}}
spec:
  replicas: 2
  selector: {matchLabels: {app: frontend}}
  template:
    metadata: {labels: {app: frontend}}
    spec:
      containers:
      - name: nginx
        image: nginx
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 80, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec:
  selector: {app: frontend}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  selector: {app: frontend}
  ports: [{name: http, port: 80}]
"#;

const CLIENTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: other}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: reader, namespace: other}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: other}
spec:
  terminationGracePeriodSeconds: 0
  serviceAccountName: reader
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
"#;

/// One pod with a full name.
const NAMED: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: named}
spec: {clusterIP: None, selector: {app: named}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: named}
spec:
  serviceName: named
  replicas: 1
  selector: {matchLabels: {app: named}}
  template:
    metadata: {labels: {app: named}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000}
      containers:
      - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
"#;

/// A service of the host, which nobody inside may find.
const OUTSIDE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: e2e-inside}
spec: {ports: [{port: 80}]}
"#;

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// DNS, services and the API server as pods see them.
pub fn pods_find_what_is_inside(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "inside", "e2e-inside", "")?;
    let inside = &cluster.inside;
    inside.apply(WEB)?;
    // Variables of services are given to pods that start after them.
    inside.kubectl("rollout status deployment frontend --timeout 120s")?;
    world.apply(OUTSIDE)?;
    inside.apply(CLIENTS)?;
    inside.kubectl("wait pod client --for condition=Ready --timeout 120s")?;
    inside.kubectl("wait pod client -n other --for condition=Ready --timeout 120s")?;

    services(&cluster)?;
    names_of_the_host(world, &cluster)?;
    identity(&cluster)?;
    full_names(&cluster)?;
    api_server(&cluster)?;
    cluster.delete()
}

/// A pod of a StatefulSet knows itself by the name that others call it by.
fn full_names(cluster: &VirtualCluster) -> Result {
    let inside = &cluster.inside;
    inside.apply(NAMED)?;
    inside.kubectl("rollout status statefulset named --timeout 120s")?;
    let full = "named-0.named.default.svc.cluster.local";
    has(&cluster.in_pod("named-0", "hostname -f")?, full)?;
    let address = inside.kubectl("get pod named-0 -o jsonpath={.status.podIP}")?;
    has(&cluster.in_pod("named-0", "cat /etc/hosts")?, &address)?;
    inside.eventually("its name in DNS", || {
        has(
            &cluster.in_pod("client", &format!("nslookup {full}"))?,
            &address,
        )
    })?;
    // Of how it came to know nothing is seen.
    let pod = inside.kubectl("get pod named-0 -o yaml")?;
    ensure(!pod.contains("rewrite-hosts"), &pod)?;
    let told = inside.kubectl("get events --field-selector involvedObject.name=named-0")?;
    ensure(!told.contains("rewrite-hosts"), &told)
}

fn services(cluster: &VirtualCluster) -> Result {
    let inside = &cluster.inside;
    inside.eventually("frontend answers", || {
        has(
            &cluster.in_pod("client", "wget -qO- http://frontend")?,
            "Welcome to nginx",
        )
    })?;
    for name in [
        "frontend.default",
        "frontend.default.svc",
        "frontend.default.svc.cluster.local",
    ] {
        has(
            &cluster.in_pod("client -n other", &format!("wget -qO- http://{name}"))?,
            "Welcome to nginx",
        )?;
    }
    // A short name is looked up in the pod's own namespace only.
    let elsewhere = inside.try_kubectl("exec client -n other -- wget -qO- http://frontend");
    has(&elsewhere.err, "bad address")?;

    let address = inside.kubectl("get service frontend -o jsonpath={.spec.clusterIP}")?;
    let answer = cluster.in_pod("client", "nslookup frontend.default.svc.cluster.local")?;
    has(&answer, &format!("Address: {address}"))?;
    let variables = cluster.in_pod("client", "env")?;
    has(&variables, &format!("FRONTEND_SERVICE_HOST={address}\n"))?;
    has(&variables, "FRONTEND_SERVICE_PORT_HTTP=80\n")?;

    let addresses =
        inside.kubectl("get pods -l app=frontend -o jsonpath={.items[*].status.podIP}")?;

    let answer = cluster.in_pod("client", "nslookup peers.default.svc.cluster.local")?;
    ensure(
        addresses.split_whitespace().count() == 2,
        &format!("addresses of frontend: {addresses}"),
    )?;
    for address in addresses.split_whitespace() {
        has(&answer, address)?;
    }
    Ok(())
}

fn names_of_the_host(world: &World, cluster: &VirtualCluster) -> Result {
    world.kubectl("get service outside -n e2e-inside")?;
    for name in ["outside", "inside", "inside-headless"] {
        let name = format!("{name}.e2e-inside.svc.cluster.local");
        let answer = cluster
            .inside
            .try_kubectl(&format!("exec client -- nslookup {name}"));
        ensure(
            answer.code != 0 && answer.out.contains("NXDOMAIN"),
            &format!("{name}: {}{}", answer.out, answer.err),
        )?;
    }
    Ok(())
}

fn identity(cluster: &VirtualCluster) -> Result {
    has(&cluster.in_pod("client", "hostname")?, "client\n")?;
    let resolver = cluster.in_pod("client -n other", "cat /etc/resolv.conf")?;
    has(
        &resolver,
        "search other.svc.cluster.local svc.cluster.local cluster.local",
    )?;
    let namespace = cluster.in_pod("client -n other", &format!("cat {ACCOUNT}/namespace"))?;
    ensure(namespace == "other", &format!("the namespace: {namespace}"))
}

/// The real kubectl is a client inside of the pod: it reads the variables, the
/// token and the authority that Kubernetes gives to every pod.
fn api_server(cluster: &VirtualCluster) -> Result {
    let inside = &cluster.inside;
    // The file itself, for a link would be copied as one.
    let kubectl = std::fs::canonicalize(inside.tool("kubectl")).map_err(|e| e.to_string())?;
    for namespace in ["default", "other"] {
        inside.kubectl(&format!(
            "cp {} {namespace}/client:/tmp/kubectl",
            kubectl.display()
        ))?;
    }
    has(
        &cluster.in_pod("client -n other", "/tmp/kubectl auth whoami")?,
        "system:serviceaccount:other:reader",
    )?;
    let pods = cluster.in_pod("client -n other", "/tmp/kubectl get pods -A")?;
    has(&pods, "frontend-")?;
    ensure(!pods.contains("inside-0"), &pods)?;
    let by_name = format!(
        "/tmp/kubectl --server https://kubernetes.default.svc --token $(cat {ACCOUNT}/token) \
         --certificate-authority {ACCOUNT}/ca.crt get namespaces -o name"
    );
    has(
        &cluster.in_pod("client -n other", &by_name)?,
        "namespace/other",
    )?;
    let refused = inside.try_kubectl("exec client -- /tmp/kubectl get pods");
    ensure(refused.code != 0, &refused.out)?;
    has(
        &refused.err,
        "pods is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \
         \"pods\" in API group \"\" in the namespace \"default\"",
    )
}
