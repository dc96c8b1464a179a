//! What of the host a virtual cluster is shown by choice, and what of the host
//! bounds it, whatever its users do.

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The host namespace, and another whose settings are shown inside.
const NAMESPACE: &str = "e2e-guarded";
const SOURCE: &str = "e2e-guarded-source";
const NAME: &str = "guarded";

const VALUES: &str = "
sync:
  toHost:
    networkPolicies: {enabled: true}
    podDisruptionBudgets: {enabled: true}
  fromHost:
    priorityClasses: {enabled: true, selector: {matchLabels: {e2e: shown}}}
    runtimeClasses: {enabled: true, selector: {matchLabels: {e2e: shown}}}
    ingressClasses: {enabled: true, selector: {matchLabels: {e2e: shown}}}
    configMaps:
      enabled: true
      mappings: {byName: {e2e-guarded-source/settings: default/settings}}
    secrets:
      enabled: true
      mappings: {byName: {e2e-guarded-source/*: default/*}}
policies:
  resourceQuota: {enabled: true, quota: {count/pods: '3'}}
  limitRange: {enabled: true, default: {memory: 300Mi}}
";

/// Two of each class, one of which is chosen.
const CLASSES: &str = "
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: e2e-shown, labels: {e2e: shown}}
value: 700
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: e2e-hidden}
value: 900
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: e2e-shown, labels: {e2e: shown}}
handler: runc
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: e2e-hidden}
handler: runc
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: e2e-shown, labels: {e2e: shown}}
spec: {controller: example.com/none}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: e2e-hidden}
spec: {controller: example.com/none}
";
const KINDS: [&str; 3] = ["priorityclass", "runtimeclass", "ingressclass"];

const WORKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: worker, labels: {app: worker}}
spec:
  priorityClassName: e2e-shown
  runtimeClassName: e2e-shown
  containers:
  - name: worker
    image: nginx
    imagePullPolicy: IfNotPresent
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: access, key: password}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: worker}
spec: {podSelector: {matchLabels: {app: worker}}, policyTypes: [Ingress]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: worker}
spec: {minAvailable: 1, selector: {matchLabels: {app: worker}}}
";

/// Everything at once, in one virtual cluster.
pub fn by_the_host(world: &World) -> Result {
    world.kubectl(&format!("create namespace {SOURCE}"))?;
    world.kubectl(&format!(
        "create configmap settings -n {SOURCE} --from-literal colour=green"
    ))?;
    world.kubectl(&format!(
        "create secret generic access -n {SOURCE} --from-literal password=open"
    ))?;
    world.apply(CLASSES)?;
    let values = world.file("guarded.yaml", VALUES)?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, NAME, NAMESPACE, &options)?;
    shown(&cluster)?;
    used(world, &cluster)?;
    hidden(world, &cluster)?;
    bounded(world, &cluster)?;
    cluster.delete()?;
    for kind in KINDS {
        world.kubectl(&format!("delete {kind} e2e-shown e2e-hidden"))?;
    }
    world.kubectl(&format!("delete namespace {SOURCE}"))?;
    Ok(())
}

fn shown(cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    for kind in KINDS {
        inside.eventually("the class that is chosen", || {
            inside.kubectl(&format!("get {kind} e2e-shown"))
        })?;
        let hidden = inside.try_kubectl(&format!("get {kind} e2e-hidden"));
        has(&hidden.err, "not found")?;
    }
    for object in ["configmap settings", "secret access"] {
        inside.eventually("what is shown by name", || {
            inside.kubectl(&format!("get {object}"))
        })?;
    }
    Ok(())
}

/// A pod with all that is shown, and what guards it on the host.
fn used(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    inside.apply(WORKER)?;
    inside.kubectl("wait pod worker --for condition=Ready --timeout 60s")?;
    let words = cluster.in_pod("worker", "echo $COLOUR $PASSWORD")?;
    ensure(words.trim() == "green open", &words)?;
    let name = format!("worker-x-default-x-{NAME}");
    let pod = world.kubectl(&format!(
        "get pod {name} -n {NAMESPACE} -o jsonpath={{.spec.priorityClassName}}/\
         {{.spec.priority}}/{{.spec.runtimeClassName}}/\
         {{.spec.containers[0].resources.limits.memory}}"
    ))?;
    ensure(pod == "e2e-shown/700/e2e-shown/300Mi", &pod)?;
    for kind in ["networkpolicy", "pdb"] {
        world.eventually("it is on the host", || {
            world.kubectl(&format!("get {kind} {name} -n {NAMESPACE}"))
        })?;
    }
    // It is about pods of this virtual cluster and namespace alone.
    let policy = world.kubectl(&format!(
        "get networkpolicy {name} -n {NAMESPACE} -o jsonpath={{.spec.podSelector}}"
    ))?;
    has(&policy, NAME)?;
    has(&policy, "default")?;

    world.kubectl(&format!(
        "patch configmap settings -n {SOURCE} -p '{{\"data\":{{\"colour\":\"blue\"}}}}'"
    ))?;
    inside.eventually("the host's change", || {
        let colour = inside.kubectl("get configmap settings -o jsonpath={.data.colour}")?;
        ensure(colour == "blue", &colour)
    })?;
    inside.kubectl("delete configmap settings")?;
    inside.eventually("it is there again", || {
        inside.kubectl("get configmap settings")
    })?;
    Ok(())
}

/// A class inside under the name of one that is not shown is not that one.
fn hidden(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    let run = "run sly --image nginx --image-pull-policy IfNotPresent --overrides \
               '{\"spec\":{\"priorityClassName\":\"e2e-hidden\"}}'";
    let refused = inside.try_kubectl(run);
    has(&refused.err, "no PriorityClass with name e2e-hidden")?;
    inside.kubectl("create priorityclass e2e-hidden --value 900")?;
    inside.kubectl(run)?;
    inside.eventually("why it is not synced", || {
        has(
            &inside.kubectl("get events --field-selector involvedObject.name=sly")?,
            "sync.fromHost.priorityClasses.selector",
        )
    })?;
    let host = world.try_kubectl(&format!("get pod sly-x-default-x-{NAME} -n {NAMESPACE}"));
    ensure(host.code != 0, "it got to the host")?;
    inside.kubectl("delete pod sly --wait=false")?;
    Ok(())
}

/// Quota and limits lie on the host, where no user of the virtual cluster gets.
fn bounded(world: &World, cluster: &VirtualCluster<'_>) -> Result {
    let inside = &cluster.inside;
    let bounds = || {
        world.kubectl(&format!(
            "get resourcequota,limitrange -n {NAMESPACE} -l app=coracle \
             -o 'jsonpath={{range .items[*]}}{{.kind}}/{{.metadata.name}} {{.metadata.uid}} \
             {{end}}'"
        ))
    };
    let before = bounds()?;
    has(&before, "ResourceQuota/")?;
    has(&before, "LimitRange/")?;
    // Of the same names inside, removed again with all others.
    for word in before.split_whitespace().filter(|word| word.contains('/')) {
        let (kind, name) = word.split_once('/').unwrap_or_default();
        inside.apply(&format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {}",
            if kind == "LimitRange" {
                "{limits: [{type: Container, max: {memory: 900Gi}}]}"
            } else {
                "{hard: {pods: '900'}}"
            }
        ))?;
    }
    inside.kubectl("delete resourcequota,limitrange --all -A")?;
    // The control plane and the first pod are two of three.
    inside.kubectl("run second --image nginx --image-pull-policy IfNotPresent")?;
    inside.kubectl("wait pod second --for condition=Ready --timeout 60s")?;
    inside.kubectl("run third --image nginx --image-pull-policy IfNotPresent")?;
    inside.eventually("the quota of the host is told of", || {
        has(
            &inside.kubectl("get events --field-selector involvedObject.name=third")?,
            "exceeded quota",
        )
    })?;
    let after = bounds()?;
    ensure(before == after, &format!("{before}, then {after}"))?;
    // A place that is free is taken.
    inside.kubectl("delete pod second --now")?;
    inside.kubectl("wait pod third --for condition=Ready --timeout 60s")?;
    Ok(())
}
