//! Processes that die at any moment: acknowledged writes stay, both sides come
//! to agree again, nothing is orphaned, and pods that nobody touched run on.

mod agree;
mod kill;
mod load;
mod lost;
mod node;
mod scenarios;
pub mod siege;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::kill::Fault;
use self::load::{Ledger, Worker};
use self::node::Node;
use crate::world::{PATIENCE, Result, World, ensure, has};

/// The host namespace of both virtual clusters.
const NAMESPACE: &str = "faults";
/// The virtual clusters under load.
const CLUSTERS: [&str; 2] = ["fa", "fb"];
/// The namespace inside of what is never touched.
const STILL: &str = "still";

/// How long processes are killed at random, unless the variable says so: a few
/// kills for every run of the tests; minutes for whoever looks for faults.
const SECONDS: u64 = 20;
const SECONDS_VARIABLE: &str = "CORACLE_E2E_FAULT_SECONDS";
/// The seed of a run, to repeat it.
const SEED_VARIABLE: &str = "CORACLE_E2E_FAULT_SEED";

/// Pause between two kills, in milliseconds: some come while the last victim
/// is still starting.
const PAUSE: std::ops::Range<u64> = 500..8_000;

/// A container that is killed again and again is restarted after pauses that
/// double up to five minutes, as upstream has it; so long may agreement take.
const BACK_OFF: Duration = Duration::from_secs(300);

/// Small, seeded, good enough to choose with (SplitMix64).
pub struct Random(u64);

impl Random {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// One of a list, by its weight.
    fn weighted<'a>(&mut self, list: &[(&'a str, u64)]) -> &'a str {
        let mut at = self.below(list.iter().map(|(_, weight)| weight).sum());
        for (item, weight) in list {
            if at < *weight {
                return item;
            }
            at -= weight;
        }
        ""
    }

    /// One of a list, which must not be empty.
    fn choose<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.below(list.len() as u64)).unwrap_or(0)]
    }
}

/// A virtual cluster with the file that leads to it.
pub struct Cluster {
    name: &'static str,
    /// Its host namespace.
    namespace: &'static str,
    kubeconfig: String,
}

impl Cluster {
    /// Makes one, with a namespace for writes.
    fn create(
        world: &World,
        name: &'static str,
        namespace: &'static str,
        options: &str,
    ) -> Result<Self> {
        world.coracle(&format!(
            "create {name} -n {namespace} --connect=false {options}"
        ))?;
        let printed = world.coracle(&format!("connect {name} -n {namespace} --print"))?;
        let kubeconfig = world.file(&format!("{name}.kubeconfig"), &printed)?;
        let cluster = Self {
            name,
            namespace,
            kubeconfig: kubeconfig.display().to_string(),
        };
        cluster.kubectl(world, &format!("create namespace {}", load::NAMESPACE))?;
        Ok(cluster)
    }

    /// The programs, pointed at it.
    fn inside(&self, world: &World) -> World {
        world.with_kubeconfig(self.kubeconfig.clone().into())
    }

    /// Runs kubectl inside.
    fn kubectl(&self, world: &World, arguments: &str) -> Result<String> {
        world.kubectl(&format!("--kubeconfig {} {arguments}", self.kubeconfig))
    }

