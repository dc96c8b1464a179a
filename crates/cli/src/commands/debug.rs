//! `coracle debug`.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use coracle_config::{marks, names};
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{Environment, connect, describe};
use crate::error::{CliError, Result};
use crate::hidden;
use crate::host::Host;
use crate::tenants::{self, Found};

/// Most objects of a kind: a bundle is for reading.
const MAX_OBJECTS: u32 = 500;
/// How many lines of a log are taken, the last ones: more than anyone reads.
const MAX_LOG_LINES: i64 = 20_000;
/// How much they may be at most.
const MAX_LOG_BYTES: i64 = 16 << 20;
/// How long one question may take. What is broken often does not answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Kinds on the host, and whether they are the control plane's own, what was
/// synced, or all of the namespace.
const ON_HOST: &[(&str, &str, &str, Whose)] = &[
    ("", "v1", "Pod", Whose::Both),
    ("", "v1", "Service", Whose::Both),
    ("", "v1", "Endpoints", Whose::Both),
    ("", "v1", "PersistentVolumeClaim", Whose::Both),
    ("", "v1", "ConfigMap", Whose::Both),
    ("", "v1", "Secret", Whose::Both),
    ("", "v1", "ServiceAccount", Whose::Both),
    ("", "v1", "Event", Whose::All),
    ("", "v1", "ResourceQuota", Whose::All),
    ("", "v1", "LimitRange", Whose::All),
    ("apps", "v1", "StatefulSet", Whose::Own),
    ("discovery.k8s.io", "v1", "EndpointSlice", Whose::Both),
    ("networking.k8s.io", "v1", "Ingress", Whose::Both),
    ("networking.k8s.io", "v1", "NetworkPolicy", Whose::Both),
    ("policy", "v1", "PodDisruptionBudget", Whose::Both),
    ("rbac.authorization.k8s.io", "v1", "Role", Whose::Own),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", Whose::Own),
];

/// Kinds inside.
const INSIDE: &[(&str, &str, &str)] = &[
    ("", "v1", "Namespace"),
    ("", "v1", "Node"),
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "PersistentVolumeClaim"),
    ("", "v1", "PersistentVolume"),
    ("", "v1", "Event"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("storage.k8s.io", "v1", "StorageClass"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    Both,
    All,
}

/// Collect what helps to find a fault, in one file without secrets
///
/// Objects of the virtual cluster on the host and inside, the logs of its
/// control plane and what `describe` tells. Left out are the content of Secrets
/// and ConfigMaps, the values of environment variables, commands and their
/// arguments, keys and tokens. Read it before you hand it on: what programs of
/// yours write into events or labels is in it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle debug team-a
  coracle debug team-a -n tenants -o team-a.tar.gz")]
pub struct Debug {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The file to write [default: debug-NAME.tar.gz]
    #[arg(short, long = "output", value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Debug {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such virtual cluster or the file cannot be written. What
    /// the host or the virtual cluster refuses is noted in the file.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        let path = self
            .output
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("debug-{}.tar.gz", self.name)));
        let failed = |error: std::io::Error| {
            CliError::failure(format!("cannot write {}", path.display()))
                .because(error)
                .hint("-o names another file")
        };
        // First: nothing is asked for in vain.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut progress = environment
            .output
            .progress(&format!("Looking at virtual cluster {}", self.name));
        let mut bundle = Bundle {
            directory: format!("debug-{}", self.name),
            files: Vec::new(),
            missing: Vec::new(),
        };
        bundle.about(&host, &found).await;
        bundle.host(&host, &found).await;
        progress.set(&format!("Reading the logs of {}", names::pod(&found.name)));
        bundle.logs(&host, &found).await;
        progress.set(&format!("Looking inside {}", self.name));
        bundle.inside(&host, &found).await;
        bundle.write(file).map_err(failed)?;
        drop(progress);
        environment.output.done(&format!(
            "Wrote {} with {} files; keys, tokens and the content of Secrets and ConfigMaps are left out",
            path.display(),
            bundle.files.len()
        ));
        Ok(())
    }
}

