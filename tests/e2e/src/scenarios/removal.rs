//! Deletes that were cut short, and clusters whose namespace was taken away: a
//! further delete finishes what is left.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// With rights beyond the namespace.
const OPTIONS: &str =
    "--set sync.fromHost.nodes.enabled=true --set sync.fromHost.nodes.selector.all=true";

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: nginx, image: nginx, imagePullPolicy: IfNotPresent}
"#;

/// Cut short after each of its steps.
pub fn deletes_cut_short(world: &World) -> Result {
    after_the_stateful_set(world)?;
    after_the_namespace(world)?;
    with_a_kept_claim(world)
}

fn after_the_stateful_set(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "cut", "e2e-cut", "")?;
    cluster.inside.apply(POD)?;
    cluster
        .inside
        .kubectl("wait pod web --for condition=Ready --timeout 120s")?;
    world.kubectl("delete statefulset cut -n e2e-cut")?;
    // Nobody syncs any more; what it had synced is still there.
    world.kubectl("wait pod cut-0 -n e2e-cut --for delete --timeout 60s")?;
    world.kubectl("get pod web-x-default-x-cut -n e2e-cut")?;
    cluster.delete()?;
    // It was made for it.
    world.eventually("the end of the namespace", || {
        let found = world.try_kubectl("get namespace e2e-cut -o yaml");
        let kinds = "pods,services,secrets,configmaps,serviceaccounts,persistentvolumeclaims";
        let left = world.try_kubectl(&format!("get {kinds} -n e2e-cut -o name"));
        has(&found.err, "not found").map_err(|_| format!("{}{}", found.out, left.out))
    })?;
    not_found(world, "delete cut -n e2e-cut")?;
    not_found(world, "delete cut")
}

fn after_the_namespace(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "gone", "e2e-gone", OPTIONS)?;
    let rights = "get clusterroles,clusterrolebindings -l release=gone -o name";
    ensure(
        world.kubectl(rights)?.lines().count() == 2,
        "it has no rights beyond its namespace",
    )?;
    world.kubectl("delete namespace e2e-gone --timeout 120s")?;
    ensure(
        world.kubectl(rights)?.lines().count() == 2,
        "nobody removes these rights with a namespace",
    )?;
    // Without -n: the labels tell where it was.
    world.coracle("delete gone")?;
    ensure(world.kubectl(rights)?.is_empty(), "its rights are left")?;
    not_found(world, "delete gone")?;
    cluster.forget();
    Ok(())
}

/// The namespace that was made for it stays with the claim.
fn with_a_kept_claim(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "kept", "e2e-kept", "")?;
    let claim = |claim: &str| world.try_kubectl(&format!("get pvc {claim} -n e2e-kept"));
    let has_claim = claim("data-kept-0").code == 0;
    if !has_claim {
        // A host without a default class: any claim of its own will do.
        world.apply(CLAIM)?;
    }
    world.coracle("delete kept -n e2e-kept --keep-pvc")?;
    ensure(
        claim("data-kept-0").code == 0,
        "the claim went with the namespace",
    )?;
    // A claim that was kept is no virtual cluster.
    not_found(world, "delete kept -n e2e-kept")?;
    ensure(claim("data-kept-0").code == 0, "the kept claim is gone")?;
    cluster.forget();
    world.kubectl("delete namespace e2e-kept --timeout 120s")?;
    Ok(())
}

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-kept-0, namespace: e2e-kept, labels: {app: coracle, release: kept}}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
"#;

fn not_found(world: &World, command: &str) -> Result {
    let run = world.try_coracle(command);
    ensure(
        run.code == 1,
        &format!("`{command}` ended with {}", run.code),
    )?;
    has(&run.err, "there is no virtual cluster")
}
