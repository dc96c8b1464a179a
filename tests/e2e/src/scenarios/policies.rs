//! Network policies on the embedded host: what they let through, on the host
//! itself and around virtual clusters.

use std::process::{Child, Stdio};

use crate::neighbour::{self, Neighbour};
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

/// The table of nftables that holds them.
pub const TABLE: &str = "nft list table inet coracle-node-policies";
/// The host's API server.
const HOST_API: &str = "https://10.244.0.1:6443";
/// Where clouds tell machines their secrets.
const METADATA: &str = "169.254.169.254";

/// A server with a named port, another port, and a probe.
fn server(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'mkdir /tmp/w; echo {name} >/tmp/w/index.html; httpd -p 9090 -h /tmp/w; exec httpd -f -p 8080 -h /tmp/w']
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
"#
    )
}

/// A pod that only asks.
fn client(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}}
---
"#
    )
}

fn service(kind: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: {kind}, \
         selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}}}\n---\n"
    )
}

/// Policies of the host.
pub fn enforced(world: &World) -> Result {
    if !world.own_host() {
        println!("policies are the embedded host's to enforce here");
        return Ok(());
    }
    for (namespace, team) in [("np-a", "a"), ("np-b", "b")] {
        world.kubectl(&format!("create namespace {namespace}"))?;
        world.kubectl(&format!("label namespace {namespace} team={team}"))?;
        let file = world.file(
            "pods.yaml",
            &format!(
                "{}{}{}",
                server("web"),
                client("client"),
                service("NodePort")
            ),
        )?;
        world.kubectl(&format!("apply -n {namespace} -f {}", file.display()))?;
        world.kubectl(&format!(
            "wait pod --all -n {namespace} --for condition=Ready --timeout 120s"
        ))?;
    }
    let host = Host::new(world)?;
    host.check(&[
        ("np-a", "http://web", true),
        ("np-a", "http://A:8080", true),
        ("np-b", "http://A:8080", true),
        ("np-a", "http://B:9090", true),
    ])?;
    ensure(world.shell(TABLE).code != 0, "rules without a policy")?;
    host.deny_all()?;
    host.allow_some()?;
    host.egress()?;
    host.seen_from_outside()?;
    host.too_many()?;
    world.kubectl("delete networkpolicy --all -n np-a")?;
    host.check(&[
        ("np-a", "http://web", true),
        ("np-b", "http://A:9090", true),
        ("np-a", "http://B:9090", true),
    ])?;
    world.eventually("no rules without a policy", || {
        ensure(world.shell(TABLE).code != 0, "there is a table")
    })?;
    world.kubectl("delete namespace np-a np-b")?;
    around_virtual_clusters(world)?;
    within_virtual_cluster(world)
}

struct Host<'w> {
    world: &'w World,
    /// Addresses of the two servers.
    a: String,
    b: String,
}

impl<'w> Host<'w> {
    fn new(world: &'w World) -> Result<Self> {
        let ip = |namespace: &str| {
            world.kubectl(&format!(
                "get pod web -n {namespace} -o jsonpath={{.status.podIP}}"
            ))
        };
        Ok(Self {
            world,
            a: ip("np-a")?,
            b: ip("np-b")?,
        })
    }

    /// Whether the client of a namespace gets an answer.
    fn check(&self, expected: &[(&str, &str, bool)]) -> Result {
        for (namespace, url, wanted) in expected {
            let url = url.replace("/A:", &format!("/{}:", self.a));
            let url = url.replace("/B:", &format!("/{}:", self.b));
            let exec = format!("exec client -n {namespace} --");
            reaches(self.world, &exec, &url, *wanted)?;
        }
        Ok(())
    }

    fn apply(&self, policy: &str) -> Result {
        let file = self.world.file("policy.yaml", policy)?;
        let apply = format!("apply -n np-a -f {}", file.display());
        self.world.kubectl(&apply).map(drop)
    }

