//! `coracle upgrade`.

use std::time::{Duration, Instant};

use clap::Args;
use coracle_config::{Config, names};
use coracle_machinery::quantity::Quantity;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use super::Environment;
use crate::error::{CliError, Result, from_kube};
use crate::host::Host;
use crate::manifests::{ServiceFacts, Tenant};
use crate::objects::FIELD_MANAGER;
use crate::tenants::{self, Found};
use crate::values::Values;
use crate::{grants, install, ready};

/// Change a virtual cluster in place, or bring it to this version
///
/// The values that it has stay, but for those given here; `coracle create` with
/// --upgrade starts from the defaults in their place. Its API is away for a
/// moment where its pod has to be made anew; workloads run on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  coracle upgrade team-a                      # to the version of this program
  coracle upgrade team-a --set sync.toHost.ingresses.enabled=true
  coracle upgrade team-a -n tenants -f more.yaml")]
pub struct Upgrade {
    /// The name of the virtual cluster
    name: String,
    /// The host namespace that carries it
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    values: Values,
    /// Change it even if its data is lost
    #[arg(long)]
    discard_data: bool,
    /// How long to wait until it is ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

impl Upgrade {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such virtual cluster, or the change is not possible.
    pub async fn run(self, environment: &Environment) -> Result {
        let host = environment.host().await?;
        let found = tenants::find(&host, &self.name, self.namespace.as_deref()).await?;
        let present = present_values(&host, &found).await?;
        let config = self.values.load(Some(present), &environment.output)?;
        Upgrading {
            found: &found,
            config: &config,
            discard_data: self.discard_data,
            timeout: Duration::from_secs(self.timeout),
        }
        .run(environment, &host)
        .await
    }
}

/// The values that a virtual cluster was last given, defaults included.
///
/// # Errors
/// If they cannot be read.
pub async fn present_values(host: &Host, found: &Found) -> Result<String> {
    let secrets: Api<Secret> = Api::namespaced(host.client.clone(), &found.namespace);
    let name = names::config_secret(&found.name);
    let secret = secrets
        .get(&name)
        .await
        .map_err(from_kube(&format!("read the values in the secret {name}")))?;
    let bytes = secret
        .data
        .and_then(|mut data| data.remove(names::CONFIG_KEY));
    bytes
        .and_then(|bytes| String::from_utf8(bytes.0).ok())
        .ok_or_else(|| {
            CliError::failure(format!("the secret {name} holds no values"))
                .hint("`coracle create --upgrade` with the values files writes them anew")
        })
}

/// A change of a virtual cluster that exists.
pub struct Upgrading<'a> {
    /// The virtual cluster.
    pub found: &'a Found,
    /// The values that it shall have.
    pub config: &'a Config,
    /// Whether its data may be lost.
    pub discard_data: bool,
    /// How long it may take until it is ready.
    pub timeout: Duration,
}

