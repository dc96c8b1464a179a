//! What a virtual cluster may be set to sync and to bound beyond the usual, on
//! a host with real containers.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The host namespace, and another that is somebody's.
const NAMESPACE: &str = "e2e-choices";
const OTHER: &str = "e2e-choices-other";

const VALUES: &str = "
sync:
  toHost:
    priorityClasses: {enabled: true}
    storageClasses: {enabled: true}
    serviceAccounts: {enabled: true}
    podDisruptionBudgets: {enabled: true}
    persistentVolumes: {enabled: true}
  fromHost:
    ingressClasses: {enabled: true}
    runtimeClasses: {enabled: true}
policies:
  podSecurityStandard: baseline
exportKubeConfig:
  additionalSecrets:
  - {name: handed-over, namespace: e2e-choices-other, server: 'https://choosy.e2e-choices.svc:443'}
  - {name: robot, serviceAccount: {name: robot, namespace: ci, clusterRole: view}}
controlPlane:
  proxy: {extraSANs: [choosy.example]}
  service: {spec: {type: NodePort}}
";

const CLASSES: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: e2e-choices}
spec: {controller: example.com/none}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: e2e-choices}
handler: runc
";

const INSIDE: &str = "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: urgent}
value: 1000
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: worker}
spec: {minAvailable: 1, selector: {matchLabels: {app: worker}}}
---
apiVersion: v1
kind: Pod
metadata: {name: worker, labels: {app: worker}}
spec:
  serviceAccountName: worker
  priorityClassName: urgent
  containers:
  - {name: worker, image: nginx, imagePullPolicy: IfNotPresent}
---
apiVersion: v1
kind: Pod
metadata: {name: intruder}
spec:
  containers:
  - {name: intruder, image: nginx, imagePullPolicy: IfNotPresent, securityContext: {privileged: true}}
";

const VOLUME: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: own}
provisioner: coracle.dev/local-path
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: own}
spec: {storageClassName: own, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  containers:
  - {name: writer, image: nginx, imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /v}]}
  volumes:
  - {name: v, persistentVolumeClaim: {claimName: own}}
";

