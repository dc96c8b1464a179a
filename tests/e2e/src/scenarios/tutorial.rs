//! The tutorial's scenarios after the first walk-through, with its own values
//! files: what is reused of the host, and what is mapped to it and from it.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The host's ingress controller leads to a service of a virtual cluster.
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

/// The host's storage class serves a claim of a virtual cluster.
pub fn storage_class(world: &World) -> Result {
    world.apply(
        r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: standard}
provisioner: example.com/none
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  persistentVolumeReclaimPolicy: Delete
  hostPath: {path: /tmp/e2e-disk, type: DirectoryOrCreate}
"#,
    )?;
    let values = world.file(
        "reuse-storageclass.yaml",
        "sync:\n hoststorageclasses:\n   enabled: true   \n",
    )?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, "reuse-storageclass", "e2e-storage", &options)?;
    let inside = &cluster.inside;
    inside.eventually("the class", || inside.kubectl("get storageclass standard"))?;
    inside.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  storageClassName: standard
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "echo kept > /data/file && sleep 3600"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"#,
    )?;
    inside.kubectl("wait pod writer --for condition=Ready --timeout 120s")?;
    has(&cluster.in_pod("writer", "cat /data/file")?, "kept")?;
    has(&inside.kubectl("get pvc data")?, "Bound")?;
    has(&inside.kubectl("get pv disk")?, "default/data")?;
    inside.kubectl("delete pod/writer pvc/data")?;
    inside.eventually("the mirror is gone", || {
        ensure(
            inside.kubectl("get pv -o name")?.is_empty(),
            "a volume is left",
        )
    })?;
    cluster.delete()?;
    world.try_kubectl("delete pv disk --wait=false");
    world.kubectl("delete storageclass standard")?;
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

/// Services of the host inside, and of the virtual cluster on the host; by the
/// program's other name.
pub fn map_services(world: &World) -> Result {
    let link = world.work_dir.join("vcluster");
    let vcluster = link.display();
    world.script(&format!("ln -sf $(command -v coracle) {vcluster}"))?;
    let version = world.script(&format!("{vcluster} --version"))?;
    ensure(version.starts_with("vcluster version "), &version)?;
    let help = world.script(&format!("{vcluster} create --help"))?;
    has(&help, "vcluster create team-a")?;

    let values = world.file(
        "map-services.yaml",
        "mapServices:\n  fromHost:\n  - from: default/hostsvc\n    to: default/virtualsvc\n\
         \u{20}\u{20}fromVirtual:\n  - from: default/web\n    to: shop\n",
    )?;
    let create = format!(
        "{vcluster} create map-services -f {} --connect=false",
        values.display()
    );
    world.script(&create)?;
    world.kubectl("create deployment webapp --image nginx --replicas 2")?;
    world.kubectl("expose deployment/webapp --type=ClusterIP --port 80 --name hostsvc")?;
    let address = world.kubectl("get service hostsvc -o jsonpath={.spec.clusterIP}")?;

    world.script(&format!("{vcluster} connect map-services"))?;
    let context = world.kubectl("config current-context")?;
    has(&context, "vcluster_map-services_vcluster-map-services_")?;
    world.eventually("virtualsvc", || {
        has(&world.kubectl("get svc virtualsvc")?, "None")
    })?;
    world.kubectl(
        "run test --image busybox --image-pull-policy IfNotPresent --command sleep 3600",
    )?;
    world.kubectl("wait pod test --for condition=Ready --timeout 120s")?;
    has(
        &world.kubectl("exec test -- nslookup virtualsvc.default.svc.cluster.local")?,
        &address,
    )?;
    world.eventually("virtualsvc answers", || {
        has(
            &world.kubectl("exec test -- wget -qO- http://virtualsvc")?,
            "Welcome to nginx",
        )
    })?;
    world.kubectl("create deployment web --image nginx")?;
    world.kubectl("expose deployment/web --port 80")?;

    world.script(&format!("{vcluster} disconnect"))?;
    let shop = "get service shop -n vcluster-map-services -o jsonpath={.spec.clusterIP}";
    let shop = world.eventually("the host's service", || world.kubectl(shop))?;
    world.eventually("it answers", || {
        let fetched = world.script(&format!(
            "wget -qO- -T 5 http://{shop} || curl -sm 5 http://{shop}"
        ))?;
        has(&fetched, "Welcome to nginx")
    })?;

    world.script(&format!("{vcluster} delete map-services"))?;
    world.kubectl("delete deployment/webapp service/hostsvc")?;
    no_roles_left(world)?;
    let contexts = world.kubectl("config get-contexts -o name")?;
    ensure(!contexts.contains("map-services"), &contexts)
}

/// Pausing stops everything and resuming brings it back.
pub fn pause_and_resume(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "napping", "e2e-pause", "")?;
    let inside = &cluster.inside;
    inside.kubectl("create deployment web --image nginx --replicas 2")?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    world.coracle("pause napping -n e2e-pause")?;
    let left = world.kubectl("get pods -n e2e-pause -o name")?;
    ensure(left.is_empty(), &left)?;
    has(&world.coracle("list -n e2e-pause")?, "Paused")?;
    world.coracle("resume napping -n e2e-pause")?;
    inside.eventually("the deployment is back", || {
        inside.kubectl("rollout status deployment web --timeout 60s")
    })?;
    let running =
        world.kubectl("get pods -n e2e-pause --field-selector status.phase=Running -o name")?;
    ensure(running.lines().count() == 3, &running)?;
    cluster.delete()
}

/// Nothing outside of its namespace is left of a virtual cluster.
fn no_roles_left(world: &World) -> Result {
    let left = world.kubectl(
        "get clusterroles,clusterrolebindings,roles,rolebindings -A -l app=coracle -o name",
    )?;
    ensure(left.is_empty(), &format!("left on the host: {left}"))
}
