//! The anatomy of the tutorial's operator, inside a virtual cluster: large
//! definitions, an operator in a pod that watches them through its service
//! account and makes stateful sets with claims, and its validating webhook.

use serde_json::{Value, json};

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// Deepest nesting of schemas that are written out, as a bound on a recursion
/// that should not be there.
const MAX_DEPTH: usize = 40;

/// What the file of definitions has at least, in lines: as those of real
/// operators, whose kinds hold templates of pods.
const MIN_LINES: usize = 3000;

const OPERATOR: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: library-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: library-operator, namespace: library-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: library-operator}
rules:
- {apiGroups: [books.example.com], resources: [libraries], verbs: [get, list, watch]}
- {apiGroups: [books.example.com], resources: [libraries/status], verbs: [patch]}
- {apiGroups: [apps], resources: [statefulsets], verbs: [get, list, watch, create, patch]}
- {apiGroups: [""], resources: [services], verbs: [get, create, patch]}
- {apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations],
   resourceNames: [library-webhook], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: library-operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: library-operator}
subjects: [{kind: ServiceAccount, name: library-operator, namespace: library-system}]
---
apiVersion: v1
kind: Service
metadata: {name: library-webhook, namespace: library-system}
spec:
  selector: {app: library-operator}
  ports: [{name: https, port: 443, targetPort: 9443}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: library-webhook}
webhooks:
- name: library.books.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 5
  matchPolicy: Exact
  clientConfig:
    service: {name: library-webhook, namespace: library-system, path: /validate}
  rules:
  - {apiGroups: [books.example.com], apiVersions: [v1], operations: [CREATE, UPDATE],
     resources: [libraries]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: library-operator, namespace: library-system}
spec:
  selector: {matchLabels: {app: library-operator}}
  template:
    metadata: {labels: {app: library-operator}}
    spec:
      serviceAccountName: library-operator
      terminationGracePeriodSeconds: 1
      containers:
      - name: operator
        image: library-operator
        imagePullPolicy: IfNotPresent
        ports: [{name: https, containerPort: 9443}]
        readinessProbe: {httpGet: {path: /healthz, port: https, scheme: HTTPS}, periodSeconds: 1}
"#;

/// A Library with these replicas.
pub fn library(name: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: books.example.com/v1
kind: Library
metadata: {{name: {name}}}
spec:
  edition: first
  replicas: {replicas}
  podTemplate:
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: library
        env: [{{name: SHELF, value: "1"}}]
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
  volumeClaimTemplates:
  - metadata: {{name: books}}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: standard
      resources: {{requests: {{storage: 1Gi}}}}
"#
    )
}

/// An operator with definitions and a validating webhook.
pub fn with_webhook(world: &World) -> Result {
    let options = "--set sync.fromHost.storageClasses.enabled=true";
    let cluster = VirtualCluster::create(world, "operated", "e2e-operator", options)?;
    let played = play(world, &cluster);
    if played.is_err() {
        let logs = "logs -n library-system deployment/library-operator";
        let logs = cluster.inside.try_kubectl(logs);
        println!("the operator says:\n{}{}", logs.out, logs.err);
        let made = "get libraries,statefulsets,services,pvc -o wide";
        println!("{}", cluster.inside.try_kubectl(made).out);
    }
    played?;
    cluster.delete()
}

/// How its end is waited for.
const ROLLOUT: &str = "rollout status deployment library-operator -n library-system --timeout 120s";

/// Makes the definitions, and the operator that looks after their objects.
pub fn install(inside: &World) -> Result {
    let definitions = definitions(inside)?;
    let lines = definitions.lines().count();
    ensure(
        lines > MIN_LINES,
        &format!("only {lines} lines of definitions"),
    )?;
    let file = inside.file("crds.yaml", &definitions)?;
    let created = inside.kubectl(&format!("create -f {}", file.display()))?;
    for plural in ["libraries", "shelves", "catalogs"] {
        let name =
            format!("customresourcedefinition.apiextensions.k8s.io/{plural}.books.example.com");
        has(&created, &format!("{name} created"))?;
        inside.kubectl(&format!(
            "wait {name} --for condition=Established --timeout 60s"
        ))?;
    }
    inside.apply(OPERATOR)?;
    inside.kubectl(ROLLOUT).map(drop)
}

