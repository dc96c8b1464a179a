//! `coracle describe`.

use clap::{Args, ValueEnum};
use coracle_config::{Config, names};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::Api;
use serde_json::{Map, Value, json};

use super::Environment;
use super::upgrade::present_values;
use crate::error::{Result, from_kube};
use crate::host::Host;
use crate::output::data;
use crate::tenants::{self, Found};
use crate::{expiry, grants, ready};

/// Describe a virtual cluster: its state, addresses, data and values
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle describe team-a
  coracle describe team-a -o json
  coracle describe team-a --config-only > values.yaml")]
pub struct Describe {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The form of output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Only the values that are not the defaults, as a values file
    #[arg(long)]
    config_only: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Describe {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such virtual cluster, or the host refuses.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        let all = description(&host, &found).await?;
        let shown = if self.config_only {
            &all["values"]
        } else {
            &all
        };
        let text = match (self.output, self.config_only) {
            (Form::Json, _) => {
                serde_json::to_string_pretty(shown).expect("values always serialise") + "\n"
            }
            (Form::Yaml, _) | (Form::Text, true) => yaml(shown),
            (Form::Text, false) => text(&all),
        };
        data(&text);
        Ok(())
    }
}

/// Everything that is told of a virtual cluster. No part of it is secret, but
/// for what users put into their values.
///
/// # Errors
/// If the host refuses what concerns the virtual cluster itself.
pub async fn description(host: &Host, found: &Found) -> Result<Value> {
    let namespace = found.namespace.as_str();
    let present = present_values(host, found).await?;
    let values = match Config::from_yaml(&[("values", &present)]) {
        Ok((config, _)) => config.changes(),
        Err(error) => json!({"error": error.to_string()}),
    };
    let images = found
        .set
        .spec
        .as_ref()
        .and_then(|s| s.template.spec.as_ref())
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .map(|c| (c.name.clone(), json!(c.image)))
        .collect::<Map<String, Value>>();
    let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod = pods
        .get_opt(&names::pod(&found.name))
        .await
        .map_err(from_kube("read the virtual cluster's pod"))?;
    let mut all = json!({
        "name": found.name,
        "namespace": namespace,
        "host": host.context,
        "status": found.status(),
        "kubernetesVersion": found.kubernetes_version(),
        "created": found.set.metadata.creation_timestamp,
        "images": images,
        "node": pod.as_ref().and_then(|p| p.spec.as_ref()?.node_name.clone()),
        "trouble": pod.as_ref().and_then(ready::trouble),
        "service": service(host, found).await?,
        "data": claim(host, found).await?,
        "rightsBeyondItsNamespace": grants::places(&found.set),
        "credentialsExpire": expires(host, found).await,
        "values": values,
    });
    if let Some(map) = all.as_object_mut() {
        map.retain(|_, value| !value.is_null() && *value != "");
    }
    Ok(all)
}

async fn service(host: &Host, found: &Found) -> Result<Value> {
    let services: Api<Service> = Api::namespaced(host.client.clone(), &found.namespace);
    let service = services
        .get_opt(&names::service(&found.name))
        .await
        .map_err(from_kube("read the virtual cluster's Service"))?;
    let Some(service) = service else {
        return Ok(Value::Null);
    };
    let service = serde_json::to_value(service).unwrap_or_default();
    let mut shown = json!({
        "type": service["spec"]["type"],
        "clusterIP": service["spec"]["clusterIP"],
        "nodePort": service["spec"]["ports"][0]["nodePort"],
        "loadBalancer": service["status"]["loadBalancer"]["ingress"],
    });
    if let Some(map) = shown.as_object_mut() {
        map.retain(|_, value| !value.is_null());
    }
    Ok(shown)
}

async fn claim(host: &Host, found: &Found) -> Result<Value> {
    if !found.keeps_data() {
        return Ok(json!({"in": "pod"}));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(host.client.clone(), &found.namespace);
    let name = names::data_claim(&found.name);
    let claim = claims
        .get_opt(&name)
        .await
        .map_err(from_kube("read the virtual cluster's claim"))?;
    let claim = serde_json::to_value(claim).unwrap_or_default();
    Ok(json!({
        "in": "claim",
        "claim": name,
        "phase": claim["status"]["phase"],
        "size": claim["spec"]["resources"]["requests"]["storage"],
        "storageClass": claim["spec"]["storageClassName"],
    }))
}

/// When the credentials that users get run out, if they are there and may be
/// read.
async fn expires(host: &Host, found: &Found) -> Option<String> {
    let secrets: Api<Secret> = Api::namespaced(host.client.clone(), &found.namespace);
    let secret = secrets
        .get(&names::kubeconfig_secret(&found.name))
        .await
        .ok()?;
    let mut data = secret.data?;
    let end = match data.remove("token") {
        Some(token) => expiry::of_token(&String::from_utf8_lossy(&token.0))?,
        None => expiry::of_pem(&data.remove("client-certificate")?.0)?,
    };
    Some(end.to_string())
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("a JSON value always serialises")
}

/// One line for each thing, what has parts below it.
fn text(all: &Value) -> String {
    let mut out = String::new();
    for (key, label) in LABELS {
        let Some(value) = all.get(*key) else {
            continue;
        };
        let shown = match (*key, value) {
            ("values", Value::Object(map)) if map.is_empty() => "the defaults".to_owned(),
            (_, Value::Array(items)) if items.is_empty() => "none".to_owned(),
            (_, Value::Array(items)) => {
                let items: Vec<&str> = items
                    .iter()
                    .filter_map(Value::as_str)
                    .map(|place| {
                        if place == grants::CLUSTER {
                            "the whole host"
                        } else {
                            place
                        }
                    })
                    .collect();
                items.join(", ")
            }
            ("data", data) if data["in"] == "pod" => "in its pod, and lost with it".to_owned(),
            (_, Value::Object(_)) => {
                out.push_str(&format!("{label}:\n"));
                for line in yaml(value).lines() {
                    out.push_str(&format!("  {line}\n"));
                }
                continue;
            }
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        };
        out.push_str(&format!("{:<22}{shown}\n", format!("{label}:")));
    }
    out
}

/// What is shown, in this order, and its name for people.
const LABELS: &[(&str, &str)] = &[
    ("name", "Name"),
    ("namespace", "Namespace"),
    ("host", "Host"),
    ("status", "Status"),
    ("trouble", "Trouble"),
    ("kubernetesVersion", "Kubernetes"),
    ("created", "Created"),
    ("node", "Node"),
    ("credentialsExpire", "Credentials expire"),
    ("rightsBeyondItsNamespace", "Rights elsewhere"),
    ("images", "Images"),
    ("service", "Service"),
    ("data", "Data"),
    ("values", "Values"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_has_a_line() {
        let all = json!({
            "name": "a", "status": "Running", "data": {"in": "pod"}, "values": {},
            "rightsBeyondItsNamespace": ["*", "b"], "service": {"type": "ClusterIP"},
        });
        assert_eq!(
            text(&all),
            "Name:                 a\n\
             Status:               Running\n\
             Rights elsewhere:     the whole host, b\n\
             Service:\n  type: ClusterIP\n\
             Data:                 in its pod, and lost with it\n\
             Values:               the defaults\n"
        );
    }
}
