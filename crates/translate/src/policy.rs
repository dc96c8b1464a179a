//! NetworkPolicies and PodDisruptionBudgets: selectors bounded to the virtual
//! cluster, so that a policy reaches no pod of anyone else. ServiceAccounts.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{drop_keys, list_mut, set};
use crate::metadata::applied;
use crate::names::Translator;

impl Translator {
    /// The host NetworkPolicy.
    pub fn network_policy_to_host(&self, policy: &Value) -> Value {
        let namespace = object::namespace(policy);
        let mut host = self.shell("networking.k8s.io/v1", "NetworkPolicy", policy);
        let mut spec = policy.get("spec").cloned().unwrap_or_else(|| json!({}));
        // An absent selector chooses all pods of the namespace.
        let pods = spec
            .get("podSelector")
            .cloned()
            .unwrap_or_else(|| json!({}));
        set(&mut spec, "podSelector", self.selector_in(&pods, namespace));
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in list_mut(&mut spec, rules) {
                for peer in list_mut(rule, peers) {
                    self.peer(peer, namespace);
                }
            }
        }
        host["spec"] = spec;
        applied(host, Value::clone)
    }

    fn peer(&self, peer: &mut Value, namespace: &str) {
        let chosen = peer
            .get("namespaceSelector")
            .filter(|s| s.is_object())
            .cloned();
        let pods = peer.get("podSelector").filter(|s| s.is_object()).cloned();
        if chosen.is_none() && pods.is_none() {
            return;
        }
        let pods = pods.unwrap_or_else(|| json!({}));
        let host = self.selector_among(&pods, &[namespace], chosen.as_ref());
        drop_keys(peer, &["namespaceSelector"]);
        set(peer, "podSelector", host);
    }

    /// The host ServiceAccount: a name that the host may know a workload by. It
    /// carries nothing of its own, least of all a token of the host.
    pub fn service_account_to_host(&self, account: &Value) -> Value {
        let mut host = self.shell("v1", "ServiceAccount", account);
        host["automountServiceAccountToken"] = false.into();
        applied(host, Value::clone)
    }

    /// The host PodDisruptionBudget.
    pub fn disruption_budget_to_host(&self, budget: &Value) -> Value {
        let mut host = self.shell("policy/v1", "PodDisruptionBudget", budget);
        let mut spec = budget.get("spec").cloned().unwrap_or_else(|| json!({}));
        if let Some(selector) = spec.get("selector").filter(|s| s.is_object()) {
            let selector = self.selector_in(selector, object::namespace(budget));
            set(&mut spec, "selector", selector);
        }
        host["spec"] = spec;
        applied(host, Value::clone)
    }
}
