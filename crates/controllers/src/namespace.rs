//! Namespaces: empties those that are being deleted.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Delete, Propagation, Query, Resource};
use crate::context::{Context, Task};
use crate::discovery::{Catalogue, Served, discover};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::objects::core::Namespace;
use crate::objects::pod::Pod;
use crate::objects::{Condition, Kind, condition, time};
use crate::queue::{Key, Next, Queue};

/// Namespaces emptied at once.
const WORKERS: usize = 4;
/// How soon to look again at what is left; doubled per look, up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const MAX_LOOK: Duration = Duration::from_secs(10);
/// The finalizer of a namespace's spec that this controller removes.
const FINALIZER: &str = "kubernetes";

/// Registers the controller and returns its work.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let namespaces = context.store::<Namespace>();
    let pods = context.store::<Pod>();
    {
        let queue = queue.clone();
        namespaces.subscribe(move |change| {
            if let Some(namespace) = change.new.filter(|it| it.metadata.is_deleting()) {
                queue.add(namespace.metadata.key());
            }
        });
    }
    {
        // Pods are what a deletion mostly waits for.
        let (namespaces, queue) = (namespaces.clone(), queue.clone());
        pods.subscribe(move |change| {
            if change.new.is_some() {
                return;
            }
            let namespace = &change.latest().metadata.namespace;
            if namespaces
                .get("", namespace)
                .is_some_and(|it| it.metadata.is_deleting())
            {
                queue.add(Key::new("", namespace.clone()));
            }
        });
    }
    let (api, looks) = (context.api.clone(), Arc::new(std::sync::Mutex::default()));
    context.work("namespace-controller", WORKERS, queue, move |key| {
        let (api, namespaces) = (api.clone(), namespaces.clone());
        let looks: Arc<Looks> = Arc::clone(&looks);
        async move { reconcile(&api, &namespaces, key, &looks).await }
    })
}

/// How often each namespace was found not empty yet.
type Looks = std::sync::Mutex<std::collections::HashMap<Key, u32>>;

async fn reconcile(
    api: &Api,
    namespaces: &Store<Namespace>,
    key: Key,
    looks: &Looks,
) -> Result<Next, Error> {
    let looks = || {
        looks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let namespace = namespaces.by_key(&key).filter(|namespace| {
        namespace.metadata.is_deleting()
            && namespace
                .spec
                .finalizers
                .iter()
                .any(|finalizer| finalizer == FINALIZER)
    });
    let Some(namespace) = namespace else {
        looks().remove(&key);
        return Ok(Next::Wait);
    };
    let catalogue = discover(api).await?;
    let outcome = empty(api, &key.name, &catalogue).await;
    write_conditions(api, &namespace, &outcome).await?;
    if outcome.is_empty() {
        looks().remove(&key);
        finalize(api, &namespace).await?;
        return Ok(Next::Wait);
    }
    let mut looks = looks();
    let look = looks.entry(key).or_insert(0);
    let pause = (FIRST_LOOK * 2u32.pow((*look).min(8))).min(MAX_LOOK);
    *look += 1;
    Ok(Next::After(pause))
}

/// What a pass over a namespace's contents found.
#[derive(Default)]
struct Outcome {
    discovery_failures: Vec<String>,
    deletion_failures: Vec<String>,
    /// How many objects are left, by resource.
    remaining: Vec<(String, usize)>,
    /// How many objects wait for each finalizer.
    finalizers: std::collections::BTreeMap<String, usize>,
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.discovery_failures.is_empty()
            && self.deletion_failures.is_empty()
            && self.remaining.is_empty()
    }
}

/// Deletes what there is: pods first, and the rest once they are gone, so that
/// running programs do not lose what they rely on.
async fn empty(api: &Api, namespace: &str, catalogue: &Catalogue) -> Outcome {
    let mut outcome = Outcome {
        discovery_failures: catalogue.failures.clone(),
        ..Outcome::default()
    };
    let deletable =
        |served: &&Served| served.resource.namespaced && served.can("delete") && served.can("list");
    let is_pods =
        |served: &&Served| served.resource.group.is_empty() && served.resource.plural == "pods";
    for pods in catalogue.resources.iter().filter(is_pods) {
        clear(api, namespace, pods, &mut outcome).await;
    }
    if !outcome.remaining.is_empty() {
        return outcome;
    }
    for served in catalogue
        .resources
        .iter()
        .filter(deletable)
        .filter(|it| !is_pods(it))
    {
        clear(api, namespace, served, &mut outcome).await;
    }
    outcome
}

/// Deletes all objects of one resource and counts those that stay.
async fn clear(api: &Api, namespace: &str, served: &Served, outcome: &mut Outcome) {
    let result = async {
        let before = list(api, &served.resource, namespace).await?;
        if before.is_empty() {
            return Ok(before);
        }
        if served.can("deletecollection") {
            found(api.delete_collection(&served.resource, namespace).await)?;
        } else {
            let options = Delete {
                propagation: Some(Propagation::Background),
                ..Delete::default()
            };
            for object in before.iter().filter(|object| !object.deleting) {
                let deletion = api.delete(&served.resource, namespace, &object.name, &options);
                found(deletion.await)?;
            }
        }
        list(api, &served.resource, namespace).await
    }
    .await;
    match result {
        Ok(left) if left.is_empty() => {}
        Ok(left) => {
            let resource = &served.resource;
            let name = if resource.group.is_empty() {
                resource.plural.to_string()
            } else {
                format!("{}.{}", resource.plural, resource.group)
            };
            outcome.remaining.push((name, left.len()));
            for finalizer in left.into_iter().flat_map(|object| object.finalizers) {
                *outcome.finalizers.entry(finalizer).or_default() += 1;
            }
        }
        // A resource that went away has no objects.
        Err(error) if error.is_not_found() || error.code() == Some(405) => {}
        Err(error) => outcome.deletion_failures.push(error.message()),
    }
}

