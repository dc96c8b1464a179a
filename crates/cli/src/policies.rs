//! What a virtual cluster has on the host only where the values ask for it: the
//! ResourceQuota, LimitRange and NetworkPolicies that bound it, and an Ingress in
//! front of it.

use coracle_config::model::{Fragment, Texts};
use coracle_config::{marks, names};
use serde_json::{Value, json};

use crate::manifests::{API_PORT, DNS_PORT, ServiceFacts, Tenant, add_texts};

/// Ports at which a host's API server is found, before and behind its Service.
const HOST_API_PORTS: [u16; 3] = [443, 6443, 8443];

/// How many objects of each custom resource, and network policies, may flow
/// where there is a quota that does not name them: as many as it allows
/// ConfigMaps by default.
const CHOSEN_OBJECTS: &str = "100";
/// The key under which a quota counts network policies.
const NETWORK_POLICIES: &str = "count/networkpolicies.networking.k8s.io";

impl Tenant<'_> {
    /// The policies that the values ask for, before the pods that they bound,
    /// and the Ingress.
    pub fn policies(&self, facts: &ServiceFacts) -> Vec<Value> {
        let policies = &self.config.policies;
        let mut all = Vec::new();
        if policies.has_limit_range() {
            all.push(self.limit_range(facts));
        }
        if policies.has_quota() {
            all.push(self.quota(facts));
        }
        if policies.network_policy.enabled {
            all.push(self.workload_policy(facts));
            all.push(self.control_plane_policy(facts));
        }
        if self.config.control_plane.ingress.enabled {
            all.push(self.ingress(facts));
        }
        all
    }

    /// Type and name of everything of these that there could be.
    pub fn possible_policies(&self) -> Vec<Value> {
        let limits = names::limits(self.name);
        let network = "networking.k8s.io/v1";
        [
            ("v1", "LimitRange", limits.clone()),
            ("v1", "ResourceQuota", limits),
            (network, "NetworkPolicy", names::workload_policy(self.name)),
            (
                network,
                "NetworkPolicy",
                names::control_plane_policy(self.name),
            ),
            (network, "Ingress", names::service(self.name)),
        ]
        .into_iter()
        .map(|(version, kind, name)| self.object(version, kind, &name, None))
        .collect()
    }

    fn ingress(&self, facts: &ServiceFacts) -> Value {
        let choice = &self.config.control_plane.ingress;
        let name = names::service(self.name);
        let mut object = self.policy(
            "networking.k8s.io/v1",
            "Ingress",
            &name,
            facts,
            &choice.labels,
            &choice.annotations,
        );
        let backend = json!({"service": {"name": name, "port": {"name": "https"}}});
        let path = json!({"path": "/", "pathType": choice.path_type, "backend": backend});
        object["spec"] = json!({"rules": [{"host": choice.host, "http": {"paths": [path]}}]});
        for (key, value) in &choice.spec {
            object["spec"][key] = value.clone();
        }
        object
    }

    fn limit_range(&self, facts: &ServiceFacts) -> Value {
        let choice = &self.config.policies.limit_range;
        let name = names::limits(self.name);
        let mut object = self.policy(
            "v1",
            "LimitRange",
            &name,
            facts,
            &choice.labels,
            &choice.annotations,
        );
        let mut limits = json!({"type": "Container"});
        for (key, values) in [
            ("default", &choice.default),
            ("defaultRequest", &choice.default_request),
            ("min", &choice.min),
            ("max", &choice.max),
        ] {
            if !values.is_empty() {
                limits[key] = quantities(values);
            }
        }
        object["spec"] = json!({"limits": [limits]});
        object
    }

    fn quota(&self, facts: &ServiceFacts) -> Value {
        let choice = &self.config.policies.resource_quota;
        let name = names::limits(self.name);
        let mut object = self.policy(
            "v1",
            "ResourceQuota",
            &name,
            facts,
            &choice.labels,
            &choice.annotations,
        );
        let mut hard = quantities(&choice.quota);
        // What flows by the values' choice is counted too, unless they say how.
        let to_host = &self.config.sync.to_host;
        let mut counted = Vec::new();
        for (name, custom) in &to_host.custom_resources {
            if custom.enabled {
                counted.push(format!("count/{}", name.split('/').next().unwrap_or(name)));
            }
        }
        if to_host.network_policies.enabled {
            counted.push(NETWORK_POLICIES.to_owned());
        }
        for key in counted {
            if hard.get(&key).is_none() {
                hard[key] = CHOSEN_OBJECTS.into();
            }
        }
        let mut spec = json!({"hard": hard});
        if !choice.scopes.is_empty() {
            spec["scopes"] = json!(choice.scopes);
        }
        let expressions = &choice.scope_selector.match_expressions;
        if !expressions.is_empty() {
            spec["scopeSelector"] = json!({"matchExpressions": expressions});
        }
        object["spec"] = spec;
        object
    }

    fn workload_policy(&self, facts: &ServiceFacts) -> Value {
        let choice = &self.config.policies.network_policy.workload;
        let workloads = self.workloads();
        let control_plane = self.control_plane_pods();
        let mut egress = vec![
            json!({"to": [&control_plane], "ports": self.served_ports()}),
            json!({"to": [&workloads]}),
        ];
        let public = &choice.public_egress;
        if public.enabled {
            let block = json!({"cidr": public.cidr, "except": public.except});
            egress.push(json!({"to": [{"ipBlock": block}]}));
        }
        egress.extend(choice.egress.iter().cloned());
        let mut ingress = vec![
            json!({"from": [&control_plane]}),
            json!({"from": [&workloads]}),
        ];
        ingress.extend(choice.ingress.iter().cloned());
        let name = names::workload_policy(self.name);
        self.network_policy(&name, facts, &workloads["podSelector"], ingress, egress)
    }

    fn control_plane_policy(&self, facts: &ServiceFacts) -> Value {
        let choice = &self.config.policies.network_policy.control_plane;
        let tcp = |port: u16| json!({"port": port, "protocol": "TCP"});
        let host_dns = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        });
        let mut egress = vec![
            json!({"to": [host_dns]}),
            json!({"ports": HOST_API_PORTS.map(tcp)}),
            json!({"to": [self.workloads()]}),
        ];
        egress.extend(choice.egress.iter().cloned());
        let mut ingress = vec![
            json!({"ports": [tcp(API_PORT)]}),
            json!({"from": [self.workloads()], "ports": self.served_ports()}),
        ];
        ingress.extend(choice.ingress.iter().cloned());
        let name = names::control_plane_policy(self.name);
        let pods = self.control_plane_pods();
        self.network_policy(&name, facts, &pods["podSelector"], ingress, egress)
    }

    fn network_policy(
        &self,
        name: &str,
        facts: &ServiceFacts,
        pods: &Value,
        ingress: Vec<Value>,
        egress: Vec<Value>,
    ) -> Value {
        let choice = &self.config.policies.network_policy;
        let version = "networking.k8s.io/v1";
        let mut object = self.policy(
            version,
            "NetworkPolicy",
            name,
            facts,
            &choice.labels,
            &choice.annotations,
        );
        object["spec"] = json!({
            "podSelector": pods,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        });
        object
    }

    fn policy(
        &self,
        api_version: &str,
        kind: &str,
        name: &str,
        facts: &ServiceFacts,
        labels: &Texts,
        annotations: &Texts,
    ) -> Value {
        let mut object = self.object(api_version, kind, name, Some(facts));
        add_texts(&mut object, "labels", labels);
        add_texts(&mut object, "annotations", annotations);
        object
    }

    /// What the control plane offers its workloads.
    fn served_ports(&self) -> Value {
        json!([
            {"port": DNS_PORT, "protocol": "UDP"},
            {"port": DNS_PORT, "protocol": "TCP"},
            {"port": API_PORT, "protocol": "TCP"},
        ])
    }

    fn workloads(&self) -> Value {
        json!({"podSelector": {"matchLabels": {marks::MANAGED_BY: self.name}}})
    }

    fn control_plane_pods(&self) -> Value {
        json!({"podSelector": {"matchLabels": self.selector()}})
    }
}

