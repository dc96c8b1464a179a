//! The embedded host, started for the measurements and stopped after them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::kubeconfig::{self, Access};
use crate::process;
use crate::{Result, server};

/// An embedded host that runs.
pub struct Host {
    data_dir: PathBuf,
    /// Where kubeconfigs go.
    pub work_dir: PathBuf,
}

impl Host {
    /// Starts it and loads the images of the environment.
    pub fn start() -> Result<Self> {
        crate::say("starting an embedded host");
        let work_dir = std::env::var_os("WORK_DIR").ok_or("WORK_DIR is not set")?;
        let host = Self {
            // Sockets lie below it, and their paths are short by nature.
            data_dir: PathBuf::from(format!("/tmp/coracle-bench-{}", std::process::id())),
            work_dir: PathBuf::from(work_dir),
        };
        let _ = std::fs::remove_dir_all(&host.work_dir);
        std::fs::create_dir_all(&host.work_dir).map_err(|e| e.to_string())?;
        let data = host.data_dir.display().to_string();
        let started = host.coracle(&format!("host up --data-dir {data} --node-name node-1"));
        let images = std::env::var_os("IMAGES").unwrap_or_default();
        let loaded = started.and_then(|()| {
            std::env::split_paths(&images).try_for_each(|archive| {
                host.coracle(&format!(
                    "host load-image --data-dir {data} {}",
                    archive.display()
                ))
            })
        });
        match loaded {
            Ok(()) => Ok(host),
            Err(error) => {
                let _ = host.stop();
                Err(error)
            }
        }
    }

    /// Stops it and removes its data.
    pub fn stop(&self) -> Result {
        self.coracle(&format!(
            "host down --purge --data-dir {}",
            self.data_dir.display()
        ))
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.work_dir.join("host.kubeconfig")
    }

    /// How to reach its API.
    pub fn access(&self) -> Result<Access> {
        kubeconfig::read(&self.kubeconfig())
    }

    /// Runs coracle with the host's kubeconfig.
    pub fn coracle(&self, arguments: &str) -> Result {
        self.coracle_with(&self.kubeconfig(), arguments)
    }

    /// Runs coracle with a kubeconfig.
    pub fn coracle_with(&self, kubeconfig: &PathBuf, arguments: &str) -> Result {
        let output = Command::new(server::program()?)
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", &self.work_dir)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "`coracle {arguments}`: {}: {errors}",
            output.status
        ))
    }

    /// Its processes of our own: supervisor, control plane and node agent.
    pub fn own_processes(&self) -> Vec<i32> {
        let data = self.data_dir.display().to_string();
        process::find(|words| {
            let role = words.get(1).copied().unwrap_or_default();
            words[0].ends_with("coracle")
                && matches!(role, "host" | "control-plane" | "node")
                && words.iter().any(|word| word.contains(&data))
        })
    }

    /// containerd and its shims, as far as they belong to it.
    pub fn containerd_processes(&self) -> Vec<i32> {
        let data = self.data_dir.display().to_string();
        process::find(|words| {
            words[0].contains("containerd") && words.iter().any(|word| word.contains(&data))
        })
    }
}
