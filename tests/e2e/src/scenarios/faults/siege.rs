//! The tutorial's scenarios on a host of several nodes, under load, while
//! processes and whole nodes die at random.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::kill::{self, Fault};
use super::load::{self, Ledger, Mix, Worker};
use super::node::Node;
use super::scenarios::{self, Lines, Scenario};
use super::{BACK_OFF, PAUSE, Random, agree, number, seed};
use crate::world::{BALANCER_POOL, PATIENCE, Result, World, ensure};

/// The nodes of the host.
pub const NODES: u8 = 3;

/// How long it goes on unless the variable says so: long enough for a node to
/// be given up once. Minutes are for whoever looks for faults.
const SECONDS: u64 = 75;

/// How long a node says nothing: it counts as lost after forty seconds, and
/// its pods go elsewhere.
const SILENCE: Duration = Duration::from_secs(55);

/// What is written where the operator runs.
const WITH_LIBRARIES: Mix = &[
    ("configmap", 3),
    ("service", 2),
    ("deployment", 1),
    ("pod", 2),
    ("library", 2),
];

/// Somebody else's objects in the namespaces of the virtual clusters: names as
/// the syncer gives them, without its marks.
const FOREIGN: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: load-9-x-load-x-NAME, labels: {foreign: "true"}}
data: {whose: "not yours"}
---
apiVersion: v1
kind: Secret
metadata: {name: foreign, labels: {foreign: "true"}}
stringData: {whose: "not yours"}
---
apiVersion: v1
kind: Service
metadata: {name: load-9-x-load-x-NAME, labels: {foreign: "true"}}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: foreign, labels: {foreign: "true"}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  resources: {requests: {storage: 1Mi}}
"#;

/// Scenarios 1 to 5 with random faults.
pub fn scenarios_under_faults(world: &World) -> Result {
    if !world.own_host() {
        println!("skipped: it needs the machine of the host");
        return Ok(());
    }
    let data = world.data_dir();
    world.coracle(&format!("host down --data-dir {data}"))?;
    up(world)?;
    for node in Node::first(NODES) {
        world.kubectl(&format!(
            "wait node {node} --for condition=Ready --timeout 60s"
        ))?;
    }
    let scenarios = scenarios::set_up(world)?;
    let ledger = Ledger::new(world)?;
    let lines = Lines::default();
    let siege = Siege {
        world,
        scenarios: &scenarios,
        ledger: &ledger,
        lines: &lines,
    };
    siege.settled(PATIENCE)?;
    let foreign = siege.foreign_objects()?;
    siege.withstand()?;
    let now = siege.objects_of_others()?;
    ensure(
        now == foreign,
        &format!("foreign objects changed:\n{foreign}\n{now}"),
    )?;
    for scenario in &scenarios {
        let (name, namespace) = (scenario.cluster.name, scenario.cluster.namespace);
        world.coracle(&format!("delete {name} -n {namespace} --timeout 300"))?;
    }
    ensure(
        siege.objects_of_others()? == foreign,
        "the end of a virtual cluster touched foreign objects",
    )?;
    for scenario in &scenarios {
        let namespace = scenario.cluster.namespace;
        world.kubectl(&format!(
            "delete configmap,secret,service,pvc -l foreign=true -n {namespace}"
        ))?;
        agree::nothing_left(world, namespace, NODES)?;
        world.kubectl(&format!("delete namespace {namespace} --ignore-not-found"))?;
    }
    scenarios::tear_down(world)
}

fn up(world: &World) -> Result {
    let command = format!(
        "host up --data-dir {} --node-name node-1 --nodes {NODES} --ingress \
         --load-balancer-addresses {BALANCER_POOL}",
        world.data_dir()
    );
    world.coracle(&command).map(drop)
}

struct Siege<'a> {
    world: &'a World,
    scenarios: &'a [Scenario],
    ledger: &'a Ledger,
    lines: &'a Lines,
}

