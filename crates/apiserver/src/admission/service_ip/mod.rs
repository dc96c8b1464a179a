//! The addresses of services: cluster IPs and node ports.

mod pool;
mod shape;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind, object};
use serde_json::{Value, json};

use self::pool::{Owner, Pool, Refusal};
use super::{Ipv4Cidr, is};
use crate::access::UserInfo;
use crate::hooks::{Admission, AdmissionRequest, Completion, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

/// Who gives out the addresses of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddressing {
    /// This API server.
    Allocate {
        /// Where cluster IPs come from.
        cidr: Ipv4Cidr,
        /// Where node ports come from.
        node_ports: RangeInclusive<u16>,
    },
    /// Another cluster, whose addresses a syncer writes into the services.
    FromHost {
        /// The syncer's user name.
        syncer: String,
    },
}

impl ServiceAddressing {
    /// Allocation with the usual node ports, 30000 to 32767.
    pub fn allocate(cidr: Ipv4Cidr) -> Self {
        Self::Allocate {
            cidr,
            node_ports: 30_000..=32_767,
        }
    }
}

/// The rule that gives services their addresses.
pub(super) struct ServiceAddresses {
    pool: Option<Pool>,
}

impl ServiceAddresses {
    pub(super) fn new(objects: Arc<dyn Objects>, addressing: ServiceAddressing) -> Self {
        let pool = match addressing {
            ServiceAddressing::Allocate { cidr, node_ports } => {
                Some(Pool::new(objects, cidr, node_ports))
            }
            ServiceAddressing::FromHost { .. } => None,
        };
        Self { pool }
    }
}

/// Lets the answers to writers of services wait for the host's addresses.
pub(crate) struct HostAddresses {
    /// Who writes them and need not wait.
    pub(crate) syncer: String,
}

impl Completion for HostAddresses {
    fn handles(&self, user: &UserInfo, resource: &Resource) -> bool {
        is(resource, "", "services") && user.username != self.syncer
    }

    fn awaited(&self, service: &Value) -> bool {
        shape::lacks_address(service)
    }
}

#[async_trait]
impl Admission for ServiceAddresses {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && is(resource, "", "services")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let dry_run = request.dry_run;
        let old = request.old;
        let owner = Owner::new(request.namespace, request.name);
        let Some(service) = request.object.as_mut() else {
            return Ok(());
        };
        if service.get("spec").is_none_or(|spec| !spec.is_object()) {
            return Ok(()); // Validation says so.
        }
        if let Some(old) = old {
            shape::keep_allocated(service, old);
        }
        let mut errors = shape::families(service);
        if let (Some(pool), true) = (&self.pool, errors.is_empty()) {
            errors = pool.fill(&owner, service, old, dry_run).await?;
        }
        if errors.is_empty() {
            return Ok(());
        }
        let kind = GroupKind::new("", "Service");
        Err(ApiError::invalid(&kind, object::name(service), &errors))
    }
}

