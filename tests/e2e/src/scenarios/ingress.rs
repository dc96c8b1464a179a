//! The tutorial's scenario of the reused ingress controller, to the letter, and
//! what it leaves out: TLS, neighbours with the same names, and hostile ones.

use std::path::PathBuf;

use super::tutorial;
use crate::neighbour::{self, Neighbour};
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const NAMESPACE: &str = "e2e-ingress";

/// The tutorial's `ingress.yaml`.
const INGRESS: &str = r#"---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: frontend
spec:
  ingressClassName: nginx
  rules:
  - host: "frontend.example.com"
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: frontend
            port:
              number: 80
"#;

/// How the tutorial finds the address of the ingress controller.
const FIND: &str = "INGRESS_IP=$(kubectl get svc -n ingress-nginx | grep -v 'NAME' \
    | grep -i 'loadbalancer' | awk '{print $4}')";

/// The host's ingress controller leads to services of virtual clusters.
pub fn reused_controller(world: &World) -> Result {
    if !world.own_host() {
        return tutorial::ingress(world);
    }
    let controller = world.kubectl("get pods -n ingress-nginx")?;
    has(&controller, "1/1")?;
    let frontend = images()?.into_iter().find(|i| i.ends_with("nginx.tar"));
    let frontend = frontend.ok_or("there is no image of nginx")?;
    world.coracle(&format!(
        "host load-image --data-dir {} {} --name docker.io/purushothamkdr453/frontend:latest",
        world.data_dir(),
        frontend.display()
    ))?;
    let values = "sync:\n  ingresses:\n    enabled: true\n";
    let values = world.file("ingress-values.yaml", values)?;
    let options = format!("-f {}", values.display());
    let first = VirtualCluster::create(world, "ingress-demo", NAMESPACE, &options)?;
    let address = tutorial_commands(world, &first)?;
    let second = VirtualCluster::create(world, "ingress-two", NAMESPACE, &options)?;
    same_names(world, &second, &address)?;
    let neighbour = Neighbour::connect(world)?;
    secured(world, &second, &neighbour, &address)?;
    api_server(world, &neighbour, &address)?;
    drop(neighbour);
    hostile(world, &second, &address)?;
    // All the while, the first cluster's is served as before.
    welcome(&visit(world, &address, "http://frontend.example.com")?)?;
    restarted(world, &address)?;
    changed_and_deleted(world, &first.inside, &address)?;
    second.delete()?;
    world.eventually("the second's is gone", || {
        has(
            &visit(world, &address, "http://two.example.com/who")?,
            "404",
        )
    })?;
    first.delete()?;
    let left = world.kubectl("get ingresses -A -o name")?;
    ensure(left.is_empty(), &left)?;
    tutorial::no_roles_left(world, &["ingress-demo", "ingress-two"])
}

fn images() -> Result<Vec<PathBuf>> {
    let images = std::env::var_os("IMAGES").ok_or("IMAGES is not set")?;
    Ok(std::env::split_paths(&images).collect())
}

/// The text's own commands; the address of the ingress controller.
fn tutorial_commands(world: &World, first: &VirtualCluster<'_>) -> Result<String> {
    let inside = &first.inside;
    inside.eventually("the class", || inside.kubectl("get ingressclass nginx"))?;
    inside.kubectl("create deployment frontend --image purushothamkdr453/frontend --replicas 3")?;
    inside.kubectl("expose deployment/frontend --type ClusterIP --name frontend --port 80")?;
    let file = world.file("ingress.yaml", INGRESS)?;
    inside.kubectl(&format!("apply -f {}", file.display()))?;
    inside.kubectl("rollout status deployment frontend --timeout 120s")?;
    // The text's image has a page below /frontend/.
    inside.script(
        "for pod in $(kubectl get pods -l app=frontend -o name); do kubectl exec $pod -- sh -c \
         'mkdir /var/www/html/frontend && echo the frontend > /var/www/html/frontend/index.html'; \
         done",
    )?;
    let curl = |arguments: &str| {
        let resolve = r#"--resolve "frontend.example.com:80:$INGRESS_IP""#;
        world.script(&format!(
            "{FIND}; curl -sS --max-time 10 {arguments} {resolve}"
        ))
    };
    world.eventually("the page", || welcome(&curl("frontend.example.com")?))?;
    let page = curl("frontend.example.com/frontend/")?;
    ensure(page == "the frontend\n", &page)?;
    let address = world.script(&format!("{FIND}; echo $INGRESS_IP"))?;
    let address = address.trim().to_owned();
    inside.eventually("the address inside", || {
        has(&inside.kubectl("get ingress frontend")?, &address)
    })?;
    Ok(address)
}

