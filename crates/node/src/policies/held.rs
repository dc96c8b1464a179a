//! What is kept of policies. A tenant can store more than this process should
//! hold: of a namespace whose policies are too long to be enforced only that
//! much is kept as tells which pods they choose.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use kube::runtime::watcher::Event;

use super::bounds::{self, MAX_TERMS};

/// Where a policy without its rules says how much it listed. Annotations of
/// users are not kept.
const TERMS: &str = "terms";
/// Most labels by which such a policy chooses pods. With fewer conditions it
/// chooses more pods, which is the safe side.
const MAX_LABELS: usize = 64;

/// How much a policy lists, or listed before its rules were dropped.
pub fn terms(policy: &NetworkPolicy) -> usize {
    noted(policy).unwrap_or_else(|| policy.spec.as_ref().map_or(0, bounds::terms))
}

/// Whether the rules of a policy were dropped.
pub fn is_emptied(policy: &NetworkPolicy) -> bool {
    noted(policy).is_some()
}

fn noted(policy: &NetworkPolicy) -> Option<usize> {
    policy
        .metadata
        .annotations
        .as_ref()?
        .get(TERMS)?
        .parse()
        .ok()
}

/// How much the policies of each namespace list, as far as a watch has told.
#[derive(Default)]
pub struct Lengths {
    known: BTreeMap<String, Length>,
    /// What a new list has told so far, if one is being read.
    listed: Option<BTreeMap<String, Length>>,
}

#[derive(Default)]
struct Length {
    policies: BTreeMap<String, usize>,
    total: usize,
}

impl Length {
    fn set(&mut self, name: String, terms: usize) {
        let before = self.policies.insert(name, terms).unwrap_or(0);
        self.total = (self.total - before).saturating_add(terms);
    }
}

impl Lengths {
    /// Counts what a watch tells, and leaves of it what is kept.
    pub fn trim(&mut self, event: &mut Event<NetworkPolicy>) {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitDone => {
                if let Some(listed) = self.listed.take() {
                    self.known = listed;
                }
            }
            Event::InitApply(policy) => {
                let listed = self.listed.get_or_insert_default();
                keep(policy, listed);
            }
            Event::Apply(policy) => keep(policy, &mut self.known),
            Event::Delete(policy) => {
                let (namespace, name) = place(policy);
                if let Some(length) = self.known.get_mut(&namespace) {
                    length.set(name.clone(), 0);
                    length.policies.remove(&name);
                    if length.policies.is_empty() {
                        self.known.remove(&namespace);
                    }
                }
            }
        }
    }
}

fn place(policy: &NetworkPolicy) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (
        text(&policy.metadata.namespace),
        text(&policy.metadata.name),
    )
}

fn keep(policy: &mut NetworkPolicy, lengths: &mut BTreeMap<String, Length>) {
    policy.metadata.annotations = None;
    policy.metadata.labels = None;
    policy.metadata.owner_references = None;
    let terms = policy.spec.as_ref().map_or(0, bounds::terms);
    let (namespace, name) = place(policy);
    let length = lengths.entry(namespace).or_default();
    length.set(name, terms);
    if length.total > MAX_TERMS
        && let Some(spec) = &mut policy.spec
    {
        empty(spec);
        let note = (TERMS.to_owned(), terms.to_string());
        policy.metadata.annotations = Some(BTreeMap::from([note]));
    }
}

fn empty(spec: &mut NetworkPolicySpec) {
    spec.ingress = None;
    spec.egress = None;
    if let Some(pods) = &mut spec.pod_selector
        && bounds::of_selector(Some(pods)) > MAX_LABELS
    {
        pods.match_expressions = None;
        let labels = pods.match_labels.take().into_iter().flatten();
        pods.match_labels = Some(labels.take(MAX_LABELS).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(name: &str, spec: Value) -> NetworkPolicy {
        let metadata = json!({"name": name, "namespace": "a", "annotations": {TERMS: "1"}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn long(name: &str, peers: usize) -> NetworkPolicy {
        let peers: Vec<Value> = (0..peers).map(|_| json!({"podSelector": {}})).collect();
        policy(
            name,
            json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"from": peers}]}),
        )
    }

    fn emptied(lengths: &mut Lengths, mut event: Event<NetworkPolicy>) -> bool {
        lengths.trim(&mut event);
        match event {
            Event::Apply(policy) | Event::InitApply(policy) => {
                let spec = policy.spec.as_ref().unwrap();
                assert_eq!(is_emptied(&policy), spec.ingress.is_none());
                assert!(terms(&policy) > 1_000, "{}", terms(&policy));
                is_emptied(&policy)
            }
            _ => false,
        }
    }

    #[test]
    fn rules_are_dropped_where_a_namespace_has_too_many() {
        let mut lengths = Lengths::default();
        let mut see = |event| emptied(&mut lengths, event);
        assert!(!see(Event::Apply(long("one", 15_000))));
        assert!(!see(Event::Apply(long("one", 15_000))), "it counts once");
        assert!(see(Event::Apply(long("two", 6_000))));
        assert!(!see(Event::Apply(long("two", 2_000))), "now there is room");
        assert!(see(Event::Apply(long("three", 6_000))));
        see(Event::Delete(long("one", 15_000)));
        assert!(!see(Event::Apply(long("three", 6_000))));
        // A list tells everything anew.
        see(Event::Init);
        assert!(!see(Event::InitApply(long("one", 15_000))));
        assert!(see(Event::InitApply(long("four", 6_000))));
        see(Event::InitDone);
        assert!(see(Event::Apply(long("five", 6_000))));
        see(Event::Delete(long("one", 0)));
        assert!(!see(Event::Apply(long("five", 6_000))));
        for name in ["four", "five", "six"] {
            see(Event::Delete(long(name, 0)));
        }
        assert!(lengths.known.is_empty());
    }

    #[test]
    fn long_selectors_choose_more_pods_rather_than_fewer() {
        let labels: BTreeMap<String, String> =
            (0..30_000).map(|n| (format!("k{n}"), "v".into())).collect();
        let spec = json!({"podSelector": {"matchLabels": labels, "matchExpressions": [{"key": "x", "operator": "Exists"}]}});
        let mut event = Event::Apply(policy("wide", spec));
        Lengths::default().trim(&mut event);
        let Event::Apply(kept) = event else { panic!() };
        assert!(is_emptied(&kept));
        let pods = kept.spec.unwrap().pod_selector.unwrap();
        assert_eq!(pods.match_labels.unwrap().len(), MAX_LABELS);
        assert!(pods.match_expressions.is_none());
    }
}
