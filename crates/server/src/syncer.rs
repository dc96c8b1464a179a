//! The syncer role.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_config::model::{ExportKubeConfig, TokenAccount};
use coracle_config::names;
use coracle_syncer::Published;
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
    /// The image of this program.
    pub image: String,
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
    let published = published(
        &read("admin.kubeconfig")?,
        &read("ca.crt")?,
        &config.export_kube_config,
        &options.name,
        &options.namespace,
    )?;
    let syncer = coracle_syncer::SyncerConfig {
        published,
        virtual_client: clients::from_file(&handed_over, "coracle-syncer").await?,
        host_tunnel_client: host_client.clone(),
        host_client,
        kubelet: coracle_syncer::KubeletConfig {
            listen: options.kubelet_listen,
            cert_pem: read("kubelet.crt")?,
            key_pem: read("kubelet.key")?,
            client_ca_pem: read("ca.crt")?,
        },
        vc_name: options.name,
        image: options.image,
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

/// How a published kubeconfig is to be.
struct Export<'a> {
    context: &'a str,
    server: &'a str,
    insecure: bool,
}

/// The kubeconfig of the admin as it is published. Where the values name no
/// server, it is the Service, which is right from inside the host cluster.
fn kubeconfig(text: &str, service: &str, export: &Export<'_>) -> Result<Value, Error> {
    let unusable = |e: &dyn std::fmt::Display| Error::Setting(format!("admin.kubeconfig: {e}"));
    // Kubeconfigs of the control plane are written as JSON.
    let mut kubeconfig: Value = serde_json::from_str(text).map_err(|e| unusable(&e))?;
    let cluster = &mut kubeconfig["clusters"][0]["cluster"];
    let server = if export.server.is_empty() {
        service
    } else {
        export.server
    };
    cluster["server"] = Value::String(server.to_owned());
    if export.insecure
        && let Some(cluster) = cluster.as_object_mut()
    {
        // Clients refuse both at once.
        cluster.remove("certificate-authority-data");
        cluster.insert("insecure-skip-tls-verify".into(), true.into());
    }
    if !export.context.is_empty() {
        let name = Value::String(export.context.to_owned());
        kubeconfig["contexts"][0]["name"] = name.clone();
        kubeconfig["current-context"] = name;
    }
    Ok(kubeconfig)
}

type SecretData = BTreeMap<String, Vec<u8>>;

/// The content of a secret with a kubeconfig. That of an account gets its token
/// later.
fn access(
    mut kubeconfig: Value,
    ca_pem: &str,
    account: Option<&TokenAccount>,
) -> Result<SecretData, Error> {
    if account.is_some() {
        kubeconfig["users"][0]["user"] = serde_json::json!({});
        return Ok(BTreeMap::from([
            ("config".to_owned(), kubeconfig.to_string().into_bytes()),
            (
                "certificate-authority".to_owned(),
                ca_pem.as_bytes().to_vec(),
            ),
        ]));
    }
    let user = &kubeconfig["users"][0]["user"];
    let decode = |key: &str| {
        STANDARD
            .decode(user[key].as_str().unwrap_or_default())
            .map_err(|e| Error::Setting(format!("admin.kubeconfig: {key}: {e}")))
    };
    Ok(BTreeMap::from([
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
    ]))
}

/// All secrets that are published, those of every virtual cluster first.
fn published(
    admin: &str,
    ca_pem: &str,
    export: &ExportKubeConfig,
    name: &str,
    namespace: &str,
) -> Result<Vec<Published>, Error> {
    let service = format!("https://{name}.{namespace}.svc:443");
    let chosen = |account: &TokenAccount| (!account.name.is_empty()).then(|| account.clone());
    let own = |name: String, data: SecretData, account| Published {
        name,
        namespace: namespace.to_owned(),
        additional: false,
        data,
        account,
    };
    let plain = Export {
        context: &export.context,
        server: &export.server,
        insecure: export.insecure,
    };
    let account = chosen(&export.service_account);
    let plain = kubeconfig(admin, &service, &plain)?;
    let plain = access(plain, ca_pem, account.as_ref())?;
    let certificates = BTreeMap::from([("ca.crt".to_owned(), ca_pem.as_bytes().to_vec())]);
    let mut all = vec![
        own(names::kubeconfig_secret(name), plain, account),
        own(names::certs_secret(name), certificates, None),
    ];
    for secret in &export.additional_secrets {
        let account = chosen(&secret.service_account);
        let export = Export {
            context: &secret.context,
            server: &secret.server,
            insecure: secret.insecure,
        };
        all.push(Published {
            name: secret.name.clone(),
            namespace: secret.namespace_or(namespace).to_owned(),
            additional: true,
            data: access(
                kubeconfig(admin, &service, &export)?,
                ca_pem,
                account.as_ref(),
            )?,
            account,
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_config::model::AdditionalSecret;
    use serde_json::json;

    #[test]
    fn the_version_that_users_may_ask_for_is_the_one_that_is_served() {
        assert_eq!(
            coracle_config::KUBERNETES_VERSION,
            coracle_apiserver::openapi::KUBERNETES_VERSION
        );
    }

    #[test]
    fn published_kubeconfigs_are_as_chosen() {
        let admin = json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:8443",
                "certificate-authority-data": "Q0E="}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"client-certificate-data": "Q0E=", "client-key-data": "Q0E="}}],
            "current-context": "c",
        })
        .to_string();
        let export = ExportKubeConfig {
            context: "mine".into(),
            insecure: true,
            additional_secrets: vec![
                AdditionalSecret {
                    name: "more".into(),
                    server: "https://a.example".into(),
                    service_account: TokenAccount {
                        name: "robot".into(),
                        ..TokenAccount::default()
                    },
                    ..AdditionalSecret::default()
                },
                AdditionalSecret {
                    name: "far".into(),
                    namespace: "other".into(),
                    ..AdditionalSecret::default()
                },
            ],
            ..ExportKubeConfig::default()
        };
        let all = published(&admin, "CA", &export, "team", "demo").unwrap();
        let shown: Vec<String> = all
            .iter()
            .map(|p| format!("{}/{} {}", p.namespace, p.name, p.additional))
            .collect();
        assert_eq!(
            shown,
            [
                "demo/vc-team false",
                "demo/team-certs false",
                "demo/more true",
                "other/far true"
            ]
        );
        let config =
            |at: usize| -> Value { serde_json::from_slice(&all[at].data["config"]).unwrap() };
        assert_eq!(
            config(0)["clusters"][0]["cluster"],
            json!({"server": "https://team.demo.svc:443", "insecure-skip-tls-verify": true})
        );
        assert_eq!(config(0)["contexts"][0]["name"], "mine");
        assert_eq!(config(0)["current-context"], "mine");
        let more = config(2);
        assert_eq!(
            more["clusters"][0]["cluster"]["server"],
            "https://a.example"
        );
        assert_eq!(
            more["clusters"][0]["cluster"]["certificate-authority-data"],
            "Q0E="
        );
        assert_eq!(more["current-context"], "c");
        // The account's alone: nothing of the administrator's is handed on.
        assert_eq!(more["users"][0]["user"], json!({}));
        let keys: Vec<&String> = all[2].data.keys().collect();
        assert_eq!(keys, ["certificate-authority", "config"]);
        assert_eq!(all[2].account.as_ref().unwrap().namespace(), "kube-system");
        assert!(all[0].data.contains_key("client-key") && all[0].account.is_none());
        assert_eq!(all[1].data["ca.crt"], b"CA");
    }
}