/// Another virtual cluster of the same namespace uses the same names for other
/// things.
fn same_names(world: &World, second: &VirtualCluster<'_>, address: &str) -> Result {
    let inside = &second.inside;
    inside.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: frontend, labels: {app: frontend}}
spec:
  containers:
  - name: frontend
    image: nginx
    imagePullPolicy: IfNotPresent
    command: [sh, -c]
    args:
    - |
      cat > /etc/nginx/conf.d/who.conf <<'END'
      server {
        listen 8080;
        location / { return 200 "client $http_x_forwarded_for over $http_x_forwarded_proto\n"; }
      }
      END
      exec nginx -g 'daemon off;'
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#,
    )?;
    inside.kubectl("expose pod frontend --name frontend --port 80 --target-port 8080")?;
    let other = INGRESS.replace("frontend.example.com", "two.example.com");
    inside.apply(&other)?;
    world.eventually("both", || {
        has(
            &visit(world, address, "http://two.example.com/who")?,
            "over http\n",
        )?;
        welcome(&visit(world, address, "http://frontend.example.com")?)
    })
}

/// TLS with a secret of the virtual cluster; pods learn who the client is.
fn secured(
    world: &World,
    second: &VirtualCluster<'_>,
    neighbour: &Neighbour<'_>,
    address: &str,
) -> Result {
    let directory = world.work_dir.display();
    world.script(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
         -subj /CN=two.example.com -addext subjectAltName=DNS:two.example.com \
         -keyout {directory}/two.key -out {directory}/two.crt"
    ))?;
    let inside = &second.inside;
    inside.kubectl(&format!(
        "create secret tls two --key {directory}/two.key --cert {directory}/two.crt"
    ))?;
    let tls = r#"{"spec":{"tls":[{"hosts":["two.example.com"],"secretName":"two"}]}}"#;
    inside.kubectl(&format!("patch ingress frontend --type merge -p '{tls}'"))?;
    let ask = |scheme: &str, port: u16| {
        format!(
            "curl -sS --max-time 10 --cacert {directory}/two.crt --resolve two.example.com:{port}:{address} \
             {scheme}://two.example.com/who"
        )
    };
    world.eventually("an answer over TLS", || {
        has(&world.script(&ask("https", 443))?, "over https")
    })?;
    let version = world.script(&format!(
        "{} -o /dev/null -w '%{{http_version}}'",
        ask("https", 443)
    ))?;
    ensure(version == "2", &format!("HTTP/{version}"))?;
    let seen = neighbour.shell(&ask("https", 443));
    let wanted = format!("client {} over https", neighbour::ADDRESS);
    has(&seen.out, &wanted).map_err(|e| format!("{e}{}", seen.err))?;
    // Plain requests of that host are sent there, and of no other.
    let plain = world.script(&format!("{} -I", ask("http", 80)))?;
    has(&plain, "308 Permanent Redirect")?;
    has(
        &plain.to_lowercase(),
        "location: https://two.example.com/who",
    )?;
    welcome(&visit(world, address, "http://frontend.example.com")?)
}

/// The API server of a virtual cluster is reached by an ingress, with its own
/// certificate and those of its clients.
fn api_server(world: &World, neighbour: &Neighbour<'_>, address: &str) -> Result {
    let host = "api.example.com";
    let options = format!(
        "--set controlPlane.ingress.enabled=true --set controlPlane.ingress.host={host} \
         --set controlPlane.ingress.spec.ingressClassName=nginx"
    );
    let cluster = VirtualCluster::create(world, "reached", "e2e-reached", &options)?;
    let inside = &cluster.inside;
    let by_ingress = format!("--server https://{address} --tls-server-name {host}");
    inside.eventually("the API server by its host name", || {
        inside.kubectl(&format!("{by_ingress} get namespace default"))
    })?;
    let who = inside.kubectl(&format!("{by_ingress} auth whoami"))?;
    has(&who, "system:masters")?;
    // Also for those beside the machine, who find the name there.
    let seen = neighbour.shell(&format!(
        "curl -sSk --max-time 10 --resolve {host}:443:{address} https://{host}/version"
    ));
    has(&seen.out, "gitVersion").map_err(|e| format!("{e}{}", seen.err))?;
    let plain = visit(world, address, &format!("http://{host}/version"))?;
    has(&plain, "308 Permanent Redirect")?;
    cluster.delete()
}

