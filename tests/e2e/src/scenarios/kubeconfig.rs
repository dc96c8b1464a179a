//! The user's kubeconfig: only the entries of virtual clusters change, many
//! programs at once lose nothing, and commands get one of their own.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::world::{Result, World, ensure, has};

/// The namespace of both virtual clusters.
const NAMESPACE: &str = "kubeconfig";
/// How often several programs change the file at once.
const ROUNDS: usize = 8;

/// Entries of other tools, with what careless programs lose: comments aside,
/// everything is kept.
const FOREIGN: &str = r#"
apiVersion: v1
kind: Config
preferences: {colors: true}
x-unknown: {number: "0123", truth: "yes", nothing: null, lines: "a\nb\n"}
clusters:
- name: other   # a comment
  cluster:
    server: https://other.example:6443
    insecure-skip-tls-verify: true
    extensions:
    - name: example.com/x
      extension: {version: 1.0, list: [1, two, 3.5]}
users:
- name: other
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: get-token
      args: ["--for", "other"]
      env: null
      interactiveMode: Never
      provideClusterInfo: false
- name: token
  user: {token: "012345678901234567890123456789e5"}
contexts:
- name: other
  context: {cluster: other, user: other, namespace: "007"}
- name: half
  context: {cluster: gone, user: token}
"#;

/// A kubeconfig file of this scenario, and what was in it at first.
struct File {
    path: PathBuf,
    before: Value,
}

impl File {
    /// Writes a value; JSON is YAML.
    fn write(path: PathBuf, value: &Value) -> Result<Self> {
        fs::write(&path, value.to_string()).map_err(|e| e.to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|e| e.to_string())?;
        Ok(Self {
            before: value.clone(),
            path,
        })
    }

    fn read(&self) -> Result<Value> {
        read(&self.path)
    }

    /// Everything that is no virtual cluster's is as it was, and so is the
    /// mode. Returns the contexts of virtual clusters.
    fn intact(&self) -> Result<Vec<String>> {
        let mut now = self.read()?;
        let mut ours = Vec::new();
        for key in ["clusters", "users", "contexts"] {
            let Some(entries) = now.get_mut(key).and_then(Value::as_array_mut) else {
                continue;
            };
            entries.retain(|entry| {
                let name = entry["name"].as_str().unwrap_or_default();
                let ours_too = name.starts_with("coracle_");
                if ours_too && key == "contexts" {
                    ours.push(name.to_owned());
                }
                !ours_too
            });
        }
        let mut before = self.before.clone();
        for value in [&mut now, &mut before] {
            if let Some(map) = value.as_object_mut() {
                map.remove("current-context");
            }
        }
        ensure(
            now == before,
            &format!("other entries changed:\n{now}\nwhere before was:\n{before}"),
        )?;
        let mode = fs::metadata(&self.path).map_err(|e| e.to_string())?;
        let mode = mode.permissions().mode() & 0o777;
        ensure(mode == 0o600, &format!("the mode is {mode:o}"))?;
        ours.sort();
        Ok(ours)
    }

