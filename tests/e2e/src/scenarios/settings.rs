//! The values of a virtual cluster through its life: converted, changed in
//! place, told of, and kept with its claim.

use std::path::Path;

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The host namespace.
const NAMESPACE: &str = "e2e-settings";

/// What nobody but the tenant may see.
const MARKER: &str = "hush-hush-4711";

/// Values as they were written for 0.15.
const PAST: &str = "
sync:
  poddisruptionbudgets: {enabled: true}
syncer:
  extraArgs: [--tls-san=changing.example]
storage: {size: 1Gi}
vcluster: {image: rancher/k3s:v1.25}
";

/// Everything that changes settings, in one life.
pub fn changed_in_place(world: &World) -> Result {
    let past = world.file("past.yaml", PAST)?;
    let today = world.work_dir.join("today.yaml");
    let converted = world.script(&format!(
        "coracle convert -f {} 2>&1 >{today}; cat {today}",
        past.display(),
        today = today.display()
    ))?;
    has(&converted, "vcluster is left out: ")?;
    has(&converted, "podDisruptionBudgets:")?;
    let schema = world.coracle("schema")?;
    ensure(
        serde_json::from_str::<serde_json::Value>(&schema)
            .is_ok_and(|s| s["properties"].is_object()),
        "the schema is no schema",
    )?;
    has(
        &world.coracle("schema --refused")?,
        "controlPlane.backingStore.etcd",
    )?;

    let options = format!(
        "-f {} --set controlPlane.statefulSet.persistence.volumeClaim.retentionPolicy=Delete \
         --kubernetes-version 1.36",
        today.display()
    );
    let cluster = VirtualCluster::create(world, "changing", NAMESPACE, &options)?;
    if world
        .try_kubectl(&format!("get pvc data-changing-0 -n {NAMESPACE}"))
        .code
        != 0
    {
        println!("the host has no default storage class, so data would be lost by a change");
        return cluster.delete();
    }
    fill(&cluster)?;
    changes(world, &cluster)?;
    told(world)?;
    bundled(world)?;
    anew(world, &today)?;
    credentials_run_out(world)?;
    kept_with_its_claim(world, cluster)
}

fn fill(cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    inside.kubectl("create configmap kept --from-literal key=value")?;
    inside.kubectl(&format!(
        "create secret generic marker --from-literal key={MARKER}"
    ))?;
    inside.kubectl(&format!(
        "run steady --image nginx --image-pull-policy IfNotPresent --env PASSWORD={MARKER} \
         --annotations note=open"
    ))?;
    inside.kubectl("wait pod steady --for condition=Ready --timeout 60s")?;
    Ok(())
}

/// A change is made by a new control plane; workloads and data stay.
fn changes(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let uid = |world: &World, pod: &str| {
        world.kubectl(&format!(
            "get pod {pod} -n {NAMESPACE} -o jsonpath={{.metadata.uid}}"
        ))
    };
    let steady = uid(world, "steady-x-default-x-changing")?;
    let control_plane = uid(world, "changing-0")?;
    world.coracle(&format!("upgrade changing -n {NAMESPACE}"))?;
    ensure(
        uid(world, "changing-0")? == control_plane,
        "an upgrade to what it is made its pod anew",
    )?;
    world.coracle(&format!(
        "upgrade changing -n {NAMESPACE} --set sync.toHost.secrets.all=true"
    ))?;
    ensure(
        uid(world, "changing-0")? != control_plane,
        "the control plane does not have the new values",
    )?;
    world.eventually("a secret that nothing refers to", || {
        world.kubectl(&format!(
            "get secret marker-x-default-x-changing -n {NAMESPACE}"
        ))
    })?;
    ensure(
        uid(world, "steady-x-default-x-changing")? == steady,
        "a pod was made anew",
    )?;
    let inside = &cluster.inside;
    let kept = inside.eventually("the API is back", || {
        inside.kubectl("get configmap kept -o jsonpath={.data.key}")
    })?;
    ensure(kept == "value", &kept)?;
    let refused = world.try_coracle(&format!(
        "upgrade changing -n {NAMESPACE} --set \
         controlPlane.statefulSet.persistence.volumeClaim.size=2Gi"
    ));
    ensure(refused.code == 1, &refused.err)?;
    has(&refused.err, "cannot get another size")
}