fn play(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    install(inside)?;

    // The webhook is asked, its message and its warning come through.
    let refused = apply(inside, &library("vast", 9))?;
    has(
        &refused.1,
        "admission webhook \"library.books.example.com\" denied the request: \
         spec.replicas: Invalid value: 9: no more than 3 are lent out",
    )?;
    ensure(refused.0 != 0, "the command ended well")?;
    let applied = apply(inside, &library("town", 2))?;
    ensure(applied.0 == 0, &applied.1)?;
    has(
        &applied.1,
        "Warning: spec.edition: the first edition is out of print",
    )?;
    // What the schema refuses never gets that far.
    let wrong = library("town", 1).replace("name: SHELF", "nome: SHELF");
    let wrong = apply(inside, &wrong)?;
    ensure(
        wrong.0 != 0,
        "a container's variable without a name was taken",
    )?;

    // The operator makes what it stands for.
    inside.kubectl("wait library town --for jsonpath={.status.phase}=Open --timeout 120s")?;
    let table = inside.kubectl("get libraries")?;
    has(&table, "PHASE")?;
    ensure(
        table
            .lines()
            .any(|l| l.split_whitespace().take(3).eq(["town", "2", "Open"])),
        &table,
    )?;
    let claims = inside.kubectl("get pvc")?;
    ensure(claims.matches("Bound").count() == 2, &claims)?;
    let page = cluster.in_pod("town-1", "wget -qO- http://town-0.town && env")?;
    has(&page, "open")?;
    has(&page, "SHELF=1")?;
    let outside = world.kubectl("get statefulsets,customresourcedefinitions -A -o name")?;
    ensure(
        !outside.contains("town") && !outside.contains("books"),
        &outside,
    )?;

    without_operator(inside)?;
    inside.kubectl(ROLLOUT)?;
    inside.kubectl("wait library annex --for jsonpath={.status.phase}=Open --timeout 120s")?;

    // What it owns goes with it.
    inside.kubectl("delete library town annex")?;
    inside.eventually("all is gone", || {
        let left = inside.kubectl("get statefulsets,services,pods -o name")?;
        ensure(left.trim() == "service/kubernetes", &left)
    })
}

/// The failure policies, while nobody answers.
fn without_operator(inside: &World) -> Result {
    let scale = "scale deployment library-operator -n library-system --replicas";
    inside.kubectl(&format!("{scale} 0"))?;
    inside.eventually("the operator is gone", || {
        let left = inside.kubectl("get pods -n library-system -o name")?;
        ensure(left.is_empty(), &left)
    })?;
    let failed = apply(inside, &library("annex", 1))?;
    ensure(failed.0 != 0, "an object was stored without its webhook")?;
    has(
        &failed.1,
        "failed calling webhook \"library.books.example.com\"",
    )?;
    let ignore = r#"[{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]"#;
    inside.kubectl(&format!(
        "patch validatingwebhookconfiguration library-webhook --type json -p '{ignore}'"
    ))?;
    inside.eventually("the object is stored", || {
        let applied = apply(inside, &library("annex", 1))?;
        ensure(applied.0 == 0, &applied.1)
    })?;
    inside.kubectl(&format!("{scale} 1")).map(drop)
}

/// Applies a manifest; the exit code and standard error.
fn apply(inside: &World, manifest: &str) -> Result<(i32, String)> {
    let file = inside.file("library.yaml", manifest)?;
    let run = inside.try_kubectl(&format!("apply -f {}", file.display()));
    Ok((run.code, run.err))
}

