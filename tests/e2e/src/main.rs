//! End-to-end tests: the real kubectl and helm against real containers.
//!
//! `cargo xtask e2e` runs this in a sandbox. With `CORACLE_E2E_KUBECONFIG`, the
//! host of that file is used; else an embedded host is started and stopped.
//! Further words choose scenarios by a part of their name.

mod cost;
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

use world::World;

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = check_names(&chosen) {
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
    let host = match world.kubectl("config current-context") {
        Ok(context) => context.trim().to_owned(),
        Err(error) => {
            println!("FAIL the context of the host: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("host ready after {:.1} s", started.elapsed().as_secs_f64());
    let (mut passed, mut failed) = (0, 0);
    let named = if chosen.is_empty() {
        &[]
    } else {
        scenarios::BY_NAME
    };
    for (name, scenario) in scenarios::ALL.iter().chain(named) {
        if !chosen.is_empty() && !chosen.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        println!("---- {name}");
        let started = Instant::now();
        let result = scenario(&world);
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("PASS {name} ({seconds:.1} s)");
            }
            Err(error) => {
                failed += 1;
                println!("FAIL {name} ({seconds:.1} s): {error}");
                // It may have been connected to a virtual cluster.
                if let Err(error) = world.kubectl(&format!("config use-context {host}")) {
                    println!("the scenarios that follow run elsewhere: {error}");
                }
                world.show_state();
            }
        }
    }
    if let Err(error) = world.stop() {
        failed += 1;
        println!("FAIL the host leaves nothing behind: {error}");
    } else {
        passed += 1;
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Fails if a word chooses no scenario: a run of nothing would pass.
fn check_names(chosen: &[String]) -> world::Result {
    let all = scenarios::ALL.iter().chain(scenarios::BY_NAME);
    let names: Vec<&str> = all.map(|(name, _)| *name).collect();
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
