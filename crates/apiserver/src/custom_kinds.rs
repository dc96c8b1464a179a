//! Keeps the registry in step with the stored CustomResourceDefinitions and
//! writes into their status what became of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_machinery::{ApiError, GroupResource, object, time};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::callout::Callouts;
use crate::convert::converter_of;
use crate::kinds;
use crate::server::ApiServer;

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Holds a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Pause before another try after a failure, and between looks at definitions
/// whose objects take their time to go.
const RETRY: Duration = Duration::from_secs(2);

/// The task that serves custom kinds.
pub struct CustomKinds {
    server: ApiServer,
    /// By group and plural name: uid and generation of the definition that
    /// the registry's rows were made of.
    served: Mutex<HashMap<GroupResource, (String, i64)>>,
    callouts: Arc<Callouts>,
}

impl CustomKinds {
    /// Serves the definitions that are stored in this server. `callouts` is
    /// the way to webhooks that convert their objects.
    pub fn new(server: ApiServer, callouts: Arc<Callouts>) -> Self {
        Self {
            server,
            served: Mutex::default(),
            callouts,
        }
    }

    /// Registers what is stored at this moment. To be run before requests are
    /// served, so that a restart does not hide custom objects.
    ///
    /// # Errors
    /// If definitions cannot be read or their status cannot be written.
    pub async fn load(&self) -> Result<(), ApiError> {
        self.reconcile().await.map(|_| ())
    }

    /// Follows changes until cancelled. Sleeps while no definition changes.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.follow() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Reconciles at every change until the watch ends or something fails.
    async fn follow(&self) {
        let target = format!("{PATH}?watch=true");
        let Some(mut changes) = self.server.ask_itself(Method::GET, &target).await else {
            return;
        };
        loop {
            match self.reconcile().await {
                Ok(true) => {
                    let wait = tokio::time::timeout(RETRY, changes.frame());
                    if matches!(wait.await, Ok(None | Some(Err(_)))) {
                        return;
                    }
                }
                Ok(false) => match changes.frame().await {
                    Some(Ok(_)) => {}
                    _ => return,
                },
                Err(error) => {
                    tracing::warn!(%error, "custom kinds could not be brought up to date");
                    return;
                }
            }
        }
    }

    /// Brings registry and status up to date. True if a definition waits for
    /// its objects to go.
    async fn reconcile(&self) -> Result<bool, ApiError> {
        let mut served = self.served.lock().await;
        let objects = self.server.objects();
        let definitions = objects.list(&definitions(), "").await?;
        let mut wanted = Vec::new();
        let mut waiting = false;
        for crd in &definitions {
            let resource = resource_of(crd);
            wanted.push(resource.clone());
            if object::is_terminating(crd) {
                waiting |= !self.clean_up(crd, &resource, &mut served).await?;
                continue;
            }
            let outcome = self.register(crd, &resource, &mut served);
            if let Some(updated) = with_status(crd, &outcome) {
                match objects.update(&self::definitions(), updated).await {
                    Ok(_) => {}
                    Err(error) if error.code() == 409 || error.code() == 404 => waiting = true,
                    Err(error) => return Err(error),
                }
            }
        }
        let registry = self.server.registry();
        served.retain(|resource, _| {
            let keep = wanted.contains(resource);
            if !keep {
                registry.remove(resource);
            }
            keep
        });
        Ok(waiting)
    }

    fn register(
        &self,
        crd: &Value,
        resource: &GroupResource,
        served: &mut HashMap<GroupResource, (String, i64)>,
    ) -> Result<(), String> {
        let registry = self.server.registry();
        let generation = crd["metadata"]["generation"].as_i64().unwrap_or(0);
        let state = (object::uid(crd).to_owned(), generation);
        if served.get(resource) == Some(&state) {
            return Ok(());
        }
        // A tenant must not replace a built-in kind.
        if registry.storage(resource).is_some() && !served.contains_key(resource) {
            return Err(format!("\"{}\" is already in use", resource.resource));
        }
        let kind = object::text(crd, "/spec/names/kind");
        let all = registry.kinds();
        let taken = all.iter().any(|k| {
            k.gvk.group == resource.group && k.gvk.kind == kind && k.plural != resource.resource
        });
        if taken {
            return Err(format!("\"{kind}\" is already in use"));
        }
        let mut rows = kinds::custom(crd).map_err(|errors| {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            texts.join(", ")
        })?;
        let converter = converter_of(crd, &self.callouts);
        for row in &mut rows {
            row.converter = converter.clone();
        }
        registry.set(rows);
        served.insert(resource.clone(), state);
        Ok(())
    }