impl Upgrading<'_> {
    /// Makes the change and waits until the pod of the control plane has it.
    ///
    /// # Errors
    /// With nothing changed, if it would lose data or cannot be made.
    pub async fn run(&self, environment: &Environment, host: &Host) -> Result {
        let started = Instant::now();
        let found = self.found;
        let spec = found.set.spec.as_ref();
        let mut tenant = Tenant::new(&found.name, &found.namespace, self.config);
        tenant.persistent = found.keeps_data();
        tenant.replicas = spec.and_then(|s| s.replicas).unwrap_or(1);
        refuse_other_claim(&tenant, found)?;
        if !tenant.persistent && !self.discard_data && restarts(host, &tenant, found).await? {
            return Err(CliError::failure(format!(
                "virtual cluster {} keeps its data in its pod, which this change makes anew",
                found.name
            ))
            .hint(
                "`coracle upgrade` with `--discard-data` changes it all the same, and all that is \
                 inside is lost",
            ));
        }
        let mut progress = environment
            .output
            .progress(&format!("Upgrading virtual cluster {}", found.name));
        let earlier = grants::places(&found.set);
        install::install(host, &tenant, &earlier, true).await?;
        if tenant.replicas == 0 {
            drop(progress);
            environment.output.done(&format!(
                "Upgraded virtual cluster {}, which stays paused",
                found.name
            ));
            return Ok(());
        }
        let (name, namespace) = (&found.name, &found.namespace);
        let rolled_out = ready::wait_rolled_out(host, name, namespace);
        match tokio::time::timeout(self.timeout, rolled_out).await {
            Ok(result) => result?,
            // This tells why.
            Err(_) => {
                let soon = Duration::from_secs(1);
                ready::wait_ready(host, name, namespace, soon, &mut progress).await?;
            }
        }
        drop(progress);
        environment.output.done(&format!(
            "Upgraded virtual cluster {name} in namespace {namespace} in {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }
}

/// Fails if the values ask for another claim than the data lies in: a
/// StatefulSet keeps the one that it was made with.
fn refuse_other_claim(tenant: &Tenant<'_>, found: &Found) -> Result {
    let section = "controlPlane.statefulSet.persistence.volumeClaim";
    let fixed = |what: &str| {
        Err(CliError::failure(format!(
            "the claim of virtual cluster {} cannot get another {what}",
            tenant.name
        ))
        .hint(format!(
            "leave {section}.{what} as it was; `coracle describe {} -n {}` shows the values",
            tenant.name, tenant.namespace
        )))
    };
    let present = found
        .set
        .spec
        .as_ref()
        .and_then(|s| s.volume_claim_templates.as_ref()?.first());
    let Some(present) = present else {
        return Ok(());
    };
    let claim = &tenant
        .config
        .control_plane
        .stateful_set
        .persistence
        .volume_claim;
    if !claim.enabled {
        return fixed("enabled");
    }
    let present = serde_json::to_value(present).unwrap_or_default();
    let wanted = tenant.claim();
    let differs = |pointer: &str| {
        let (left, right) = (present.pointer(pointer), wanted.pointer(pointer));
        left.unwrap_or(&Value::Null) != right.unwrap_or(&Value::Null)
    };
    let size = "/spec/resources/requests/storage";
    let quantity = |value: &Value| {
        value
            .pointer(size)
            .and_then(|v| Quantity::from_value(v).ok())
    };
    if quantity(&present) != quantity(&wanted) {
        return fixed("size");
    }
    if differs("/spec/storageClassName") {
        return fixed("storageClass");
    }
    if differs("/spec/accessModes") {
        return fixed("accessModes");
    }
    Ok(())
}

/// True if the change gives the StatefulSet another pod. The host is asked, and
/// changes nothing.
async fn restarts(host: &Host, tenant: &Tenant<'_>, found: &Found) -> Result<bool> {
    let services: Api<k8s_openapi::api::core::v1::Service> =
        Api::namespaced(host.client.clone(), tenant.namespace);
    let service = services
        .get(&names::service(tenant.name))
        .await
        .map_err(from_kube("read the virtual cluster's Service"))?;
    let facts = ServiceFacts {
        uid: service.metadata.uid.unwrap_or_default(),
        cluster_ip: service.spec.and_then(|s| s.cluster_ip).unwrap_or_default(),
    };
    let sets: Api<StatefulSet> = Api::namespaced(host.client.clone(), tenant.namespace);
    let mut parameters = PatchParams::apply(FIELD_MANAGER).force();
    parameters.dry_run = true;
    let changed = sets
        .patch(
            &names::stateful_set(tenant.name),
            &parameters,
            &Patch::Apply(tenant.stateful_set(&facts)),
        )
        .await
        .map_err(from_kube("try the change of the StatefulSet"))?;
    let template = |set: &StatefulSet| set.spec.as_ref().map(|s| s.template.clone());
    Ok(template(&changed) != template(&found.set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::tests::{config, tenant};
    use serde_json::json;

    fn found(claim: Option<Value>) -> Found {
        let mut set = json!({
            "metadata": {"name": "team", "namespace": "demo", "labels": {"app": "coracle", "release": "team"}},
            "spec": {"selector": {}, "serviceName": "a", "template": {"metadata": {}, "spec": {"containers": []}}},
        });
        if let Some(spec) = claim {
            set["spec"]["volumeClaimTemplates"] =
                json!([{"metadata": {"name": "data"}, "spec": spec}]);
        }
        Found::new(serde_json::from_value(set).unwrap()).unwrap()
    }

    #[test]
    fn the_claim_stays_what_it_is() {
        let present = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5120Mi"}}});
        for (values, refused) in [
            ("", ""),
            ("size: 5Gi", ""),
            ("size: 6Gi", "size"),
            ("storageClass: fast", "storageClass"),
            ("accessModes: [ReadWriteMany]", "accessModes"),
            ("enabled: false", "enabled"),
            ("retentionPolicy: Delete", ""),
        ] {
            let yaml = format!(
                "controlPlane: {{statefulSet: {{persistence: {{volumeClaim: {{{values}}}}}}}}}"
            );
            let config = config(&yaml);
            let result = refuse_other_claim(&tenant(&config), &found(Some(present.clone())));
            match result {
                Ok(()) => assert_eq!(refused, "", "{values}"),
                Err(error) => {
                    assert!(
                        error.message.ends_with(&format!("another {refused}")),
                        "{error:?}"
                    );
                }
            }
            assert!(refuse_other_claim(&tenant(&config), &found(None)).is_ok());
        }
    }
}