impl Pool {
    /// Gives a service what its type needs and it does not have. The errors
    /// are about addresses that it asked for.
    async fn fill(
        &self,
        owner: &Owner,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Vec<FieldError>, ApiError> {
        let wants_address = shape::needs_address(service);
        let wants_ports = shape::needs_node_ports(service);
        let wants_check = shape::needs_health_check(service);
        if !wants_address && !wants_ports && !wants_check {
            return Ok(Vec::new());
        }
        let mut lease = self.lease(owner).await?;
        let mut errors = Vec::new();
        let spec = FieldPath::new("spec");
        if wants_address {
            let asked = object::text(service, "/spec/clusterIP").to_owned();
            let held = old.map_or("", |old| object::text(old, "/spec/clusterIP"));
            if asked.is_empty() {
                let address = lease.any_address()?.to_string();
                service["spec"]["clusterIP"] = json!(address);
                service["spec"]["clusterIPs"] = json!([address]);
            } else if asked != held
                && let Err(error) = take_address(&mut lease, &asked)
            {
                let path = spec.child("clusterIPs");
                let why = format!("failed to allocate IP {asked}: {error}");
                errors.push(FieldError::invalid(&path, json!([asked]), why));
            }
        }
        if wants_ports {
            errors.extend(node_ports(&mut lease, service, old)?);
        }
        if wants_check {
            let asked = service
                .pointer("/spec/healthCheckNodePort")
                .and_then(Value::as_i64);
            let held = old.and_then(|o| o.pointer("/spec/healthCheckNodePort")?.as_i64());
            match asked.filter(|port| *port != 0) {
                None => service["spec"]["healthCheckNodePort"] = json!(lease.any_port()?),
                Some(port) if Some(port) == held => {}
                Some(port) => {
                    if let Err(error) = lease.port(port) {
                        let path = spec.child("healthCheckNodePort");
                        errors.push(FieldError::invalid(&path, port, error.to_string()));
                    }
                }
            }
        }
        if errors.is_empty() && !dry_run {
            lease.keep()?;
        }
        Ok(errors)
    }
}

fn take_address(lease: &mut pool::Lease<'_>, asked: &str) -> Result<(), Refusal> {
    match asked.parse::<Ipv4Addr>() {
        Ok(address) => lease.address(address),
        Err(_) => Ok(()), // Validation says so.
    }
}

/// Node ports for all ports of a service. Ports of one service may share a
/// number if their protocols differ.
fn node_ports(
    lease: &mut pool::Lease<'_>,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<FieldError>, ApiError> {
    let held: Vec<i64> = old.map_or(Vec::new(), shape::node_ports);
    let mut errors = Vec::new();
    let mut mine: Vec<i64> = Vec::new();
    let ports = service
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut);
    let Some(ports) = ports else {
        return Ok(errors);
    };
    // Those that were asked for first, so that none of them is given away.
    for (index, port) in ports.iter().enumerate() {
        let asked = port
            .get("nodePort")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        if asked == 0 || mine.contains(&asked) {
            continue;
        }
        mine.push(asked);
        if !held.contains(&asked)
            && let Err(error) = lease.port(asked)
        {
            let path = FieldPath::new("spec")
                .child("ports")
                .index(index)
                .child("nodePort");
            errors.push(FieldError::invalid(&path, asked, error.to_string()));
        }
    }
    if !errors.is_empty() {
        return Ok(errors);
    }
    for port in ports.iter_mut().filter(|port| port.is_object()) {
        if port
            .get("nodePort")
            .and_then(Value::as_i64)
            .unwrap_or_default()
            == 0
        {
            port["nodePort"] = json!(lease.any_port()?);
        }
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::core;
    use crate::auth::fake::FakeObjects;

    fn rule(
        objects: &Arc<FakeObjects>,
        cidr: &str,
        ports: RangeInclusive<u16>,
    ) -> ServiceAddresses {
        let addressing = ServiceAddressing::Allocate {
            cidr: cidr.parse().unwrap(),
            node_ports: ports,
        };
        ServiceAddresses::new(objects.clone(), addressing)
    }

    fn from_host() -> ServiceAddressing {
        ServiceAddressing::FromHost {
            syncer: "syncer".into(),
        }
    }

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec})
    }

    fn node_port(port: Value) -> Value {
        json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}]})
    }

    #[tokio::test]
    async fn each_type_gets_what_it_needs() {
        let objects = FakeObjects::new();
        let rule = rule(&objects, "10.0.0.0/24", 30_000..=30_010);
        let create = Try::create(&rule, "services");
        let ports = json!([{"port": 80, "protocol": "TCP"}]);

        let got = create
            .pass(service("a", json!({"type": "ClusterIP", "ports": ports})))
            .await
            .unwrap();
        let address: Ipv4Addr = got["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        assert!(
            u32::from(address) & 0xff >= 16,
            "the low ones are kept for those who choose"
        );
        assert_eq!(got["spec"]["clusterIPs"], json!([address.to_string()]));
        assert_eq!(got["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(got["spec"]["ipFamilyPolicy"], "SingleStack");
        assert_eq!(got["spec"]["ports"], ports);

        let got = create
            .pass(service("b", node_port(Value::Null)))
            .await
            .unwrap();
        let port = got["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
        assert!((30_000..=30_010).contains(&port));

        let balancer =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports});
        let got = create.pass(service("c", balancer)).await.unwrap();
        assert!(got["spec"]["healthCheckNodePort"].as_i64().unwrap() >= 30_000);

        let headless = json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"a": "b"}});
        let got = create.pass(service("d", headless)).await.unwrap();
        assert_eq!(got["spec"]["clusterIPs"], json!(["None"]));
        assert_eq!(got["spec"]["ipFamilies"], json!(["IPv4"]));

        let external = json!({"type": "ExternalName", "externalName": "x.y"});
        let got = create.pass(service("e", external.clone())).await.unwrap();
        assert_eq!(got["spec"], external);
    }

    #[tokio::test]
    async fn what_is_taken_or_outside_is_refused() {
        let objects = FakeObjects::new();
        let rule = rule(&objects, "10.0.0.0/24", 30_000..=30_001);
        let create = Try::create(&rule, "services");
        let held = json!({"type": "NodePort", "clusterIP": "10.0.0.9",
            "ports": [{"port": 1, "nodePort": 30_000}]});
        objects.put(&core("services"), service("held", held));
        let at = |ip: &str| json!({"type": "ClusterIP", "clusterIP": ip});
        for (spec, text) in [
            (
                at("10.0.0.9"),
                "spec.clusterIPs: Invalid value: [\"10.0.0.9\"]: failed to allocate IP 10.0.0.9: provided IP is already allocated",
            ),
            (
                at("10.0.1.9"),
                "failed to allocate IP 10.0.1.9: the provided IP (10.0.1.9) is not in the valid range. The range of valid IPs is 10.0.0.0/24",
            ),
            (
                node_port(json!(30_000)),
                "spec.ports[0].nodePort: Invalid value: 30000: provided port is already allocated",
            ),
            (
                node_port(json!(80)),
                "provided port is not in the valid range. The range of valid ports is 30000-30001",
            ),
        ] {
            let error = create.pass(service("s", spec)).await.unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.message.ends_with(text), "{}", error.message);
        }
        // Whoever asks is not told twice of the same reservation.
        assert!(create.pass(service("s", at("10.0.0.8"))).await.is_ok());
        assert!(create.pass(service("t", at("10.0.0.8"))).await.is_err());
        assert!(create.pass(service("s", at("10.0.0.8"))).await.is_ok());
        let same = json!({"type": "NodePort", "ports": [
            {"port": 1, "protocol": "TCP", "nodePort": 30_001},
            {"port": 1, "protocol": "UDP", "nodePort": 30_001}]});
        assert!(create.pass(service("u", same)).await.is_ok());
        let error = create
            .pass(service("v", node_port(Value::Null)))
            .await
            .unwrap_err();
        assert_eq!(
            error.message,
            "Internal error occurred: failed to allocate a nodePort: range is full"
        );
    }

    #[tokio::test]
    async fn a_full_range_is_used_to_the_last_and_freed_by_deletes() {
        let objects = FakeObjects::new();
        let rule = rule(&objects, "10.0.0.0/27", 30_000..=30_001);
        let create = Try::create(&rule, "services");
        let mut seen = HashSet::new();
        for i in 0..30 {
            let got = create
                .pass(service(&format!("s{i}"), json!({"type": "ClusterIP"})))
                .await
                .unwrap();
            assert!(seen.insert(got["spec"]["clusterIP"].as_str().unwrap().to_owned()));
            objects.put(&core("services"), got);
        }
        let error = create
            .pass(service("more", json!({"type": "ClusterIP"})))
            .await
            .unwrap_err();
        assert!(
            error
                .message
                .ends_with("failed to allocate a serviceIP: range is full")
        );
        objects.remove(&core("services"), "n", "s7");
        assert!(
            create
                .pass(service("more", json!({"type": "ClusterIP"})))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn creates_at_once_never_share_an_address() {
        let objects = FakeObjects::new();
        let rule = rule(&objects, "10.0.0.0/25", 30_000..=30_001);
        let create = Try::create(&rule, "services");
        let all =
            (0..100).map(|i| create.pass(service(&format!("s{i}"), json!({"type": "ClusterIP"}))));
        let got = futures::future::join_all(all).await;
        let addresses: HashSet<String> = got
            .into_iter()
            .map(|s| s.unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(addresses.len(), 100);
    }

    #[tokio::test]
    async fn an_update_keeps_gains_and_drops() {
        let objects = FakeObjects::new();
        let rule = rule(&objects, "10.0.0.0/24", 30_000..=30_010);
        let update = Try {
            operation: Operation::Update,
            ..Try::create(&rule, "services")
        };
        let old = service(
            "s",
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.20",
            "clusterIPs": ["10.0.0.20"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP"}]}),
        );
        objects.put(&core("services"), old.clone());
        let up = update
            .run(Some(service("s", node_port(Value::Null))), Some(&old))
            .await
            .unwrap();
        assert_eq!(up["spec"]["clusterIP"], "10.0.0.20");
        let port = up["spec"]["ports"][0]["nodePort"].clone();
        assert!(port.is_number());
        // Sent again without the number, it is the same.
        let again = update
            .run(Some(service("s", node_port(Value::Null))), Some(&up))
            .await
            .unwrap();
        assert_eq!(again["spec"]["ports"][0]["nodePort"], port);
        let mut down = up.clone();
        down["spec"]["type"] = json!("ClusterIP");
        let down = update.run(Some(down), Some(&up)).await.unwrap();
        assert_eq!(down["spec"]["ports"][0].get("nodePort"), None);
    }

    #[tokio::test]
    async fn an_address_written_alone_is_followed_by_the_list() {
        let rule = ServiceAddresses::new(FakeObjects::new(), from_host());
        let update = Try {
            operation: Operation::Update,
            ..Try::create(&rule, "services")
        };
        let spec = |ip: Value, ips: Value| json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": ips});
        let old = service("s", spec(json!("1.1.1.1"), json!(["1.1.1.1"])));
        for (new, ip) in [
            (spec(json!("2.2.2.2"), json!(["1.1.1.1"])), "2.2.2.2"),
            (spec(json!("2.2.2.2"), Value::Null), "2.2.2.2"),
            (spec(Value::Null, json!(["1.1.1.1"])), "1.1.1.1"),
            (spec(Value::Null, Value::Null), "1.1.1.1"),
        ] {
            let got = update
                .run(Some(service("s", new)), Some(&old))
                .await
                .unwrap();
            assert_eq!(got["spec"]["clusterIP"], ip);
            assert_eq!(got["spec"]["clusterIPs"], json!([ip]));
        }
        // Without any yet, as before the syncer wrote one.
        let none = service("s", json!({"type": "ClusterIP"}));
        let new = service("s", json!({"type": "ClusterIP", "clusterIP": "3.3.3.3"}));
        let got = update.run(Some(new), Some(&none)).await.unwrap();
        assert_eq!(got["spec"]["clusterIPs"], json!(["3.3.3.3"]));
    }

    #[tokio::test]
    async fn addresses_of_the_host_are_left_to_the_syncer() {
        let rule = ServiceAddresses::new(FakeObjects::new(), from_host());
        let got = Try::create(&rule, "services")
            .pass(service("s", node_port(Value::Null)))
            .await
            .unwrap();
        assert_eq!(got["spec"].get("clusterIP"), None);
        assert_eq!(got["spec"]["ports"][0]["nodePort"], Value::Null);
        assert_eq!(got["spec"]["ipFamilies"], json!(["IPv4"]));
    }

    #[tokio::test]
    async fn other_families_are_not_to_be_had() {
        let rule = ServiceAddresses::new(FakeObjects::new(), from_host());
        let create = Try::create(&rule, "services");
        for (spec, text) in [
            (
                json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
        ] {
            let error = create.pass(service("s", spec)).await.unwrap_err();
            assert!(error.message.ends_with(text), "{}", error.message);
        }
    }
}
