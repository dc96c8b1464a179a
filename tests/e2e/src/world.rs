//! What scenarios act on: programs, a host, and ways to wait for what they
//! expect.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::show;

/// Why a scenario failed.
pub type Result<T = ()> = std::result::Result<T, String>;

/// How long anything may take that a scenario waits for. A healthy host needs
/// seconds; a loaded machine many.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Addresses for load balancers of a host that is started here.
pub const BALANCER_POOL: &str = "10.245.0.200-10.245.0.250";

/// How often it is looked at meanwhile.
const INTERVAL: Duration = Duration::from_millis(100);

/// Names the data directory of the host to a process that joins the run.
const DATA_DIR: &str = "CORACLE_E2E_DATA_DIR";

/// The programs and the host of a run.
#[derive(Clone)]
pub struct World {
    coracle: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    /// A directory for the scenarios' files.
    pub work_dir: PathBuf,
    kubeconfig: PathBuf,
    data_dir: PathBuf,
    /// True if the host was started here and is stopped here.
    own_host: bool,
    /// Whose commands these are, where commands are shown.
    caption: String,
}

/// The end of a command.
pub struct Run {
    /// Exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl World {
    /// Reads the environment and starts a host if none was given.
    pub fn start() -> Result<Self> {
        let work_dir = path("WORK_DIR")?;
        let _ = std::fs::remove_dir_all(&work_dir);
        std::fs::create_dir_all(&work_dir).map_err(|e| e.to_string())?;
        let given = std::env::var_os("CORACLE_E2E_KUBECONFIG").map(PathBuf::from);
        let kubeconfig = work_dir.join("kubeconfig");
        if let Some(given) = &given {
            std::fs::copy(given, &kubeconfig).map_err(|e| e.to_string())?;
        }
        // Sockets lie below it, and their paths are short by nature.
        let data_dir = PathBuf::from(format!("/tmp/coracle-e2e-{:x}", unique()));
        let world = Self::read(work_dir, data_dir, given.is_none())?;
        if world.own_host {
            world.start_host()?;
        }
        Ok(world)
    }

    /// The world of the run that started this process, as `variables` tells it.
    pub fn join() -> Result<Self> {
        let own_host = std::env::var_os("CORACLE_E2E_KUBECONFIG").is_none();
        Self::read(path("WORK_DIR")?, path(DATA_DIR)?, own_host)
    }

    fn read(work_dir: PathBuf, data_dir: PathBuf, own_host: bool) -> Result<Self> {
        Ok(Self {
            coracle: path("CORACLE")?,
            kubectl: path("KUBECTL")?,
            helm: path("HELM")?,
            kubeconfig: work_dir.join("kubeconfig"),
            data_dir,
            work_dir,
            own_host,
            caption: String::new(),
        })
    }

    /// What a process needs in its environment, besides that of this one, to
    /// join this world.
    pub fn variables(&self) -> [(&'static str, &Path); 2] {
        [("WORK_DIR", &self.work_dir), (DATA_DIR, &self.data_dir)]
    }

    fn start_host(&self) -> Result {
        let data = self.data_dir();
        let up = format!(
            "host up --data-dir {data} --node-name node-1 --ingress \
             --load-balancer-addresses {BALANCER_POOL}"
        );
        if let Err(error) = self.coracle(&up) {
            self.show_logs();
            let _ = self.stop();
            return Err(error);
        }
        let images = std::env::var_os("IMAGES").ok_or("IMAGES is not set")?;
        for archive in std::env::split_paths(&images) {
            self.coracle(&format!(
                "host load-image --data-dir {data} {}",
                archive.display()
            ))?;
        }
        Ok(())
    }

    /// True if the host, and with it the machine, belongs to this run.
    pub fn own_host(&self) -> bool {
        self.own_host
    }

    /// The data directory of the host, as an argument.
    pub fn data_dir(&self) -> String {
        self.data_dir.display().to_string()
    }

    /// Stops the host and checks that nothing of it is left.
    pub fn stop(&self) -> Result {
        if !self.own_host {
            return Ok(());
        }
        self.coracle(&format!("host down --purge --data-dir {}", self.data_dir()))?;
        let mut left = Vec::new();
        if self.data_dir.exists() {
            left.push(self.data_dir());
        }
        for (what, command) in [
            (
                "mounts",
                format!("grep {} /proc/self/mounts", self.data_dir()),
            ),
            (
                "processes",
                "pgrep -a 'containerd|coracle' | grep -v -e e2e -e defunct".to_owned(),
            ),
            (
                "rules",
                "nft list ruleset | grep -i -e coracle -e kube".to_owned(),
            ),
            (
                "links",
                "ip -o link show | grep -e coracle0 -e coracle-lb -e veth".to_owned(),
            ),
        ] {
            let found = self.shell(&command).out;
            if !found.trim().is_empty() {
                left.push(format!("{what}: {}", found.trim()));
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("left behind: {}", left.join("; ")))
        }
    }

    /// Runs coracle; fails unless it ends well. Returns standard output.
    pub fn coracle(&self, arguments: &str) -> Result<String> {
        self.check(&self.coracle, arguments)
    }

    /// Runs kubectl likewise.
    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        self.check(&self.kubectl, arguments)
    }

    /// Runs helm likewise.
    pub fn helm(&self, arguments: &str) -> Result<String> {
        self.check(&self.helm, arguments)
    }

    /// Runs coracle, whatever its end.
    pub fn try_coracle(&self, arguments: &str) -> Run {
        self.run(&self.coracle, arguments)
    }

    /// Runs kubectl, whatever its end.
    pub fn try_kubectl(&self, arguments: &str) -> Run {
        self.run(&self.kubectl, arguments)
    }

