//! The tutorial's scenario of mapped services: those of the host inside, those
//! of a virtual cluster on the host; by the program's other name.

use crate::scenarios::tutorial::no_roles_left;
use crate::world::{Result, World, ensure, has};

/// The tutorial's mapping, and the other direction.
const VALUES: &str = "\
mapServices:
  fromHost:
  - from: default/hostsvc
    to: default/virtualsvc
  - from: default/hostsvc-headless
    to: shop/peers
  fromVirtual:
  - from: default/web
    to: shop
  - from: default/web-headless
    to: shop-headless
  - from: default/late
    to: taken
";

const NAMESPACE: &str = "vcluster-map-services";

/// Services mapped both ways.
pub fn services(world: &World) -> Result {
    let link = world.work_dir.join("vcluster");
    let vcluster = link.display().to_string();
    world.script(&format!("ln -sf $(command -v coracle) {vcluster}"))?;
    let version = world.script(&format!("{vcluster} --version"))?;
    ensure(version.starts_with("vcluster version "), &version)?;
    has(
        &world.script(&format!("{vcluster} create --help"))?,
        "vcluster create team-a",
    )?;
    let before = world.kubectl("config current-context")?;
    let result = play(world, &vcluster);
    if result.is_err() {
        println!("what is inside:");
        world.show_objects();
        world.try_kubectl(&format!("config use-context {before}"));
        world.shell(&format!("{vcluster} delete map-services --timeout 30"));
    }
    world.try_kubectl(
        "delete deployment/webapp service/hostsvc service/hostsvc-headless --ignore-not-found",
    );
    result?;
    no_roles_left(world)?;
    let contexts = world.kubectl("config get-contexts -o name")?;
    ensure(!contexts.contains("map-services"), &contexts)
}

fn play(world: &World, vcluster: &str) -> Result {
    let values = world.file("map-services.yaml", VALUES)?;
    world.script(&format!(
        "{vcluster} create map-services -f {} --connect=false",
        values.display()
    ))?;
    // Somebody else's, under a name that a mapping asks for.
    world.kubectl(&format!(
        "create service clusterip taken --tcp 80 -n {NAMESPACE}"
    ))?;
    let foreign =
        format!("get service taken -n {NAMESPACE} -o jsonpath={{.spec}}{{.metadata.uid}}");
    let before = world.kubectl(&foreign)?;

    // The services of the host come after the virtual cluster.
    world.kubectl("create deployment webapp --image nginx --replicas 2")?;
    world.kubectl(
        "expose deployment/webapp --type=ClusterIP --port 8080 --target-port 80 --name hostsvc",
    )?;
    world
        .kubectl("expose deployment/webapp --cluster-ip None --port 80 --name hostsvc-headless")?;
    let address = world.kubectl("get service hostsvc -o jsonpath={.spec.clusterIP}")?;

    world.script(&format!("{vcluster} connect map-services"))?;
    let context = world.kubectl("config current-context")?;
    has(&context, "vcluster_map-services_vcluster-map-services_")?;
    from_host(world, &address)?;
    world.kubectl("create deployment web --image nginx")?;
    world.kubectl("expose deployment/web --port 8081 --target-port 80")?;
    world.kubectl("expose deployment/web --cluster-ip None --port 80 --name web-headless")?;
    world.kubectl("create service clusterip late --tcp 80")?;
    world.kubectl("rollout status deployment web --timeout 120s")?;
    world.eventually("a warning about the taken name", || {
        let told = "get events --field-selector involvedObject.name=late";
        has(
            &world.kubectl(told)?,
            "does not belong to this virtual cluster",
        )
    })?;
    let pod = world.kubectl("get pods -l app=web -o jsonpath={.items[0].status.podIP}")?;

    world.script(&format!("{vcluster} disconnect"))?;
    to_host(world, &pod)?;
    ensure(
        world.kubectl(&foreign)? == before,
        "a foreign service was touched",
    )?;

    // What goes on one side goes on the other.
    world.kubectl("delete service hostsvc")?;
    world.script(&format!("{vcluster} connect map-services"))?;
    world.eventually("virtualsvc is gone", || {
        let left = world.kubectl("get services -o name")?;
        ensure(!left.contains("virtualsvc"), &left)
    })?;
    world.kubectl("delete service web")?;
    world.script(&format!("{vcluster} disconnect"))?;
    world.eventually("shop is gone", || {
        let left = world.kubectl(&format!("get services -n {NAMESPACE} -o name"))?;
        let lines: Vec<&str> = left.lines().collect();
        ensure(!lines.contains(&"service/shop"), &left)
    })?;
    world.script(&format!("{vcluster} delete map-services"))?;
    // The namespace is kept for what is not ours, which is untouched.
    ensure(
        world.kubectl(&foreign)? == before,
        "a foreign service was touched",
    )?;
    world
        .kubectl(&format!("delete namespace {NAMESPACE}"))
        .map(drop)
}

/// Inside: names of the host's services lead to its pods.
fn from_host(world: &World, address: &str) -> Result {
    world.eventually("virtualsvc", || {
        has(&world.kubectl("get svc virtualsvc")?, "None")
    })?;
    world.kubectl("get svc peers -n shop")?;
    world.kubectl(
        // It ends when it is asked to, not after the grace of thirty seconds.
        "run test --image busybox --image-pull-policy IfNotPresent --command -- \
         sh -c 'trap exit TERM; sleep 3600 & wait'",
    )?;
    world.kubectl("wait pod test --for condition=Ready --timeout 120s")?;
    has(
        &world.kubectl("exec test -- nslookup virtualsvc.default.svc.cluster.local")?,
        address,
    )?;
    for url in ["http://virtualsvc:8080", "http://peers.shop"] {
        world.eventually(url, || {
            let fetched = world.kubectl(&format!("exec test -- wget -qO- {url}"))?;
            has(&fetched, "Welcome to nginx")
        })?;
    }
    Ok(())
}

/// On the host: services under the mapping's names lead to virtual pods.
fn to_host(world: &World, pod: &str) -> Result {
    let shop = format!("get service shop -n {NAMESPACE} -o jsonpath={{.spec.clusterIP}}");
    let shop = world.eventually("the host's service", || world.kubectl(&shop))?;
    world.eventually("it answers", || {
        has(
            &world.script(&format!("curl -sm 5 http://{shop}:8081"))?,
            "Welcome to nginx",
        )
    })?;
    let slices = format!(
        "get endpointslices -n {NAMESPACE} -l kubernetes.io/service-name=shop-headless -o yaml"
    );
    world.eventually("the headless service has the pod", || {
        has(&world.kubectl(&slices)?, pod)
    })
}
