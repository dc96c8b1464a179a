//! ServiceAccount: every pod runs as some account, and holds its token.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_machinery::{ApiError, names, object};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::auth::core;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

/// Where the token and its companions are found in a container.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the name of the token's volume starts with.
const VOLUME_PREFIX: &str = "kube-api-access-";

/// Marks a pod that a node made from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How often the account `default` of a new namespace is looked for: a
/// controller makes it moments after the namespace.
const DEFAULT_ACCOUNT_ATTEMPTS: usize = 10;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(150);

pub(super) struct ServiceAccounts {
    objects: Arc<dyn Objects>,
    pause: Duration,
}

impl ServiceAccounts {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        let pause = ATTEMPT_PAUSE;
        Self { objects, pause }
    }

    async fn account(&self, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, ApiError> {
        let attempts = if name == "default" {
            DEFAULT_ACCOUNT_ATTEMPTS
        } else {
            1
        };
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(self.pause).await;
            }
            let found = self
                .objects
                .get(&core("serviceaccounts"), namespace, name)
                .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Admission for ServiceAccounts {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && is(resource, "", "pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        if object::annotation(pod, MIRROR).is_some() {
            return check_mirror(request);
        }
        let name = match object::text(pod, "/spec/serviceAccountName") {
            "" => match object::text(pod, "/spec/serviceAccount") {
                "" => "default",
                old_field => old_field,
            },
            name => name,
        }
        .to_owned();
        let spec = object::child_map(pod, "spec");
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
        let Some(account) = self.account(request.namespace, &name).await? else {
            let why = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            );
            return Err(forbidden(request, &why));
        };
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        if automounts(pod, &account) {
            mount_token(pod);
        }
        let secrets = object::items(&account, "/imagePullSecrets");
        if object::items(pod, "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
            pod["spec"]["imagePullSecrets"] = json!(secrets);
        }
        Ok(())
    }
}

/// A mirror pod speaks for a node: it may not reach for anything of the API.
fn check_mirror(request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(pod) = request.object.as_ref() else {
        return Ok(());
    };
    if !object::text(pod, "/spec/serviceAccountName").is_empty() {
        return Err(forbidden(
            request,
            "a mirror pod may not reference service accounts",
        ));
    }
    let text = pod.get("spec").map_or(String::new(), Value::to_string);
    if text.contains("\"secretKeyRef\"")
        || text.contains("\"secretRef\"")
        || text.contains("\"secretName\"")
    {
        return Err(forbidden(request, "a mirror pod may not reference secrets"));
    }
    let projected = object::items(pod, "/spec/volumes")
        .iter()
        .flat_map(|v| object::items(v, "/projected/sources"))
        .any(|source| source.get("serviceAccountToken").is_some());
    if projected {
        let why = "a mirror pod may not use ServiceAccountToken volume projections";
        return Err(forbidden(request, why));
    }
    Ok(())
}

/// The pod decides, then its account, then the answer is yes.
fn automounts(pod: &Value, account: &Value) -> bool {
    let flag = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_bool);
    flag(pod, "/spec/automountServiceAccountToken")
        .or_else(|| flag(account, "/automountServiceAccountToken"))
        .unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let volumes = object::items(pod, "/spec/volumes");
    let existing = volumes
        .iter()
        .map(|v| object::text(v, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| {
        let taken = |name: &str| volumes.iter().any(|v| object::text(v, "/name") == name);
        loop {
            let name = names::generate_name(VOLUME_PREFIX, &mut rand::rng());
            if !taken(&name) {
                return name;
            }
        }
    });
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = pod
            .pointer_mut(&format!("/spec/{list}"))
            .and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let mounted = object::items(container, "/volumeMounts")
                .iter()
                .any(|m| object::text(m, "/mountPath") == MOUNT_PATH);
            if mounted || !container.is_object() {
                continue;
            }
            needed = true;
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            push(container, "volumeMounts", mount);
        }
    }
    if needed && existing.is_none() {
        push(&mut pod["spec"], "volumes", token_volume(&volume));
    }
}

/// Appends to a list that may be absent or null.
fn push(parent: &mut Value, list: &str, item: Value) {
    let slot = &mut parent[list];
    match slot {
        Value::Array(items) => items.push(item),
        _ => *slot = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                // A lifetime by which TokenRequest knows that nobody chose it.
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})
    }

    fn setup() -> ServiceAccounts {
        let objects = FakeObjects::new();
        let account = |name: &str, more: Value| {
            let mut account = more;
            account["metadata"] = json!({"name": name, "namespace": "n"});
            objects.put(&core("serviceaccounts"), account);
        };
        account("default", json!({"imagePullSecrets": [{"name": "reg"}]}));
        account("quiet", json!({"automountServiceAccountToken": false}));
        ServiceAccounts::new(objects)
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_its_token_and_secrets() {
        let rule = setup();
        let spec = json!({
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": null}],
        });
        let got = Try::create(&rule, "pods").pass(pod(spec)).await.unwrap();
        let spec = &got["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["serviceAccount"], "default");
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "reg"}]));
        let volume = spec["volumes"][0]["name"].as_str().unwrap();
        assert_eq!(volume.len(), VOLUME_PREFIX.len() + 5);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(
            spec["volumes"][0]["projected"]["sources"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
        for container in spec["containers"].as_array().unwrap() {
            assert_eq!(
                container["volumeMounts"],
                json!([{"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}])
            );
        }
        assert_eq!(
            spec["initContainers"][0]["volumeMounts"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        // Once more over the result, nothing is added.
        let again = Try::create(&rule, "pods").pass(got.clone()).await.unwrap();
        assert_eq!(again, got);
    }

    #[tokio::test]
    async fn the_token_can_be_declined() {
        let rule = setup();
        let containers = json!([{"name": "a"}]);
        for (spec, mounted) in [
            (
                json!({"serviceAccountName": "quiet", "containers": containers}),
                false,
            ),
            (
                json!({"automountServiceAccountToken": false, "containers": containers}),
                false,
            ),
            (
                json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true,
                    "containers": containers}),
                true,
            ),
        ] {
            let got = Try::create(&rule, "pods")
                .pass(pod(spec.clone()))
                .await
                .unwrap();
            assert_eq!(got["spec"].get("volumes").is_some(), mounted, "{spec}");
        }
    }

    #[tokio::test]
    async fn an_absent_account_is_an_error() {
        let mut rule = ServiceAccounts::new(FakeObjects::new());
        rule.pause = Duration::ZERO;
        let error = Try::create(&rule, "pods")
            .pass(pod(json!({})))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "pods \"p\" is forbidden: error looking up service account n/default: serviceaccount \"default\" not found"
        );
    }
}
