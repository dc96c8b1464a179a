//! `pods/eviction`: a delete that disruption budgets may refuse.

use std::sync::Arc;

use coracle_machinery::object::{self, child_map, items, text};
use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{ApiError, GroupResource, Reason};
use http::Response;
use serde_json::{Value, json};

use crate::body::Body;
use crate::dispatch::Call;
use crate::hooks::Operation;
use crate::query::Query;
use crate::registry::Resource;
use crate::write::options::{DeleteOptions, WriteOptions};
use crate::write::{MAX_ATTEMPTS, Part, Writer, meta};

/// Pods that a budget may hold as disrupted: more means that the controller
/// has stopped.
const MAX_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Evicts the pod of the URL.
pub(super) async fn evict(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let mut eviction = call.read_own(body).await?;
    meta::claim_namespace(&call.resource, &mut eviction, call.namespace())?;
    if ![call.name(), ""].contains(&object::name(&eviction)) {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let create = call.options("CreateOptions")?;
    let warn = |text: String| call.context.warn(text);
    let at = (call.namespace(), call.name());
    let reviewer = call.writer(&create, &warn);
    let eviction = reviewer.review(Operation::Create, at, eviction).await?;
    let asked = eviction.get("deleteOptions").cloned().unwrap_or_default();
    let mut delete = DeleteOptions::parse(&Query::default(), &asked)?;
    delete.dry_run |= call.context.dry_run;
    let options = WriteOptions {
        dry_run: delete.dry_run,
        ..create.clone()
    };
    let writer = Writer {
        subresource: "",
        ..call.writer(&options, &warn)
    };
    let (namespace, name) = (call.namespace(), call.name());
    // A pod that changes meanwhile is looked at again.
    for _ in 0..MAX_ATTEMPTS {
        let found = writer.storage.get(&call.resource, namespace, name).await?;
        let found =
            found.ok_or_else(|| ApiError::not_found(&call.resource.group_resource, name))?;
        let pod = crate::codec::parse(&found.value, found.mod_revision)?;
        if !goes_anyway(&pod) {
            spend(call, &options, &pod).await?;
        }
        let mut attempt = delete.clone();
        if attempt.resource_version.is_none() && attempt.uid.is_none() {
            attempt.uid = Some(object::uid(&pod).to_owned());
        }
        match writer.delete(namespace, name, &attempt).await {
            Err(error) if error.reason == Reason::Conflict && delete.uid.is_none() => {}
            outcome => return outcome.map(|_| super::done()),
        }
    }
    Err(ApiError::conflict(
        &call.resource.group_resource,
        name,
        crate::write::update::STALE,
    ))
}

/// True for pods that count for no budget.
fn goes_anyway(pod: &Value) -> bool {
    object::is_terminating(pod)
        || matches!(
            text(pod, "/status/phase"),
            "Succeeded" | "Failed" | "Pending"
        )
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = items(pod, "/status/conditions").iter();
    conditions.any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

/// Finds the pod's budget and takes one disruption from it.
async fn spend(call: &Call<'_>, options: &WriteOptions, pod: &Value) -> Result<(), ApiError> {
    let budgets = GroupResource::new("policy", "poddisruptionbudgets");
    let storage = &call.server.storage;
    let Some(resource) = storage.registry.storage(&budgets) else {
        return Ok(());
    };
    let all = storage.objects(&budgets, call.namespace()).await?;
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let covers = |budget: &&Arc<Value>| {
        let selector = budget.pointer("/spec/selector").unwrap_or(&Value::Null);
        !selector.is_null() && LabelSelector::from_value(selector).is_ok_and(|s| s.matches(&labels))
    };
    let mut matching = all.iter().filter(covers);
    let Some(budget) = matching.next() else {
        return Ok(());
    };
    if matching.next().is_some() {
        return Err(ApiError::new(
            Reason::InternalError,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    if !is_ready(pod) && tolerates_unready(budget) {
        return Ok(());
    }
    let warn = |text: String| call.context.warn(text);
    let writer = budget_writer(call, &resource, options, &warn);
    let name = object::name(budget);
    let mut change = |budget: &Value| decrement(budget, object::name(pod));
    writer
        .update(call.namespace(), name, Part::Status, &mut change)
        .await?;
    Ok(())
}

fn budget_writer<'w>(
    call: &'w Call<'_>,
    resource: &'w Resource,
    options: &'w WriteOptions,
    warn: &'w (dyn Fn(String) + Send + Sync),
) -> Writer<'w> {
    Writer {
        storage: &call.server.storage,
        resource,
        subresource: "status",
        user: &call.context.user,
        admission: &[],
        options,
        warn,
    }
}

fn number(object: &Value, pointer: &str) -> i64 {
    let value = object.pointer(pointer).and_then(Value::as_i64);
    value.unwrap_or(0)
}

/// True if the budget lets unready pods go without counting them.
fn tolerates_unready(budget: &Value) -> bool {
    if text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow" {
        return true;
    }
    let desired = number(budget, "/status/desiredHealthy");
    desired > 0 && number(budget, "/status/currentHealthy") >= desired
}

/// The budget with one disruption less.
fn decrement(budget: &Value, pod: &str) -> Result<Value, ApiError> {
    let name = object::name(budget);
    if number(budget, "/status/observedGeneration") < meta::generation(budget) {
        return Err(refused(format!(
            "The disruption budget {name} is still being processed by the server."
        )));
    }
    let allowed = number(budget, "/status/disruptionsAllowed");
    let disrupted = budget
        .pointer("/status/disruptedPods")
        .and_then(Value::as_object);
    let forbidden = |why: &str| {
        let resource = GroupResource::new("policy", "poddisruptionbudgets");
        Err(ApiError::forbidden(&resource, name, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if disrupted.is_some_and(|d| d.len() > MAX_DISRUPTED) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        let wanted = number(budget, "/status/desiredHealthy");
        let healthy = number(budget, "/status/currentHealthy");
        return Err(refused(format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        )));
    }
    let mut new = budget.clone();
    let status = child_map(&mut new, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    disrupted[pod] = meta::now().into();
    Ok(new)
}

fn refused(why: String) -> ApiError {
    ApiError {
        reason: Reason::TooManyRequests,
        message: REFUSED.to_owned(),
        details: json!({"causes": [{"reason": "DisruptionBudget", "message": why}]}),
    }
}
