//! Custom resources of the host: objects of the tenant's go there, objects of
//! the host's are shown inside.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const DEFINITIONS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ships.fleet.example.com}
spec:
  group: fleet.example.com
  scope: Namespaced
  names: {plural: ships, singular: ship, kind: Ship}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              captain: {type: string}
              papers: {type: string}
          status:
            type: object
            properties:
              port: {type: string}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: harbours.fleet.example.com}
spec:
  group: fleet.example.com
  scope: Cluster
  names: {plural: harbours, singular: harbour, kind: Harbour}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          depth: {type: integer}
"#;

const HARBOUR: &str = r#"
apiVersion: fleet.example.com/v1
kind: Harbour
metadata: {name: deep}
depth: 12
"#;

const VALUES: &str = r#"
sync:
  toHost:
    customResources:
      ships.fleet.example.com:
        enabled: true
        patches:
        - path: spec.papers
          reference: {apiVersion: v1, kind: Secret}
        - path: spec.captain
          expression: "'Captain ' + value"
  fromHost:
    customResources:
      harbours.fleet.example.com:
        enabled: true
        scope: Cluster
"#;

const SHIPS: &str = r#"
apiVersion: fleet.example.com/v1
kind: Ship
metadata: {name: a}
spec: {captain: ann, papers: passport}
---
apiVersion: fleet.example.com/v1
kind: Ship
metadata: {name: b}
spec: {captain: bob}
"#;

/// What an earlier syncer left: nothing inside has its name.
const ORPHAN: &str = r#"
apiVersion: fleet.example.com/v1
kind: Ship
metadata:
  name: orphan-x-default-x-ships
  namespace: e2e-ships
  labels: {coracle.dev/managed-by: ships, coracle.dev/namespace: default}
  annotations:
    coracle.dev/object-name: orphan
    coracle.dev/object-namespace: default
    coracle.dev/object-kind: Ship
    coracle.dev/object-uid: gone
"#;

const NAMESPACE: &str = "e2e-ships";

/// Custom resources both ways.
pub fn both_ways(world: &World) -> Result {
    world.apply(DEFINITIONS)?;
    world.kubectl(
        "wait crd ships.fleet.example.com harbours.fleet.example.com --for condition=Established \
         --timeout 60s",
    )?;
    world.apply(HARBOUR)?;
    let result = play(world);
    world.try_kubectl("delete crd ships.fleet.example.com harbours.fleet.example.com");
    result
}

fn play(world: &World) -> Result {
    let values = world.file("ships.yaml", VALUES)?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, "ships", NAMESPACE, &options)?;
    let inside = &cluster.inside;
    inside.kubectl("wait crd ships.fleet.example.com --for=create --timeout 60s")?;
    inside.kubectl("wait crd ships.fleet.example.com --for condition=Established --timeout 60s")?;
    inside.eventually("a harbour of the host", || {
        let depth = inside.kubectl("get harbour deep -o jsonpath={.depth}")?;
        ensure(depth == "12", &depth)
    })?;
    inside.kubectl("create secret generic passport --from-literal number=7")?;
    inside.apply(SHIPS)?;
    to_host(world, inside)?;
    removals(world, inside)?;
    restart(world, inside)?;

    // What is no longer chosen goes from the host, and stays inside.
    world.coracle(&format!(
        "create ships -n {NAMESPACE} --upgrade --connect=false"
    ))?;
    let left = world.kubectl(&format!("get ships -n {NAMESPACE} -o name"))?;
    ensure(left.is_empty(), &left)?;
    inside.eventually("the ship inside", || inside.kubectl("get ship a").map(drop))?;
    let roles = world.kubectl("get clusterroles,clusterrolebindings -o name")?;
    ensure(!roles.contains("ships"), &roles)?;
    cluster.delete()
}

fn to_host(world: &World, inside: &World) -> Result {
    let host = format!("get ship a-x-default-x-ships -n {NAMESPACE} -o jsonpath=");
    world.eventually("the ship on the host", || {
        let spec = world.kubectl(&format!("{host}{{.spec.captain}},{{.spec.papers}}"))?;
        ensure(spec == "Captain ann,passport-x-default-x-ships", &spec)
    })?;
    let secret = format!("get secret passport-x-default-x-ships -n {NAMESPACE}");
    world.eventually("its papers", || world.kubectl(&secret).map(drop))?;
    world.kubectl(&format!(
        r#"patch ship a-x-default-x-ships -n {NAMESPACE} --subresource status --type merge -p {{"status":{{"port":"deep"}}}}"#
    ))?;
    inside.eventually("the status inside", || {
        let port = inside.kubectl("get ship a -o jsonpath={.status.port}")?;
        ensure(port == "deep", &port)
    })
}

fn removals(world: &World, inside: &World) -> Result {
    let host = format!("get ships -n {NAMESPACE} -o name");
    world.eventually("both ships", || {
        has(&world.kubectl(&host)?, "b-x-default-x-ships")
    })?;
    world.kubectl(&format!("delete ship b-x-default-x-ships -n {NAMESPACE}"))?;
    inside.eventually("it is gone inside", || {
        let left = inside.kubectl("get ships -o name")?;
        ensure(!left.contains("/b"), &left)
    })?;
    inside.apply(SHIPS)?;
    world.eventually("both again", || {
        has(&world.kubectl(&host)?, "b-x-default-x-ships")
    })?;
    inside.kubectl("delete ship b")?;
    world.eventually("it is gone on the host", || {
        let left = world.kubectl(&host)?;
        ensure(!left.contains("/b-x"), &left)
    })
}

fn restart(world: &World, inside: &World) -> Result {
    let uid = format!("get ship a-x-default-x-ships -n {NAMESPACE} -o jsonpath={{.metadata.uid}}");
    let before = world.kubectl(&uid)?;
    world.coracle(&format!("pause ships -n {NAMESPACE}"))?;
    world.apply(ORPHAN)?;
    world.coracle(&format!("resume ships -n {NAMESPACE}"))?;
    world.eventually("the orphan is gone", || {
        let left = world.kubectl(&format!("get ships -n {NAMESPACE} -o name"))?;
        ensure(!left.contains("orphan"), &left)
    })?;
    ensure(world.kubectl(&uid)? == before, "the ship was made anew")?;
    inside.eventually("the ship inside", || inside.kubectl("get ship a").map(drop))
}