struct Left {
    name: String,
    finalizers: Vec<String>,
    deleting: bool,
}

async fn list(api: &Api, resource: &Resource, namespace: &str) -> Result<Vec<Left>, Error> {
    let query = Query {
        namespace,
        metadata_only: true,
        ..Query::default()
    };
    let text = api.list_page(resource, &query, 500, "").await?;
    let page: Value = serde_json::from_str(&text).map_err(|source| Error::Decode {
        what: resource.plural.to_string(),
        source,
    })?;
    let items = page["items"].as_array().into_iter().flatten();
    Ok(items
        .map(|item| {
            let meta = &item["metadata"];
            let finalizers = meta["finalizers"].as_array().into_iter().flatten();
            Left {
                name: meta["name"].as_str().unwrap_or_default().to_owned(),
                finalizers: finalizers
                    .filter_map(|it| it.as_str().map(str::to_owned))
                    .collect(),
                deleting: meta["deletionTimestamp"].is_string(),
            }
        })
        .collect())
}

/// Shows in the namespace's status what keeps it.
async fn write_conditions(
    api: &Api,
    namespace: &Namespace,
    outcome: &Outcome,
) -> Result<(), Error> {
    let wanted = conditions(&namespace.status.conditions, outcome, Timestamp::now());
    let Some(wanted) = wanted else { return Ok(()) };
    let meta = &namespace.metadata;
    let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": wanted}});
    found(
        api.patch(Namespace::RESOURCE, "", &meta.name, "status", &patch)
            .await,
    )
    .map(drop)
}

/// The conditions to write, or `None` if they stand already. A namespace that
/// empties at once gets none at all.
fn conditions(old: &[Condition], outcome: &Outcome, now: Timestamp) -> Option<Vec<Value>> {
    if outcome.is_empty() && old.is_empty() {
        return None;
    }
    let remaining: Vec<String> = outcome
        .remaining
        .iter()
        .map(|(resource, count)| format!("{resource} has {count} resource instances"))
        .collect();
    let finalizers: Vec<String> = outcome
        .finalizers
        .iter()
        .map(|(name, count)| format!("{name} in {count} resource instances"))
        .collect();
    let facts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            !outcome.discovery_failures.is_empty(),
            ("DiscoveryFailed", "ResourcesDiscovered"),
            format!(
                "Discovery failed for some groups, {}",
                outcome.discovery_failures.join("; ")
            ),
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("GroupVersionParsingFailed", "ParsedGroupVersions"),
            String::new(),
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            !outcome.deletion_failures.is_empty(),
            ("ContentDeletionFailed", "ContentDeleted"),
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                outcome.deletion_failures.len(),
                outcome.deletion_failures.join("; ")
            ),
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            !remaining.is_empty(),
            ("SomeResourcesRemain", "ContentRemoved"),
            format!("Some resources are remaining: {}", remaining.join(", ")),
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            !finalizers.is_empty(),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                finalizers.join(", ")
            ),
            "All content-preserving finalizers finished",
        ),
    ];
    let mut changed = false;
    let mut wanted: Vec<Value> = Vec::new();
    for (kind, holds, (bad_reason, good_reason), bad_message, good_message) in facts {
        let status = if holds { "True" } else { "False" };
        let reason = if holds { bad_reason } else { good_reason };
        let message = if holds {
            bad_message
        } else {
            good_message.to_owned()
        };
        let before = condition(old, kind);
        changed |= before.is_none_or(|it| it.status != status || it.message != message);
        let since = before
            .filter(|it| it.status == status)
            .and_then(|it| it.last_transition_time);
        wanted.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time(since.unwrap_or(now)),
        }));
    }
    let known = |it: &&Condition| !wanted.iter().any(|new| new["type"] == it.kind.as_str());
    let others: Vec<Value> = old
        .iter()
        .filter(known)
        .map(|it| {
            json!({
                "type": it.kind, "status": it.status, "reason": it.reason, "message": it.message,
                "lastTransitionTime": it.last_transition_time.map(time),
            })
        })
        .collect();
    wanted.extend(others);
    changed.then_some(wanted)
}

async fn finalize(api: &Api, namespace: &Namespace) -> Result<(), Error> {
    let name = &namespace.metadata.name;
    let Some(mut live) = found(api.get(Namespace::RESOURCE, "", name).await)? else {
        return Ok(());
    };
    if live["metadata"]["uid"] != namespace.metadata.uid.as_str() {
        return Ok(());
    }
    if let Some(finalizers) = live["spec"]["finalizers"].as_array_mut() {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    found(
        api.replace(Namespace::RESOURCE, "", name, "finalize", &live)
            .await,
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(conditions(&[], &Outcome::default(), now).is_none());
        let outcome = Outcome {
            remaining: vec![("pods".to_owned(), 2)],
            finalizers: [("x/y".to_owned(), 1)].into(),
            ..Outcome::default()
        };
        let wanted = conditions(&[], &outcome, now).unwrap();
        let find = |kind: &str| wanted.iter().find(|it| it["type"] == kind).unwrap();
        assert_eq!(
            find("NamespaceContentRemaining")["message"],
            "Some resources are remaining: pods has 2 resource instances"
        );
        assert_eq!(find("NamespaceFinalizersRemaining")["status"], "True");
        assert_eq!(find("NamespaceDeletionContentFailure")["status"], "False");
        let stored: Vec<Condition> = wanted
            .iter()
            .map(|it| crate::objects::object(it.clone()))
            .collect();
        assert!(
            conditions(&stored, &outcome, Timestamp::MAX).is_none(),
            "nothing changed"
        );
    }
}
