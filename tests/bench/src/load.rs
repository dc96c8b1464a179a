//! Creates and gets by several connections at a time.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Connection;
use crate::process::{self, MIB};
use crate::report::Report;
use crate::server::Target;
use crate::{Result, Scale};

/// Where the objects go.
const NAMESPACE: &str = "coracle-bench";

/// Connections at a time, and how many objects they create together: 20,000 in
/// all, which the list then reads.
const WRITES: &[(usize, usize)] = &[(1, 2_000), (8, 6_000), (32, 12_000)];
/// Likewise for gets.
const READS: &[(usize, usize)] = &[(1, 10_000), (8, 40_000), (32, 40_000)];

/// A server under load.
pub struct Load<'a> {
    /// The server.
    pub target: &'a Target,
    /// Counts.
    pub scale: Scale,
    /// Names of the objects that were created.
    names: Vec<String>,
}

impl<'a> Load<'a> {
    /// Makes the namespace of the objects.
    pub async fn start(target: &'a Target, scale: Scale) -> Result<Self> {
        let mut connection = Connection::open(&target.access).await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let body = namespace.to_string().into();
        connection
            .succeed("POST", "/api/v1/namespaces", body)
            .await?;
        Ok(Self {
            target,
            scale,
            names: Vec::new(),
        })
    }

    /// Removes it again.
    pub async fn stop(self) -> Result {
        let mut connection = Connection::open(&self.target.access).await?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}");
        connection.succeed("DELETE", &path, Bytes::new()).await?;
        Ok(())
    }

    /// The path of the objects' collection.
    pub fn collection() -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
    }

    /// How many objects there are.
    pub fn objects(&self) -> usize {
        self.names.len()
    }

    /// Creates objects.
    pub async fn writes(&mut self, report: &mut Report) -> Result {
        for &(connections, count) in WRITES {
            let count = self.scale.count(count, connections);
            crate::say(&format!(
                "creating {count} objects over {connections} connections"
            ));
            let names: Vec<String> = (0..count).map(|i| format!("w{connections}-{i}")).collect();
            let rate = self
                .share(connections, &names, |name| {
                    ("POST", Self::collection(), config_map(name))
                })
                .await?;
            report.add(&format!("writes.{connections}"), rate);
            self.names.extend(names);
        }
        Ok(())
    }

    /// Gets them.
    pub async fn reads(&mut self, report: &mut Report) -> Result {
        for &(connections, count) in READS {
            let count = self.scale.count(count, connections);
            crate::say(&format!(
                "getting {count} objects over {connections} connections"
            ));
            // A stride that is no divisor: each is asked for, out of order.
            let picked = (0..count).map(|i| self.names[(i * 7_919) % self.names.len()].clone());
            let picked: Vec<String> = picked.collect();
            let rate = self
                .share(connections, &picked, |name| {
                    (
                        "GET",
                        format!("{}/{name}", Self::collection()),
                        Bytes::new(),
                    )
                })
                .await?;
            report.add(&format!("reads.{connections}"), rate);
        }
        Ok(())
    }

    /// Records what the server takes by now.
    pub fn memory(&self, report: &mut Report) -> Result {
        if self.target.pids.is_empty() {
            return Ok(());
        }
        let memory = process::memory(&self.target.pids)?;
        report.add("loaded.memory", memory.proportional / MIB);
        report.add("loaded.anonymous", memory.anonymous / MIB);
        Ok(())
    }

    /// Sends one request for each name, shared among connections that are open
    /// before the clock starts. Returns requests a second.
    async fn share(
        &self,
        connections: usize,
        names: &[String],
        request: impl Fn(&str) -> (&'static str, String, Bytes),
    ) -> Result<f64> {
        let mut workers = Vec::new();
        for index in 0..connections {
            let mine = names.iter().skip(index).step_by(connections);
            let requests: Vec<_> = mine.map(|name| request(name)).collect();
            workers.push((Connection::open(&self.target.access).await?, requests));
        }
        let started = Instant::now();
        let mut running = JoinSet::new();
        for (mut connection, requests) in workers {
            running.spawn(async move {
                for (method, path, body) in requests {
                    connection.succeed(method, &path, body).await?;
                }
                Ok::<(), String>(())
            });
        }
        while let Some(ended) = running.join_next().await {
            ended.map_err(|e| e.to_string())??;
        }
        Ok(names.len() as f64 / started.elapsed().as_secs_f64())
    }
}

/// A ConfigMap with a value of 1 KiB.
pub fn config_map(name: &str) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"value": "x".repeat(1024)},
    });
    object.to_string().into()
}