    /// Nobody gets in or out, but for the node and its probes.
    fn deny_all(&self) -> Result {
        self.apply(&policy(
            "deny",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        ))?;
        self.check(&[
            ("np-a", "http://A:8080", false),
            ("np-a", "http://B:9090", false),
            ("np-b", "http://A:8080", false),
            ("np-a", HOST_API, false),
            ("np-b", "http://B:8080", true),
        ])?;
        let lookup = self
            .world
            .try_kubectl("exec client -n np-a -- busybox timeout 2 nslookup web.np-a");
        ensure(lookup.code != 0, &lookup.out)?;
        let curl = format!("curl -sS --max-time 5 http://{}:8080", self.a);
        has(&self.world.script(&curl)?, "web")?;
        // Probed from its first moment on under the policy.
        let file = self.world.file("late.yaml", &server("late"))?;
        self.world
            .kubectl(&format!("apply -n np-a -f {}", file.display()))?;
        self.world
            .kubectl("wait pod late -n np-a --for condition=Ready --timeout 60s")?;
        // A pod under no policy talks from its first moment on, too.
        self.world.kubectl(
            "run quick -n np-b --image busybox --image-pull-policy IfNotPresent --restart Never \
             --command -- busybox timeout 20 busybox wget -qO- http://web",
        )?;
        self.world
            .kubectl(
                "wait pod quick -n np-b --for jsonpath={.status.phase}=Succeeded --timeout 60s",
            )
            .map(drop)
    }

    /// By labels, namespaces and named ports.
    fn allow_some(&self) -> Result {
        self.apply(&policy(
            "to-web",
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: \
             {matchLabels: {app: client}}}], ports: [{port: http}]}]}",
        ))?;
        // Both ends have a say.
        self.check(&[("np-a", "http://A:8080", false)])?;
        self.apply(&policy(
            "of-client",
            "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [\
             {to: [{podSelector: {matchLabels: {app: web}}}]}, \
             {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, \
             podSelector: {matchLabels: {k8s-app: kube-dns}}}], \
             ports: [{port: 53, protocol: UDP}]}]}",
        ))?;
        self.check(&[
            ("np-a", "http://A:8080", true),
            ("np-a", "http://web", true),
            ("np-a", "http://A:9090", false),
            ("np-a", "http://B:8080", false),
            ("np-b", "http://A:8080", false),
        ])?;
        self.apply(&policy(
            "from-b",
            "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: \
             {matchLabels: {team: b}}, podSelector: {matchLabels: {app: client}}}], \
             ports: [{port: 9000, endPort: 9100}]}]}",
        ))?;
        self.check(&[
            ("np-b", "http://A:9090", true),
            ("np-b", "http://A:8080", false),
            ("np-a", "http://A:8080", true),
            ("np-a", "http://A:9090", false),
        ])?;
        // The namespace's labels count as they are now.
        self.world
            .kubectl("label namespace np-b team=c --overwrite")?;
        self.check(&[("np-b", "http://A:9090", false)])?;
        self.world
            .kubectl("label namespace np-b team=b --overwrite")?;
        self.check(&[("np-b", "http://A:9090", true)])
    }

    fn egress(&self) -> Result {
        let blocks = |cidr: &str, except: &str| {
            policy(
                "of-client",
                &format!(
                    "{{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], \
                     egress: [{{to: [{{ipBlock: {{cidr: {cidr}, except: [{except}]}}}}]}}]}}"
                ),
            )
        };
        self.apply(&blocks("10.244.0.0/16", &format!("{}/32", self.b)))?;
        self.check(&[
            ("np-a", "http://B:9090", false),
            ("np-a", "http://A:8080", true),
        ])?;
        self.apply(&blocks(&format!("{}/32", self.b), ""))?;
        self.check(&[
            ("np-a", "http://B:9090", true),
            ("np-a", "http://A:8080", false),
            ("np-a", HOST_API, false),
        ])?;
        // Of UDP and TCP each alone.
        for (protocol, found) in [("UDP", true), ("TCP", false)] {
            self.apply(&policy(
                "of-client",
                &format!(
                    "{{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], \
                     egress: [{{ports: [{{port: 53, protocol: {protocol}}}]}}]}}"
                ),
            ))?;
            self.world.eventually("names over UDP", || {
                let lookup = self.world.try_kubectl(
                    "exec client -n np-a -- busybox timeout 2 nslookup web.np-a.svc.cluster.local",
                );
                ensure(
                    (lookup.code == 0) == found,
                    &format!("{protocol}: {}", lookup.out),
                )
            })?;
        }
        Ok(())
    }

    /// Who has more policies than are enforced is isolated, and alone.
    fn too_many(&self) -> Result {
        let own = [
            ("np-b", "http://B:8080", true),
            ("np-b", "http://B:9090", true),
        ];
        self.check(&own)?;
        let peer = |n| format!("{{podSelector: {{matchLabels: {{app: x{n}}}}}}}");
        let peers: Vec<String> = (0..4100).map(peer).collect();
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{}}, {{from: [{}]}}]}}",
            peers.join(", ")
        );
        let file = self.world.file("crowd.yaml", &policy("crowd", &spec))?;
        // Not applied: it is too long for the annotation that this leaves.
        self.world
            .kubectl(&format!("create -n np-b -f {}", file.display()))?;
        self.check(&[("np-b", "http://B:8080", false)])?;
        // Its node reaches it.
        let curl = format!("curl -sS --max-time 5 http://{}:8080", self.b);
        has(&self.world.script(&curl)?, "web")?;
        let events = "get events -n np-b --field-selector reason=TooManyNetworkPolicies -o \
                      jsonpath={.items[*].involvedObject.name}/{.items[*].type}";
        self.world.eventually("the owner is told", || {
            let told = self.world.kubectl(events)?;
            ensure(told == "crowd/Warning", &told)
        })?;
        // Rules of others change as ever.
        self.apply(&policy("from-outside", "{podSelector: {}, ingress: [{}]}"))?;
        self.apply(&policy(
            "of-client",
            "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{}]}",
        ))?;
        self.check(&[("np-a", "http://A:8080", true)])?;
        // Longer than what is kept of them: once there is room, they are read
        // again.
        let except: Vec<String> = (0..12_000)
            .map(|n| format!("10.{}.{}.0/25", n / 200, n % 200))
            .collect();
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{}}, {{from: [{{ipBlock: \
             {{cidr: 10.0.0.0/8, except: [{}]}}}}]}}]}}",
            except.join(", ")
        );
        let file = self.world.file("long.yaml", &policy("long", &spec))?;
        self.world
            .kubectl(&format!("create -n np-b -f {}", file.display()))?;
        self.world.kubectl("delete networkpolicy crowd -n np-b")?;
        self.check(&own)?;
        self.world.kubectl("delete networkpolicy long -n np-b")?;
        self.check(&own)
    }

    /// Services for the outside lead to pods, whose policies see the client.
    fn seen_from_outside(&self) -> Result {
        let port = self
            .world
            .kubectl("get service web -n np-a -o jsonpath={.spec.ports[0].nodePort}")?;
        let neighbour = Neighbour::connect(self.world)?;
        let get = format!("curl -sS --max-time 2 http://192.0.2.1:{port}");
        self.world.eventually("the neighbour is shut out", || {
            let run = neighbour.shell(&get);
            ensure(run.code == 28, &format!("{} {}", run.code, run.out))
        })?;
        for (from, code) in [(neighbour::ADDRESS, 0), ("192.0.2.3", 28)] {
            self.apply(&policy(
                "from-outside",
                &format!(
                    "{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: \
                     [{{ipBlock: {{cidr: {from}/32}}}}]}}]}}"
                ),
            ))?;
            self.world.eventually("its address decides", || {
                let run = neighbour.shell(&get);
                ensure(
                    run.code == code,
                    &format!("{from}: {} {}", run.code, run.err),
                )
            })?;
        }
        Ok(())
    }
}