    /// Lists inside, as JSON items.
    fn items(&self, world: &World, what: &str) -> Result<Vec<Value>> {
        items(&self.kubectl(world, &format!("get {what} -o json"))?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn items(text: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(text).map_err(|e| format!("{e} in {text}"))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// Kills each kind of process in turn, then at random under load, then stops
/// and starts the whole host.
pub fn killed_processes(world: &World) -> Result {
    if !world.own_host() {
        println!("skipped: it needs the machine of the host");
        return Ok(());
    }
    let clusters = [start(world, CLUSTERS[0])?, start(world, CLUSTERS[1])?];
    let ledger = Ledger::new(world)?;
    // The second cluster is there to see that it is left alone.
    for fault in kill::all(&CLUSTERS[..1], 1) {
        one_by_one(world, &clusters, &ledger, &fault)?;
    }
    at_random(world, &clusters, &ledger)?;
    supervisor(world, &clusters, &ledger)?;
    down_and_up(world, &clusters, &ledger)?;
    for name in CLUSTERS {
        world.coracle(&format!("delete {name} -n {NAMESPACE} --timeout 300"))?;
    }
    agree::nothing_left(world, NAMESPACE, 1)?;
    // It was made with the first of them, and went with the last.
    world.eventually("the end of the namespace", || {
        let found = world.try_kubectl(&format!("get namespace {NAMESPACE}"));
        has(&found.err, "not found")
    })
}

fn start(world: &World, name: &'static str) -> Result<Cluster> {
    let cluster = Cluster::create(world, name, NAMESPACE, "")?;
    let still = world.file("still.yaml", &still())?;
    cluster.kubectl(world, &format!("apply -f {}", still.display()))?;
    let status = format!("rollout status deployment still -n {STILL} --timeout 120s");
    cluster.kubectl(world, &status)?;
    Ok(cluster)
}

/// Pods that nobody touches, with probes that must not mistake a dead runtime
/// for a dead container, and volumes that must stay.
fn still() -> String {
    let exec = json!({"exec": {"command": ["cat", "/www/index.html"]},
        "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10});
    let http = json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1});
    let pod = json!({
        "terminationGracePeriodSeconds": 1,
        "initContainers": [{
            "name": "fill", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "set -e; cat /etc/page/index.html > /www/index.html; date >> /kept/starts"],
            "volumeMounts": [{"name": "www", "mountPath": "/www"},
                {"name": "kept", "mountPath": "/kept"}, {"name": "page", "mountPath": "/etc/page"}],
        }],
        "containers": [{
            "name": "web", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["httpd", "-f", "-h", "/www"],
            "livenessProbe": exec, "readinessProbe": http,
            "volumeMounts": [{"name": "www", "mountPath": "/www"},
                {"name": "kept", "mountPath": "/kept"}],
        }],
        "volumes": [{"name": "www", "emptyDir": {"medium": "Memory"}},
            {"name": "kept", "emptyDir": {}}, {"name": "page", "configMap": {"name": "page"}}],
    });
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": STILL}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page", "namespace": STILL},
            "data": {"index.html": "still here\n"}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "still", "namespace": STILL},
            "spec": {"selector": {"app": "still"}, "ports": [{"port": 80}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "still", "namespace": STILL},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "still"}},
                "template": {"metadata": {"labels": {"app": "still"}}, "spec": pod}}}),
    ];
    // A document each.
    objects.map(|object| format!("---\n{object}\n")).concat()
}

/// Kills one process, measures until everything works, and compares.
fn one_by_one(world: &World, clusters: &[Cluster], ledger: &Ledger, fault: &Fault) -> Result {
    let before = agree::still_pods(world, clusters)?;
    let restarts = agree::restarts(world, NAMESPACE)?;
    if *fault == Fault::Containerd(Node::FIRST) {
        lost::plant(world)?;
    }
    let started = Instant::now();
    let killed = fault.kill(world)?;
    ensure(killed > 0, &format!("{fault}: no such process"))?;
    fault.wait_until_back(world)?;
    let back = started.elapsed().as_secs_f64();
    let failed = |error: String| format!("after the end of {fault}: {error}");
    for (index, cluster) in clusters.iter().enumerate() {
        // A pod that runs proves every part.
        let mut worker = Worker::new(world, cluster, ledger, index as u64);
        worker.round_trip(PATIENCE).map_err(failed)?;
    }
    let works = started.elapsed().as_secs_f64();
    settled(world, clusters, ledger, PATIENCE).map_err(failed)?;
    untouched(&before, &agree::still_pods(world, clusters)?).map_err(failed)?;
    let after = agree::restarts(world, NAMESPACE)?;
    for (container, count) in &after {
        let expected = restarts.get(container).copied().unwrap_or(0)
            + u64::from(fault.container().as_ref() == Some(container));
        ensure(
            *count == expected,
            &failed(format!(
                "{container} restarted {count} times, not {expected}"
            )),
        )?;
    }
    println!("{fault}: its process is back after {back:.1} s, all works after {works:.1} s");
    Ok(())
}

/// Everything written is there, and all parts tell the same.
fn settled(world: &World, clusters: &[Cluster], ledger: &Ledger, patience: Duration) -> Result {
    agree::within(patience, || {
        for cluster in clusters {
            ledger.check(world, cluster)?;
            agree::virtual_and_host(world, cluster)?;
        }
        agree::runtime(world, 1)
    })?;
    for cluster in clusters {
        // By name, so that DNS and the rules of services count too.
        let page = world.script(&format!(
            "timeout 20 kubectl --kubeconfig {} exec -n {STILL} deploy/still -- \
             wget -qO- http://still.{STILL}",
            cluster.kubeconfig
        ))?;
        has(&page, "still here")?;
    }
    Ok(())
}

fn untouched(before: &[String], after: &[String]) -> Result {
    ensure(
        before == after,
        &format!("pods that nobody touched changed:\n{before:#?}\n{after:#?}"),
    )
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .map(Some)
            .map_err(|_| format!("{variable}: {text:?} is no number")),
        Err(_) => Ok(None),
    }
}

