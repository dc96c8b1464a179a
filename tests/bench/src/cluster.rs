//! Virtual clusters on the embedded host, and how soon they are usable.

use std::path::PathBuf;
use std::time::Instant;

use crate::Result;
use crate::client::Connection;
use crate::host::Host;
use crate::kubeconfig::{self, Access};
use crate::process;
use crate::report::Report;
use crate::stats::Samples;

/// A virtual cluster that runs.
pub struct Cluster {
    /// Its name, which is its namespace's too.
    pub name: String,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// How to reach its API.
    pub fn access(&self) -> Result<Access> {
        kubeconfig::read(&self.kubeconfig)
    }

    /// The processes of its two containers: control plane and syncer.
    pub fn processes(&self) -> Result<(i32, i32)> {
        let (context, name) = (
            format!("--context={}", self.name),
            format!("--name={}", self.name),
        );
        let one = |role: &str, mark: &str| {
            let found = process::find(|words| words.get(1) == Some(&role) && words.contains(&mark));
            match found.as_slice() {
                [pid] => Ok(*pid),
                others => Err(format!(
                    "{} processes are the {role} of {}",
                    others.len(),
                    self.name
                )),
            }
        };
        Ok((one("control-plane", &context)?, one("syncer", &name)?))
    }

    /// From the command to an answer of the new API.
    async fn create(host: &Host, name: &str) -> Result<(Self, f64)> {
        let kubeconfig = host.work_dir.join(format!("{name}.kubeconfig"));
        std::fs::copy(host.kubeconfig(), &kubeconfig).map_err(|e| e.to_string())?;
        let started = Instant::now();
        host.coracle_with(&kubeconfig, &format!("create {name} -n {name}"))?;
        let cluster = Self {
            name: name.to_owned(),
            kubeconfig,
        };
        let mut connection = Connection::open(&cluster.access()?).await?;
        connection.get("/api/v1/namespaces").await?;
        Ok((cluster, started.elapsed().as_secs_f64()))
    }
}

/// Creates virtual clusters one after the other and keeps the last. The first
/// one, which is told by itself, makes the host warm.
pub async fn create(host: &Host, rounds: usize, report: &mut Report) -> Result<Cluster> {
    crate::say("creating virtual clusters");
    let mut seconds = Samples::default();
    let (mut cluster, cold) = Cluster::create(host, "bench-0").await?;
    report.add("create.first", cold);
    for round in 1..=rounds {
        host.coracle(&format!("delete {0} -n {0}", cluster.name))?;
        let (next, time) = Cluster::create(host, &format!("bench-{round}")).await?;
        crate::say(&format!("{} took {time:.2} s", next.name));
        seconds.add(time);
        cluster = next;
    }
    report.add("create.usable", seconds.median());
    Ok(cluster)
}