/// A policy.
pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, \
         spec: {spec}}}\n"
    )
}

/// Fails unless a pod gets an answer of a URL, or gets none.
pub fn reaches(world: &World, exec: &str, url: &str, wanted: bool) -> Result {
    let ask = match url.strip_prefix("https://") {
        // Whether there is a connection: busybox knows no TLS.
        Some(place) => {
            let (host, port) = place.split_once(':').unwrap_or((place, "443"));
            format!("nc {host} {port}")
        }
        None => format!("wget -q -O /dev/null {url}"),
    };
    let ask = format!("{exec} busybox timeout 2 busybox {ask}");
    world.eventually(&format!("{url} from a pod"), || {
        let run = world.try_kubectl(&ask);
        ensure(
            (run.code == 0) == wanted,
            &format!("{ask} ended with {}: {}", run.code, run.err),
        )
    })
}

/// Policies around a virtual cluster.
const AROUND: &str = "policies: {networkPolicy: {enabled: true}}\n";
/// Policies of the tenant's own.
const WITHIN: &str = "sync: {toHost: {networkPolicies: {enabled: true}}}\n";

/// Two virtual clusters side by side, and what is around them.
fn around_virtual_clusters(world: &World) -> Result {
    let values = world.file("isolated.yaml", AROUND)?;
    let options = format!("-f {}", values.display());
    let left = VirtualCluster::create(world, "left", "e2e-left", &options)?;
    let right = VirtualCluster::create(world, "right", "e2e-right", &options)?;
    for cluster in [&left, &right] {
        start_pods(cluster)?;
    }
    let address = |cluster: &VirtualCluster<'_>, pod: &str, of: &World| {
        of.kubectl(&format!(
            "get {pod} -n {} -o jsonpath={{.status.podIP}}",
            cluster.namespace
        ))
    };
    let web = address(&right, "pod/web-x-default-x-right", world)?;
    let control_plane = address(&right, "pod/right-0", world)?;
    let neighbour = Neighbour::connect(world)?;
    let _site = Site::open(world, &neighbour)?;
    let check = |expected: &[(&str, bool)]| -> Result {
        for (url, wanted) in expected {
            reaches(&left.inside, "exec client --", url, *wanted)?;
        }
        Ok(())
    };
    check(&[
        // Its own things, by name.
        ("http://web", true),
        ("https://kubernetes.default", true),
        // What is public.
        (&format!("http://{}", neighbour::ADDRESS), true),
        // The neighbours, the host, the machine.
        (&format!("http://{web}:8080"), false),
        (&format!("https://{control_plane}:8443"), false),
        (HOST_API, false),
        (&format!("http://{METADATA}"), false),
    ])?;

    drop(neighbour);
    left.delete()?;
    right.delete()
}

