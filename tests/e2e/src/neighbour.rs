//! Another machine on a network of this one: a network namespace on a cable.

use std::process::{Child, Stdio};

use crate::world::{Result, Run, World, ensure};

/// The neighbour's own address.
pub const ADDRESS: &str = "192.0.2.2";

/// A neighbour that asks the cable's other end for any address.
pub struct Neighbour<'w> {
    world: &'w World,
    process: Child,
}

impl<'w> Neighbour<'w> {
    /// Connects one.
    pub fn connect(world: &'w World) -> Result<Self> {
        let mut command = world.command("unshare");
        // Reads until it is killed, in a network of its own.
        command.args(["--net", "cat"]).stdin(Stdio::piped());
        let process = command.spawn().map_err(|e| e.to_string())?;
        let neighbour = Self { world, process };
        let pid = neighbour.process.id();
        world.eventually("a network of its own", || {
            let networks = format!("readlink /proc/self/ns/net /proc/{pid}/ns/net");
            let networks = world.script(&networks)?;
            let names: Vec<&str> = networks.lines().collect();
            ensure(names.len() == 2 && names[0] != names[1], &networks)
        })?;
        world.script(&format!(
            "ip link add lan0 type veth peer name lan1 netns {pid} && \
             ip addr add 192.0.2.1/24 dev lan0 && ip link set lan0 up && \
             nsenter -t {pid} -n sh -ec 'ip link set lo up; ip addr add {ADDRESS}/24 dev lan1; \
             ip link set lan1 up; ip route add default dev lan1'"
        ))?;
        Ok(neighbour)
    }

    /// A process in its network.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a shell script on the neighbour.
    pub fn shell(&self, script: &str) -> Run {
        let pid = self.process.id();
        self.world
            .shell(&format!("nsenter -t {pid} -n sh -c '{script}'"))
    }
}

impl Drop for Neighbour<'_> {
    fn drop(&mut self) {
        self.world.shell("ip link del lan0");
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
