//! `coracle create`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use coracle_config::model::Config;
use coracle_config::{PolicyRule, names};
use coracle_machinery::names::dns1123_label_errors;
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::{Environment, connect, removal};
use crate::error::{CliError, Result, from_kube};
use crate::grants;
use crate::host::Host;
use crate::manifests::{ServiceFacts, Tenant};
use crate::objects::{apply, is_absent, is_forbidden, remove_own};
use crate::output::data;
use crate::tenants::CREATED_NAMESPACE;

/// Create a virtual cluster
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle create team-a
  coracle create team-a -n tenants --connect=false
  coracle create team-a -f values.yaml --set sync.toHost.ingresses.enabled=true")]
pub struct Create {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it [default: coracle-NAME]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Make the namespace if it is not there
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    create_namespace: bool,
    /// Switch the kubeconfig to the virtual cluster once it is ready
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    connect: bool,
    /// A file of values; may be given several times, later ones win
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// A single value, as in sync.toHost.ingresses.enabled=true
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Change the virtual cluster if it exists
    #[arg(long)]
    upgrade: bool,
    /// Print the manifests and change nothing
    #[arg(long)]
    print: bool,
    /// How long to wait until it is ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

impl Create {
    /// Runs the command.
    ///
    /// # Errors
    /// With nothing half-made left if the values or names are wrong.
    pub async fn run(self, environment: &Environment) -> Result {
        let started = Instant::now();
        names::validate_name(&self.name).map_err(|error| {
            CliError::usage(format!(
                "{:?} cannot be the name of a virtual cluster",
                self.name
            ))
            .because(error)
            .hint("names are like team-a: at most 52 lower-case letters, digits and '-'")
        })?;
        let config = self.load_config(environment)?;
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| format!("{}-{}", crate::product::name(), self.name));
        if let Some(why) = dns1123_label_errors(&namespace).into_iter().next() {
            return Err(CliError::usage(format!(
                "{namespace:?} cannot be the name of a namespace"
            ))
            .because(why)
            .hint("choose another namespace with -n"));
        }
        if self.print {
            print_manifests(&self.name, &namespace, &config);
            return Ok(());
        }
        let host = environment.host().await?;
        let mut progress = environment
            .output
            .progress(&format!("Creating virtual cluster {}", self.name));
        let made_namespace = self.ensure_namespace(&host, &namespace).await?;
        let earlier = self.refuse_taken(&host, &namespace).await?;

        let mut tenant = Tenant {
            name: &self.name,
            namespace: &namespace,
            config: &config,
            image: image(&config),
            persistent: false,
        };
        tenant.persistent = wants_claim(&host, &config).await;
        if let Err(error) = install(&host, &tenant, &earlier, self.upgrade).await {
            if !self.upgrade {
                undo(&host, &tenant, made_namespace).await;
            }
            return Err(error);
        }
        progress.set(&format!(
            "Waiting for virtual cluster {} to be ready",
            self.name
        ));
        wait_ready(
            &host,
            &self.name,
            &namespace,
            Duration::from_secs(self.timeout),
            &mut progress,
        )
        .await?;
        drop(progress);
        environment.output.done(&format!(
            "Created virtual cluster {} in namespace {namespace} in {:.1} s",
            self.name,
            started.elapsed().as_secs_f64()
        ));
        let claim = &config.control_plane.stateful_set.persistence.volume_claim;
        if claim.enabled && !tenant.persistent {
            environment.output.hint(
                "the host has no default storage class, so the data of this virtual cluster \
                 lives in its pod and is lost with it; \
                 controlPlane.statefulSet.persistence.volumeClaim.storageClass chooses a class",
            );
        }
        if self.connect {
            connect::switch(environment, &host, &self.name, &namespace).await
        } else {
            environment.output.hint(&format!(
                "`coracle connect {} -n {namespace}` accesses the virtual cluster",
                self.name
            ));
            Ok(())
        }
    }

    fn load_config(&self, environment: &Environment) -> Result<Config> {
        let mut texts = Vec::new();
        for path in &self.values {
            let text = std::fs::read_to_string(path).map_err(|error| {
                CliError::usage(format!("cannot read the values file {}", path.display()))
                    .because(error)
                    .hint("-f names a YAML file; --set key=value needs none")
            })?;
            texts.push((path.display().to_string(), text));
        }
        let sources: Vec<(&str, &str)> = texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        let (config, hints) = Config::load(&sources, &self.set).map_err(|error| {
            let mut out = CliError::usage("the values cannot be used");
            out.causes = error.problems.iter().map(ToString::to_string).collect();
            out.hint("`coracle create NAME --print` shows the values that hold without yours")
        })?;
        for hint in hints {
            environment.output.hint(&hint.to_string());
        }
        Ok(config)
    }

