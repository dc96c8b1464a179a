//! ResourceQuota: what the objects of a namespace may use together.
//!
//! The truth is the list of objects, read when a write is judged; what was
//! granted to a write that is not in the list yet is remembered until it is.

mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, Quantity, object};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::usage::{Usage, add, in_scope, resources, usage};
use super::{forbidden, is};
use crate::auth::named;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

const QUOTAS: GroupResource = named("", "resourcequotas");

/// How long a grant is remembered: longer than any write takes.
const GRANT: Duration = Duration::from_secs(30);

/// Grants remembered in one namespace; more writes at once have to wait.
const MAX_GRANTS: usize = 256;

/// When to count after the notice of a write, which comes before the write.
const SOON: Duration = Duration::from_millis(200);

/// When to count once more: by then every write has ended.
const LATER: Duration = Duration::from_secs(5);

/// The quotas of a server: the admission rule, and the keeper of
/// `status.used`.
pub struct Quotas {
    objects: Arc<dyn Objects>,
    grants: Mutex<Vec<Grant>>,
    /// Namespaces whose usage may have changed.
    dirty: std::sync::Mutex<BTreeSet<String>>,
    written: Notify,
}

/// Usage of a write that the lists may not show yet.
struct Grant {
    resource: GroupResource,
    namespace: String,
    name: String,
    object: Value,
    until: Instant,
}

impl Quotas {
    /// The quotas that these objects hold.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            grants: Mutex::default(),
            dirty: std::sync::Mutex::default(),
            written: Notify::new(),
        }
    }

    /// Keeps `status` of all quotas up to date until cancelled. Sleeps while
    /// nothing is written in namespaces with quotas.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        if let Ok(all) = self.objects.list(&QUOTAS, "").await {
            all.iter()
                .for_each(|quota| self.touch(object::namespace(quota)));
        }
        let mut again: BTreeSet<String> = BTreeSet::new();
        let mut again_at = Instant::now();
        loop {
            let now = tokio::select! {
                () = cancel.cancelled() => return,
                () = self.written.notified() => {
                    tokio::time::sleep(SOON).await;
                    std::mem::take(&mut *crate::sync::lock(&self.dirty))
                }
                () = tokio::time::sleep_until(again_at), if !again.is_empty() => {
                    let all = std::mem::take(&mut again);
                    self.count_all(&all).await;
                    continue;
                }
            };
            self.count_all(&now).await;
            if again.is_empty() {
                again_at = Instant::now() + LATER;
            }
            again.extend(now);
        }
    }

    async fn count_all(&self, namespaces: &BTreeSet<String>) {
        for namespace in namespaces {
            if let Err(error) = self.count(namespace).await {
                // The second look, or the next write, makes good for it.
                tracing::debug!(%namespace, %error, "usage was not written");
            }
        }
    }

    fn touch(&self, namespace: &str) {
        crate::sync::lock(&self.dirty).insert(namespace.to_owned());
        self.written.notify_one();
    }

    /// Writes what a namespace uses into its quotas.
    async fn count(&self, namespace: &str) -> Result<(), ApiError> {
        for quota in self.objects.list(&QUOTAS, namespace).await? {
            let hard = quota
                .pointer("/spec/hard")
                .cloned()
                .unwrap_or_else(|| json!({}));
            let used = self.used(&quota, namespace, &[]).await?;
            let used: BTreeMap<&String, String> = used
                .iter()
                .map(|(key, amount)| (key, amount.to_string()))
                .collect();
            let status = json!({"hard": hard, "used": used});
            if quota.get("status") != Some(&status) {
                let mut updated = (*quota).clone();
                updated["status"] = status;
                self.objects.update(&QUOTAS, updated).await?;
            }
        }
        Ok(())
    }

    /// What counts against a quota: the stored objects, and grants that are
    /// not stored yet.
    async fn used(
        &self,
        quota: &Value,
        namespace: &str,
        grants: &[Grant],
    ) -> Result<Usage, ApiError> {
        let hard = hard(quota);
        let mut used: Usage = hard
            .keys()
            .map(|key| (key.clone(), Quantity::default()))
            .collect();
        for resource in resources(&hard) {
            let stored = match self.objects.list(&resource, namespace).await {
                Ok(stored) => stored,
                // A quota may count what the server does not serve.
                Err(error) if error.code() == 404 => continue,
                Err(error) => return Err(error),
            };
            for object in &stored {
                add(&mut used, &usage(&resource, object, quota));
            }
            for grant in grants
                .iter()
                .filter(|g| g.resource == resource && g.namespace == namespace)
            {
                if !stored.iter().any(|o| object::name(o) == grant.name) {
                    add(&mut used, &usage(&resource, &grant.object, quota));
                }
            }
        }
        Ok(used)
    }

    /// Judges one write against all quotas of its namespace.
    async fn judge(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        let resource = &request.resource.group_resource;
        let namespace = request.namespace;
        let quotas = self.objects.list(&QUOTAS, namespace).await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let mut grants = self.grants.lock().await;
        let now = Instant::now();
        grants.retain(|g| g.until > now);
        let mut counted = false;
        for quota in &quotas {
            let hard = hard(quota);
            let mut wanted = usage(resource, object, quota);
            wanted.retain(|key, _| hard.contains_key(key));
            missing_requirements(request, quota, object, &hard)?;
            if let Some(old) = request.old {
                let before = usage(resource, old, quota);
                wanted.retain(|key, amount| before.get(key).is_none_or(|b| &*amount > b));
                for (key, amount) in &mut wanted {
                    if let Some(before) = before.get(key) {
                        *amount -= *before;
                    }
                }
            }
            wanted.retain(|_, amount| !amount.is_zero());
            if wanted.is_empty() {
                continue;
            }
            counted = true;
            let used = self.used(quota, namespace, &grants).await?;
            let over: Vec<&String> = wanted
                .iter()
                .filter(|(key, amount)| used[*key] + **amount > hard[*key])
                .map(|(key, _)| key)
                .collect();
            if !over.is_empty() {
                let list = |from: &Usage| {
                    let each = over.iter().map(|key| format!("{key}={}", from[*key]));
                    each.collect::<Vec<_>>().join(",")
                };
                let why = format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    object::name(quota),
                    list(&wanted),
                    list(&used),
                    list(&hard)
                );
                return Err(forbidden(request, &why));
            }
        }
        if counted && request.operation == Operation::Create && !request.dry_run {
            if grants.iter().filter(|g| g.namespace == namespace).count() >= MAX_GRANTS {
                let why = "too many objects of this namespace are being created at once";
                return Err(ApiError::too_many_requests(why, 1));
            }
            grants.retain(|g| {
                !(g.resource == *resource && g.namespace == namespace && g.name == request.name)
            });
            grants.push(Grant {
                resource: resource.clone(),
                namespace: namespace.to_owned(),
                name: object::name(object).to_owned(),
                object: object.clone(),
                until: now + GRANT,
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for Quotas {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        let written = matches!(
            operation,
            Operation::Create | Operation::Update | Operation::Delete
        );
        // A pod that has ended, which its status tells, counts no more.
        let status = subresource == "status" && is(resource, "", "pods");
        written && resource.namespaced() && (subresource.is_empty() || status)
    }

    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        if self
            .objects
            .list(&QUOTAS, request.namespace)
            .await?
            .is_empty()
            && !is(request.resource, "", "resourcequotas")
        {
            return Ok(());
        }
        if !request.dry_run {
            self.touch(request.namespace);
        }
        match request.object.as_ref() {
            Some(object) if request.subresource.is_empty() => self.judge(request, object).await,
            _ => Ok(()),
        }
    }
}

fn hard(quota: &Value) -> Usage {
    let entries = quota.pointer("/spec/hard").and_then(Value::as_object);
    entries
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), Quantity::from_value(value).ok()?)))
        .collect()
}