/// `describe` and `list` tell of it.
fn told(world: &World) -> Result {
    let text = world.coracle(&format!("describe changing -n {NAMESPACE}"))?;
    for part in [
        "Kubernetes:           v1.36.2",
        "claim: data-changing-0",
        "all: true",
    ] {
        has(&text, part)?;
    }
    let json = world.coracle(&format!("describe changing -n {NAMESPACE} -o json"))?;
    let json: serde_json::Value = serde_json::from_str(&json).map_err(|e| e.to_string())?;
    ensure(
        json["values"]["sync"]["toHost"]["podDisruptionBudgets"]["enabled"] == true
            && json["values"]["controlPlane"]["proxy"]["extraSANs"][0] == "changing.example",
        &json.to_string(),
    )?;
    has(
        &world.coracle(&format!("list -n {NAMESPACE} -o wide"))?,
        "v1.36.2",
    )?;
    let yaml = world.coracle(&format!("list -n {NAMESPACE} -o yaml"))?;
    has(&yaml, "name: changing")
}

/// A bundle for debugging has everything but secrets.
fn bundled(world: &World) -> Result {
    let directory = world.work_dir.join("bundle");
    let path = directory.display();
    world.script(&format!(
        "mkdir -p {path} && cd {path} && coracle debug changing -n {NAMESPACE} -o bundle.tar.gz && \
         tar -xzf bundle.tar.gz"
    ))?;
    let bundle = format!("{path}/debug-changing");
    for file in [
        "describe.yaml",
        "host/pod.yaml",
        "host/secret.yaml",
        "inside/pod.yaml",
        "logs/syncer.log",
        "logs/control-plane.log",
    ] {
        world.script(&format!("test -s {bundle}/{file}"))?;
    }
    has(
        &world.script(&format!("cat {bundle}/inside/pod.yaml"))?,
        "steady",
    )?;
    let hidden = [MARKER, "PRIVATE KEY", "eyJ", "LS0tLS1CRUdJTi"];
    let found = world.shell(&format!("grep -rlE '{}' {bundle}", hidden.join("|")));
    ensure(found.code == 1, &format!("secrets are in {}", found.out))?;
    let missing = world.shell(&format!("cat {bundle}/missing.txt"));
    ensure(missing.code != 0, &missing.out)
}

/// `create --upgrade` starts from the defaults: what else was set is gone.
fn anew(world: &World, values: &Path) -> Result {
    world.coracle(&format!(
        "create changing -n {NAMESPACE} -f {} --upgrade --connect=false",
        values.display()
    ))?;
    let values = world.coracle(&format!("describe changing -n {NAMESPACE} --config-only"))?;
    has(&values, "podDisruptionBudgets:")?;
    ensure(!values.contains("secrets:"), &values)?;
    world.eventually("the secret that nothing refers to goes", || {
        let run = world.try_kubectl(&format!(
            "get secret marker-x-default-x-changing -n {NAMESPACE}"
        ));
        ensure(run.code != 0, &run.out)
    })
}

/// Credentials that end soon are told of, and another `connect` renews them.
fn credentials_run_out(world: &World) -> Result {
    let host = world.kubectl("config current-context")?.trim().to_owned();
    let context = format!("coracle_changing_{NAMESPACE}_{host}");
    world.script(&format!(
        "cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
         -subj /CN=old -keyout old.key -out old.crt 2>/dev/null && \
         kubectl config set-credentials {context} --client-certificate old.crt \
         --client-key old.key --embed-certs",
        world.work_dir.display()
    ))?;
    let list = format!("list -n {NAMESPACE}");
    has(
        &world.try_coracle(&list).err,
        &format!("the credentials of context {context} run out on"),
    )?;
    let ask = format!("get namespaces --context {context}");
    ensure(
        world.try_kubectl(&ask).code != 0,
        "the old credentials work",
    )?;
    world.coracle(&format!("connect changing -n {NAMESPACE}"))?;
    world.kubectl(&format!("config use-context {host}"))?;
    world.kubectl(&ask)?;
    let told = world.try_coracle(&list).err;
    ensure(!told.contains("run out"), &told)
}

/// A claim that is kept has the data for the next virtual cluster of the name.
fn kept_with_its_claim(world: &World, cluster: VirtualCluster<'_>) -> Result {
    world.coracle(&format!("delete changing -n {NAMESPACE} --keep-pvc"))?;
    cluster.forget();
    let size = "controlPlane.statefulSet.persistence.volumeClaim.size=1Gi";
    let again = VirtualCluster::create(world, "changing", NAMESPACE, &format!("--set {size}"))?;
    let kept = again
        .inside
        .kubectl("get configmap kept -o jsonpath={.data.key}")?;
    ensure(kept == "value", &kept)?;
    again.delete()
}