    /// True if the namespace was made here.
    async fn ensure_namespace(&self, host: &Host, namespace: &str) -> Result<bool> {
        let api: Api<Namespace> = Api::all(host.client.clone());
        match api.get(namespace).await {
            Ok(_) => return Ok(false),
            // Who owns only a namespace may not read it as an object: go on.
            Err(error) if is_forbidden(&error) => return Ok(false),
            Err(error) if !is_absent(&error) => {
                return Err(from_kube(&format!("read the namespace {namespace}"))(error));
            }
            Err(_) => {}
        }
        if !self.create_namespace {
            return Err(
                CliError::failure(format!("there is no namespace {namespace:?}"))
                    .hint("leave out --create-namespace=false, or choose another with -n"),
            );
        }
        let labels = [(CREATED_NAMESPACE.to_owned(), "create".to_owned())].into();
        let metadata = ObjectMeta {
            name: Some(namespace.to_owned()),
            labels: Some(labels),
            ..Default::default()
        };
        let object = Namespace {
            metadata,
            ..Namespace::default()
        };
        api.create(&PostParams::default(), &object)
            .await
            .map_err(from_kube(&format!("create the namespace {namespace}")))?;
        Ok(true)
    }

    /// Gives the places that an existing virtual cluster has rights in.
    async fn refuse_taken(&self, host: &Host, namespace: &str) -> Result<Vec<String>> {
        let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), namespace);
        let failed = |error| from_kube("look for an existing virtual cluster")(error);
        let set = sets
            .get_opt(&names::stateful_set(&self.name))
            .await
            .map_err(failed)?;
        let services: Api<Service> = Api::namespaced(host.client.clone(), namespace);
        let service = services
            .get_opt(&names::service(&self.name))
            .await
            .map_err(failed)?;
        let ours = |labels: &std::collections::BTreeMap<String, String>| {
            coracle_config::marks::control_plane_labels(&self.name)
                .iter()
                .all(|(key, value)| labels.get(*key) == Some(value))
        };
        let foreign = set.as_ref().is_some_and(|s| !ours(s.labels()))
            || service.as_ref().is_some_and(|s| !ours(s.labels()));
        if foreign {
            return Err(CliError::failure(format!(
                "the name {:?} is taken: namespace {namespace} has a StatefulSet or Service of that \
                 name that is no virtual cluster",
                self.name
            ))
            .hint("choose another name, or another namespace with -n"));
        }
        if set.is_some() && !self.upgrade {
            return Err(CliError::failure(format!(
                "the virtual cluster {:?} exists already in namespace {namespace}",
                self.name
            ))
            .hint(format!(
                "`coracle connect {0} -n {namespace}` uses it, `coracle create {0} -n {namespace} \
                 --upgrade` changes it",
                self.name
            )));
        }
        Ok(set.as_ref().map(grants::places).unwrap_or_default())
    }
}

fn image(config: &Config) -> String {
    let image = &config.control_plane.stateful_set.image;
    if image.repository.is_empty() {
        return coracle_server::host::CORACLE_IMAGE.to_owned();
    }
    let registry = if image.registry.is_empty() {
        String::new()
    } else {
        format!("{}/", image.registry)
    };
    let tag = if image.tag.is_empty() {
        env!("CARGO_PKG_VERSION")
    } else {
        &image.tag
    };
    format!("{registry}{}:{tag}", image.repository)
}

/// A claim is made if it is wanted and the host can fill it: an explicit class,
/// or a default one. For who may not read classes it is made as well: a claim
/// that waits is seen, and data that is lost with its pod cannot be had back.
async fn wants_claim(host: &Host, config: &Config) -> bool {
    let claim = &config.control_plane.stateful_set.persistence.volume_claim;
    if !claim.enabled || !claim.storage_class.is_empty() {
        return claim.enabled;
    }
    let classes: Api<StorageClass> = Api::all(host.client.clone());
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    match classes.list(&ListParams::default()).await {
        Ok(list) => list.iter().any(|class| {
            class
                .annotations()
                .get(DEFAULT)
                .is_some_and(|v| v == "true")
        }),
        Err(_) => true,
    }
}

fn print_manifests(name: &str, namespace: &str, config: &Config) {
    let tenant = Tenant {
        name,
        namespace,
        config,
        image: image(config),
        persistent: true,
    };
    let facts = ServiceFacts {
        uid: String::new(),
        cluster_ip: "None".into(),
    };
    let mut all = vec![tenant.service()];
    all.extend(tenant.dependents(&facts, &coracle_config::host_rules(config)));
    all.extend(tenant.grant_objects());
    for object in all {
        data("---\n");
        data(&serde_saphyr::to_string(&object).expect("a JSON value always serialises"));
    }
}

