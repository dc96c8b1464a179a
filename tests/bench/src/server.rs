//! The API server that is put under load: a control plane started here, or
//! one of somebody's kubeconfig.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;

use crate::Result;
use crate::client::Connection;
use crate::kubeconfig::{self, Access};

/// How long a control plane may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile: a part of what is measured.
const INTERVAL: Duration = Duration::from_millis(1);

/// The program under test.
pub fn program() -> Result<PathBuf> {
    std::env::var_os("CORACLE")
        .map(PathBuf::from)
        .ok_or("CORACLE is not set to the program's file".into())
}

/// A control plane with data of its own.
pub struct ControlPlane {
    child: Child,
    kubeconfig: PathBuf,
    /// From the start of the process to the answer of /readyz.
    pub ready: Duration,
    _directory: TempDir,
}

impl ControlPlane {
    /// Starts one with fresh data and waits until it is ready.
    pub async fn start() -> Result<Self> {
        let directory = TempDir::new().map_err(|e| e.to_string())?;
        let kubeconfig = directory.path().join("kubeconfig");
        let port = free_port()?;
        let log = std::fs::File::create(directory.path().join("log")).map_err(|e| e.to_string())?;
        let mut command = Command::new(program()?);
        command
            .arg("control-plane")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg("--write-kubeconfig")
            .arg(&kubeconfig)
            .stdin(Stdio::null())
            .stderr(log);
        let started = Instant::now();
        let child = command.spawn().map_err(|e| e.to_string())?;
        let mut control_plane = Self {
            child,
            kubeconfig,
            ready: Duration::ZERO,
            _directory: directory,
        };
        while let Err(error) = control_plane.answers().await {
            let log = || {
                let log = control_plane._directory.path().join("log");
                std::fs::read_to_string(log).unwrap_or_default()
            };
            if started.elapsed() > PATIENCE {
                return Err(format!(
                    "the control plane is not ready: {error}\n{}",
                    log()
                ));
            }
            tokio::time::sleep(INTERVAL).await;
        }
        control_plane.ready = started.elapsed();
        Ok(control_plane)
    }

    async fn answers(&self) -> Result {
        let access = kubeconfig::read(&self.kubeconfig)?;
        let mut connection = Connection::open(&access).await?;
        connection.succeed("GET", "/readyz", Bytes::new()).await?;
        Ok(())
    }

    /// Its process.
    pub fn pid(&self) -> Result<i32> {
        i32::try_from(self.child.id()).map_err(|e| e.to_string())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Its data goes with it: nothing is lost by not asking kindly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    Ok(address.port())
}

/// The API server under load.
pub struct Target {
    /// How to reach it.
    pub access: Access,
    /// Its processes, as far as they are known.
    pub pids: Vec<i32>,
    _own: Option<ControlPlane>,
}

impl Target {
    /// A control plane of its own.
    pub async fn own() -> Result<Self> {
        crate::say("starting a control plane");
        let control_plane = ControlPlane::start().await?;
        Ok(Self {
            access: kubeconfig::read(&control_plane.kubeconfig)?,
            pids: vec![control_plane.pid()?],
            _own: Some(control_plane),
        })
    }

    /// Somebody's.
    pub fn foreign(file: &Path, pids: &[i32]) -> Result<Self> {
        Ok(Self {
            access: kubeconfig::read(file)?,
            pids: pids.to_vec(),
            _own: None,
        })
    }
}
