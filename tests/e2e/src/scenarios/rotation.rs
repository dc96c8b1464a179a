//! Certificates with a short life: renewed before they end, while everything
//! goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure};

/// The host namespace.
const NAMESPACE: &str = "e2e-rotation";
const NAME: &str = "turning";

/// The life of certificates: the shortest that the control plane takes.
const VALIDITY: Duration = Duration::from_secs(60);
/// How often each of them is seen renewed.
const TURNS: usize = 2;
/// The longest that this may take: each is renewed after two thirds of its life.
const LIMIT: Duration = Duration::from_secs(240);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// With the kubeconfig that is current: a request, the server's and the client's
/// certificate, and the kubeconfig itself.
const LOOK: &str = r#"sh -c 'set -e
kubectl get configmap kept -o name >/dev/null
view() { kubectl config view --minify --raw -o jsonpath="{$1}"; }
url=$(view .clusters[0].cluster.server)
openssl s_client -connect ${url#https://} </dev/null 2>/dev/null | openssl x509 -noout -serial
view .users[0].user.client-certificate-data | base64 -d >$KUBECONFIG.crt
openssl x509 -in $KUBECONFIG.crt -noout -serial
end=$(openssl x509 -in $KUBECONFIG.crt -noout -enddate)
rm $KUBECONFIG.crt
echo $(( $(date -d "${end#notAfter=}" +%s) - $(date +%s) ))
cat $KUBECONFIG'"#;

/// Certificates of the server and of the published kubeconfig are renewed twice;
/// the kubeconfig works all along, and nothing is started again.
pub fn certificates(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, NAME, NAMESPACE, "")?;
    let inside = &cluster.inside;
    let seconds = VALIDITY.as_secs();
    let patch = serde_json::json!([{
        "op": "add", "path": "/spec/template/spec/containers/0/args/-",
        "value": format!("--certificate-validity={seconds}s"),
    }]);
    world.kubectl(&format!(
        "patch statefulset {NAME} -n {NAMESPACE} --type json -p '{patch}'"
    ))?;
    world.kubectl(&format!(
        "rollout status statefulset {NAME} -n {NAMESPACE} --timeout 120s"
    ))?;
    inside.eventually("the API is back", || {
        inside.kubectl("create configmap kept --from-literal key=value")
    })?;
    inside.kubectl("run steady --image nginx --image-pull-policy IfNotPresent")?;
    inside.kubectl("wait pod steady --for condition=Ready --timeout 60s")?;
    let first = inside.eventually("the short certificates", || {
        let served = Served::read(world)?;
        let left = served.seconds_left.unsigned_abs();
        ensure(left <= seconds, "still the long ones")?;
        Ok(served)
    })?;
    // As anybody may copy it.
    let copy = world.file("turning.kubeconfig", &first.kubeconfig)?;
    let copied = world.with_kubeconfig(copy);
    let before = running(world)?;

    let started = Instant::now();
    let mut servers = BTreeSet::from([first.server]);
    let mut clients = BTreeSet::from([first.client]);
    while servers.len() <= TURNS || clients.len() <= TURNS {
        ensure(
            started.elapsed() < LIMIT,
            &format!("after {LIMIT:?} servers had {servers:?}, clients {clients:?}"),
        )?;
        let served = Served::read(world)?;
        ensure(served.seconds_left > 0, "a certificate ended")?;
        servers.insert(served.server);
        clients.insert(served.client);
        std::thread::sleep(PAUSE);
    }
    println!(
        "renewed {TURNS} times within {} s",
        started.elapsed().as_secs()
    );
    let executed = connected(world, "kubectl exec steady -- echo through")?;
    ensure(executed.trim() == "through", &executed)?;
    connected(world, "kubectl logs steady")?;
    let after = running(world)?;
    ensure(
        before == after,
        &format!("before:\n{before}\nafter:\n{after}"),
    )?;
    // The copy is of no use by now.
    let late = copied.try_kubectl("get namespaces");
    ensure(
        late.code != 0 && !late.err.contains("refused"),
        &format!("after its end: {}{}", late.out, late.err),
    )?;
    cluster.delete()
}

/// What the published kubeconfig and the server behind it show.
struct Served {
    kubeconfig: String,
    /// Serial numbers.
    server: String,
    client: String,
    /// Until the kubeconfig's certificate ends.
    seconds_left: i64,
}

impl Served {
    /// Asks with the kubeconfig as it is in the secret now, which has to work.
    fn read(world: &World) -> Result<Self> {
        let text = connected(world, LOOK)?;
        let lines: Vec<&str> = text.splitn(4, '\n').collect();
        let [server, client, left, kubeconfig] = lines.as_slice() else {
            return Err(text);
        };
        Ok(Self {
            kubeconfig: (*kubeconfig).to_owned(),
            server: (*server).to_owned(),
            client: (*client).to_owned(),
            seconds_left: left.parse().map_err(|_| text.clone())?,
        })
    }
}

/// Runs a command with the kubeconfig that is in the secret at the moment.
fn connected(world: &World, command: &str) -> Result<String> {
    world.script(&format!(
        "coracle connect {NAME} -n {NAMESPACE} -- {command}"
    ))
}

/// Which containers of the host run since when.
fn running(world: &World) -> Result<String> {
    world.kubectl(&format!(
        "get pods -n {NAMESPACE} -o 'jsonpath={{range .items[*]}}{{.metadata.name}} \
         {{.metadata.uid}} {{.status.containerStatuses[*].restartCount}} \
         {{.status.containerStatuses[*].containerID}}{{\"\\n\"}}{{end}}'"
    ))
}
