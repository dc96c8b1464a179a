//! The service `kubernetes`, by which pods find the API server.

use std::net::Ipv4Addr;

use coracle_machinery::{ApiError, GroupResource, Reason, object};
use serde_json::{Value, json};

use crate::auth::{core, named};
use crate::objects::Objects;

const NAME: &str = "kubernetes";

/// Attempts to update one object that someone else changes at the same time.
const MAX_ATTEMPTS: usize = 5;

/// Where the API server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesService {
    /// The service's cluster IP; `None` leaves it as it is (a syncer writes
    /// it).
    pub cluster_ip: Option<Ipv4Addr>,
    /// Where the API server listens, as pods reach it.
    pub endpoint_ip: Ipv4Addr,
    /// The port of the endpoint. The service's port is 443.
    pub endpoint_port: u16,
}

/// Brings the service, its Endpoints and its EndpointSlice up to date. To be
/// run at start, after the default namespaces exist.
///
/// # Errors
/// If reading or writing fails.
pub async fn ensure_kubernetes_service(
    objects: &dyn Objects,
    wanted: &KubernetesService,
) -> Result<(), ApiError> {
    ensure(objects, &core("services"), &wanted.service()).await?;
    if wanted.endpoint_ip.is_loopback() {
        // A server for this machine alone: no pod would find it there.
        return Ok(());
    }
    ensure(objects, &core("endpoints"), &wanted.endpoints()).await?;
    let slices = named("discovery.k8s.io", "endpointslices");
    ensure(objects, &slices, &wanted.slice()).await
}

impl KubernetesService {
    fn service(&self) -> Value {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": NAME,
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP",
                    "targetPort": self.endpoint_port}],
            },
        });
        if let Some(ip) = self.cluster_ip {
            service["spec"]["clusterIP"] = json!(ip.to_string());
            service["spec"]["clusterIPs"] = json!([ip.to_string()]);
        }
        service
    }

    fn endpoints(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": NAME,
                "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{
                "addresses": [{"ip": self.endpoint_ip.to_string()}],
                "ports": [{"name": "https", "port": self.endpoint_port, "protocol": "TCP"}],
            }],
        })
    }

    fn slice(&self) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": NAME,
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": [self.endpoint_ip.to_string()],
                "conditions": {"ready": true},
            }],
            "ports": [{"name": "https", "port": self.endpoint_port, "protocol": "TCP"}],
        })
    }
}

/// Creates the object or gives its fields the wanted values; others stay.
async fn ensure(
    objects: &dyn Objects,
    resource: &GroupResource,
    wanted: &Value,
) -> Result<(), ApiError> {
    for _ in 0..MAX_ATTEMPTS {
        let current = objects.get(resource, "default", NAME).await?;
        let result = match &current {
            None => objects.create(resource, wanted.clone()).await,
            Some(current) => {
                let mut updated = (**current).clone();
                overlay(&mut updated, wanted);
                if updated == **current {
                    return Ok(());
                }
                objects.update(resource, updated).await
            }
        };
        match result {
            Err(e) if matches!(e.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            result => return result.map(|_| ()),
        }
    }
    let name = format!("{}/{NAME}", object::namespace(wanted));
    Err(ApiError::conflict(resource, &name, "it keeps changing"))
}

/// Sets the values of `wanted`, map by map; lists are replaced whole.
fn overlay(target: &mut Value, wanted: &Value) {
    match (target, wanted) {
        (Value::Object(target), Value::Object(wanted)) => {
            for (key, value) in wanted {
                overlay(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, wanted) => *target = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn the_service_follows_the_endpoint() {
        let objects = FakeObjects::new();
        let mut wanted = KubernetesService {
            cluster_ip: Some(Ipv4Addr::new(10, 96, 0, 1)),
            endpoint_ip: Ipv4Addr::new(10, 0, 0, 5),
            endpoint_port: 6443,
        };
        ensure_kubernetes_service(&*objects, &wanted).await.unwrap();
        let settled = objects.generation(&core("services"));
        ensure_kubernetes_service(&*objects, &wanted).await.unwrap();
        assert_eq!(objects.generation(&core("services")), settled);
        wanted.endpoint_port = 8443;
        wanted.cluster_ip = None;
        ensure_kubernetes_service(&*objects, &wanted).await.unwrap();
        let service = objects
            .get(&core("services"), "default", NAME)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 8443);
        let slices = named("discovery.k8s.io", "endpointslices");
        let slice = objects
            .get(&slices, "default", NAME)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(slice["ports"][0]["port"], 8443);
    }

    #[tokio::test]
    async fn what_only_this_machine_reaches_is_no_endpoint() {
        let objects = FakeObjects::new();
        let wanted = KubernetesService {
            cluster_ip: None,
            endpoint_ip: Ipv4Addr::LOCALHOST,
            endpoint_port: 6443,
        };
        ensure_kubernetes_service(&*objects, &wanted).await.unwrap();
        for (resource, there) in [("services", true), ("endpoints", false)] {
            let found = objects.get(&core(resource), "default", NAME).await.unwrap();
            assert_eq!(found.is_some(), there, "{resource}");
        }
    }
}
