//! `coracle list`.

use clap::{Args, ValueEnum};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::Environment;
use crate::error::Result;
use crate::expiry;
use crate::host::{self, Host};
use crate::output::{data, table};
use crate::tenants::{self, Found};

/// The forms of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// List virtual clusters
#[derive(Args, Debug)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:
  coracle list
  coracle list -n demo -o json"
)]
pub struct List {
    /// Only those in this host namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// All host namespaces (the default)
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The form of output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl List {
    /// Runs the command.
    ///
    /// # Errors
    /// If the host does not answer.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::list(&host, self.namespace.as_deref()).await?;
        let current = environment.files()?.current_context()?.unwrap_or_default();
        let connected = |f: &Found| {
            host::virtual_contexts(&f.name, &f.namespace, &host.context).contains(&current)
        };
        self.warn(environment, &host, &found)?;
        match self.output {
            Format::Json | Format::Yaml => {
                let items: Vec<Value> = found.iter().map(|f| to_value(f, connected(f))).collect();
                if self.output == Format::Json {
                    let text = serde_json::to_string_pretty(&items);
                    data(&(text.expect("values always serialise") + "\n"));
                } else {
                    data(&serde_saphyr::to_string(&items).expect("values always serialise"));
                }
            }
            Format::Table | Format::Wide if found.is_empty() => {
                environment.output.info("No virtual clusters found");
                environment.output.hint("`coracle create NAME` makes one");
            }
            Format::Table | Format::Wide => {
                let wide = self.output == Format::Wide;
                let mut header = vec!["NAME", "NAMESPACE", "STATUS", "CONNECTED"];
                if wide {
                    header.extend(["KUBERNETES", "IMAGE", "HOST"]);
                }
                header.push("AGE");
                let rows: Vec<Vec<String>> = found
                    .iter()
                    .map(|f| {
                        let mut row = vec![
                            f.name.clone(),
                            f.namespace.clone(),
                            f.status().to_owned(),
                            if connected(f) { "True" } else { "" }.to_owned(),
                        ];
                        if wide {
                            let version = f.kubernetes_version().to_owned();
                            row.extend([version, image(f), host.context.clone()]);
                        }
                        row.push(age(f));
                        row
                    })
                    .collect();
                table(&header, &rows);
            }
        }
        Ok(())
    }
}

impl List {
    /// Tells of credentials in the kubeconfig that run out.
    fn warn(&self, environment: &Environment, host: &Host, found: &[Found]) -> Result {
        let kubeconfig = environment.files()?.read()?;
        let users = kubeconfig["users"].as_array();
        for one in found {
            let contexts = host::virtual_contexts(&one.name, &one.namespace, &host.context);
            for user in users.into_iter().flatten() {
                let name = user["name"].as_str().unwrap_or_default();
                if !contexts.iter().any(|context| context == name) {
                    continue;
                }
                let end = expiry::of_user(&user["user"]);
                let warning = end.and_then(|end| expiry::warning(name, end, Timestamp::now()));
                if let Some(warning) = warning {
                    environment.output.hint(&format!(
                        "{warning}: `coracle connect {} -n {}` renews them",
                        one.name, one.namespace
                    ));
                }
            }
        }
        Ok(())
    }
}

fn to_value(found: &Found, connected: bool) -> Value {
    json!({
        "name": found.name,
        "namespace": found.namespace,
        "status": found.status(),
        "image": image(found),
        "kubernetesVersion": found.kubernetes_version(),
        "created": found.set.metadata.creation_timestamp,
        "connected": connected,
    })
}

fn image(found: &Found) -> String {
    let template = found
        .set
        .spec
        .as_ref()
        .and_then(|s| s.template.spec.as_ref());
    template
        .and_then(|s| s.containers.first()?.image.clone())
        .unwrap_or_default()
}

fn age(found: &Found) -> String {
    let Some(created) = &found.set.metadata.creation_timestamp else {
        return "<unknown>".into();
    };
    let seconds = Timestamp::now().as_second() - created.0.as_second();
    coracle_machinery::time::human_duration(seconds.max(0))
}
