//! Virtual clusters with equal names inside, side by side in one host
//! namespace and apart: nothing mixes, and no credential opens another door.

use std::collections::BTreeSet;

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The same in each virtual cluster, but for TINT.
const SAME: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: TINT}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {key: TINT-key}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'mkdir -p /tmp/www; echo $COLOR >/tmp/www/index.html; httpd -f -h /tmp/www']
        env: [{name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: probe}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    env: [{name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}]
    volumeMounts: [{name: key, mountPath: /key}]
  volumes: [{name: key, secret: {secretName: key}}]
"#;

/// Labels with which a tenant's pod would pass for a part of the control plane
/// of the virtual cluster `beta`, or for one of its pods.
const IMPOSTOR: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: impostor
  labels: {app: coracle, release: beta, coracle.dev/managed-by: beta}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
"#;

const KINDS: &str = "pods,services,configmaps,secrets,statefulsets,roles,endpointslices";

/// Three virtual clusters, two of one name.
pub fn neighbours(world: &World) -> Result {
    let alpha = VirtualCluster::create(world, "alpha", "e2e-shared", "")?;
    let beta = VirtualCluster::create(world, "beta", "e2e-shared", "")?;
    let apart = VirtualCluster::create(world, "alpha", "e2e-apart", "")?;
    let all = [(&alpha, "red"), (&beta, "blue"), (&apart, "green")];
    for (cluster, color) in all {
        cluster.inside.apply(&SAME.replace("TINT", color))?;
    }
    alpha.inside.apply(IMPOSTOR)?;
    for (cluster, color) in all {
        own_things(cluster, color)?;
    }
    addresses(world, &all.map(|(cluster, _)| cluster))?;
    impostor(world, &alpha)?;
    credentials(world, &all.map(|(cluster, _)| cluster))?;

    // Deleting inside one, and one itself, leaves the others alone.
    let before = (host_objects(world, &beta)?, host_objects(world, &apart)?);
    alpha
        .inside
        .kubectl("delete configmap/settings secret/key service/web deployment/web")?;
    alpha.inside.kubectl("wait pod -l app=web --for delete")?;
    alpha.delete()?;
    let after = (host_objects(world, &beta)?, host_objects(world, &apart)?);
    ensure(
        before == after,
        &format!("the neighbours changed: {before:?} became {after:?}"),
    )?;
    own_things(&beta, "blue")?;
    own_things(&apart, "green")?;
    beta.delete()?;
    apart.delete()
}

fn own_things(cluster: &VirtualCluster, color: &str) -> Result {
    let inside = &cluster.inside;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    inside.kubectl("wait pod probe --for condition=Ready --timeout 120s")?;
    let own = cluster.in_pod("probe", "echo $COLOR $(cat /key/key)")?;
    ensure(own == format!("{color} {color}-key\n"), &own)?;
    inside.eventually("the service answers", || {
        let answer = cluster.in_pod("probe", "for i in 1 2 3 4; do wget -qO- http://web; done")?;
        ensure(answer == format!("{color}\n").repeat(4), &answer)
    })?;
    let pods = inside.kubectl("get pods -A -o name")?;
    let known = |name: &str| {
        ["web-", "probe", "impostor"]
            .iter()
            .any(|k| name.contains(k))
    };
    ensure(pods.lines().all(known), &pods)
}

/// Names lead to addresses of their own virtual cluster only.
fn addresses(world: &World, all: &[&VirtualCluster]) -> Result {
    let mut seen = BTreeSet::new();
    for cluster in all {
        for (name, host_name) in [
            ("web.default", format!("web-x-default-x-{}", cluster.name)),
            ("kubernetes.default", cluster.name.to_owned()),
        ] {
            let address = world.kubectl(&format!(
                "get service {host_name} -n {} -o jsonpath={{.spec.clusterIP}}",
                cluster.namespace
            ))?;
            let answer = cluster.in_pod("probe", &format!("nslookup {name}.svc.cluster.local"))?;
            has(&answer, &format!("Address: {address}"))?;
            ensure(
                seen.insert(address.clone()),
                &format!("{address} is given twice"),
            )?;
        }
        for name in [
            "web-x-default-x-alpha.e2e-shared",
            "web-x-default-x-beta.e2e-shared",
            "web-x-default-x-alpha.e2e-apart",
            "beta.e2e-shared",
        ] {
            let lookup = format!("exec probe -- nslookup {name}.svc.cluster.local");
            has(&cluster.inside.try_kubectl(&lookup).out, "NXDOMAIN")?;
        }
    }
    Ok(())
}

fn impostor(world: &World, alpha: &VirtualCluster) -> Result {
    alpha
        .inside
        .kubectl("wait pod impostor --for condition=Ready --timeout 120s")?;
    world.kubectl("get pod impostor-x-default-x-alpha -n e2e-shared")?;
    for selector in ["release=beta", "coracle.dev/managed-by=beta"] {
        let chosen = world.kubectl(&format!("get pods -n e2e-shared -l {selector} -o name"))?;
        ensure(
            !chosen.contains("impostor"),
            &format!("{selector} selects a pod of alpha"),
        )?;
    }
    Ok(())
}

/// Neither a client certificate nor a token is of any use elsewhere.
fn credentials(world: &World, all: &[&VirtualCluster]) -> Result {
    let server = |of: &World| of.kubectl("config view --minify -o jsonpath={..server}");
    let mut doors = vec![("the host".to_owned(), server(world)?)];
    for cluster in all {
        let name = format!("{} in {}", cluster.name, cluster.namespace);
        doors.push((name, server(&cluster.inside)?));
    }
    for cluster in all {
        let own = server(&cluster.inside)?;
        let token = cluster.inside.kubectl("create token default")?;
        let token = token.trim();
        for (whose, server) in &doors {
            // The address alone is overridden; what identifies the caller stays.
            let there = format!("--server {server} --insecure-skip-tls-verify");
            let certificate = cluster
                .inside
                .try_kubectl(&format!("{there} get --raw /api/v1/pods"));
            let bearer = world.try_kubectl(&format!(
                "--kubeconfig /dev/null {there} --token {token} get --raw /api/v1/pods"
            ));
            if *server == own {
                ensure(certificate.code == 0, &certificate.err)?;
                has(&bearer.err, "system:serviceaccount:default:default")?;
                continue;
            }
            for (run, what) in [(certificate, "certificate"), (bearer, "token")] {
                ensure(
                    run.code != 0 && run.err.contains("Unauthorized"),
                    &format!(
                        "{whose} answers the {what} of {own}: {}{}",
                        run.out, run.err
                    ),
                )?;
            }
        }
    }
    Ok(())
}

/// What a virtual cluster has on the host: names and UIDs.
fn host_objects(world: &World, cluster: &VirtualCluster) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for selector in ["coracle.dev/managed-by", "release"] {
        let list = world.kubectl(&format!(
            "get {KINDS} -n {} -l {selector}={} -o \
             'jsonpath={{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.uid}}{{\"\\n\"}}{{end}}'",
            cluster.namespace, cluster.name
        ))?;
        found.extend(list.lines().map(str::to_owned));
    }
    ensure(found.len() > 8, &format!("too few host objects: {found:?}"))?;
    Ok(found)
}