/// Under a quota of compute resources, every container has to say what it
/// needs: else nothing could be counted.
fn missing_requirements(
    request: &AdmissionRequest<'_>,
    quota: &Value,
    pod: &Value,
    hard: &Usage,
) -> Result<(), ApiError> {
    if !is(request.resource, "", "pods")
        || request.operation != Operation::Create
        || !in_scope(pod, quota)
    {
        return Ok(());
    }
    let lists = ["/spec/containers", "/spec/initContainers"];
    let lacking: Vec<String> = hard
        .keys()
        .filter_map(|key| {
            let (part, name) = match key.split_once('.') {
                Some((part @ ("requests" | "limits"), name)) => (part, name),
                _ => ("requests", key.as_str()),
            };
            if !["cpu", "memory"].contains(&name) {
                return None;
            }
            let path = format!("/resources/{part}/{name}");
            let containers: Vec<String> = lists
                .iter()
                .flat_map(|list| object::items(pod, list))
                .filter(|c| c.pointer(&path).is_none_or(Value::is_null))
                .map(|c| object::text(c, "/name").to_owned())
                .collect();
            (!containers.is_empty()).then(|| format!("{key} for: {}", containers.join(",")))
        })
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let why = format!(
        "failed quota: {}: must specify {}",
        object::name(quota),
        lacking.join("; ")
    );
    Err(forbidden(request, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::core;
    use crate::auth::fake::FakeObjects;

    fn setup(hard: Value) -> (Arc<FakeObjects>, Arc<Quotas>) {
        let objects = FakeObjects::new();
        objects.put(
            &QUOTAS,
            json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}}),
        );
        let quotas = Arc::new(Quotas::new(objects.clone()));
        (objects, quotas)
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test]
    async fn what_exceeds_a_quota_is_refused() {
        let (objects, quotas) = setup(json!({"pods": "3", "requests.cpu": "1"}));
        objects.put(&core("pods"), pod("old", "500m"));
        let mut done = pod("done", "5");
        done["status"] = json!({"phase": "Succeeded"});
        objects.put(&core("pods"), done);
        let create = Try::create(&*quotas, "pods");
        assert!(create.pass(pod("a", "300m")).await.is_ok());
        // The grant of `a` counts before `a` is stored.
        let error = create.pass(pod("b", "300m")).await.unwrap_err();
        assert_eq!(
            error.message,
            "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1"
        );
        objects.put(&core("pods"), pod("a", "300m"));
        assert!(create.pass(pod("c", "200m")).await.is_ok());
        let error = create.pass(pod("d", "0")).await.unwrap_err();
        assert!(
            error
                .message
                .contains("requested: pods=1, used: pods=3, limited: pods=3"),
            "{}",
            error.message
        );
        let mut silent = pod("e", "0");
        silent["spec"]["containers"][0]["resources"] = json!({});
        let error = create.pass(silent).await.unwrap_err();
        assert!(
            error
                .message
                .ends_with("failed quota: q: must specify requests.cpu for: c"),
            "{}",
            error.message
        );
    }

    #[tokio::test]
    async fn services_claims_and_counts_are_counted() {
        let hard = json!({"services.nodeports": "1", "requests.storage": "1Gi",
            "count/deployments.apps": "1"});
        let (objects, quotas) = setup(hard);
        let meta = json!({"name": "x", "namespace": "n"});
        let deployment = json!({"metadata": {"name": "held", "namespace": "n"}});
        objects.put(&named("apps", "deployments"), deployment);
        let service = json!({"metadata": meta, "spec": {"type": "NodePort", "ports": [{}, {}]}});
        let claim =
            json!({"metadata": meta, "spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        for (resource, object) in [
            ("services", service),
            ("persistentvolumeclaims", claim),
            ("apps/deployments", json!({"metadata": meta})),
        ] {
            let create = Try::create(&*quotas, resource);
            assert!(create.pass(object).await.is_err(), "{resource}");
        }
        let create = Try::create(&*quotas, "configmaps");
        assert!(create.pass(json!({"metadata": meta})).await.is_ok());
    }

    #[tokio::test]
    async fn growth_counts_on_update() {
        let (objects, quotas) = setup(json!({"requests.storage": "3Gi"}));
        let claim = |size: &str| {
            json!({"metadata": {"name": "c", "namespace": "n"},
            "spec": {"resources": {"requests": {"storage": size}}}})
        };
        let old = claim("2Gi");
        objects.put(&core("persistentvolumeclaims"), old.clone());
        let update = Try {
            operation: Operation::Update,
            ..Try::create(&*quotas, "persistentvolumeclaims")
        };
        assert!(update.run(Some(claim("3Gi")), Some(&old)).await.is_ok());
        assert!(update.run(Some(claim("4Gi")), Some(&old)).await.is_err());
        assert!(update.run(Some(claim("1Gi")), Some(&old)).await.is_ok());
    }

    #[tokio::test]
    async fn scopes_choose_pods() {
        let (objects, quotas) = setup(json!({"pods": "0"}));
        objects.put(
            &QUOTAS,
            json!({"metadata": {"name": "q", "namespace": "n"},
            "spec": {"hard": {"pods": "0"}, "scopes": ["BestEffort"]}}),
        );
        let create = Try::create(&*quotas, "pods");
        assert!(create.pass(pod("a", "1")).await.is_ok());
        assert!(create.pass(pod("b", "0")).await.is_err());
    }

    #[tokio::test]
    async fn usage_is_kept() {
        let (objects, quotas) = setup(json!({"pods": "3"}));
        let cancel = CancellationToken::new();
        let task = tokio::spawn(quotas.clone().run(cancel.clone()));
        let create = Try::create(&*quotas, "pods");
        for name in ["a", "b"] {
            let got = create.pass(pod(name, "1")).await.unwrap();
            objects.put(&core("pods"), got);
        }
        let kept = async {
            loop {
                let quota = objects.get(&QUOTAS, "n", "q").await.unwrap().unwrap();
                if quota["status"]["used"]["pods"] == "2" {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(2), kept)
            .await
            .unwrap();
        cancel.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn usage_is_written() {
        let (objects, quotas) = setup(json!({"pods": "3", "requests.cpu": "1"}));
        objects.put(&core("pods"), pod("a", "300m"));
        quotas.count("n").await.unwrap();
        let quota = objects.get(&QUOTAS, "n", "q").await.unwrap().unwrap();
        assert_eq!(
            quota["status"],
            json!({"hard": {"pods": "3", "requests.cpu": "1"},
            "used": {"pods": "1", "requests.cpu": "300m"}})
        );
        let settled = objects.generation(&QUOTAS);
        quotas.count("n").await.unwrap();
        assert_eq!(objects.generation(&QUOTAS), settled);
    }
}
