//! What a containerd leaves that is killed at a bad moment, made on purpose.

use crate::world::{Result, World, ensure};

/// A shim, an address and a network namespace that containerd has no record
/// of. They are to be gone some time after its next start.
pub fn plant(world: &World) -> Result {
    let script = format!(
        "set -e; run={data}/run; bundle={work}/lost; mkdir -p $bundle; \
         echo '{{}}' > $bundle/config.json; cd $bundle; mkfifo log; \
         cat < log > /dev/null 2>&1 & \
         TTRPC_ADDRESS=$run/containerd.sock.ttrpc containerd-shim-runc-v2 -namespace k8s.io \
         -id lost -address $run/containerd.sock -publish-binary containerd start > /dev/null 2>&1; \
         printf 'lost\\r\\neth0' > $(ls -d {data}/node/cni/*)/10.244.0.250; \
         file=$run/io.containerd.grpc.v1.cri/netns/cni-lost; touch $file; \
         unshare --net mount --bind /proc/self/ns/net $file",
        data = world.data_dir(),
        work = world.work_dir.display(),
    );
    world.script(&script)?;
    let shims = super::agree::shims(world, super::node::Node::FIRST)?;
    ensure(shims.contains("lost"), "no shim was made")
}