/// The file of definitions: three kinds, each with the whole schema of pod
/// templates and claims, as generators write them out.
fn definitions(inside: &World) -> Result<String> {
    let document = inside.kubectl("get --raw /openapi/v3/api/v1")?;
    let document: Value = serde_json::from_str(&document).map_err(|e| e.to_string())?;
    let schemas = &document["components"]["schemas"];
    let full = |name: &str| {
        let mut schema = json!({"$ref": format!("#/components/schemas/io.k8s.api.core.v1.{name}")});
        write_out(&mut schema, schemas, 0).map(|()| schema)
    };
    let mut template = full("PodTemplateSpec")?;
    // What the operator fills in need not be said.
    let containers = "/properties/spec/properties/containers/items/required";
    if let Some(required) = template.pointer_mut(containers) {
        *required = json!(["name"]);
    }
    let mut claim = full("PersistentVolumeClaim")?;
    for schema in [&mut template, &mut claim] {
        // Generators leave metadata open.
        schema["properties"]["metadata"] =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    let mut file = String::new();
    for (plural, kind) in [
        ("libraries", "Library"),
        ("shelves", "Shelf"),
        ("catalogs", "Catalog"),
    ] {
        let spec = json!({
            "type": "object",
            "required": ["replicas"],
            "properties": {
                "replicas": {"type": "integer", "minimum": 0},
                "edition": {"type": "string"},
                "podTemplate": template,
                "volumeClaimTemplates": {"type": "array", "items": claim},
            },
        });
        let definition = definition(plural, kind, &spec);
        let text = serde_saphyr::to_string(&definition).map_err(|e| e.to_string())?;
        file.push_str("---\n");
        file.push_str(&text);
    }
    Ok(file)
}

fn definition(plural: &str, kind: &str, spec: &Value) -> Value {
    let column =
        |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.books.example.com")},
        "spec": {
            "group": "books.example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    column("Ready", "integer", ".status.ready"),
                    column("Phase", "string", ".status.phase"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec,
                    "status": {"type": "object", "properties": {
                        "ready": {"type": "integer"}, "phase": {"type": "string"},
                    }},
                }}},
            }],
        },
    })
}

/// Puts the schemas in the place of the references to them.
fn write_out(schema: &mut Value, all: &Value, depth: usize) -> Result {
    ensure(depth < MAX_DEPTH, "the schemas refer to themselves")?;
    if let Some(items) = schema.as_array_mut() {
        return items
            .iter_mut()
            .try_for_each(|item| write_out(item, all, depth + 1));
    }
    let Some(fields) = schema.as_object_mut() else {
        return Ok(());
    };
    // A reference stands alone, or as the only one of "allOf".
    let one = fields.get("allOf").and_then(|all| all.get(0)).cloned();
    if let Some(one) = one {
        fields.remove("allOf");
        fields.extend(one.as_object().cloned().unwrap_or_default());
    }
    if let Some(Value::String(reference)) = fields.remove("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let target = all[name].as_object().ok_or(format!("no schema {name}"))?;
        for (key, value) in target {
            fields.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    // Not of structural schemas.
    for key in [
        "x-kubernetes-group-version-kind",
        "x-kubernetes-patch-strategy",
        "x-kubernetes-patch-merge-key",
        "x-kubernetes-unions",
    ] {
        fields.remove(key);
    }
    // A key of a list is required or has a default; generators add it.
    let keys = fields.get("x-kubernetes-list-map-keys").cloned();
    for key in keys
        .iter()
        .flat_map(|keys| keys.as_array().into_iter().flatten())
    {
        let key = key.as_str().unwrap_or_default();
        let items = &mut fields["items"];
        write_out(items, all, depth + 1)?;
        let required = items["required"]
            .as_array()
            .is_some_and(|r| r.contains(&json!(key)));
        if !required && items["properties"][key].get("default").is_none() {
            items["properties"][key]["default"] = "".into();
        }
    }
    // A default of nothing is none.
    if fields.get("default").is_some_and(|d| d == &json!({})) {
        fields.remove("default");
    }
    // Amounts and ports are numbers or texts.
    if fields.contains_key("oneOf") {
        fields.remove("oneOf");
        fields.remove("type");
        fields.insert("x-kubernetes-int-or-string".into(), true.into());
    }
    if fields.get("format").is_some_and(|f| f == "int-or-string") {
        fields.remove("format");
        fields.remove("type");
        fields.insert("x-kubernetes-int-or-string".into(), true.into());
    }
    fields
        .values_mut()
        .try_for_each(|value| write_out(value, all, depth + 1))
}