/// What a tenant writes harms nobody, and it is told what is wrong.
fn hostile(world: &World, second: &VirtualCluster<'_>, address: &str) -> Result {
    let inside = &second.inside;
    let thief = INGRESS.replace("name: frontend\nspec", "name: thief\nspec");
    let thief = thief.replace("path: /", "path: /login");
    inside.apply(&thief)?;
    inside.apply(
        r#"
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: garbage}
stringData: {tls.crt: "}\n return 200;", tls.key: "{{ nothing }}"}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: garbage
  annotations:
    nginx.ingress.kubernetes.io/configuration-snippet: |
      return 200 "taken over";
spec:
  ingressClassName: nginx
  tls: [{hosts: [garbage.example.com], secretName: garbage}]
  rules:
  - host: garbage.example.com
    http:
      paths:
      - path: '/x { return 200 "taken over"; } #'
        pathType: Prefix
        backend: {service: {name: nobody, port: {number: 80}}}
      - path: '/outside'
        pathType: Prefix
        backend: {service: {name: outside, port: {number: 443}}}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: kubernetes.default.svc, ports: [{port: 443}]}
"#,
    )?;
    for (ingress, reason) in [
        ("thief", "HostTaken"),
        ("garbage", "CertificateUnusable"),
        ("garbage", "UnknownAnnotation"),
        ("garbage", "BackendMissing"),
    ] {
        inside.eventually(&format!("word of {reason}"), || {
            has(
                &inside.kubectl(&format!("describe ingress {ingress}"))?,
                reason,
            )
        })?;
    }
    let login = visit(world, address, "http://frontend.example.com/login")?;
    has(&login, "nginx").map_err(|e| format!("somebody else answers: {e}"))?;
    let secure = "https://garbage.example.com/outside";
    let outside = visit(world, address, secure)?;
    has(&outside, "503")?;
    inside.kubectl("delete ingress thief garbage").map(drop)
}

/// The controller is replaced while it is used, and nobody notices.
fn restarted(world: &World, address: &str) -> Result {
    let file = world.work_dir.join("ingress-answers");
    let (answers, running) = (file.display(), world.work_dir.join("ingress-running"));
    let running = running.display();
    world.script(&format!("touch {running}"))?;
    let asking = format!(
        "while [ -e {running} ]; do curl -sS -o /dev/null -w '%{{http_code}}\\n' --max-time 10 \
         http://frontend.example.com --resolve frontend.example.com:80:{address}; done > {answers} 2>&1"
    );
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| world.shell(&asking));
        let restarted = world
            .kubectl("rollout restart deployment ingress-nginx-controller -n ingress-nginx")
            .and_then(|_| {
                world.kubectl(
                    "rollout status deployment ingress-nginx-controller -n ingress-nginx --timeout 120s",
                )
            })
            .and_then(|_| {
                // The old one has ended as well.
                world.eventually("one pod", || {
                    let pods = world.kubectl("get pods -n ingress-nginx -o name")?;
                    ensure(pods.lines().count() == 1, &pods)
                })
            });
        world.script(&format!("rm {running}"))?;
        asked.join().map_err(|_| "asking ended badly")?;
        restarted
    })?;
    let answers = world.script(&format!("sort {answers} | uniq -c"))?;
    println!("answers while the controller was replaced:\n{answers}");
    let lines: Vec<&str> = answers.lines().collect();
    ensure(lines.len() == 1 && lines[0].ends_with(" 200"), &answers)
}

fn changed_and_deleted(world: &World, inside: &World, address: &str) -> Result {
    inside.apply(&INGRESS.replace("frontend.example.com", "changed.example.com"))?;
    world.eventually("the change", || {
        welcome(&visit(world, address, "http://changed.example.com")?)
    })?;
    has(
        &visit(world, address, "http://frontend.example.com")?,
        "404",
    )?;
    inside.kubectl("delete ingress frontend")?;
    world.eventually("the end", || {
        has(&visit(world, address, "http://changed.example.com")?, "404")
    })
}

/// What a client sees: head and body.
fn visit(world: &World, address: &str, url: &str) -> Result<String> {
    world.script(&format!(
        "curl -sSk -i --max-time 10 --connect-to ::{address}: '{url}'"
    ))
}

fn welcome(page: &str) -> Result {
    has(page, "Welcome to nginx!")
}
