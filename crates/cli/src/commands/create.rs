//! `coracle create`.

use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use coracle_config::model::Config;
use coracle_config::names;
use coracle_machinery::names::dns1123_label_errors;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};

use super::upgrade::Upgrading;
use super::{Environment, connect};
use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::manifests::{ServiceFacts, Tenant};
use crate::objects::{is_absent, is_forbidden};
use crate::output::data;
use crate::tenants::{CREATED_NAMESPACE, Found};
use crate::values::Values;
use crate::{install, ready};

/// Create a virtual cluster
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle create team-a
  coracle create team-a -n tenants --connect=false
  coracle create team-a -f values.yaml -f more.yaml --set sync.toHost.ingresses.enabled=true
  coracle create team-a --kubernetes-version 1.36
  coracle create team-a -f values.yaml --upgrade")]
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
    #[command(flatten)]
    values: Values,
    /// Change the virtual cluster if it exists: to these values alone
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
        let config = self.values.load(None, &environment.output)?;
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
        if let Some(found) = self.refuse_taken(&host, &namespace).await? {
            drop(progress);
            let upgrade = Upgrading {
                found: &found,
                config: &config,
                discard_data: false,
                timeout: Duration::from_secs(self.timeout),
            };
            upgrade.run(environment, &host).await?;
            return self.finish(environment, &host, &namespace).await;
        }

        let mut tenant = Tenant::new(&self.name, &namespace, &config);
        tenant.persistent = install::wants_claim(&host, &config).await;
        if let Err(error) = install::install(&host, &tenant, &[], false).await {
            install::undo(&host, &tenant, made_namespace).await;
            return Err(error);
        }
        progress.set(&format!(
            "Waiting for virtual cluster {} to be ready",
            self.name
        ));
        ready::wait_ready(
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
        self.finish(environment, &host, &namespace).await
    }

    async fn finish(&self, environment: &Environment, host: &Host, namespace: &str) -> Result {
        if self.connect {
            return connect::switch(environment, host, &self.name, namespace).await;
        }
        environment.output.hint(&format!(
            "`coracle connect {} -n {namespace}` accesses the virtual cluster",
            self.name
        ));
        Ok(())
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

    /// Gives the virtual cluster that exists already, if it may be changed.
    async fn refuse_taken(&self, host: &Host, namespace: &str) -> Result<Option<Found>> {
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
                "`coracle connect {0} -n {namespace}` uses it, `coracle upgrade {0} -n {namespace}` \
                 or --upgrade changes it",
                self.name
            )));
        }
        Ok(set.and_then(Found::new))
    }
}

fn print_manifests(name: &str, namespace: &str, config: &Config) {
    let mut tenant = Tenant::new(name, namespace, config);
    tenant.persistent = true;
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