/// That of the caller, or of the moment.
fn seed() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(number(SEED_VARIABLE)?.unwrap_or(now.map_or(1, |n| n.as_secs())))
}

fn at_random(world: &World, clusters: &[Cluster], ledger: &Ledger) -> Result {
    let seconds = number(SECONDS_VARIABLE)?.unwrap_or(SECONDS);
    let seed = seed()?;
    println!("killing at random for {seconds} s; {SEED_VARIABLE}={seed} repeats it");
    let before = agree::still_pods(world, clusters)?;
    let stop = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = clusters
            .iter()
            .zip(1..)
            .map(|(cluster, number)| {
                let stop = &stop;
                scope.spawn(move || {
                    Worker::new(world, cluster, ledger, seed.wrapping_add(number))
                        .run(stop, load::USUAL)
                })
            })
            .collect();
        let result = kill_for(world, ledger, seed, Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
        let mut counts = Vec::new();
        for worker in workers {
            counts.push(worker.join().map_err(|_| "a worker broke".to_owned())??);
        }
        result.map(|killed| (killed, counts))
    });
    let (killed, counts) = counts?;
    for (cluster, (acknowledged, unsure)) in clusters.iter().zip(counts) {
        let name = cluster.name;
        println!("{name}: {acknowledged} writes acknowledged, {unsure} without an answer");
        ensure(acknowledged > 0, &format!("{name}: nothing was written"))?;
    }
    println!("killed: {killed}");
    let started = Instant::now();
    settled(world, clusters, ledger, PATIENCE + BACK_OFF)
        .map_err(|error| format!("after random kills (seed {seed}): {error}"))?;
    println!("agreed after {:.1} s", started.elapsed().as_secs_f64());
    untouched(&before, &agree::still_pods(world, clusters)?)
}

fn kill_for(world: &World, ledger: &Ledger, seed: u64, time: Duration) -> Result<String> {
    let mut random = Random(seed);
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let faults = kill::all(&CLUSTERS, 1);
    let started = Instant::now();
    while started.elapsed() < time {
        let pause = PAUSE.start + random.below(PAUSE.end - PAUSE.start);
        std::thread::sleep(Duration::from_millis(pause));
        let fault = random.choose(&faults);
        // One that is not back yet cannot be killed.
        if fault.kill(world)? > 0 {
            ledger.note(&format!("killed {fault}"));
            *counts.entry(fault.to_string()).or_default() += 1;
        }
    }
    let texts: Vec<String> = counts.iter().map(|(f, c)| format!("{f} {c}")).collect();
    Ok(texts.join(", "))
}

/// The supervisor dies, its children end, and a new one takes over the pods.
fn supervisor(world: &World, clusters: &[Cluster], ledger: &Ledger) -> Result {
    let before = agree::still_pods(world, clusters)?;
    ensure(kill::Fault::Supervisor.kill(world)? > 0, "no supervisor")?;
    // A signal is sent before its process has ended.
    world.eventually("the host's end", || {
        let status = world.coracle(&format!("host status --data-dir {}", world.data_dir()))?;
        has(&status, "is not running")
    })?;
    up(world)?;
    settled(world, clusters, ledger, PATIENCE)
        .map_err(|error| format!("after the supervisor's end: {error}"))?;
    untouched(&before, &agree::still_pods(world, clusters)?)
}

/// A killed host is cleaned up by `host down`; its data is there again after
/// the next `host up`, as after a reboot.
fn down_and_up(world: &World, clusters: &[Cluster], ledger: &Ledger) -> Result {
    ensure(kill::Fault::Supervisor.kill(world)? > 0, "no supervisor")?;
    world.coracle(&format!("host down --data-dir {}", world.data_dir()))?;
    let left = world.shell(&format!(
        "pgrep -a 'containerd|coracle|httpd' | grep -v -e e2e -e defunct; \
         grep {} /proc/self/mounts; nft list ruleset; ip -o link show type veth; \
         ip -o link show type bridge",
        world.data_dir()
    ));
    ensure(left.out.trim().is_empty(), &format!("left: {}", left.out))?;
    up(world)?;
    settled(world, clusters, ledger, PATIENCE)
        .map_err(|error| format!("after down and up: {error}"))?;
    for cluster in clusters {
        let starts = cluster.kubectl(
            world,
            &format!("exec -n {STILL} deploy/still -- cat /kept/starts"),
        )?;
        ensure(
            starts.lines().count() == 2,
            &format!("a volume has {starts:?}"),
        )?;
    }
    Ok(())
}

fn up(world: &World) -> Result {
    let command = format!("host up --data-dir {} --node-name node-1", world.data_dir());
    world.coracle(&command).map(drop)
}
