//! Repository tasks. Kept to few dependencies: it is built before anything is
//! installed.

mod bench;
mod demo;
mod facts;
mod images;
mod install;
mod shell;
mod test;
mod tidy;
mod wire;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  demo    install what is missing, build, and play the tutorial's first walk-through;
          `--scenario NAME` plays one of the tests' scenarios, with all its commands
  test    install what is missing and run the tests
  e2e     the end-to-end tests alone; further words choose scenarios
  bench   figures beside the goals; `bench --help` lists its options
  tidy    check the rules of the repository
  facts   FILE: generate the table of API schemas from the kubernetes-validate package
  wire    DIRECTORY: generate the table of protobuf fields from Kubernetes' Go modules
  image   write coracle's own image as an OCI archive";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo"] => demo::run_demo(),
        ["demo", "--scenario", scenario] => test::show_scenario(scenario),
        ["test"] => test::run_all(),
        ["e2e", scenarios @ ..] => test::run_e2e(scenarios),
        ["bench", options @ ..] => bench::run_bench(options),
        ["tidy"] => tidy::run_tidy(),
        ["image"] => images::own(),
        ["facts", source] => facts::generate(std::path::Path::new(source))
            .map_err(|error| format!("{source}: {error}")),
        ["wire", source] => wire::generate(std::path::Path::new(source))
            .map_err(|error| format!("{source}: {error}")),
        _ => {
            if !words.is_empty() {
                eprintln!("xtask error: there is no task `{}`", words.join(" "));
            }
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask error: {error}");
            ExitCode::FAILURE
        }
    }
}