struct Bundle {
    directory: String,
    files: Vec<(String, String)>,
    /// What could not be had, and why.
    missing: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, value: &Value) {
        let text = serde_saphyr::to_string(value).expect("a JSON value always serialises");
        self.files.push((name.to_owned(), text));
    }

    async fn about(&mut self, host: &Host, found: &Found) {
        self.add(
            "version.yaml",
            &json!({"coracle": env!("CARGO_PKG_VERSION"),
                    "kubernetes": coracle_config::KUBERNETES_VERSION}),
        );
        match describe::description(host, found).await {
            Ok(mut description) => {
                hidden::in_values(&mut description);
                self.add("describe.yaml", &description);
            }
            Err(error) => self.missing.push(format!("describe: {}", error.message)),
        }
    }

    async fn host(&mut self, host: &Host, found: &Found) {
        for (group, version, kind, whose) in ON_HOST {
            let own = format!("app={},release={}", marks::APP, found.name);
            let synced = format!("{}={}", marks::MANAGED_BY, found.name);
            let selectors: &[&str] = match whose {
                Whose::Own => &[&own],
                Whose::Both => &[&own, &synced],
                Whose::All => &[""],
            };
            let mut all = Vec::new();
            for selector in selectors {
                let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
                let api: Api<DynamicObject> =
                    Api::namespaced_with(host.client.clone(), &found.namespace, &resource);
                all.extend(self.list(&api, "host", kind, selector).await);
            }
            self.add_objects("host", kind, all);
        }
    }

    async fn inside(&mut self, host: &Host, found: &Found) {
        let connecting = connect::inside(host, &found.name, &found.namespace);
        let client: Client = match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                let why = error.causes.join(": ");
                return self
                    .missing
                    .push(format!("inside: {}: {why}", error.message));
            }
            Err(_) => return self.missing.push("inside: no answer".into()),
        };
        for (group, version, kind) in INSIDE {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let all = self.list(&api, "inside", kind, "").await;
            self.add_objects("inside", kind, all);
        }
    }

    async fn list(
        &mut self,
        api: &Api<DynamicObject>,
        place: &str,
        kind: &str,
        selector: &str,
    ) -> Vec<DynamicObject> {
        let parameters = ListParams::default().labels(selector).limit(MAX_OBJECTS);
        match tokio::time::timeout(PATIENCE, api.list(&parameters)).await {
            Ok(Ok(list)) => {
                if list.metadata.continue_.is_some_and(|more| !more.is_empty()) {
                    let note = format!("{place}: {kind}: more than the first {MAX_OBJECTS}");
                    self.missing.push(note);
                }
                return list.items;
            }
            Ok(Err(error)) => self.missing.push(format!("{place}: {kind}: {error}")),
            Err(_) => self.missing.push(format!("{place}: {kind}: no answer")),
        }
        Vec::new()
    }

    fn add_objects(&mut self, place: &str, kind: &str, objects: Vec<DynamicObject>) {
        if objects.is_empty() {
            return;
        }
        let items: Vec<Value> = objects
            .into_iter()
            .filter_map(|object| {
                let mut value = serde_json::to_value(object).ok()?;
                // Items of a list do not say what they are.
                value["kind"] = kind.into();
                hidden::in_object(&mut value);
                Some(value)
            })
            .collect();
        self.add(
            &format!("{place}/{}.yaml", kind.to_lowercase()),
            &json!(items),
        );
    }

    async fn logs(&mut self, host: &Host, found: &Found) {
        let pods: Api<Pod> = Api::namespaced(host.client.clone(), &found.namespace);
        for container in ["control-plane", "syncer"] {
            for previous in [false, true] {
                let parameters = LogParams {
                    container: Some(container.into()),
                    previous,
                    tail_lines: Some(MAX_LOG_LINES),
                    limit_bytes: Some(MAX_LOG_BYTES),
                    timestamps: true,
                    ..LogParams::default()
                };
                let pod = names::pod(&found.name);
                let name = if previous {
                    format!("logs/{container}.previous.log")
                } else {
                    format!("logs/{container}.log")
                };
                match tokio::time::timeout(PATIENCE, pods.logs(&pod, &parameters)).await {
                    Ok(Ok(text)) => self.files.push((name, hidden::in_text(&text))),
                    // Most have not run before.
                    Ok(Err(_)) if previous => {}
                    Ok(Err(error)) => self.missing.push(format!("{name}: {error}")),
                    Err(_) => self.missing.push(format!("{name}: no answer")),
                }
            }
        }
    }

    fn write(&mut self, file: File) -> std::io::Result<()> {
        if !self.missing.is_empty() {
            let text = self.missing.join("\n") + "\n";
            self.files
                .push(("missing.txt".into(), hidden::in_text(&text)));
        }
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        for (name, text) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            let path = format!("{}/{name}", self.directory);
            archive.append_data(&mut header, path, text.as_bytes())?;
        }
        archive.into_inner()?.finish()?.sync_all()
    }
}
