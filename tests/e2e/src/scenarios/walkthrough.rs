//! The tutorial's first walk-through, from "Create virtual clusters" to
//! "Delete virtual clusters".

use crate::world::{Result, World, ensure, has};

/// create, connect, deploy, disconnect, delete.
pub fn first_walkthrough(world: &World) -> Result {
    world.coracle("create testcluster --namespace demo --connect=false")?;
    let pods = world.kubectl("get pods -n demo")?;
    let line = pods
        .lines()
        .find(|l| l.starts_with("testcluster-0 "))
        .unwrap_or_default();
    has(line, "2/2")?;
    has(line, "Running")?;

    world.coracle("connect testcluster -n demo")?;
    let context = world.kubectl("config current-context")?;
    ensure(
        context.trim() == "coracle_testcluster_demo_coracle-host",
        &format!("the context is {context}"),
    )?;
    has(&world.kubectl("get nodes")?, "Ready")?;
    let namespaces = world.kubectl("get ns -o name")?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        has(&namespaces, &format!("namespace/{name}\n"))?;
    }

    world.kubectl("create deployment frontend --image nginx --replicas 3")?;
    world.kubectl("rollout status deployment frontend --timeout 120s")?;
    let inside = world.kubectl("get pods -A --no-headers")?;
    let running = inside
        .lines()
        .filter(|l| l.contains("frontend-") && l.contains("1/1"));
    ensure(running.count() == 3, &inside)?;

    world.coracle("disconnect")?;
    let outside = world.kubectl("get pods -n demo")?;
    let synced = outside
        .lines()
        .filter(|l| l.contains("-x-default-x-testcluster") && l.contains("Running"));
    ensure(synced.count() == 3, &outside)?;
    ensure(
        world.kubectl("get deployments -n demo -o name")?.is_empty(),
        "a deployment was synced",
    )?;

    world.coracle("delete testcluster -n demo")?;
    let kinds = "pods,services,secrets,configmaps,statefulsets,roles,rolebindings,endpointslices";
    let left = world
        .try_kubectl(&format!("get {kinds} -n demo -o name"))
        .out;
    let left: Vec<&str> = left
        .lines()
        .filter(|l| !l.contains("kube-root-ca.crt"))
        .collect();
    ensure(left.is_empty(), &format!("left in demo: {left:?}"))
}
