//! Who owns whom, over all resources.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::api::Resource;
use crate::objects::{Meta, OwnerReference};

use super::Job;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object, by where it is and what it is bound to.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub resource: Arc<Resource>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub owners: Box<[OwnerReference]>,
    pub deleting: bool,
    /// Waits for its dependents to be deleted.
    pub foreground: bool,
}

/// The objects that exist or that something names as its owner, by uid.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Box<str>, Node>,
    /// Uids of dependents by uid of the owner, whether that exists or not.
    dependents: HashMap<Box<str>, BTreeSet<Box<str>>>,
}

impl Graph {
    pub(super) fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Uids and nodes of all known dependents.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.to_string(), self.nodes.get(uid)?.clone())))
            .collect()
    }

    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    /// Uids of all objects of a resource.
    pub(super) fn uids_of(&self, resource: &Resource) -> Vec<String> {
        let of = self
            .nodes
            .iter()
            .filter(|(_, node)| *node.resource == *resource);
        of.map(|(uid, _)| uid.to_string()).collect()
    }

    /// Notes an object as it is now; returns what that calls for.
    pub(super) fn upsert(&mut self, resource: &Arc<Resource>, meta: &Meta) -> Vec<Job> {
        let mut jobs = Vec::new();
        let uid: Box<str> = meta.uid.as_str().into();
        let old = self.nodes.remove(&uid);
        let deleting = meta.is_deleting();
        let node = Node {
            resource: resource.clone(),
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
            owners: meta.owner_references.clone().into_boxed_slice(),
            deleting,
            foreground: deleting && meta.has_finalizer(FOREGROUND),
        };
        let old_owners = old.as_ref().map_or(&[] as &[_], |old| &old.owners);
        if old_owners != &*node.owners {
            self.relink(&uid, old_owners, &node.owners, &mut jobs);
        }
        // Owners that are missing, or that wait for this object to go.
        let suspicious = node.owners.iter().any(|owner| {
            self.nodes
                .get(owner.uid.as_str())
                .is_none_or(|owner| owner.foreground)
        });
        let owners_changed = old_owners != &*node.owners;
        if suspicious && (owners_changed || old.is_none()) && !deleting {
            jobs.push(Job::Delete(uid.to_string()));
        }
        if node.foreground && !old.as_ref().is_some_and(|old| old.foreground) {
            let dependents = self.dependents.get(&uid).into_iter().flatten();
            jobs.extend(dependents.map(|dependent| Job::Delete(dependent.to_string())));
            jobs.push(Job::Delete(uid.to_string()));
        }
        if deleting && meta.has_finalizer(ORPHAN) && !old.as_ref().is_some_and(|old| old.deleting) {
            jobs.push(Job::Orphan(uid.to_string()));
        }
        self.nodes.insert(uid, node);
        jobs
    }

    /// Forgets an object; returns what that calls for.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Job> {
        let mut jobs = Vec::new();
        let Some(node) = self.nodes.remove(uid) else {
            return jobs;
        };
        let uid: Box<str> = uid.into();
        self.relink(&uid, &node.owners, &[], &mut jobs);
        let dependents = self.dependents.get(&uid).into_iter().flatten();
        jobs.extend(dependents.map(|dependent| Job::Delete(dependent.to_string())));
        jobs
    }

    /// Updates the links from owners; owners that wait are looked at again.
    fn relink(
        &mut self,
        uid: &str,
        old: &[OwnerReference],
        new: &[OwnerReference],
        jobs: &mut Vec<Job>,
    ) {
        for owner in old {
            if let Some(dependents) = self.dependents.get_mut(owner.uid.as_str()) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
        for owner in new {
            self.dependents
                .entry(owner.uid.as_str().into())
                .or_default()
                .insert(uid.into());
        }
        for owner in old {
            if self
                .nodes
                .get(owner.uid.as_str())
                .is_some_and(|owner| owner.foreground)
            {
                jobs.push(Job::Delete(owner.uid.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;
    use serde_json::json;

    fn resource() -> Arc<Resource> {
        Arc::new(Resource::new("", "v1", "Pod", "pods", true))
    }

    fn meta(uid: &str, owner: Option<&str>, deleting: bool, finalizer: Option<&str>) -> Meta {
        let owners: Vec<_> = owner.iter().map(|uid| json!({"uid": uid})).collect();
        let finalizers: Vec<_> = finalizer.iter().collect();
        object(json!({
            "uid": uid, "name": uid, "namespace": "a", "ownerReferences": owners,
            "finalizers": finalizers,
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
        }))
    }

    fn delete(uid: &str) -> Job {
        Job::Delete(uid.to_owned())
    }

    #[test]
    fn a_lost_owner_queues_its_dependents() {
        let mut graph = Graph::default();
        let pods = resource();
        assert!(
            graph
                .upsert(&pods, &meta("owner", None, false, None))
                .is_empty()
        );
        assert!(
            graph
                .upsert(&pods, &meta("child", Some("owner"), false, None))
                .is_empty()
        );
        assert_eq!(graph.remove("owner"), [delete("child")]);
        assert!(graph.remove("child").is_empty());
        assert!(!graph.has_dependents("owner"));
    }

    #[test]
    fn an_unknown_owner_is_looked_into() {
        let mut graph = Graph::default();
        let child = meta("child", Some("nobody"), false, None);
        assert_eq!(graph.upsert(&resource(), &child), [delete("child")]);
        // An event that changes nothing about owners does not ask again.
        assert!(graph.upsert(&resource(), &child).is_empty());
    }

    #[test]
    fn foreground_deletion_visits_dependents_and_returns() {
        let mut graph = Graph::default();
        let pods = resource();
        graph.upsert(&pods, &meta("owner", None, false, None));
        graph.upsert(&pods, &meta("child", Some("owner"), false, None));
        let jobs = graph.upsert(&pods, &meta("owner", None, true, Some(FOREGROUND)));
        assert_eq!(jobs, [delete("child"), delete("owner")]);
        assert_eq!(graph.remove("child"), [delete("owner")]);
    }

    #[test]
    fn orphaning_is_queued_once() {
        let mut graph = Graph::default();
        let dying = meta("owner", None, true, Some(ORPHAN));
        assert_eq!(
            graph.upsert(&resource(), &dying),
            [Job::Orphan("owner".to_owned())]
        );
        assert!(graph.upsert(&resource(), &dying).is_empty());
    }
}
