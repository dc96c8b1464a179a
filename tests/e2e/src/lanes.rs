//! Scenarios beside each other: each in a process of its own, on the host of
//! the run, with files and a kubeconfig of its own. A process, so that what a
//! scenario prints stays in one piece.

use std::collections::VecDeque;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::scenarios::Scenario;
use crate::world::World;

/// The first word of such a process; the name of its scenario follows.
pub const BESIDE: &str = "--beside";

/// How many at a time: most of a scenario is waiting for containers, but a
/// machine of two processors has to carry them.
const LANES: usize = 3;

/// How many passed and failed.
#[derive(Clone, Copy, Default)]
pub struct Count {
    /// Scenarios that passed.
    pub passed: usize,
    /// Scenarios that failed.
    pub failed: usize,
}

impl Count {
    /// Counts one more.
    pub fn add(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

/// Runs scenarios beside each other, and prints what each printed when it ends.
pub fn run(world: &World, scenarios: &[&Scenario]) -> Count {
    let waiting = Mutex::new(scenarios.iter().collect::<VecDeque<_>>());
    let count = Mutex::new(Count::default());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = lock(&waiting).pop_front() else {
                        return;
                    };
                    let (passed, printed) = one(world, scenario);
                    let mut count = lock(&count);
                    count.add(passed);
                    // While the count is held: reports do not mix.
                    let _ = std::io::stdout().lock().write_all(&printed);
                }
            });
        }
    });
    *lock(&count)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs one; whether it passed, and what it printed.
fn one(world: &World, scenario: &Scenario) -> (bool, Vec<u8>) {
    let name = scenario.name;
    let ended = world.aside(name).and_then(|aside| {
        let this = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        Command::new(this)
            .args([BESIDE, name])
            .envs(aside.variables())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("a process for it: {e}"))
    });
    match ended {
        Ok(output) => (output.status.success(), output.stdout),
        Err(error) => {
            let text = format!("---- {name}\nFAIL {name} (it did not start): {error}\n");
            (false, text.into_bytes())
        }
    }
}