    /// Runs a shell script with `kubectl`, `helm` and `coracle` on its PATH.
    pub fn shell(&self, script: &str) -> Run {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        self.finish(script, command)
    }

    /// As `shell`, and fails unless it ends well. Returns standard output.
    pub fn script(&self, script: &str) -> Result<String> {
        ended_well(script, self.shell(script))
    }

    /// Applies a manifest with kubectl.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let file = self.file("manifest.yaml", manifest)?;
        show::text(manifest);
        self.kubectl(&format!("apply -f {}", file.display()))
    }

    /// Writes a file for a scenario.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.work_dir.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }

    /// The same with another kubeconfig: that of a tenant, for example.
    pub fn with_kubeconfig(&self, kubeconfig: PathBuf) -> Self {
        let caption = kubeconfig.file_stem().unwrap_or_default();
        Self {
            caption: caption.to_string_lossy().into_owned(),
            kubeconfig,
            ..self.clone()
        }
    }

    /// The same for a scenario that runs beside others: with files and a
    /// kubeconfig of its own.
    pub fn aside(&self, name: &str) -> Result<Self> {
        let work_dir = self.work_dir.join("aside").join(name);
        std::fs::create_dir_all(&work_dir).map_err(|e| format!("{}: {e}", work_dir.display()))?;
        let kubeconfig = work_dir.join("kubeconfig");
        std::fs::copy(&self.kubeconfig, &kubeconfig)
            .map_err(|e| format!("{}: {e}", kubeconfig.display()))?;
        Ok(Self {
            work_dir,
            kubeconfig,
            caption: name.to_owned(),
            ..self.clone()
        })
    }

    /// The file of one of the programs.
    pub fn tool(&self, program: &str) -> &Path {
        match program {
            "kubectl" => &self.kubectl,
            "helm" => &self.helm,
            _ => &self.coracle,
        }
    }

    /// A command with the run's kubeconfig, for a scenario that streams: one of
    /// the programs, or one of the system.
    pub fn command(&self, program: &str) -> Command {
        let mut command = match program {
            "kubectl" | "helm" | "coracle" => Command::new(self.tool(program)),
            system => Command::new(system),
        };
        self.prepare(&mut command);
        command
    }

    fn check(&self, program: &Path, arguments: &str) -> Result<String> {
        ended_well(&shown(program, arguments), self.run(program, arguments))
    }

    fn run(&self, program: &Path, arguments: &str) -> Run {
        let mut command = Command::new(program);
        command.args(split(arguments));
        self.finish(&shown(program, arguments), command)
    }

    fn prepare(&self, command: &mut Command) {
        let tools = [&self.coracle, &self.kubectl, &self.helm]
            .into_iter()
            .filter_map(|tool| tool.parent().map(Path::to_owned));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(tools.chain(std::env::split_paths(&path)));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", path.unwrap_or_default())
            .env("HOME", &self.work_dir)
            .stdin(Stdio::null());
    }

    fn finish(&self, words: &str, mut command: Command) -> Run {
        self.prepare(&mut command);
        let run = match command.output() {
            Ok(Output {
                status,
                stdout,
                stderr,
            }) => Run {
                code: status.code().unwrap_or(128),
                out: String::from_utf8_lossy(&stdout).into_owned(),
                err: String::from_utf8_lossy(&stderr).into_owned(),
            },
            Err(error) => Run {
                code: 127,
                out: String::new(),
                err: error.to_string(),
            },
        };
        show::command(&self.caption, words, &run);
        run
    }

    /// Waits until `check` succeeds; fails with its last error.
    pub fn eventually<T>(&self, what: &str, check: impl Fn() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let _waiting = show::wait();
        loop {
            let error = match check() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if started.elapsed() > PATIENCE {
                return Err(format!(
                    "{what}: not within {} s: {error}",
                    PATIENCE.as_secs()
                ));
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// Prints what helps to understand a failure.
    pub fn show_state(&self) {
        self.show_objects();
        self.show_logs();
    }

    /// Prints pods and events.
    pub fn show_objects(&self) {
        for arguments in [
            "get pods -A -o wide",
            "get events -A --sort-by=.lastTimestamp",
        ] {
            let run = self.try_kubectl(arguments);
            let lines: Vec<&str> = run.out.lines().collect();
            println!(
                "{}{}",
                lines[lines.len().saturating_sub(40)..].join("\n"),
                run.err
            );
        }
    }

    fn show_logs(&self) {
        println!(
            "{}",
            self.shell(&format!("tail -n 25 {}/log/*.log", self.data_dir()))
                .out
        );
    }
}

/// A path out of the environment.
fn path(name: &str) -> Result<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .ok_or(format!("{name} is not set"))
}

/// A number of this run: in a sandbox, process ids are small and recur.
fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_micros())
}

/// A command as its user would write it.
fn shown(program: &Path, arguments: &str) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("{name} {arguments}")
}

/// Words, with single quotes holding one together.
fn split(arguments: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in arguments.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn ended_well(what: &str, run: Run) -> Result<String> {
    if run.code == 0 {
        return Ok(run.out);
    }
    Err(format!(
        "`{what}` ended with {}:\n{}{}",
        run.code, run.out, run.err
    ))
}

/// Fails unless the text holds a part.
pub fn has(text: &str, part: &str) -> Result {
    if text.contains(part) {
        Ok(())
    } else {
        Err(format!("{part:?} is not in:\n{text}"))
    }
}

/// Fails with a text unless a fact holds.
pub fn ensure(fact: bool, otherwise: &str) -> Result {
    if fact {
        Ok(())
    } else {
        Err(otherwise.to_owned())
    }
}
