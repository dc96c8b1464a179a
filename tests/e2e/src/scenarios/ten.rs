//! Ten virtual clusters at once, each with one of the tutorial's scenarios, and
//! what each of them costs meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::mapping::Mapped;
use super::{storage, tutorial};
use crate::cost::{self, Cost};
use crate::world::{Result, World, ensure};

/// How many.
const CLUSTERS: usize = 10;

/// How often their costs are read. Each reading walks the processes' maps,
/// which takes a millisecond or two for each.
const SAMPLE: Duration = Duration::from_millis(500);

/// What was read of one virtual cluster.
#[derive(Clone, Copy, Default)]
struct Use {
    /// The first reading with both processes.
    first: Option<(Instant, Cost)>,
    /// The last one.
    last: Option<(Instant, Cost)>,
    /// The most memory of any reading, in bytes.
    peak: u64,
}

/// Scenarios of storage classes and of mapped services side by side.
pub fn at_once(world: &World) -> Result {
    let names: Vec<String> = (0..CLUSTERS)
        .map(|number| format!("ten-{number}"))
        .collect();
    let uses = Mutex::new(BTreeMap::<&str, Use>::new());
    let (created, done) = (Barrier::new(CLUSTERS), AtomicBool::new(false));
    let started = Instant::now();
    let results = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            while world.own_host() && !done.load(Ordering::Relaxed) {
                sample(&names, &uses);
                std::thread::sleep(SAMPLE);
            }
        });
        let running: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let created = &created;
                scope.spawn(move || {
                    let started = Instant::now();
                    let result = if number % 2 == 0 {
                        stored(world, name, created)
                    } else {
                        mapped(world, name, created)
                    };
                    (started.elapsed().as_secs_f64(), result)
                })
            })
            .collect();
        let results: Vec<_> = running
            .into_iter()
            .map(|scenario| scenario.join().map_err(|_| "a scenario broke".to_owned()))
            .collect();
        done.store(true, Ordering::Relaxed);
        sampler
            .join()
            .map_err(|_| "reading costs broke".to_owned())?;
        results.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let uses = uses.into_inner().unwrap_or_else(PoisonError::into_inner);
    print(&names, &results, &uses);
    println!("all took {:.1} s", started.elapsed().as_secs_f64());
    for (name, (_, result)) in names.iter().zip(results) {
        result.map_err(|error| format!("{name}: {error}"))?;
    }
    if world.own_host() {
        together(&names, &uses)?;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tutorial::no_roles_left(world, &names)
}

/// All of them ran at one time: the last to come was there before the first
/// went.
fn together(names: &[String], uses: &BTreeMap<&str, Use>) -> Result {
    let all: Option<Vec<(Instant, Instant)>> = names
        .iter()
        .map(|name| {
            let used = uses.get(name.as_str())?;
            Some((used.first?.0, used.last?.0))
        })
        .collect();
    let all = all.ok_or("nothing was read of some of them")?;
    let last_came = all.iter().map(|(first, _)| first).max();
    let first_went = all.iter().map(|(_, last)| last).min();
    ensure(last_came < first_went, "they did not run at one time")
}

/// Everybody reaches the barrier, whatever became of its virtual cluster.
fn stored(world: &World, name: &str, created: &Barrier) -> Result {
    let world = world.aside(name);
    let cluster = world
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|world| storage::create(world, name, name));
    created.wait();
    storage::play(world.as_ref().map_err(Clone::clone)?, cluster?)
}

fn mapped(world: &World, name: &str, created: &Barrier) -> Result {
    let source = format!("{name}-source");
    let world = world.aside(name);
    let mapped = world.as_ref().map_err(Clone::clone).and_then(|world| {
        world.kubectl(&format!("create namespace {source}"))?;
        let mapped = Mapped::new(world, name, &source)?;
        mapped.create().map(|()| mapped)
    });
    created.wait();
    let played = mapped.and_then(|mapped| mapped.play());
    let deleted = world.and_then(|world| world.kubectl(&format!("delete namespace {source}")));
    played.and(deleted.map(drop))
}

fn sample<'n>(names: &'n [String], uses: &Mutex<BTreeMap<&'n str, Use>>) {
    for name in names {
        // It may not be there yet, or end while it is read.
        let Some(cost) = cost::of(name) else {
            continue;
        };
        let mut uses = uses.lock().unwrap_or_else(PoisonError::into_inner);
        let used = uses.entry(name).or_default();
        let now = (Instant::now(), cost);
        used.first.get_or_insert(now);
        used.last = Some(now);
        used.peak = used.peak.max(cost.memory);
    }
}

fn print(names: &[String], results: &[(f64, Result)], uses: &BTreeMap<&str, Use>) {
    const MIB: f64 = 1_048_576.0;
    println!("cluster  scenario           seconds  MiB at most  MiB at last  CPU s  % of a core");
    for (number, (name, (seconds, _))) in names.iter().zip(results).enumerate() {
        let scenario = ["storage class", "mapped services"][number % 2];
        let used = uses.get(name.as_str()).copied().unwrap_or_default();
        let (Some((first, _)), Some((last, cost))) = (used.first, used.last) else {
            println!("{name:<8} {scenario:<17} {seconds:>8.1}  not read");
            continue;
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let (peak, memory) = (used.peak as f64 / MIB, cost.memory as f64 / MIB);
        let time = cost.processor.as_secs_f64();
        let lived = last.duration_since(first).as_secs_f64().max(0.1);
        println!(
            "{name:<8} {scenario:<17} {seconds:>8.1} {peak:>12.1} {memory:>12.1} {time:>6.1} {:>12.1}",
            100.0 * time / lived
        );
    }
}
