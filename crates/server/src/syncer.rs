//! The syncer role.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_config::model::ExportKubeConfig;
use coracle_config::names;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{Error, clients, renewal};

/// Settings of a syncer.
#[derive(Clone, Debug)]
pub struct SyncerOptions {
    /// The name of the virtual cluster.
    pub name: String,
    /// Its configuration, a YAML file.
    pub config_file: PathBuf,
    /// Where the control plane hands over credentials.
    pub credentials_dir: PathBuf,
    /// Address of the virtual kubelet.
    pub kubelet_listen: SocketAddr,
    /// Address of the virtual cluster's host Service.
    pub service_ip: IpAddr,
    /// Address of this pod.
    pub pod_ip: IpAddr,
    /// The host namespace.
    pub namespace: String,
    /// The host node of this pod.
    pub node_name: String,
}

/// The file that the control plane writes last.
const HANDED_OVER: &str = "syncer.kubeconfig";
/// How often to look for the credentials that the control plane, starting
/// beside this process, hands over.
const HANDOVER_INTERVAL: Duration = Duration::from_millis(20);
/// How long that may take before this process gives up and is started again.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs until `shutdown`.
///
/// # Errors
/// If the configuration or the credentials cannot be used.
pub async fn run(options: SyncerOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let handed_over = options.credentials_dir.join(HANDED_OVER);
    let due = || renewal::rewritten(&handed_over);
    let term = async |stop: CancellationToken| work(options.clone(), stop).await;
    renewal::in_terms(&shutdown, due, term).await
}

async fn work(options: SyncerOptions, shutdown: CancellationToken) -> Result<(), Error> {
    let text =
        std::fs::read_to_string(&options.config_file).map_err(Error::file(&options.config_file))?;
    let source = options.config_file.display().to_string();
    let (config, _) = coracle_config::Config::from_yaml(&[(&source, &text)])
        .map_err(|error| Error::Setting(error.to_string()))?;
    let handed_over = options.credentials_dir.join(HANDED_OVER);
    tokio::select! {
        result = wait_for(&handed_over) => result?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let host_config =
        kube::Config::incluster().map_err(|error| Error::Setting(error.to_string()))?;
    let host_client = kube::Client::try_from(host_config)?;
    let read = |name: &str| {
        let path = options.credentials_dir.join(name);
        std::fs::read_to_string(&path).map_err(Error::file(&path))
    };
    let server = published_server(&config, &options);
    let export = &config.export_kube_config;
    let kubeconfig = published_kubeconfig(&read("admin.kubeconfig")?, &server, export)?;
    let syncer = coracle_syncer::SyncerConfig {
        published: published(&options.name, &kubeconfig, &read("ca.crt")?)?,
        virtual_client: clients::from_file(&handed_over).await?,
        host_tunnel_client: host_client.clone(),
        host_client,
        kubelet: coracle_syncer::KubeletConfig {
            listen: options.kubelet_listen,
            cert_pem: read("kubelet.crt")?,
            key_pem: read("kubelet.key")?,
            client_ca_pem: read("ca.crt")?,
        },
        vc_name: options.name,
        host_namespace: options.namespace,
        config,
        pod_ip: options.pod_ip,
    };
    coracle_syncer::run(syncer, shutdown)
        .await
        .map_err(|e| Error::Setting(e.to_string()))
}

async fn wait_for(file: &Path) -> Result<(), Error> {
    let appears = async {
        while !file.exists() {
            tokio::time::sleep(HANDOVER_INTERVAL).await;
        }
    };
    tokio::time::timeout(HANDOVER_TIMEOUT, appears)
        .await
        .map_err(|_| Error::NotReady {
            what: "the control plane".into(),
            seconds: HANDOVER_TIMEOUT.as_secs(),
            detail: format!(": {} is not there", file.display()),
        })
}

/// The address in the published kubeconfig: what the user chose, or the name
/// of the Service, which is right from inside the host cluster.
fn published_server(config: &coracle_config::Config, options: &SyncerOptions) -> String {
    let chosen = &config.export_kube_config.server;
    if chosen.is_empty() {
        format!("https://{}.{}.svc:443", options.name, options.namespace)
    } else {
        chosen.clone()
    }
}

fn published_kubeconfig(
    text: &str,
    server: &str,
    export: &ExportKubeConfig,
) -> Result<Value, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Setting(format!("admin.kubeconfig: {e}"));
    // Kubeconfigs of the control plane are written as JSON.
    let mut kubeconfig: Value = serde_json::from_str(text).map_err(|e| unusable(&e))?;
    let cluster = &mut kubeconfig["clusters"][0]["cluster"];
    cluster["server"] = Value::String(server.to_owned());
    if export.insecure
        && let Some(cluster) = cluster.as_object_mut()
    {
        // Clients refuse both at once.
        cluster.remove("certificate-authority-data");
        cluster.insert("insecure-skip-tls-verify".into(), true.into());
    }
    if !export.context.is_empty() {
        let name = Value::String(export.context.clone());
        kubeconfig["contexts"][0]["name"] = name.clone();
        kubeconfig["current-context"] = name;
    }
    Ok(kubeconfig)
}

type SecretData = BTreeMap<String, Vec<u8>>;

fn published(
    name: &str,
    kubeconfig: &Value,
    ca_pem: &str,
) -> Result<BTreeMap<String, SecretData>, Error> {
    let user = &kubeconfig["users"][0]["user"];
    let decode = |key: &str| {
        STANDARD
            .decode(user[key].as_str().unwrap_or_default())
            .map_err(|e| Error::Setting(format!("admin.kubeconfig: {key}: {e}")))
    };
    let access = BTreeMap::from([
        ("config".to_owned(), kubeconfig.to_string().into_bytes()),
        (
            "certificate-authority".to_owned(),
            ca_pem.as_bytes().to_vec(),
        ),
        (
            "client-certificate".to_owned(),
            decode("client-certificate-data")?,
        ),
        ("client-key".to_owned(), decode("client-key-data")?),
    ]);
    let certificates = BTreeMap::from([("ca.crt".to_owned(), ca_pem.as_bytes().to_vec())]);
    Ok(BTreeMap::from([
        (names::kubeconfig_secret(name), access),
        (names::certs_secret(name), certificates),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_published_kubeconfig_is_as_chosen() {
        let text = json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:8443",
                "certificate-authority-data": "Q0E="}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        })
        .to_string();
        let plain = published_kubeconfig(&text, "https://a", &ExportKubeConfig::default()).unwrap();
        assert_eq!(plain["clusters"][0]["cluster"]["server"], "https://a");
        assert_eq!(plain["current-context"], "c");
        let export = ExportKubeConfig {
            context: "mine".into(),
            insecure: true,
            ..ExportKubeConfig::default()
        };
        let chosen = published_kubeconfig(&text, "https://a", &export).unwrap();
        assert_eq!(
            chosen["clusters"][0]["cluster"],
            json!({"server": "https://a", "insecure-skip-tls-verify": true})
        );
        assert_eq!(chosen["contexts"][0]["name"], chosen["current-context"]);
        assert_eq!(chosen["current-context"], "mine");
    }
}
