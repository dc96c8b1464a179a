//! Services of type LoadBalancer: the embedded host gives them addresses from
//! a pool and leads what comes there to their pods.

use crate::neighbour::{self, Neighbour};
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The address of a service, once it has one.
const ADDRESS: &str = "jsonpath={.status.loadBalancer.ingress[0].ip}";

/// The node's own address, where its agent serves.
const NODE: &str = "10.244.0.1";
/// How curl ends if nobody takes the connection.
const REFUSED: i32 = 7;

/// Services of a virtual cluster are reached from outside at addresses of
/// their own.
pub fn addresses(world: &World) -> Result {
    if !world.own_host() {
        println!("addresses are the embedded host's to give");
        return Ok(());
    }
    let cluster = VirtualCluster::create(world, "balanced", "e2e-balanced", "")?;
    let inside = &cluster.inside;
    inside.kubectl("create deployment web --image nginx --replicas 2")?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    inside.kubectl(
        "expose deployment web --type LoadBalancer --name web --port 8080 --target-port 80",
    )?;
    let address = address(inside, "web")?;
    let get = format!("curl -sS --max-time 5 http://{address}:8080");
    let welcome = |text: &str| has(text, "Welcome to nginx!");
    world.eventually("an answer on the machine", || welcome(&world.script(&get)?))?;
    inside.kubectl(
        "run client --image busybox --image-pull-policy IfNotPresent --restart Never -- sleep 3600",
    )?;
    inside.kubectl("wait --for condition=Ready pod/client --timeout 120s")?;
    welcome(&cluster.in_pod("client", &format!("wget -qO- http://{address}:8080"))?)?;

    // Other machines of a network find it as well.
    let neighbour = Neighbour::connect(world)?;
    let seen = neighbour.shell(&get);
    welcome(&seen.out).map_err(|e| format!("{e}{}", seen.err))?;
    // What the machine itself serves there is none of theirs.
    let kubelet = |address: &str| {
        neighbour
            .shell(&format!(
                "curl -sSk --max-time 5 https://{address}:10250/healthz"
            ))
            .code
    };
    ensure(
        kubelet(NODE) != REFUSED,
        "the machine refuses the neighbour anyway",
    )?;
    ensure(kubelet(&address) == REFUSED, "the node agent is there")?;

    source_ranges(inside, &neighbour, &get)?;
    second_service(inside, &address)?;
    drop(neighbour);
    cluster.delete()?;
    world.eventually("the address is free", || {
        let shown = world.kubectl("get services -A")?;
        ensure(!shown.contains(&address), &shown)
    })
}

/// Who may come is the service's to say.
fn source_ranges(inside: &World, neighbour: &Neighbour<'_>, get: &str) -> Result {
    let allow = |range: &str| {
        inside.kubectl(&format!(
            "patch service web --type merge -p '{{\"spec\":{{\"loadBalancerSourceRanges\":[\"{range}\"]}}}}'"
        ))
    };
    allow("198.51.100.0/24")?;
    inside.eventually("the neighbour is shut out", || {
        let run = neighbour.shell(&get.replace("--max-time 5", "--max-time 1"));
        ensure(run.code == 28, &format!("{} {}", run.code, run.out))
    })?;
    allow(&format!("{}/32", neighbour::ADDRESS))?;
    inside.eventually("the neighbour is let in", || {
        has(&neighbour.shell(get).out, "Welcome to nginx!")
    })
}

/// Another service has another address; one of a class that nobody serves has
/// none; and an address that is free again is given again.
fn second_service(inside: &World, first: &str) -> Result {
    inside.kubectl("expose deployment web --type LoadBalancer --name second --port 80")?;
    let second = address(inside, "second")?;
    ensure(second != first, "two services have one address")?;
    let refused = inside.try_kubectl(
        "patch service second --type merge -p '{\"spec\":{\"loadBalancerClass\":\"example.com/other\"}}'",
    );
    has(&refused.err, "spec.loadBalancerClass: Invalid value")?;
    inside.kubectl("patch service second --type merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'")?;
    inside.eventually("the second has none any more", || {
        let shown = inside.kubectl(&format!("get service second -o {ADDRESS}"))?;
        ensure(shown.is_empty(), &shown)
    })?;
    inside.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: third}}, spec: {{type: LoadBalancer, \
         loadBalancerIP: {second}, selector: {{app: web}}, ports: [{{port: 80}}]}}}}"
    ))?;
    let third = address(inside, "third")?;
    ensure(third == second, &format!("{third} in place of {second}"))
}

fn address(inside: &World, service: &str) -> Result<String> {
    inside.eventually("an address", || {
        let address = inside.kubectl(&format!("get service {service} -o {ADDRESS}"))?;
        ensure(!address.is_empty(), "none yet")?;
        Ok(address)
    })
}
