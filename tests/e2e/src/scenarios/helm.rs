//! helm with a chart of our own in a virtual cluster: install, upgrade,
//! rollback, uninstall.

use std::path::{Path, PathBuf};

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const CHART: &[(&str, &str)] = &[
    (
        "Chart.yaml",
        "apiVersion: v2\nname: shop\nversion: 0.1.0\nappVersion: \"1\"\n",
    ),
    ("values.yaml", "replicas: 1\ngreeting: hello\n"),
    (
        "crds/coupons.yaml",
        r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: coupons.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: coupons, singular: coupon, kind: Coupon}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [percent]
            properties: {percent: {type: integer, minimum: 1, maximum: 100}}
"#,
    ),
    (
        "templates/data.yaml",
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {greeting: {{ .Values.greeting | quote }}, revision: {{ .Release.Revision | quote }}}
---
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}-key}
stringData: {key: {{ printf "%s-key" .Values.greeting | quote }}}
"#,
    ),
    (
        "templates/access.yaml",
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}}
subjects: [{kind: ServiceAccount, name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}]
"#,
    ),
    (
        "templates/web.yaml",
        r#"
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      serviceAccountName: {{ .Release.Name }}
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, 'echo "$GREETING $KEY"; sleep 3600']
        env:
        - name: GREETING
          valueFrom: {configMapKeyRef: {name: {{ .Release.Name }}-settings, key: greeting}}
        - {name: KEY, valueFrom: {secretKeyRef: {name: {{ .Release.Name }}-key, key: key}}}
        - {name: REVISION, value: {{ .Release.Revision | quote }}}
"#,
    ),
    (
        "templates/coupon.yaml",
        r#"
apiVersion: shop.example.com/v1
kind: Coupon
metadata: {name: {{ .Release.Name }}}
spec: {percent: 10}
"#,
    ),
    (
        "templates/check.yaml",
        r#"
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-prepare
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: ["true"]}
"#,
    ),
];

/// The life of a release.
pub fn release(world: &World) -> Result {
    let chart = write_chart(&world.work_dir.join("shop"))?;
    let chart = chart.display();
    let cluster = VirtualCluster::create(world, "charts", "e2e-helm", "")?;
    let inside = &cluster.inside;

    let installed = inside.helm(&format!(
        "install shop {chart} -n market --create-namespace --wait --timeout 120s"
    ))?;
    has(&installed, "STATUS: deployed")?;
    // --wait means what it says.
    said(inside, "hello hello-key")?;
    let percent = inside.kubectl("get coupon shop -n market -o jsonpath={.spec.percent}")?;
    ensure(percent == "10", &percent)?;
    let hooks = inside.kubectl("get jobs -n market -o name")?;
    ensure(
        hooks.is_empty(),
        &format!("the hook was not removed: {hooks}"),
    )?;

    let upgraded = inside.helm(&format!(
        "upgrade shop {chart} -n market --set greeting=goodbye,replicas=2 --wait --timeout 120s"
    ))?;
    has(&upgraded, "REVISION: 2")?;
    said(inside, "goodbye goodbye-key")?;
    let ready = "get deployment shop -n market -o jsonpath={.status.readyReplicas}";
    ensure(inside.kubectl(ready)? == "2", "two replicas are not ready")?;

    has(
        &inside.helm("rollback shop 1 -n market --wait --timeout 120s")?,
        "Rollback was a success",
    )?;
    said(inside, "hello hello-key")?;
    ensure(inside.kubectl(ready)? == "1", "one replica is not ready")?;

    let list = inside.helm("list -n market")?;
    let line = list.lines().nth(1).unwrap_or_default();
    for part in ["shop", "market", "3", "deployed", "shop-0.1.0"] {
        has(line, part)?;
    }
    let history = inside.helm("history shop -n market")?;
    has(&history, "superseded")?;
    has(&history, "Rollback to 1")?;
    let manifest = inside.helm("get manifest shop -n market")?;
    for part in ["kind: Deployment", "kind: Coupon", "greeting: \"hello\""] {
        has(&manifest, part)?;
    }
    let again = inside.shell(&format!("helm install shop {chart} -n market"));
    has(&again.err, "cannot reuse a name that is still in use")?;
    let upgrade = format!("helm upgrade shop {chart} -n market --set replicas=many");
    has(&inside.shell(&upgrade).err, "replicas")?;

    has(
        &inside.helm("uninstall shop -n market --wait --timeout 120s")?,
        "release \"shop\" uninstalled",
    )?;
    let kinds = "deployments,replicasets,services,secrets,roles,rolebindings,coupons,jobs";
    let left = inside.kubectl(&format!("get {kinds} -n market -o name"))?;
    ensure(left.is_empty(), &format!("left by uninstall: {left}"))?;
    inside.eventually("the pods are gone", || {
        let left = inside.kubectl("get pods -n market -o name")?;
        ensure(left.is_empty(), &left)
    })?;
    // helm leaves definitions alone.
    inside.kubectl("get crd coupons.shop.example.com")?;
    cluster.delete()
}

/// Waits until the deployment's newest pod has said something.
fn said(inside: &World, text: &str) -> Result {
    inside.eventually("the release's pods say it", || {
        let out = inside.kubectl("logs -n market deployment/shop")?;
        ensure(out == format!("{text}\n"), &out)
    })
}

fn write_chart(directory: &Path) -> Result<PathBuf> {
    for (name, text) in CHART {
        let path = directory.join(name);
        let parent = path.parent().ok_or("a chart's file has a directory")?;
        std::fs::create_dir_all(parent).map_err(|e| e.to_string())?;
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(directory.to_owned())
}
