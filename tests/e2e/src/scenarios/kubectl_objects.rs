//! The commands of kubectl that act on objects, against a virtual cluster.

use crate::stream::Stream;
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sleep, "3600"]
        env: [{name: GENERATION, value: first}]
"#;

const SETTINGS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: COLOR, size: small}
"#;

const BUDGET: &str = r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
"#;

/// Everything that is not a stream.
pub fn objects(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "objects", "e2e-objects", "")?;
    let inside = &cluster.inside;
    inside.apply(WEB)?;
    apply(inside)?;
    server_side_apply(inside)?;
    edit_label_patch(inside)?;
    questions(inside)?;
    raw(inside)?;
    watch(inside)?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    rollout(inside)?;
    describe(inside)?;
    scale(inside)?;
    drain(world, inside)?;
    cluster.delete()
}

fn apply(inside: &World) -> Result {
    let red = SETTINGS.replace("COLOR", "red");
    let blue = SETTINGS.replace("COLOR", "blue");
    has(&inside.apply(&red)?, "configmap/settings created")?;
    has(&inside.apply(&red)?, "configmap/settings unchanged")?;

    let file = inside.file("blue.yaml", &blue)?;
    let different = inside.try_kubectl(&format!("diff -f {}", file.display()));
    ensure(different.code == 1, &different.err)?;
    has(&different.out, "-  color: red")?;
    has(&different.out, "+  color: blue")?;
    has(&inside.apply(&blue)?, "configmap/settings configured")?;
    let same = inside.try_kubectl(&format!("diff -f {}", file.display()));
    ensure(
        (same.code, same.out.as_str()) == (0, ""),
        &format!("{}{}", same.out, same.err),
    )?;
    // What an applied manifest no longer has is removed; what others set stays.
    inside.kubectl("patch configmap settings --type merge -p {\"data\":{\"extra\":\"1\"}}")?;
    inside.apply(&blue.replace(", size: small", ""))?;
    let data = inside.kubectl("get configmap settings -o jsonpath={.data}")?;
    ensure(data == r#"{"color":"blue","extra":"1"}"#, &data)?;

    let dry = inside.try_kubectl(&format!(
        "apply --dry-run=server -f {}",
        inside.file("red.yaml", &red)?.display()
    ));
    has(&dry.out, "configmap/settings configured (server dry run)")?;
    let data = inside.kubectl("get configmap settings -o jsonpath={.data.color}")?;
    ensure(data == "blue", &data)?;

    let unknown = inside.file("unknown.yaml", &WEB.replace("replicas:", "replica:"))?;
    let refused = inside.try_kubectl(&format!("apply -f {}", unknown.display()));
    ensure(refused.code == 1, &refused.out)?;
    has(&refused.err, "unknown field \"spec.replica\"")
}

fn server_side_apply(inside: &World) -> Result {
    let shared = SETTINGS.replace("settings", "shared");
    let red = inside.file("red.yaml", &shared.replace("COLOR", "red"))?;
    let blue = inside.file("blue.yaml", &shared.replace("COLOR", "blue"))?;
    let (red, blue) = (red.display(), blue.display());
    has(
        &inside.kubectl(&format!("apply --server-side -f {red}"))?,
        "configmap/shared serverside-applied",
    )?;
    let other = format!("apply --server-side --field-manager other -f {blue}");
    let conflict = inside.try_kubectl(&other);
    ensure(conflict.code == 1, &conflict.out)?;
    has(
        &conflict.err,
        "Apply failed with 1 conflict: conflict with \"kubectl\": .data.color",
    )?;
    inside.kubectl(&format!("{other} --force-conflicts"))?;
    let color = inside.kubectl("get configmap shared -o jsonpath={.data.color}")?;
    ensure(color == "blue", &color)?;
    let managers = inside.kubectl(
        "get configmap shared --show-managed-fields \
         -o 'jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} \
         {.fieldsV1.f:data}{\"\\n\"}{end}'",
    )?;
    has(&managers, r#"kubectl Apply {"f:size":{}}"#)?;
    has(
        &managers,
        r#"other Apply {".":{},"f:color":{},"f:size":{}}"#,
    )
    .or_else(|_| has(&managers, r#"other Apply {"f:color":{},"f:size":{}}"#))
}

fn edit_label_patch(inside: &World) -> Result {
    let editor =
        inside.script("KUBE_EDITOR='sed -i s/blue/green/' kubectl edit configmap shared")?;
    has(&editor, "configmap/shared edited")?;
    let untouched = inside.shell("KUBE_EDITOR=true kubectl edit configmap shared");
    has(&untouched.err, "Edit cancelled, no changes made.")?;

    has(
        &inside.kubectl("label configmap shared tier=front")?,
        "configmap/shared labeled",
    )?;
    let refused = inside.try_kubectl("label configmap shared tier=back");
    has(&refused.err, "'tier' already has a value (front)")?;
    inside.kubectl("label configmap shared tier=back --overwrite")?;
    let chosen = inside.kubectl("get configmaps -l 'tier in (back, middle)' -o name")?;
    ensure(chosen == "configmap/shared\n", &chosen)?;
    has(
        &inside.kubectl("label configmap shared tier-")?,
        "configmap/shared unlabeled",
    )?;
    inside.kubectl("annotate configmap shared 'note=two words'")?;
    let invalid = inside.try_kubectl("label configmap shared tier=-front-");
    has(
        &invalid.err,
        "a valid label must be an empty string or consist of",
    )?;

    inside.kubectl(
        "patch configmap shared --type json \
         -p '[{\"op\":\"replace\",\"path\":\"/data/color\",\"value\":\"grey\"}]'",
    )?;
    let color = inside.kubectl("get configmap shared -o jsonpath={.data.color}")?;
    ensure(color == "grey", &color)?;
    let deleted = inside.kubectl("delete configmap shared")?;
    has(&deleted, "configmap \"shared\" deleted")
}

/// explain, auth can-i, api-resources.
fn questions(inside: &World) -> Result {
    let field = inside.kubectl("explain deployment.spec.strategy.rollingUpdate.maxSurge")?;
    has(&field, "GROUP:      apps")?;
    has(&field, "FIELD: maxSurge <IntOrString>")?;
    let fields = inside.kubectl("explain pod.spec --recursive")?;
    has(&fields, "terminationGracePeriodSeconds\t<integer>")?;
    has(&fields, "containers\t<[]Container> -required-")?;

    has(&inside.kubectl("auth can-i delete nodes")?, "yes")?;
    let account = "--as system:serviceaccount:default:default";
    let no = inside.try_kubectl(&format!("auth can-i list secrets {account}"));
    ensure(
        (no.code, no.out.trim()) == (1, "no"),
        &format!("{} {}", no.code, no.out),
    )?;
    inside.kubectl("create role looker --verb get,list --resource configmaps")?;
    inside.kubectl("create rolebinding looker --role looker --serviceaccount default:default")?;
    inside.eventually("the role is in force", || {
        inside
            .kubectl(&format!("auth can-i list configmaps {account}"))
            .map(drop)
    })?;
    let rights = inside.kubectl(&format!("auth can-i --list {account}"))?;
    let line = rights
        .lines()
        .find(|line| line.starts_with("configmaps "))
        .unwrap_or_default();
    has(line, "[get list]")?;
    has(&inside.kubectl("auth whoami")?, "system:masters")?;

    let resources = inside.kubectl("api-resources --namespaced=true -o wide")?;
    let line = resources
        .lines()
        .find(|line| line.starts_with("deployments "))
        .unwrap_or_default();
    for part in [
        "deploy ",
        "apps/v1",
        "Deployment",
        "deletecollection",
        "all",
    ] {
        has(line, part)?;
    }
    has(&inside.kubectl("cluster-info")?, "Kubernetes control plane")
}

fn raw(inside: &World) -> Result {
    let version = inside.kubectl("get --raw /version")?;
    let version: serde_json::Value = serde_json::from_str(&version).map_err(|e| e.to_string())?;
    ensure(version["major"] == "1", &version.to_string())?;
    ensure(inside.kubectl("get --raw /readyz")? == "ok", "/readyz")?;
    has(
        &inside.kubectl("get --raw /livez?verbose")?,
        "livez check passed",
    )?;
    has(&inside.kubectl("get --raw /metrics")?, "# TYPE ")?;
    let list = inside.kubectl("get --raw /api/v1/namespaces/default/configmaps?limit=1")?;
    let list: serde_json::Value = serde_json::from_str(&list).map_err(|e| e.to_string())?;
    ensure(
        list["items"]
            .as_array()
            .is_some_and(|items| items.len() == 1)
            && list["metadata"]["continue"].is_string(),
        &list.to_string(),
    )?;
    let absent = inside.try_kubectl("get --raw /nonesuch");
    ensure(absent.code == 1, &absent.out)?;
    has(
        &absent.err,
        "the server could not find the requested resource",
    )
}

fn watch(inside: &World) -> Result {
    let mut command = inside.command("kubectl");
    command.args(["get", "configmaps", "-w", "--output-watch-events"]);
    command.args(["--field-selector", "metadata.name=watched"]);
    let mut watch = Stream::start(command)?;
    inside.kubectl("create configmap watched --from-literal a=b")?;
    watch.wait_for("ADDED")?;
    inside.kubectl("create configmap unwatched")?;
    inside.kubectl("patch configmap watched -p {\"data\":{\"b\":\"c\"}}")?;
    has(&watch.wait_for("MODIFIED")?, "watched")?;
    inside.kubectl("delete configmap watched unwatched")?;
    has(&watch.wait_for("DELETED")?, "watched")
}

fn rollout(inside: &World) -> Result {
    inside.kubectl("annotate deployment web kubernetes.io/change-cause=first")?;
    inside.kubectl("set env deployment web GENERATION=second")?;
    inside.kubectl("annotate deployment web --overwrite kubernetes.io/change-cause=second")?;
    let status = inside.kubectl("rollout status deployment web --timeout 120s")?;
    has(&status, "deployment \"web\" successfully rolled out")?;
    let history = inside.kubectl("rollout history deployment web")?;
    has(&history, "1         first\n")?;
    has(&history, "2         second\n")?;
    let revision = inside.kubectl("rollout history deployment web --revision 1")?;
    has(&revision, "GENERATION:\tfirst")?;
    has(
        &inside.kubectl("rollout undo deployment web")?,
        "deployment.apps/web rolled back",
    )?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    let path = "{.items[*].spec.containers[0].env[0].value}";
    inside.eventually("the old pods are gone", || {
        let values = inside.kubectl(&format!("get pods -l app=web -o jsonpath={path}"))?;
        ensure(values == "first first", &values)
    })?;
    has(
        &inside.kubectl("rollout history deployment web")?,
        "3         first",
    )?;
    inside.kubectl("rollout pause deployment web")?;
    let paused = inside.try_kubectl("rollout undo deployment web");
    has(&paused.err, "cannot rollback a paused deployment")?;
    inside.kubectl("rollout resume deployment web")?;
    Ok(())
}

fn describe(inside: &World) -> Result {
    let pods = inside.kubectl("get pods -l app=web -o name")?;
    let pod = pods.lines().next().ok_or("no pod of web")?;
    inside.eventually("the host's events of the pod are inside", || {
        let text = inside.kubectl(&format!("describe {pod}"))?;
        for part in [
            "Controlled By:  ReplicaSet/web-",
            "Status:           Running",
            "GENERATION:  first",
            "Scheduled",
            "Created container",
            "Started container",
        ] {
            has(&text, part)?;
        }
        Ok(())
    })?;
    let text = inside.kubectl("describe deployment web")?;
    has(
        &text,
        "2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
    )?;
    has(&text, "ScalingReplicaSet")?;
    inside.kubectl("expose deployment web --port 80 --target-port 8080")?;
    let addresses = inside.kubectl("get pods -l app=web -o jsonpath={.items[*].status.podIP}")?;
    inside.eventually("the service has endpoints", || {
        let text = inside.kubectl("describe service web")?;
        for address in addresses.split_whitespace() {
            has(&text, &format!("{address}:8080"))?;
        }
        Ok(())
    })?;
    has(&inside.kubectl("describe nodes")?, "Non-terminated Pods:")?;
    has(&inside.kubectl("describe namespace default")?, "Active")
}

fn scale(inside: &World) -> Result {
    let wrong = inside.try_kubectl("scale deployment web --current-replicas 7 --replicas 3");
    has(&wrong.err, "Expected replicas to be 7, was 2")?;
    has(
        &inside.kubectl("scale deployment web --current-replicas 2 --replicas 3")?,
        "deployment.apps/web scaled",
    )?;
    inside
        .kubectl("wait deployment web --for jsonpath={.status.readyReplicas}=3 --timeout 120s")?;
    inside.kubectl("scale deployment web --replicas 2")?;
    inside.kubectl("wait deployment web --for jsonpath={.status.replicas}=2 --timeout 120s")?;
    let late = inside.try_kubectl("wait deployment web --for condition=Nonesuch --timeout 1s");
    ensure(late.code == 1, &late.out)?;
    has(
        &late.err,
        "timed out waiting for the condition on deployments/web",
    )
}

/// A tenant may drain a node that it sees: its own pods move, the host's node
/// does not notice.
fn drain(world: &World, inside: &World) -> Result {
    let node = inside.kubectl("get pods -l app=web -o jsonpath={.items[0].spec.nodeName}")?;
    inside.apply(BUDGET)?;
    inside.kubectl(
        "wait poddisruptionbudget web --for jsonpath={.status.currentHealthy}=2 --timeout 120s",
    )?;
    let pods = inside.kubectl("get pods -l app=web -o jsonpath={.items[*].metadata.name}")?;
    let pod = pods.split_whitespace().next().ok_or("no pod of web")?;
    let eviction = inside.file(
        "eviction.json",
        &format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{pod}"}}}}"#),
    )?;
    let refused = inside.try_kubectl(&format!(
        "create --raw /api/v1/namespaces/default/pods/{pod}/eviction -f {}",
        eviction.display()
    ));
    ensure(refused.code != 0, &refused.out)?;
    has(
        &refused.err,
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )?;
    inside.kubectl("delete poddisruptionbudget web")?;

    let drained = inside.kubectl(&format!("drain {node} --ignore-daemonsets --force"))?;
    has(&drained, &format!("node/{node} cordoned"))?;
    for name in pods.split_whitespace() {
        has(&drained, &format!("pod/{name} evicted"))?;
    }
    has(&inside.kubectl("get nodes")?, "SchedulingDisabled")?;
    let path = "jsonpath={.items[*].spec.unschedulable}";
    let outside = world.try_kubectl(&format!("get nodes -o {path}"));
    ensure(
        outside.out.is_empty(),
        &format!("the host's node was cordoned: {}", outside.out),
    )?;
    has(
        &inside.kubectl(&format!("uncordon {node}"))?,
        &format!("node/{node} uncordoned"),
    )?;
    inside.kubectl("rollout status deployment web --timeout 120s")?;
    Ok(())
}
