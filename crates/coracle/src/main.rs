//! Virtual Kubernetes clusters.

fn main() -> std::process::ExitCode {
    coracle_cli::main()
}