    /// Deletes the objects of a definition that is being deleted, then lets
    /// it go. True once it is gone.
    async fn clean_up(
        &self,
        crd: &Value,
        resource: &GroupResource,
        served: &mut HashMap<GroupResource, (String, i64)>,
    ) -> Result<bool, ApiError> {
        let finalizers = object::items(crd, "/metadata/finalizers");
        if !finalizers.iter().any(|f| f == CLEANUP) {
            return Ok(true);
        }
        let registry = self.server.registry();
        if let Some(row) = registry.storage(resource).filter(|_| is_custom(crd)) {
            let gvk = &row.kind.gvk;
            let target = format!("/apis/{}/{}/{}", gvk.group, gvk.version, resource.resource);
            let objects = self.server.objects();
            if !objects.list(resource, "").await?.is_empty() {
                self.server.ask_itself(Method::DELETE, &target).await;
                if !objects.list(resource, "").await?.is_empty() {
                    return Ok(false);
                }
            }
        }
        // First: once the definition is gone, nothing of it is served.
        if served.remove(resource).is_some() {
            registry.remove(resource);
        }
        let mut updated = crd.clone();
        if let Some(list) = updated["metadata"]["finalizers"].as_array_mut() {
            list.retain(|f| f != CLEANUP);
        }
        let outcome = self.server.objects().update(&definitions(), updated).await;
        match outcome {
            Ok(_) => Ok(true),
            Err(error) if error.code() == 409 => Ok(false),
            Err(error) if error.code() == 404 => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// True if the definition's names were accepted, so that the objects under
/// its name are its own.
fn is_custom(crd: &Value) -> bool {
    let conditions = object::items(crd, "/status/conditions");
    let mut accepted = conditions.iter().filter(|c| c["type"] == "Established");
    accepted.any(|c| c["status"] == "True")
}

fn definitions() -> GroupResource {
    GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions")
}

fn resource_of(crd: &Value) -> GroupResource {
    GroupResource::new(
        object::text(crd, "/spec/group").to_owned(),
        object::text(crd, "/spec/names/plural").to_owned(),
    )
}

/// The definition with the status that the outcome asks for, `None` if it has
/// that already.
fn with_status(crd: &Value, outcome: &Result<(), String>) -> Option<Value> {
    let accepted = match outcome {
        Ok(()) => ("True", "NoConflicts", "no conflicts found"),
        Err(why) => ("False", "Conflict", why.as_str()),
    };
    let established = match outcome {
        Ok(()) => (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
        Err(_) => ("False", "NotAccepted", "not all names are accepted"),
    };
    let mut updated = crd.clone();
    if !updated["status"].is_object() {
        updated["status"] = json!({});
    }
    let before = object::items(crd, "/status/conditions");
    let mut conditions: Vec<Value> = before
        .iter()
        .filter(|c| c["type"] != "NamesAccepted" && c["type"] != "Established")
        .cloned()
        .collect();
    for (r#type, (status, reason, message)) in
        [("NamesAccepted", accepted), ("Established", established)]
    {
        let old = before.iter().find(|c| c["type"] == r#type);
        let since = match old.filter(|c| c["status"] == status) {
            Some(old) => old["lastTransitionTime"].clone(),
            None => time::rfc3339(jiff::Timestamp::now().as_second()).into(),
        };
        conditions.push(json!({
            "type": r#type,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": since,
        }));
    }
    updated["status"]["conditions"] = Value::Array(conditions);
    if outcome.is_ok() {
        updated["status"]["acceptedNames"] = crd["spec"]["names"].clone();
    }
    (updated != *crd).then_some(updated)
}
