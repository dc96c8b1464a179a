//! Pausing a virtual cluster, and throwing many away.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// Pausing stops everything and resuming brings it back.
pub fn pause_and_resume(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "napping", "e2e-pause", "")?;
    let inside = &cluster.inside;
    inside.kubectl("create deployment web --image nginx --replicas 2")?;
    inside.kubectl("create configmap kept --from-literal key=value")?;
    inside.kubectl("run alone --image nginx --image-pull-policy IfNotPresent")?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    inside.kubectl("wait pod alone --for condition=Ready --timeout 120s")?;
    world.coracle("pause napping -n e2e-pause")?;
    let left = world.kubectl("get pods -n e2e-pause -o name")?;
    ensure(left.is_empty(), &left)?;
    has(&world.coracle("list -n e2e-pause")?, "Paused")?;
    // Again, and it changes nothing.
    world.coracle("pause napping -n e2e-pause")?;

    world.coracle("resume napping -n e2e-pause")?;
    inside.eventually("the deployment is back", || {
        inside.kubectl("rollout status deployment web --timeout 60s")
    })?;
    let kept = inside.kubectl("get configmap kept -o jsonpath={.data.key}")?;
    ensure(kept == "value", &kept)?;
    // A pod that no controller looks after is gone for good.
    inside.eventually("three pods run, and the lone one is gone", || {
        let pods = inside.kubectl("get pods -o name")?;
        ensure(!pods.contains("pod/alone"), &pods)?;
        let running =
            world.kubectl("get pods -n e2e-pause --field-selector status.phase=Running -o name")?;
        ensure(running.lines().count() == 3, &running)
    })?;
    cluster.delete()
}