/// Quantities as texts: a number means the same.
fn quantities(values: &Fragment) -> Value {
    values
        .iter()
        .map(|(key, value)| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (key.clone(), Value::from(text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::tests::{config, facts, tenant};

    fn rendered(yaml: &str) -> Vec<Value> {
        let config = config(yaml);
        tenant(&config).policies(&facts())
    }

    #[test]
    fn none_by_default() {
        assert!(rendered("").is_empty());
    }

    #[test]
    fn a_quota_brings_defaults_for_pods_that_do_not_say() {
        let all = rendered(
            "policies: {resourceQuota: {enabled: true, quota: {requests.cpu: 3}, labels: {a: b}}}",
        );
        let kinds: Vec<&str> = all.iter().filter_map(|o| o["kind"].as_str()).collect();
        assert_eq!(kinds, ["LimitRange", "ResourceQuota"]);
        assert_eq!(all[0]["spec"]["limits"][0]["defaultRequest"]["cpu"], "100m");
        assert!(all[0]["spec"]["limits"][0].get("min").is_none());
        assert_eq!(all[1]["metadata"]["name"], "vc-team");
        assert_eq!(all[1]["metadata"]["labels"]["a"], "b");
        assert_eq!(all[1]["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(all[1]["spec"]["hard"]["requests.cpu"], "3");
        assert_eq!(all[1]["spec"]["hard"]["count/pods"], "20");
    }

    #[test]
    fn a_quota_counts_network_policies_where_they_flow() {
        let counted = |values: &str| {
            let quota = format!("policies: {{resourceQuota: {{enabled: true{values}");
            let all = rendered(&quota);
            let hard = &all[1]["spec"]["hard"];
            hard.get(NETWORK_POLICIES).cloned()
        };
        assert_eq!(counted("}}"), None);
        let sync = "sync: {toHost: {networkPolicies: {enabled: true}}}";
        assert_eq!(counted(&format!("}}}}\n{sync}")), Some(json!("100")));
        let own = format!(", quota: {{{NETWORK_POLICIES}: 7}}}}}}\n{sync}");
        assert_eq!(counted(&own), Some(json!("7")));
    }

    #[test]
    fn workloads_reach_their_own_kind_and_what_is_public() {
        let all =
            rendered("policies: {networkPolicy: {enabled: true, workload: {egress: [{to: []}]}}}");
        let [workload, control_plane] = &all[..] else {
            panic!("{all:?}")
        };
        let own = json!({"podSelector": {"matchLabels": {"coracle.dev/managed-by": "team"}}});
        assert_eq!(workload["spec"]["podSelector"], own["podSelector"]);
        let egress = workload["spec"]["egress"].as_array().unwrap();
        assert_eq!(egress[1]["to"], json!([own]));
        let block = &egress[2]["to"][0]["ipBlock"];
        assert_eq!(block["cidr"], "0.0.0.0/0");
        let except = block["except"].as_array().unwrap();
        // Other clusters, and metadata services of clouds.
        for inner in ["10.0.0.0/8", "169.254.0.0/16"] {
            assert!(except.contains(&json!(inner)), "{inner}");
        }
        assert_eq!(egress[3], json!({"to": []}));
        assert_eq!(control_plane["metadata"]["name"], "vc-cp-team");
        assert_eq!(
            control_plane["spec"]["podSelector"],
            json!({"matchLabels": {"app": "coracle", "release": "team"}})
        );
        let closed = rendered(
            "policies: {networkPolicy: {enabled: true, workload: {publicEgress: {enabled: false}}}}",
        );
        assert_eq!(closed[0]["spec"]["egress"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn an_ingress_leads_to_the_service_and_passes_tls_through() {
        let all = rendered(
            "controlPlane: {ingress: {enabled: true, host: team.example, \
             spec: {ingressClassName: nginx}, annotations: {a: b}}}",
        );
        let [ingress] = &all[..] else {
            panic!("{all:?}")
        };
        let annotations = &ingress["metadata"]["annotations"];
        assert_eq!(
            annotations["nginx.ingress.kubernetes.io/ssl-passthrough"],
            "true"
        );
        assert_eq!(annotations["a"], "b");
        assert_eq!(ingress["spec"]["ingressClassName"], "nginx");
        let rule = &ingress["spec"]["rules"][0];
        assert_eq!(rule["host"], "team.example");
        assert_eq!(
            rule["http"]["paths"][0]["backend"],
            json!({"service": {"name": "team", "port": {"name": "https"}}})
        );
    }

    #[test]
    fn every_policy_is_among_the_possible_ones() {
        let config = config(
            "{policies: {resourceQuota: {enabled: true}, networkPolicy: {enabled: true}}, \
                    controlPlane: {ingress: {enabled: true, host: a.b}}}",
        );
        let tenant = tenant(&config);
        let key = |o: &Value| (o["kind"].clone(), o["metadata"]["name"].clone());
        let possible: Vec<_> = tenant.possible_policies().iter().map(key).collect();
        let rendered: Vec<_> = tenant.policies(&facts()).iter().map(key).collect();
        assert_eq!(rendered, possible);
    }
}
