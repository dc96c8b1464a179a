//! The tutorial's scenario of mapped services: those of the host inside, those
//! of a virtual cluster on the host; by the program's other name.

use crate::scenarios::tutorial::no_roles_left;
use crate::world::{Result, World, ensure, has};

/// The tutorial's mapping, and the other direction.
const VALUES: &str = "\
mapServices:
  fromHost:
  - from: SOURCE/hostsvc
    to: default/virtualsvc
  - from: SOURCE/hostsvc-headless
    to: shop/peers
  fromVirtual:
  - from: default/web
    to: shop
  - from: default/web-headless
    to: shop-headless
  - from: default/late
    to: taken
";

/// Services mapped both ways.
pub fn services(world: &World) -> Result {
    let mapped = Mapped::new(world, "map-services", "default")?;
    let version = world.script(&format!("{} --version", mapped.vcluster))?;
    ensure(version.starts_with("vcluster version "), &version)?;
    has(
        &world.script(&format!("{} create --help", mapped.vcluster))?,
        "vcluster create team-a",
    )?;
    mapped.create().and_then(|()| mapped.play())?;
    no_roles_left(world, &[&mapped.name])
}

/// The scenario with names of its own.
pub struct Mapped<'w> {
    world: &'w World,
    /// Of the virtual cluster; its namespace is `vcluster-NAME`.
    name: String,
    namespace: String,
    /// Where the host's services are.
    source: String,
    /// The context of the host.
    before: String,
    /// The program, by its other name.
    vcluster: String,
}

impl<'w> Mapped<'w> {
    /// Nothing of it is there yet.
    pub fn new(world: &'w World, name: &str, source: &str) -> Result<Self> {
        let link = world.work_dir.join("vcluster");
        let vcluster = link.display().to_string();
        world.script(&format!("ln -sf $(command -v coracle) {vcluster}"))?;
        Ok(Self {
            world,
            name: name.to_owned(),
            namespace: format!("vcluster-{name}"),
            source: source.to_owned(),
            before: world.kubectl("config current-context")?.trim().to_owned(),
            vcluster,
        })
    }

    /// Makes the virtual cluster; it is gone again if that fails.
    pub fn create(&self) -> Result {
        let values = VALUES.replace("SOURCE", &self.source);
        let values = self.world.file("map-services.yaml", &values)?;
        let created = self.vcluster(&format!(
            "create {} -f {} --connect=false",
            self.name,
            values.display()
        ));
        if created.is_err() {
            self.clean_up();
        }
        created
    }

    /// The scenario from there to the end of the virtual cluster.
    pub fn play(&self) -> Result {
        let result = self.both_ways();
        if result.is_err() {
            println!("what is inside {}:", self.name);
            self.world.show_objects();
            self.clean_up();
        }
        self.world.try_kubectl(&format!(
            "delete deployment/webapp service/hostsvc service/hostsvc-headless -n {} --ignore-not-found",
            self.source
        ));
        result?;
        let contexts = self.world.kubectl("config get-contexts -o name")?;
        ensure(!contexts.contains(&self.name), &contexts)
    }

    fn clean_up(&self) {
        let (vcluster, name) = (&self.vcluster, &self.name);
        self.world
            .try_kubectl(&format!("config use-context {}", self.before));
        self.world
            .shell(&format!("{vcluster} delete {name} --timeout 30"));
    }

    fn vcluster(&self, arguments: &str) -> Result {
        let script = format!("{} {arguments}", self.vcluster);
        self.world.script(&script).map(drop)
    }

    fn both_ways(&self) -> Result {
        let (world, name) = (self.world, &self.name);
        let (namespace, source) = (&self.namespace, &self.source);
        // Somebody else's, under a name that a mapping asks for.
        world.kubectl(&format!(
            "create service clusterip taken --tcp 80 -n {namespace}"
        ))?;
        let foreign =
            format!("get service taken -n {namespace} -o jsonpath={{.spec}}{{.metadata.uid}}");
        let before = world.kubectl(&foreign)?;

        // The services of the host come after the virtual cluster.
        world.kubectl(&format!(
            "create deployment webapp --image nginx --replicas 2 -n {source}"
        ))?;
        world.kubectl(&format!(
            "expose deployment/webapp --type=ClusterIP --port 8080 --target-port 80 \
             --name hostsvc -n {source}"
        ))?;
        world.kubectl(&format!(
            "expose deployment/webapp --cluster-ip None --port 80 \
             --name hostsvc-headless -n {source}"
        ))?;
        let address = world.kubectl(&format!(
            "get service hostsvc -n {source} -o jsonpath={{.spec.clusterIP}}"
        ))?;

        self.vcluster(&format!("connect {name}"))?;
        let context = world.kubectl("config current-context")?;
        has(&context, &format!("vcluster_{name}_vcluster-{name}_"))?;
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

        self.vcluster("disconnect")?;
        to_host(world, namespace, &pod)?;
        ensure(
            world.kubectl(&foreign)? == before,
            "a foreign service was touched",
        )?;

        // What goes on one side goes on the other.
        world.kubectl(&format!("delete service hostsvc -n {source}"))?;
        self.vcluster(&format!("connect {name}"))?;
        world.eventually("virtualsvc is gone", || {
            let left = world.kubectl("get services -o name")?;
            ensure(!left.contains("virtualsvc"), &left)
        })?;
        world.kubectl("delete service web")?;
        self.vcluster("disconnect")?;
        world.eventually("shop is gone", || {
            let left = world.kubectl(&format!("get services -n {namespace} -o name"))?;
            let lines: Vec<&str> = left.lines().collect();
            ensure(!lines.contains(&"service/shop"), &left)
        })?;
        self.vcluster(&format!("delete {name}"))?;
        // The namespace is kept for what is not ours, which is untouched.
        ensure(
            world.kubectl(&foreign)? == before,
            "a foreign service was touched",
        )?;
        world
            .kubectl(&format!("delete namespace {namespace}"))
            .map(drop)
    }
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
fn to_host(world: &World, namespace: &str, pod: &str) -> Result {
    let shop = format!("get service shop -n {namespace} -o jsonpath={{.spec.clusterIP}}");
    let shop = world.eventually("the host's service", || world.kubectl(&shop))?;
    world.eventually("it answers", || {
        has(
            &world.script(&format!("curl -sm 5 http://{shop}:8081"))?,
            "Welcome to nginx",
        )
    })?;
    let slices = format!(
        "get endpointslices -n {namespace} -l kubernetes.io/service-name=shop-headless -o yaml"
    );
    world.eventually("the headless service has the pod", || {
        has(&world.kubectl(&slices)?, pod)
    })
}
