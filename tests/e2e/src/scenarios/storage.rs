//! The tutorial's scenario of the reused storage class: claims of a virtual
//! cluster are filled by the host, and their data lives and goes with them.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The stateful application of the tutorial, as far as storage goes: each
/// start adds a line to what it finds.
const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: es-default}
spec:
  serviceName: es-default
  replicas: 1
  selector: {matchLabels: {app: es}}
  template:
    metadata: {labels: {app: es}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, runAsGroup: 1000}
      containers:
      - name: elasticsearch
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "echo started >> /data/log && sleep 3600"]
        readinessProbe: {exec: {command: [test, -s, /data/log]}, periodSeconds: 1}
        volumeMounts: [{name: elasticsearch-data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: elasticsearch-data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 5Gi}}
      storageClassName: standard
"#;

const CLAIM: &str = "elasticsearch-data-es-default-0";

/// The host's storage class serves the claims of a virtual cluster.
pub fn reused_class(world: &World) -> Result {
    let cluster = create(world, "reuse-storageclass", "e2e-storage")?;
    play(world, cluster)
}

/// A virtual cluster with the tutorial's values.
pub fn create<'w>(world: &'w World, name: &str, namespace: &str) -> Result<VirtualCluster<'w>> {
    let values = world.file(
        "reuse-storageclass.yaml",
        "sync:\n hoststorageclasses:\n   enabled: true   \n",
    )?;
    let options = format!("-f {}", values.display());
    VirtualCluster::create(world, name, namespace, &options)
}

/// The scenario from there to the end of the virtual cluster.
pub fn play(world: &World, cluster: VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    let classes = inside.eventually("the class", || {
        let classes = inside.kubectl("get storageclass")?;
        has(&classes, "standard (default)").map(|()| classes)
    })?;
    has(&classes, "WaitForFirstConsumer")?;

    inside.apply(APPLICATION)?;
    inside.kubectl("rollout status statefulset es-default --timeout 120s")?;
    let volume = inside.kubectl(&format!("get pvc {CLAIM} -o jsonpath={{.spec.volumeName}}"))?;
    ensure(volume.starts_with("pvc-"), &volume)?;
    let claims = inside.kubectl("get pvc")?;
    row(
        &claims,
        &[CLAIM, "Bound", &volume, "5Gi", "RWO", "standard"],
    )?;
    let volumes = inside.kubectl("get pv")?;
    let claim = format!("default/{CLAIM}");
    let columns = [&volume, "5Gi", "RWO", "Delete", "Bound", &claim, "standard"];
    row(&volumes, &columns)?;
    if world.own_host() {
        // Where the host keeps it, and nowhere else.
        let kept = world.script(&format!("cat {}/volumes/{volume}/log", world.data_dir()))?;
        has(&kept, "started")?;
        has(
            &world.kubectl(&format!("get pv {volume} -o yaml"))?,
            "node-1",
        )?;
    }

    // The next pod of the same name finds what this one wrote.
    let uid = "get pod es-default-0 -o jsonpath={.metadata.uid}";
    let before = inside.kubectl(uid)?;
    inside.kubectl("delete pod es-default-0")?;
    inside.eventually("the pod is back", || {
        ensure(inside.kubectl(uid)? != before, "the same pod is there")
    })?;
    inside.kubectl("wait pod es-default-0 --for condition=Ready --timeout 120s")?;
    let log = cluster.in_pod("es-default-0", "cat /data/log")?;
    ensure(log == "started\nstarted\n", &log)?;

    // What one claim holds goes with it; another is left for the deletion of
    // the virtual cluster.
    inside.kubectl("scale statefulset es-default --replicas 2")?;
    inside.kubectl("rollout status statefulset es-default --timeout 120s")?;
    let other = "get pvc elasticsearch-data-es-default-1 -o jsonpath={.spec.volumeName}";
    let other = inside.kubectl(other)?;
    inside.kubectl("scale statefulset es-default --replicas 1")?;
    inside.kubectl("delete pvc elasticsearch-data-es-default-1")?;
    inside.eventually("the volume is gone", || {
        ensure(
            !inside.kubectl("get pv -o name")?.contains(&other),
            "it is there",
        )
    })?;
    gone(world, &other)?;
    cluster.delete()?;
    gone(world, &volume)
}

/// Nothing is left of a volume on the host, neither object nor data.
fn gone(world: &World, volume: &str) -> Result {
    world.eventually("the host's volume is gone", || {
        let left = world.kubectl("get pv -o name")?;
        ensure(!left.contains(volume), &left)
    })?;
    if !world.own_host() {
        return Ok(());
    }
    let left = world.script(&format!("ls {}/volumes", world.data_dir()))?;
    ensure(!left.contains(volume), &left)
}

/// Fails unless a line of a table begins with these columns.
fn row(table: &str, columns: &[&str]) -> Result {
    let found = table.lines().any(|line| {
        line.split_whitespace()
            .take(columns.len())
            .eq(columns.iter().copied())
    });
    ensure(found, &format!("{columns:?} is no row of:\n{table}"))
}
