//! Virtual clusters for one run of a test suite each: made, used and thrown
//! away, several at a time, with nothing left on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::world::{Result, World, ensure, has};

/// What the "test suite" does: objects, a pod that runs, a command in it.
const SUITE: &str = "kubectl create namespace suite && \
    kubectl create configmap answer --from-literal value=42 -n suite && \
    kubectl run probe --image nginx --image-pull-policy IfNotPresent -n suite && \
    kubectl wait pod probe -n suite --for condition=Ready --timeout 180s && \
    kubectl exec probe -n suite -- hostname";

/// A few, a few at a time.
pub fn few(world: &World) -> Result {
    play(world, 6, 3)
}

/// Fifty, ten at a time.
pub fn many(world: &World) -> Result {
    play(world, 50, 10)
}

fn play(world: &World, count: usize, at_a_time: usize) -> Result {
    world.eventually("earlier namespaces end", || {
        let phases = world.kubectl("get namespaces -o jsonpath={.items[*].status.phase}")?;
        ensure(!phases.contains("Terminating"), &phases)
    })?;
    // The first one brings what stays for the others: images, unpacked.
    one(world, count)?;
    let before = footprint(world)?;
    let (next, times) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let failures = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    match one(world, number) {
                        Ok(time) => lock(&times).push(time),
                        Err(error) => lock(&failures).push(format!("ci-{number}: {error}")),
                    }
                }
            });
        }
    });
    let failures = lock(&failures);
    ensure(failures.is_empty(), &failures.join("\n"))?;
    print_times(&lock(&times), started.elapsed().as_secs_f64());
    world.eventually("nothing is left", || {
        nothing_new(&before, &footprint(world)?)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes one, runs the suite against it, and deletes it; the seconds that each
/// of these took.
fn one(world: &World, number: usize) -> Result<[f64; 3]> {
    let name = format!("ci-{number}");
    let mut times = [0.0; 3];
    let started = Instant::now();
    world.coracle(&format!("create {name} -n {name} --connect=false"))?;
    times[0] = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let suite = format!("connect {name} -n {name} -- sh -c '{SUITE}'");
    let tested = world.coracle(&suite).and_then(|out| has(&out, "probe"));
    // Its end is that of the command.
    let failed = world.try_coracle(&format!("connect {name} -n {name} -- sh -c 'exit 3'"));
    times[1] = started.elapsed().as_secs_f64();
    let started = Instant::now();
    world.coracle(&format!("delete {name} -n {name}"))?;
    times[2] = started.elapsed().as_secs_f64();
    tested?;
    ensure(
        failed.code == 3,
        &format!("the command's end became {}", failed.code),
    )?;
    Ok(times)
}

fn print_times(times: &[[f64; 3]], total: f64) {
    for (column, what) in ["create", "test", "delete"].iter().enumerate() {
        let mut all: Vec<f64> = times.iter().map(|time| time[column]).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.get(all.len() / 2).copied().unwrap_or_default();
        let longest = all.last().copied().unwrap_or_default();
        println!("{what:>8}  median {middle:.1} s, longest {longest:.1} s");
    }
    println!("   total  {total:.1} s for {}", times.len());
}

/// What there is on the host: lines by what they are.
type Footprint = BTreeMap<&'static str, BTreeSet<String>>;

fn footprint(world: &World) -> Result<Footprint> {
    let data = world.data_dir();
    let objects = "kubectl get namespaces,pods,services,endpointslices,secrets,configmaps,\
         serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,statefulsets,\
         persistentvolumeclaims,persistentvolumes,controllerrevisions -A --no-headers \
         -o custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name";
    let mut commands = vec![
        ("objects", objects.to_owned()),
        ("contexts", "kubectl config get-contexts -o name".to_owned()),
    ];
    if world.own_host() {
        commands.extend([
            (
                "containers",
                "pgrep -r D,R,S -af 'containerd-shim' | sed 's/^[0-9]* //'".to_owned(),
            ),
            (
                "forwarders",
                "pgrep -af 'coracle .*forward' | sed 's/^[0-9]* //'".to_owned(),
            ),
            ("mounts", "cut -d' ' -f2 /proc/self/mounts".to_owned()),
            (
                "links",
                "ip -o link show | cut -d: -f2 | cut -d@ -f1".to_owned(),
            ),
            (
                "rules",
                "nft list table ip coracle-node | grep -E 'chain|goto'".to_owned(),
            ),
            ("volumes", format!("ls {data}/volumes")),
            (
                "pods' files",
                format!("ls {data}/node/pods {data}/log/pods"),
            ),
            ("addresses", format!("find {data}/node/cni -name '10.*'")),
            ("snapshots", snapshots(&data)),
        ]);
    }
    let mut footprint = Footprint::new();
    for (what, command) in commands {
        // An empty listing ends with an error for some of them.
        let run = world.shell(&command);
        footprint.insert(what, run.out.lines().map(str::to_owned).collect());
    }
    Ok(footprint)
}

/// The files of containers and images, after containerd has removed those that
/// it no longer knows. By itself it does so with the next change of its
/// database if one went while it was at it, and on a host where all has ended
/// there is none; a lease that ends with `--sync` makes it look.
fn snapshots(data: &str) -> String {
    let ctr = format!("timeout 10 ctr -a {data}/run/containerd.sock -n k8s.io");
    let lease = "coracle-e2e-collect";
    format!(
        "({ctr} leases create --id {lease}; {ctr} leases delete --sync {lease}) > /dev/null 2>&1; \
         ls {data}/containerd/root/io.containerd.snapshotter.v1.overlayfs/snapshots"
    )
}

/// Fails if there is anything that was not there before.
fn nothing_new(before: &Footprint, now: &Footprint) -> Result {
    let mut differences = Vec::new();
    for (what, lines) in now {
        let old = before.get(what).cloned().unwrap_or_default();
        let more: Vec<&str> = lines.difference(&old).map(String::as_str).collect();
        if !more.is_empty() {
            differences.push(format!("more {what}: {}", more.join(", ")));
        }
    }
    ensure(differences.is_empty(), &differences.join("\n"))
}