/// `earlier` are the places that it had rights in until now.
async fn install(host: &Host, tenant: &Tenant<'_>, earlier: &[String], upgrade: bool) -> Result {
    grants::refuse_foreign(host, tenant).await?;
    let service = apply(&host.client, &tenant.service())
        .await
        .map_err(from_kube("create the virtual cluster's Service"))?;
    let cluster_ip = service
        .data
        .pointer("/spec/clusterIP")
        .and_then(Value::as_str);
    let facts = ServiceFacts {
        uid: service.uid().unwrap_or_default(),
        cluster_ip: cluster_ip.unwrap_or_default().to_owned(),
    };
    let rules = coracle_config::host_rules(tenant.config);
    for object in tenant.dependents(&facts, &rules) {
        let doing = format!(
            "create the virtual cluster's {} {}",
            object["kind"].as_str().unwrap_or_default(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
        let result = match apply(&host.client, &object).await {
            // A namespace's admin may not grant more than it holds.
            Err(error) if is_forbidden(&error) && object["kind"] == "Role" => {
                apply_lesser_role(host, tenant, &facts, &rules).await
            }
            result => result.map(drop),
        };
        if let Err(error) = result {
            let limits = is_forbidden(&error) && is_limit(&object);
            let error = from_kube(&doing)(error);
            return Err(if limits {
                error.hint(LIMITS_HINT)
            } else {
                error
            });
        }
    }
    if upgrade {
        remove_policies(host, tenant, &facts).await?;
        let chosen = &tenant.config.sync.to_host;
        removal::remove_optional(host, tenant.namespace, tenant.name, chosen).await?;
    }
    // Last: from here on the StatefulSet remembers where they are.
    grants::renew(host, tenant, earlier).await
}

const LIMITS_HINT: &str = "a ResourceQuota or LimitRange bounds the namespace's own admin too, so it takes \
     an administrator of the host to set one: ask for it, or leave policies out";

fn is_limit(object: &Value) -> bool {
    object["kind"] == "ResourceQuota" || object["kind"] == "LimitRange"
}

/// Removes policies of an earlier configuration.
async fn remove_policies(host: &Host, tenant: &Tenant<'_>, facts: &ServiceFacts) -> Result {
    let key = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
    let wanted: Vec<_> = tenant.policies(facts).iter().map(key).collect();
    for object in tenant.possible_policies() {
        if !wanted.contains(&key(&object)) {
            remove_own(&host.client, &object)
                .await
                .map_err(from_kube("remove an earlier policy"))?;
        }
    }
    Ok(())
}

/// Applies the Role without the rights that Kubernetes' own admin role lacks.
async fn apply_lesser_role(
    host: &Host,
    tenant: &Tenant<'_>,
    facts: &ServiceFacts,
    rules: &[PolicyRule],
) -> kube::Result<()> {
    let lesser = coracle_config::rules::within_admin(rules);
    let role = tenant
        .dependents(facts, &lesser)
        .into_iter()
        .find(|o| o["kind"] == "Role");
    match role {
        Some(role) => apply(&host.client, &role).await.map(drop),
        None => Ok(()),
    }
}

/// Takes back what a failed create made: the Service owns all the rest.
async fn undo(host: &Host, tenant: &Tenant<'_>, made_namespace: bool) {
    for grant in tenant.grants() {
        let place = grant.namespace.as_deref().unwrap_or(grants::CLUSTER);
        let _ = grants::remove(host, tenant.namespace, tenant.name, place).await;
    }
    let services: Api<Service> = Api::namespaced(host.client.clone(), tenant.namespace);
    let _ = services
        .delete(&names::service(tenant.name), &DeleteParams::background())
        .await;
    if made_namespace {
        let namespaces: Api<Namespace> = Api::all(host.client.clone());
        let _ = namespaces
            .delete(tenant.namespace, &DeleteParams::default())
            .await;
    }
}

/// Waits until both containers are ready.
///
/// # Errors
/// After `timeout`, with what was seen last.
pub async fn wait_ready(
    host: &Host,
    name: &str,
    namespace: &str,
    timeout: Duration,
    progress: &mut crate::output::Progress,
) -> Result {
    let pods: Api<Pod> = Api::namespaced(host.client.clone(), namespace);
    let pod_name = names::pod(name);
    let mut last = String::from("its pod does not exist yet");
    let waiting = async {
        let mut pod = std::pin::pin!(watcher::watch_object(pods, &pod_name));
        while let Some(seen) = pod.try_next().await? {
            let Some(pod) = seen else { continue };
            if is_ready(&pod) {
                return Ok(());
            }
            if let Some(trouble) = trouble(&pod) {
                progress.set(&format!("Waiting for {pod_name}: {trouble}"));
                last = trouble;
            }
        }
        Ok::<(), watcher::Error>(())
    };
    match tokio::time::timeout(timeout, waiting).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            Err(CliError::failure(format!("cannot watch the pod {pod_name}")).because(error))
        }
        Err(_) => Err(CliError::failure(format!(
            "the virtual cluster {name} was not ready after {} s",
            timeout.as_secs()
        ))
        .because(last)
        .hint(format!(
            "`kubectl describe pod {pod_name} -n {namespace}` shows why"
        ))
        .hint(format!("`coracle delete {name} -n {namespace}` removes it"))),
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What keeps a pod from being ready, in a few words.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            let message = waiting
                .message
                .as_deref()
                .map_or(String::new(), |m| format!(": {m}"));
            Some(format!("{} is {reason}{message}", container.name))
        });
    waiting.or_else(|| {
        let scheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "PodScheduled")?;
        (scheduled.status == "False")
            .then(|| scheduled.message.clone())
            .flatten()
    })
}
