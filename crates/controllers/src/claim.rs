//! Adoption and release: which objects belong to a workload.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, Resource};
use crate::error::{Error, found};
use crate::informer::Store;
use crate::objects::{Kind, Meta, OwnerReference, controller_reference, orphan_index, owner_index};

/// What is to be done about the objects that a workload might own.
pub(crate) struct Claim<T> {
    /// Owned already, and matching.
    pub owned: Vec<Arc<T>>,
    /// Matching, and owned by nobody.
    pub adopt: Vec<Arc<T>>,
    /// Owned, and no longer matching.
    pub release: Vec<Arc<T>>,
}

/// Sorts candidates. An owner that is being deleted claims nothing new.
pub(crate) fn sort<T: Kind>(
    owner: &Meta,
    candidates: impl IntoIterator<Item = Arc<T>>,
    matches: impl Fn(&Meta) -> bool,
) -> Claim<T> {
    let mut claim = Claim {
        owned: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    for object in candidates {
        let meta = object.meta();
        match meta.controller() {
            Some(reference) if reference.uid != owner.uid => {}
            Some(_) if matches(meta) => claim.owned.push(object),
            Some(_) if owner.is_deleting() => {}
            Some(_) => claim.release.push(object),
            None if owner.is_deleting() || meta.is_deleting() => {}
            None if matches(meta) => claim.adopt.push(object),
            None => {}
        }
    }
    claim
}

/// Finds, adopts and releases the objects of a workload; returns those it owns.
///
/// Adopted objects are returned as they were cached, without their new owner.
pub(crate) async fn claim<T: Kind>(
    api: &Api,
    (resource, owner): (&Resource, &Meta),
    store: &Store<T>,
    matches: impl Fn(&Meta) -> bool,
) -> Result<Vec<Arc<T>>, Error> {
    let mut candidates = store.indexed(&owner_index(&owner.uid));
    candidates.extend(store.indexed(&orphan_index(&owner.namespace)));
    let Claim {
        mut owned,
        adopt,
        release,
    } = sort(owner, candidates, matches);
    for object in release {
        release_one(api, owner, object.meta(), T::RESOURCE).await?;
    }
    if adopt.is_empty() {
        return Ok(owned);
    }
    // The cache may not know yet that the owner is going away.
    let live = found(
        api.get_metadata(resource, &owner.namespace, &owner.name)
            .await,
    )?;
    let alive = live.is_some_and(|live| {
        live["metadata"]["uid"] == owner.uid.as_str()
            && live["metadata"]
                .get("deletionTimestamp")
                .is_none_or(Value::is_null)
    });
    if !alive {
        return Ok(owned);
    }
    let reference = controller_reference(resource, owner);
    for object in adopt {
        if adopt_one(api, &reference, object.meta(), T::RESOURCE).await? {
            owned.push(object);
        }
    }
    Ok(owned)
}

async fn adopt_one(
    api: &Api,
    reference: &OwnerReference,
    meta: &Meta,
    resource: &Resource,
) -> Result<bool, Error> {
    let others = meta
        .owner_references
        .iter()
        .filter(|other| other.uid != reference.uid);
    let references: Vec<Value> = others
        .chain([reference])
        .map(OwnerReference::to_value)
        .collect();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    Ok(found(
        api.patch(resource, &meta.namespace, &meta.name, "", &patch)
            .await,
    )?
    .is_some())
}

async fn release_one(
    api: &Api,
    owner: &Meta,
    meta: &Meta,
    resource: &Resource,
) -> Result<(), Error> {
    let others = meta
        .owner_references
        .iter()
        .filter(|other| other.uid != owner.uid);
    let references: Vec<Value> = others.map(OwnerReference::to_value).collect();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references,
    }});
    found(
        api.patch(resource, &meta.namespace, &meta.name, "", &patch)
            .await,
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{object, pod::Pod};

    #[test]
    fn sorting() {
        let owner: Meta = object(json!({"name": "rs", "namespace": "a", "uid": "me"}));
        let pod = |name: &str, label: &str, owner: Option<&str>| -> Arc<Pod> {
            let owners: Vec<Value> = owner
                .iter()
                .map(|uid| json!({"uid": uid, "controller": true}))
                .collect();
            Arc::new(object(json!({"metadata": {
                "name": name, "namespace": "a", "labels": {"app": label},
                "ownerReferences": owners,
            }})))
        };
        let pods = vec![
            pod("mine", "x", Some("me")),
            pod("orphan", "x", None),
            pod("strayed", "y", Some("me")),
            pod("theirs", "x", Some("other")),
            pod("stranger", "y", None),
        ];
        let names = |pods: &[Arc<Pod>]| -> Vec<String> {
            pods.iter().map(|pod| pod.metadata.name.clone()).collect()
        };
        let matching = |meta: &Meta| meta.label("app") == Some("x");
        let claim = sort(&owner, pods.clone(), matching);
        assert_eq!(names(&claim.owned), ["mine"]);
        assert_eq!(names(&claim.adopt), ["orphan"]);
        assert_eq!(names(&claim.release), ["strayed"]);
        let dying = Meta {
            deletion_timestamp: Some(jiff::Timestamp::UNIX_EPOCH),
            ..owner
        };
        let claim = sort(&dying, pods, matching);
        assert!(claim.adopt.is_empty() && claim.release.is_empty());
    }
}
