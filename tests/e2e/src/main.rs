//! End-to-end tests: the real kubectl and helm against real containers.
//!
//! `cargo xtask e2e` runs this in a sandbox. With `CORACLE_E2E_KUBECONFIG`, the
//! host of that file is used; else an embedded host is started and stopped.
//! Further words choose scenarios by a part of their name.

mod cost;
mod lanes;
mod neighbour;
mod page;
mod process;
mod scenarios;
mod show;
mod stream;
mod virtual_cluster;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use lanes::Count;
use scenarios::Scenario;
use world::World;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name] = words.as_slice()
        && first == lanes::BESIDE
    {
        return run_beside(name);
    }
    if let Err(error) = check_names(&words) {
        println!("{error}");
        return ExitCode::from(2);
    }
    let started = Instant::now();
    let world = match World::start() {
        Ok(world) => world,
        Err(error) => {
            println!("the host cannot be started: {error}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("host ready after {:.1} s", started.elapsed().as_secs_f64());
    let mut count = Count::default();
    for group in chosen(&words).chunk_by(|one, next| one.beside && next.beside) {
        match group {
            [scenario] => count.add(run(&world, scenario)),
            group => {
                let group = lanes::run(&world, group);
                count.passed += group.passed;
                count.failed += group.failed;
            }
        }
    }
    let stopped = world.stop();
    count.add(stopped.is_ok());
    if let Err(error) = stopped {
        println!("FAIL the host leaves nothing behind: {error}");
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    ExitCode::from(u8::from(count.failed > 0))
}

/// Runs one scenario on the host of the run that started this process.
fn run_beside(name: &str) -> ExitCode {
    let Some(scenario) = scenarios::ALL.iter().find(|one| one.name == name) else {
        println!("there is no scenario {name:?}");
        return ExitCode::from(2);
    };
    match World::join() {
        Ok(world) => ExitCode::from(u8::from(!run(&world, scenario))),
        Err(error) => {
            println!("FAIL {name}: the host of the run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a scenario and tells how it went; whether it passed.
fn run(world: &World, scenario: &Scenario) -> bool {
    let name = scenario.name;
    println!("---- {name}");
    let started = Instant::now();
    let host = world.kubectl("config current-context");
    let result = match &host {
        Ok(_) => (scenario.run)(world),
        Err(error) => Err(format!("the context of the host: {error}")),
    };
    let seconds = started.elapsed().as_secs_f64();
    let Err(error) = result else {
        println!("PASS {name} ({seconds:.1} s)");
        return true;
    };
    println!("FAIL {name} ({seconds:.1} s): {error}");
    // It may have been connected to a virtual cluster.
    let back = format!("config use-context {}", host.unwrap_or_default().trim());
    if let Err(error) = world.kubectl(&back) {
        println!("the scenarios that follow run elsewhere: {error}");
    }
    world.show_state();
    false
}

/// The scenarios that words choose; without words, all that need not be named.
fn chosen(words: &[String]) -> Vec<&'static Scenario> {
    if words.is_empty() {
        return scenarios::ALL.iter().collect();
    }
    let all = scenarios::ALL.iter().chain(scenarios::BY_NAME);
    all.filter(|scenario| {
        words
            .iter()
            .any(|part| scenario.name.contains(part.as_str()))
    })
    .collect()
}

/// Fails if a word chooses no scenario: a run of nothing would pass.
fn check_names(chosen: &[String]) -> world::Result {
    let all = scenarios::ALL.iter().chain(scenarios::BY_NAME);
    let names: Vec<&str> = all.map(|scenario| scenario.name).collect();
    for part in chosen {
        if !names.iter().any(|name| name.contains(part.as_str())) {
            return Err(format!(
                "no scenario has {part:?} in its name; there are: {}",
                names.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_has_a_name_of_its_own_and_runs_once() {
        let named = |words: &[String]| -> Vec<&str> {
            chosen(words).iter().map(|scenario| scenario.name).collect()
        };
        let mut all = named(&[]);
        assert_eq!(all.len(), scenarios::ALL.len());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), scenarios::ALL.len());
        assert!(!all.contains(&"fifty"));
        assert_eq!(named(&["fift".into()]), ["fifty"]);
        assert_eq!(named(&["walk".into(), "through".into()]), ["walkthrough"]);
    }

    #[test]
    fn words_choose_scenarios_by_a_part_of_their_name() {
        assert_eq!(check_names(&[]), Ok(()));
        assert_eq!(check_names(&["walk".into(), "faults".into()]), Ok(()));
        let error = check_names(&["walk".into(), "wakl".into()]).unwrap_err();
        assert!(
            error.contains("\"wakl\"") && error.contains("walkthrough"),
            "{error}"
        );
    }
}