/// A share that nobody serves: it is bound, and never mounted. The other volume is
/// a path of the node's.
const SHARE: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: share}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  nfs: {server: 192.0.2.1, path: /share}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: sly}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  hostPath: {path: /}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: share}
spec: {storageClassName: '', accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: sly}
spec: {storageClassName: '', volumeName: sly, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
";

/// Every choice of [`VALUES`] at once.
pub fn beyond_the_usual(world: &World) -> Result {
    world.kubectl(&format!("create namespace {OTHER}"))?;
    world.apply(CLASSES)?;
    let values = world.file("choices.yaml", VALUES)?;
    let cluster = VirtualCluster::create(
        world,
        "choosy",
        NAMESPACE,
        &format!("-f {}", values.display()),
    )?;
    let inside = &cluster.inside;
    for class in ["ingressclass", "runtimeclass"] {
        inside.eventually("a class of the host", || {
            inside.kubectl(&format!("get {class} e2e-choices"))
        })?;
    }
    inside.apply(INSIDE)?;
    inside.kubectl("wait pod worker --for condition=Ready --timeout 60s")?;
    on_the_host(world)?;
    inside.eventually("the pod below the standard is told why", || {
        has(
            &inside.kubectl("get events --field-selector involvedObject.name=intruder")?,
            "violates PodSecurity \"baseline:latest\"",
        )
    })?;
    ensure(
        world
            .try_kubectl(&format!(
                "get pod intruder-x-default-x-choosy -n {NAMESPACE}"
            ))
            .code
            != 0,
        "a privileged pod got to the host",
    )?;
    if world.own_host() {
        inside.apply(VOLUME)?;
        inside.kubectl("wait pod writer --for condition=Ready --timeout 60s")?;
        let class = "-o jsonpath={.spec.storageClassName}";
        let own = inside.kubectl(&format!("get pvc own {class}"))?;
        ensure(own == "own", &own)?;
    }
    let played = volumes(world, &cluster);
    if played.is_err() {
        let all = "get pv,pvc -A -o yaml";
        println!("inside:\n{}", inside.try_kubectl(all).out);
        println!("on the host:\n{}", world.try_kubectl(all).out);
    }
    played?;
    robot(world, &cluster)?;
    reached(world, &cluster)?;
    if world.own_host() {
        exposed(world)?;
    }
    cluster.delete()?;
    let left = world.kubectl(
        "get priorityclasses,storageclasses,persistentvolumes,secrets,roles -A -o name \
         -l coracle.dev/host-namespace=e2e-choices",
    )?;
    ensure(left.is_empty(), &format!("left on the host: {left}"))?;
    world.kubectl("delete ingressclass,runtimeclass e2e-choices")?;
    world.kubectl(&format!("delete namespace {OTHER}"))?;
    Ok(())
}

/// The host binds a volume of the tenant's to the claim that has it inside.
fn volumes(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    inside.apply(SHARE)?;
    inside.kubectl("wait pvc share --for jsonpath={.status.phase}=Bound --timeout 60s")?;
    inside.kubectl("wait pv share --for jsonpath={.status.phase}=Bound --timeout 60s")?;
    let volume = inside.kubectl("get pvc share -o jsonpath={.spec.volumeName}")?;
    ensure(volume == "share", &volume)?;
    let host = world.kubectl(
        "get pv coracle-share-x-e2e-choices-x-choosy -o jsonpath={.status.phase}/\
         {.spec.claimRef.namespace}/{.spec.claimRef.name}/{.spec.persistentVolumeReclaimPolicy}",
    )?;
    let expected = "Bound/e2e-choices/share-x-default-x-choosy/Retain";
    ensure(host == expected, &host)?;
    for about in ["PersistentVolume", "PersistentVolumeClaim"] {
        inside.eventually("why a path of the node stays inside", || {
            let select = format!("involvedObject.name=sly,involvedObject.kind={about}");
            has(
                &inside.kubectl(&format!("get events -A --field-selector {select}"))?,
                "hostPath",
            )
        })?;
    }
    // Released, it is nobody's until somebody says so.
    inside.kubectl("delete pvc share sly")?;
    inside.kubectl("wait pv share --for jsonpath={.status.phase}=Released --timeout 60s")?;
    inside.kubectl("delete pv share sly")?;
    world.eventually("it left the host", || {
        let left = world.kubectl("get pv -l coracle.dev/managed-by=choosy -o name")?;
        ensure(left.is_empty(), &left)
    })
}

/// A kubeconfig with the token of an account of the virtual cluster.
fn robot(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let config = world.script(&format!(
        "kubectl get secret robot -n {NAMESPACE} -o jsonpath={{.data.config}} | base64 -d"
    ))?;
    let server = cluster
        .inside
        .kubectl("config view --minify -o jsonpath={.clusters[0].cluster.server}")?;
    let robot = world.with_kubeconfig(world.file("robot.kubeconfig", &config)?);
    let at = format!("--server {server}");
    let who = robot.kubectl(&format!(
        "auth whoami -o jsonpath={{.status.userInfo.username}} {at}"
    ))?;
    ensure(who == "system:serviceaccount:ci:robot", &who)?;
    robot.kubectl(&format!("get pods -A {at}"))?;
    let refused = robot.try_kubectl(&format!("create namespace more {at}"));
    has(&refused.err, "Forbidden")
}

fn on_the_host(world: &World) -> Result {
    let class = "coracle-urgent-x-e2e-choices-x-choosy";
    let value = world.kubectl(&format!("get priorityclass {class} -o jsonpath={{.value}}"))?;
    ensure(value == "1000", &value)?;
    let name = "worker-x-default-x-choosy";
    let pod = world.kubectl(&format!(
        "get pod {name} -n {NAMESPACE} -o \
         jsonpath={{.spec.priorityClassName}}/{{.spec.serviceAccountName}}/{{.spec.priority}}"
    ))?;
    ensure(pod == format!("{class}/{name}/1000"), &pod)?;
    world.kubectl(&format!("get pdb {name} -n {NAMESPACE}"))?;
    Ok(())
}

/// With an address of a load balancer, `connect` uses that.
fn exposed(world: &World) -> Result {
    world.coracle(&format!("upgrade choosy -n {NAMESPACE} --expose"))?;
    let address = world.eventually("an address", || {
        let address = world.kubectl(&format!(
            "get service choosy -n {NAMESPACE} -o jsonpath={{.status.loadBalancer.ingress[0].ip}}"
        ))?;
        ensure(!address.is_empty(), "none yet")?;
        Ok(address)
    })?;
    let command = format!("connect choosy -n {NAMESPACE}");
    world.eventually("it is the address that is connected to", || {
        let server = world.script(&format!(
            "coracle {command} -- kubectl config view --minify -o jsonpath={{.clusters[0].cluster.server}}"
        ))?;
        has(&server, &format!("https://{address}:443"))
    })?;
    world.coracle(&format!("{command} -- kubectl get namespaces"))?;
    Ok(())
}

/// The secret in the other namespace, the node port and the further name in the
/// certificate lead to it.
fn reached(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let config = world.script(&format!(
        "kubectl get secret handed-over -n {OTHER} -o jsonpath={{.data.config}} | base64 -d"
    ))?;
    has(&config, "https://choosy.e2e-choices.svc:443")?;
    cluster
        .inside
        .kubectl("get namespaces --tls-server-name choosy.example")?;
    let refused = cluster
        .inside
        .try_kubectl("get namespaces --tls-server-name other.example");
    has(&refused.err, "other.example")?;
    let port = world.kubectl(&format!(
        "get service choosy -n {NAMESPACE} -o jsonpath={{.spec.ports[0].nodePort}}"
    ))?;
    let node = world.kubectl(&format!(
        "get pod choosy-0 -n {NAMESPACE} -o jsonpath={{.status.hostIP}}"
    ))?;
    cluster.inside.kubectl(&format!(
        "get namespaces --server https://{node}:{port} --tls-server-name choosy.example"
    ))?;
    Ok(())
}
