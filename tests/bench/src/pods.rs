//! How soon a virtual pod is a host pod, and the host's status the virtual
//! pod's.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Connection, Lines};
use crate::cluster::Cluster;
use crate::host::Host;
use crate::kubeconfig::Access;
use crate::report::Report;
use crate::stats::Samples;
use crate::{Result, Scale};

/// How long each step of a pod may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look for the account that pods need.
const INTERVAL: Duration = Duration::from_millis(20);
/// Events that wait to be read; a pod has about ten on each side.
const EVENTS: usize = 256;
/// The virtual namespace.
const PODS: &str = "/api/v1/namespaces/default/pods";

/// An event of a pod, when it was seen.
struct Seen {
    host: bool,
    name: String,
    running: bool,
    deleted: bool,
    at: Instant,
}

/// Creates pods one after the other.
pub async fn measure(host: &Host, cluster: &Cluster, scale: Scale, report: &mut Report) -> Result {
    let count = scale.count(100, 10);
    crate::say(&format!("running {count} pods one after the other"));
    let access = cluster.access()?;
    let mut connection = Connection::open(&access).await?;
    wait_for_account(&mut connection).await?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let host_pods = format!("/api/v1/namespaces/{}/pods", cluster.name);
    follow(&access, PODS, false, sender.clone()).await?;
    follow(&host.access()?, &host_pods, true, sender).await?;
    let (mut created, mut running) = <(Samples, Samples)>::default();
    // The first one pulls the image.
    for index in 0..=count {
        let name = format!("pod-{index}");
        let steps = one(&mut connection, &mut events, &name);
        let (to_host, to_virtual) = tokio::time::timeout(PATIENCE, steps)
            .await
            .map_err(|_| format!("{name} did not run within {} s", PATIENCE.as_secs()))??;
        if index > 0 {
            created.add_millis(to_host);
            running.add_millis(to_virtual);
        }
    }
    for (name, samples) in [("created", created), ("running", running)] {
        report.add(&format!("pods.{name}.p50"), samples.quantile(0.5));
        report.add(&format!("pods.{name}.p99"), samples.quantile(0.99));
    }
    Ok(())
}

/// Runs one pod and removes it. Returns the time from sending its creation
/// until the host pod is seen, and from seeing the host pod run until the
/// virtual one is seen to run.
async fn one(
    connection: &mut Connection,
    events: &mut mpsc::Receiver<Seen>,
    name: &str,
) -> Result<(Duration, Duration)> {
    let created = Instant::now();
    connection.succeed("POST", PODS, pod(name)).await?;
    let host_name = format!("{name}-x-");
    let (mut to_host, mut host_runs, mut virtual_runs) = (None, None, None);
    while virtual_runs.is_none() || host_runs.is_none() {
        let seen = events.recv().await.ok_or("a watch has ended")?;
        if seen.host && seen.name.starts_with(&host_name) {
            to_host.get_or_insert(seen.at - created);
            if seen.running {
                host_runs.get_or_insert(seen.at);
            }
        } else if !seen.host && seen.name == name && seen.running {
            virtual_runs.get_or_insert(seen.at);
        }
    }
    connection
        .succeed("DELETE", &format!("{PODS}/{name}"), Bytes::new())
        .await?;
    loop {
        let seen = events.recv().await.ok_or("a watch has ended")?;
        if seen.host && seen.deleted && seen.name.starts_with(&host_name) {
            break;
        }
    }
    let (host_runs, virtual_runs) = host_runs.zip(virtual_runs).ok_or("the pod did not run")?;
    Ok((
        to_host.unwrap_or_default(),
        virtual_runs.saturating_duration_since(host_runs),
    ))
}

fn pod(name: &str) -> Bytes {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "3600"]}],
        },
    });
    object.to_string().into()
}

async fn wait_for_account(connection: &mut Connection) -> Result {
    let started = Instant::now();
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    while let Err(error) = connection.get(path).await {
        if started.elapsed() > PATIENCE {
            return Err(error);
        }
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// Sends every event of the pods at a path, from now on.
async fn follow(access: &Access, path: &str, host: bool, events: mpsc::Sender<Seen>) -> Result {
    let mut connection = Connection::open(access).await?;
    let list = connection.get(path).await?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default();
    let path = format!("{path}?watch=1&resourceVersion={revision}");
    let mut lines = Lines::watch(&mut connection, &path).await?;
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next().await {
            let at = Instant::now();
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let pod = &event["object"];
            let seen = Seen {
                host,
                name: pod["metadata"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                running: pod["status"]["phase"] == "Running",
                deleted: event["type"] == "DELETED",
                at,
            };
            if events.send(seen).await.is_err() {
                break;
            }
        }
        drop(connection);
    });
    Ok(())
}