fn start_pods(cluster: &VirtualCluster<'_>) -> Result {
    cluster.inside.apply(&format!(
        "{}{}{}",
        server("web"),
        client("client"),
        service("ClusterIP")
    ))?;
    cluster
        .inside
        .kubectl("wait pod --all --for condition=Ready --timeout 120s")
        .map(drop)
}

/// A tenant's policies choose among the tenant's pods and namespaces.
fn within_virtual_cluster(world: &World) -> Result {
    let values = world.file("own-policies.yaml", WITHIN)?;
    let options = format!("-f {}", values.display());
    let cluster = VirtualCluster::create(world, "ruled", "e2e-ruled", &options)?;
    start_pods(&cluster)?;
    let inside = &cluster.inside;
    inside.kubectl("create namespace other")?;
    let file = world.file("other.yaml", &client("client"))?;
    inside.kubectl(&format!("apply -n other -f {}", file.display()))?;
    inside.kubectl("wait pod client -n other --for condition=Ready --timeout 60s")?;
    let check = |here: bool, other: bool| {
        reaches(inside, "exec client --", "http://web", here)?;
        reaches(
            inside,
            "exec client -n other --",
            "http://web.default",
            other,
        )
    };
    check(true, true)?;
    let web = |ingress: &str| {
        let spec = format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{ingress}]}}");
        inside.apply(&policy("web", &spec))
    };
    web("")?;
    check(false, false)?;
    web("{from: [{podSelector: {}}]}")?;
    check(true, false)?;
    web(
        "{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}], \
         ports: [{port: http}]}",
    )?;
    check(false, true)?;
    inside.kubectl("delete networkpolicy web")?;
    check(true, true)?;
    cluster.delete()
}

/// A web server on the neighbour, also at the address of metadata.
struct Site(Child);

impl Site {
    fn open(world: &World, neighbour: &Neighbour<'_>) -> Result<Self> {
        let directory = world.work_dir.join("site");
        std::fs::create_dir_all(&directory).map_err(|e| e.to_string())?;
        std::fs::write(directory.join("index.html"), "site\n").map_err(|e| e.to_string())?;
        let pid = neighbour.pid();
        world.script(&format!(
            "nsenter -t {pid} -n ip addr add {METADATA}/32 dev lan1 && \
             ip route add {METADATA}/32 dev lan0"
        ))?;
        let mut command = world.command("nsenter");
        command
            .args(["-t", &pid.to_string(), "-n", "busybox", "httpd", "-f", "-h"])
            .arg(&directory)
            .stdin(Stdio::null());
        let site = Self(command.spawn().map_err(|e| e.to_string())?);
        for address in [neighbour::ADDRESS, METADATA] {
            world.eventually("the site", || {
                has(
                    &world.script(&format!("curl -sS http://{address}"))?,
                    "site",
                )
            })?;
        }
        Ok(site)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