    fn current(&self) -> Result<String> {
        Ok(self.read()?["current-context"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What the steps share.
struct Setting<'a> {
    world: &'a World,
    folder: PathBuf,
    /// The host's context.
    host: String,
    /// The run's own kubeconfig.
    run: Value,
}

impl Setting<'_> {
    /// The context of a virtual cluster.
    fn context(&self, name: &str) -> String {
        format!("coracle_{name}_{NAMESPACE}_{}", self.host)
    }

    /// The host's entry among those of other tools.
    fn mixed(&self) -> Result<Value> {
        let mut value: Value = serde_saphyr::from_str(FOREIGN).map_err(|e| e.to_string())?;
        for key in ["clusters", "users", "contexts"] {
            let (own, all) = (self.run[key].as_array(), value[key].as_array_mut());
            all.ok_or("no list")?
                .extend(own.into_iter().flatten().cloned());
        }
        value["current-context"] = json!(self.host);
        Ok(value)
    }

    /// Runs a script with a KUBECONFIG of its own.
    fn with(&self, files: &str, script: &str) -> Result<String> {
        self.world.script(&format!(
            "export KUBECONFIG={files} TMPDIR={}; {script}",
            self.folder.display()
        ))
    }

    /// The names of the files in the folder.
    fn files(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.folder).map_err(|e| e.to_string())?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Everything about the kubeconfig.
pub fn entries_and_commands(world: &World) -> Result {
    for name in ["ka", "kb"] {
        world.coracle(&format!("create {name} -n {NAMESPACE} --connect=false"))?;
    }
    let folder = world.work_dir.join("kubeconfigs");
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let run: Value = serde_json::from_str(&world.kubectl("config view --raw --flatten -o json")?)
        .map_err(|e| e.to_string())?;
    let setting = Setting {
        world,
        folder,
        host: run["current-context"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        run,
    };
    to_and_fro(&setting)?;
    many_at_once(&setting)?;
    several_files(&setting)?;
    printed(&setting)?;
    commands(&setting)?;
    deleted(&setting)
}

fn to_and_fro(setting: &Setting) -> Result {
    let file = File::write(setting.folder.join("config"), &setting.mixed()?)?;
    let path = file.path.display().to_string();
    for name in ["ka", "kb", "ka"] {
        setting.with(&path, &format!("coracle connect {name}"))?;
        ensure(file.current()? == setting.context(name), "not switched")?;
        has(
            &setting.with(&path, "kubectl get ns -o name")?,
            "kube-system",
        )?;
        let contexts = file.intact()?;
        ensure(contexts.contains(&setting.context(name)), "no context")?;
    }
    let listed = setting.with(&path, "coracle list")?;
    let line = listed.lines().find(|l| l.starts_with("ka "));
    has(line.unwrap_or_default(), "True")?;
    setting.with(&path, "coracle disconnect")?;
    ensure(file.current()? == setting.host, "not back at the host")?;
    file.intact()?;
    // A link, as tools for dotfiles make it, stays one.
    let link = setting.folder.join("link");
    symlink(&file.path, &link).map_err(|e| e.to_string())?;
    setting.with(&link.display().to_string(), "coracle connect kb")?;
    ensure(link.is_symlink(), "the link became a file")?;
    ensure(file.current()? == setting.context("kb"), "not switched")?;
    file.intact()?;
    let names = setting.files()?;
    ensure(names == ["config", "link"], &format!("left: {names:?}"))?;
    fs::remove_file(&link).map_err(|e| e.to_string())
}

fn many_at_once(setting: &Setting) -> Result {
    let file = File::write(setting.folder.join("config"), &setting.mixed()?)?;
    // A disconnect that comes first finds nothing to do, which is an error.
    let script = "for name in ka kb ka; do coracle connect $name & all=\"$all $!\"; \
        coracle disconnect & done; \
        for one in $all; do wait $one || exit 1; done; wait";
    let (a, b) = (setting.context("ka"), setting.context("kb"));
    for round in 0..ROUNDS {
        let path = file.path.display().to_string();
        setting.with(&path, script)?;
        let contexts = file.intact().map_err(|e| format!("round {round}: {e}"))?;
        ensure(contexts == [a.clone(), b.clone()], &format!("{contexts:?}"))?;
        let current = file.current()?;
        ensure(
            [&a, &b, &setting.host].contains(&&current),
            &format!("the current context is {current:?}"),
        )?;
    }
    let names = setting.files()?;
    ensure(names == ["config"], &format!("left: {names:?}"))
}

/// As kubectl: an entry goes into the first file that exists, what is there
/// changes where it is.
fn several_files(setting: &Setting) -> Result {
    let foreign: Value = serde_saphyr::from_str(FOREIGN).map_err(|e| e.to_string())?;
    let first = File::write(setting.folder.join("first"), &foreign)?;
    let second = File::write(setting.folder.join("second"), &setting.run)?;
    let absent = setting.folder.join("absent");
    let all = format!(
        "{}:{}:{}",
        absent.display(),
        first.path.display(),
        second.path.display()
    );
    setting.with(&all, "coracle connect ka")?;
    ensure(!absent.exists(), "a missing file was made")?;
    ensure(
        first.intact()? == [setting.context("ka")],
        "not in the first",
    )?;
    ensure(second.intact()?.is_empty(), "in the second")?;
    let current = setting.with(&all, "kubectl config current-context")?;
    ensure(current.trim() == setting.context("ka"), &current)?;
    has(
        &setting.with(&all, "kubectl get ns -o name")?,
        "kube-system",
    )?;
    setting.with(&all, "coracle disconnect")?;
    let current = setting.with(&all, "kubectl config current-context")?;
    ensure(current.trim() == setting.host, &current)?;
    first.intact()?;
    second.intact()?;
    for file in [first, second] {
        fs::remove_file(file.path).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn printed(setting: &Setting) -> Result {
    let file = File::write(setting.folder.join("config"), &setting.mixed()?)?;
    let bytes = fs::read(&file.path).map_err(|e| e.to_string())?;
    let script = format!(
        "cd {} && KUBECONFIG=config coracle connect ka --print",
        setting.folder.display()
    );
    let run = setting.world.shell(&script);
    ensure(run.code == 0 && run.err.is_empty(), &run.err)?;
    let alone: Value = serde_saphyr::from_str(&run.out).map_err(|e| e.to_string())?;
    let contexts = alone["contexts"].as_array().map_or(0, Vec::len);
    ensure(contexts == 1, &run.out)?;
    let printed = setting.world.file("printed", &run.out)?;
    let seen = setting.with(&printed.display().to_string(), "kubectl get ns -o name")?;
    has(&seen, "kube-system")?;
    ensure(!seen.contains(NAMESPACE), "that is the host")?;
    let now = fs::read(&file.path).map_err(|e| e.to_string())?;
    ensure(now == bytes, "--print changed the kubeconfig")?;
    let names = setting.files()?;
    ensure(names == ["config"], &format!("left: {names:?}"))
}

fn commands(setting: &Setting) -> Result {
    let file = File::write(setting.folder.join("config"), &setting.mixed()?)?;
    let bytes = fs::read(&file.path).map_err(|e| e.to_string())?;
    let path = file.path.display().to_string();
    let seen = setting.with(&path, "coracle connect kb -- kubectl get ns -o name")?;
    has(&seen, "kube-system")?;
    ensure(!seen.contains(NAMESPACE), "that is the host")?;
    let own = setting.with(
        &path,
        "coracle connect kb -- sh -c 'echo $KUBECONFIG; ls -l $KUBECONFIG'",
    )?;
    ensure(!own.contains(&path), &own)?;
    for (command, code) in [
        ("sh -c 'exit 0'", 0),
        ("sh -c 'exit 7'", 7),
        ("sh -c 'exit 255'", 255),
        ("sh -c 'kill -9 $$'", 137),
    ] {
        let run = setting.world.shell(&format!(
            "KUBECONFIG={path} TMPDIR={} coracle connect kb -- {command}",
            setting.folder.display()
        ));
        ensure(run.code == code, &format!("{command} gave {}", run.code))?;
    }
    interrupted(setting, &path)?;
    let now = fs::read(&file.path).map_err(|e| e.to_string())?;
    ensure(now == bytes, "a command changed the kubeconfig")?;
    let names = setting.files()?;
    ensure(names == ["config"], &format!("left: {names:?}"))
}

/// A signal reaches the command, whose end is the end.
fn interrupted(setting: &Setting, path: &str) -> Result {
    let mut command = setting.world.command("coracle");
    command
        .args(["connect", "kb", "--", "sh", "-c"])
        .arg("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
        .env("KUBECONFIG", path)
        .env("TMPDIR", &setting.folder)
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let mut line = String::new();
    let out = child.stdout.take().ok_or("no output")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)
        .map_err(|e| e.to_string())?;
    let status = Command::new("kill").arg(child.id().to_string()).status();
    ensure(status.is_ok_and(|s| s.success()), "cannot send a signal")?;
    let code = child.wait().map_err(|e| e.to_string())?.code();
    ensure(code == Some(9), &format!("the code is {code:?}"))
}

fn deleted(setting: &Setting) -> Result {
    let file = File::write(setting.folder.join("config"), &setting.mixed()?)?;
    let path = file.path.display().to_string();
    setting.with(&path, "coracle connect kb && coracle connect ka")?;
    setting.with(
        &path,
        "coracle delete ka & other=$!; for i in 1 2 3; do coracle connect kb || exit 1; done; \
         wait $other",
    )?;
    let contexts = file.intact()?;
    ensure(
        contexts == [setting.context("kb")],
        &format!("{contexts:?}"),
    )?;
    setting.with(&path, "coracle connect kb && coracle delete kb")?;
    ensure(file.intact()?.is_empty(), "an entry is left")?;
    ensure(file.current()? == setting.host, "not back at the host")
}