impl Siege<'_> {
    /// Writes everywhere, kills at random, and waits until all is well again.
    fn withstand(&self) -> Result {
        let world = self.world;
        let seconds = number(super::SECONDS_VARIABLE)?.unwrap_or(SECONDS);
        let seed = seed()?;
        println!(
            "faults at random for {seconds} s; {}={seed} repeats it",
            super::SEED_VARIABLE
        );
        let stop = AtomicBool::new(false);
        let killed = std::thread::scope(|scope| {
            let stop = &stop;
            let workers: Vec<_> = self
                .scenarios
                .iter()
                .zip(1..)
                .map(|(scenario, number)| {
                    let cluster = &scenario.cluster;
                    let mix = if cluster.name == "sg-operator" {
                        WITH_LIBRARIES
                    } else {
                        load::USUAL
                    };
                    let worker =
                        Worker::new(world, cluster, self.ledger, seed.wrapping_add(number));
                    scope.spawn(move || worker.run(stop, mix))
                })
                .collect();
            let stored = &self.scenarios[1].cluster;
            scope.spawn(|| self.lines.write(world, stored, stop));
            let killed = self.kill_for(seed, Duration::from_secs(seconds));
            stop.store(true, Ordering::Relaxed);
            for (worker, scenario) in workers.into_iter().zip(self.scenarios) {
                let name = scenario.cluster.name;
                let (acknowledged, unsure) =
                    worker.join().map_err(|_| "a worker broke".to_owned())??;
                println!("{name}: {acknowledged} writes acknowledged, {unsure} without an answer");
                ensure(acknowledged > 0, &format!("{name}: nothing was written"))?;
            }
            killed
        })?;
        println!("sg-storage: {} lines acknowledged", self.lines.count());
        println!("faults: {killed}");
        let started = Instant::now();
        self.settled(PATIENCE + BACK_OFF)
            .map_err(|error| format!("after random faults (seed {seed}): {error}"))?;
        println!("agreed after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    fn kill_for(&self, seed: u64, time: Duration) -> Result<String> {
        let world = self.world;
        let names: Vec<&'static str> = self.scenarios.iter().map(|s| s.cluster.name).collect();
        let mut faults = kill::all(&names, NODES);
        faults.extend(Node::first(NODES).map(Fault::Node));
        let mut random = Random(seed);
        let mut counts = BTreeMap::<String, usize>::new();
        let started = Instant::now();
        // A node whose agent is stopped, and since when.
        let mut silent: Option<(Fault, Instant)> = None;
        let result = loop {
            if started.elapsed() >= time {
                break Ok(());
            }
            let pause = PAUSE.start + random.below(PAUSE.end - PAUSE.start);
            std::thread::sleep(Duration::from_millis(pause));
            if let Some((agent, since)) = &silent {
                if since.elapsed() > SILENCE {
                    agent.signal(world, "CONT")?;
                    self.ledger.note(&format!("{agent} speaks again"));
                    silent = None;
                }
            } else {
                let nodes: Vec<Node> = Node::first(NODES).collect();
                let agent = Fault::NodeAgent(*random.choose(&nodes));
                agent.signal(world, "STOP")?;
                self.ledger.note(&format!("{agent} says nothing"));
                *counts.entry(format!("silent {agent}")).or_default() += 1;
                silent = Some((agent, Instant::now()));
            }
            let fault = random.choose(&faults);
            // One that is not back yet cannot be killed.
            match fault.kill(world) {
                Ok(0) => {}
                Ok(_) => {
                    self.ledger.note(&format!("killed {fault}"));
                    *counts.entry(fault.to_string()).or_default() += 1;
                }
                Err(error) => break Err(error),
            }
        };
        if let Some((agent, _)) = silent {
            agent.signal(world, "CONT")?;
        }
        result?;
        let texts: Vec<String> = counts.iter().map(|(f, c)| format!("{f} {c}")).collect();
        Ok(texts.join(", "))
    }

    /// Everything written is there, both sides and all nodes tell the same, and
    /// each scenario does what it is for.
    fn settled(&self, patience: Duration) -> Result {
        let world = self.world;
        agree::within(patience, || {
            for Scenario { cluster, check } in self.scenarios {
                let told = |error: String| format!("{}: {error}", cluster.name);
                self.ledger.check(world, cluster).map_err(told)?;
                agree::virtual_and_host(world, cluster).map_err(told)?;
                check(world, cluster).map_err(told)?;
            }
            self.lines.check(world, &self.scenarios[1].cluster)?;
            agree::runtime(world, NODES)
        })
    }

    fn foreign_objects(&self) -> Result<String> {
        for scenario in self.scenarios {
            let manifest = FOREIGN.replace("NAME", scenario.cluster.name);
            let file = self.world.file("foreign.yaml", &manifest)?;
            self.world.kubectl(&format!(
                "apply -f {} -n {}",
                file.display(),
                scenario.cluster.namespace
            ))?;
        }
        self.objects_of_others()
    }

    /// With their resource versions, which any write would change.
    fn objects_of_others(&self) -> Result<String> {
        self.world.kubectl(
            "--context coracle-host get configmaps,secrets,services,pvc -A -l foreign=true -o yaml",
        )
    }
}
