//! A tenant who is no more than admin of one host namespace makes, uses and
//! deletes a virtual cluster.

use std::collections::BTreeSet;

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// What the host's administrator does: a namespace, an account, one binding.
const GRANT: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: e2e-tenant}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: owner, namespace: e2e-tenant}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: e2e-tenant}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: owner, namespace: e2e-tenant}]
"#;

const WEB: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - {name: nginx, image: nginx, imagePullPolicy: IfNotPresent, ports: [{containerPort: 80}]}
"#;

/// Kinds that change by themselves, or that the host makes for a claim.
const RESTLESS: &[&str] = &[
    "events",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "persistentvolumes",
];

/// create, use, delete with the rights of a namespace's admin.
pub fn owner_of_one_namespace(world: &World) -> Result {
    world.apply(GRANT)?;
    let owner = log_in(world)?;
    world.eventually("the owner has its rights", || {
        owner.kubectl("get pods -n e2e-tenant").map(drop)
    })?;
    let elsewhere = owner.try_kubectl("get nodes");
    has(&elsewhere.err, "cannot list resource \"nodes\"")?;

    let before = elsewhere_on(world)?;
    let cluster = VirtualCluster::create(&owner, "mine", "e2e-tenant", "")?;
    let inside = &cluster.inside;
    has(&inside.kubectl("auth whoami")?, "system:masters")?;
    inside.apply(WEB)?;
    inside.kubectl("wait pod web --for condition=Ready --timeout 120s")?;
    has(
        &inside.kubectl("exec web -- cat /etc/resolv.conf")?,
        "default.svc.cluster.local",
    )?;
    inside.kubectl("create namespace more")?;
    inside.kubectl("create clusterrole mighty --verb * --resource *")?;
    let listed = owner.coracle("list -n e2e-tenant")?;
    has(&listed, "mine")?;
    has(&listed, "Running")?;

    let during = elsewhere_on(world)?;
    let new: Vec<&String> = during.difference(&before).collect();
    ensure(new.is_empty(), &format!("made outside: {new:?}"))?;
    cluster.delete()?;
    world.eventually("the host removes the volume", || {
        let claims = "{.items[*].spec.claimRef.namespace}";
        let left = world.kubectl(&format!("get pv -o jsonpath={claims}"))?;
        ensure(!left.contains("e2e-tenant"), &left)
    })?;
    // The namespace was the administrator's: it stays.
    world.kubectl("get serviceaccount owner -n e2e-tenant")?;
    world.kubectl("delete namespace e2e-tenant")?;
    Ok(())
}

/// A kubeconfig of the owner's account.
fn log_in(world: &World) -> Result<World> {
    let token = world.kubectl("create token owner -n e2e-tenant")?;
    let file = world.file(
        "owner.kubeconfig",
        &world.kubectl("config view --minify --flatten")?,
    )?;
    let owner = world.with_kubeconfig(file);
    let context = owner.kubectl("config current-context")?;
    owner.kubectl(&format!("config set-credentials owner --token {token}"))?;
    owner.kubectl(&format!(
        "config set-context {} --user owner",
        context.trim()
    ))?;
    Ok(owner)
}

/// All objects of the host that do not lie in the tenant's namespace.
fn elsewhere_on(world: &World) -> Result<BTreeSet<String>> {
    let kinds = world.kubectl("api-resources --verbs list -o name")?;
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !RESTLESS.contains(kind))
        .collect();
    let list = world.kubectl(&format!(
        "get {} -A -o 'jsonpath={{range .items[*]}}\
         {{.metadata.namespace}}/{{.kind}}/{{.metadata.name}}{{\"\\n\"}}{{end}}'",
        kinds.join(",")
    ))?;
    let elsewhere = list.lines().filter(|line| !line.starts_with("e2e-tenant/"));
    Ok(elsewhere.map(str::to_owned).collect())
}
