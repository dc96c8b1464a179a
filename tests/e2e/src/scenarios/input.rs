//! Input that cannot work: each call names the cause and the next step, ends
//! with the right code, and leaves nothing half-made behind.

use std::net::TcpListener;

use crate::world::{Result, World, ensure, has};

/// The namespace that carries what is there already.
const NAMESPACE: &str = "input";

/// A call that must fail.
struct Case {
    /// A shell script that ends with the call.
    call: String,
    /// The exit code: 1 for what could not be done, 2 for wrong words.
    code: i32,
    /// What standard error tells: the cause, and then the next step.
    says: &'static [&'static str],
}

fn case(call: impl Into<String>, code: i32, says: &'static [&'static str]) -> Case {
    Case {
        call: call.into(),
        code,
        says,
    }
}

/// Makes every wrong call, and compares what there is before and after.
pub fn wrong_input(world: &World) -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let taken = listener.local_addr().map_err(|e| e.to_string())?.port();
    world.script(&format!(
        "kubectl create namespace {NAMESPACE} && \
         kubectl create service clusterip foreign --tcp=80 -n {NAMESPACE} && \
         coracle create taken -n {NAMESPACE} --connect=false"
    ))?;
    // What a virtual cluster makes after it is ready.
    world.eventually("the service of DNS", || {
        world.kubectl(&format!(
            "get service kube-dns-x-kube-system-x-taken -n {NAMESPACE}"
        ))
    })?;
    let mut groups = vec![
        words(),
        values(world)?,
        kubeconfigs(world)?,
        names(),
        addresses(world, taken),
    ];
    if world.own_host() {
        groups.push(machine(world)?);
    }
    let mut before = everything(world)?;
    let mut wrong = Vec::new();
    for group in groups {
        for case in &group {
            if let Err(error) = check(world, case) {
                wrong.push(format!("`{}`: {error}", case.call));
            }
        }
        let after = everything(world).unwrap_or_else(|error| error);
        if after != before {
            let first = group.first().map_or("", |case| case.call.as_str());
            wrong.push(format!(
                "what starts with `{first}` left {}",
                change(&before, &after)
            ));
            before = after;
        }
    }
    drop(listener);
    ensure(
        wrong.is_empty(),
        &format!(
            "{} are not as they should be:\n{}",
            wrong.len(),
            wrong.join("\n")
        ),
    )?;
    deleted_twice(world)
}

fn check(world: &World, case: &Case) -> Result {
    let started = std::time::Instant::now();
    let run = world.shell(&case.call);
    let told = format!("{} {}{}", run.code, run.out, run.err);
    ensure(run.code == case.code, &format!("the code is {told}"))?;
    ensure(run.out.is_empty(), &format!("standard output has {told}"))?;
    for part in case.says {
        has(&run.err, part)?;
    }
    // The words' own help is the next step of wrong words.
    ensure(
        run.err.contains("hint ") || run.err.contains("--help"),
        &format!("there is no next step: {told}"),
    )?;
    ensure(
        started.elapsed().as_secs() < 10,
        "it took more than 10 seconds",
    )
}

/// What a wrong call could leave: objects of the host, the kubeconfig, files,
/// links and processes of the machine.
fn everything(world: &World) -> Result<String> {
    let mut text = world.script(
        "coracle list -o json && kubectl get namespaces,statefulsets,services,secrets,roles,\
         rolebindings,serviceaccounts -A -o name && kubectl config view --raw",
    )?;
    if world.own_host() {
        let listed = format!(
            "ls -d /var/lib/coracle* 2>/dev/null; ls {data}; \
             find {data}/images {work} -name .kube -prune -o -print | sort; ip -o link show | cut -d: -f2 | grep -v veth; \
             pgrep -x 'coracle|containerd' | sort -n",
            data = world.data_dir(),
            work = world.work_dir.display(),
        );
        text.push_str(&world.shell(&listed).out);
    }
    Ok(text)
}

/// The lines that came and went.
fn change(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let came = new.iter().filter(|line| !old.contains(line));
    let went = old.iter().filter(|line| !new.contains(line));
    let lines: Vec<String> = came
        .map(|line| format!("+ {line}"))
        .chain(went.map(|line| format!("- {line}")))
        .collect();
    lines.join("\n")
}

/// The words themselves.
fn words() -> Vec<Case> {
    vec![
        case(
            "coracle create a --nope",
            2,
            &["unexpected argument '--nope'", "--help"],
        ),
        case("coracle frobnicate", 2, &["'frobnicate'", "--help"]),
        case("coracle create", 2, &["<NAME>", "--help"]),
        case("coracle list -o nope", 2, &["'nope'", "table", "--help"]),
        case(
            "coracle create a --timeout soon",
            2,
            &["'soon'", "--timeout"],
        ),
        case(
            "coracle list -A -n a",
            2,
            &["--all-namespaces", "--namespace", "--help"],
        ),
        case(
            "coracle create a --kubernetes-version 1.20",
            2,
            &["1.20", "v1.36.2", "--help"],
        ),
        case(
            "coracle create a --distro k3s",
            2,
            &["\"k3s\"", "k8s is built in", "--help"],
        ),
        case("coracle host up --port 0", 2, &["--port", "--help"]),
        case(
            "coracle host up --load-balancer-addresses 10.0.0.9-10.0.0.1",
            2,
            &["10.0.0.9-10.0.0.1 ends before it begins", "--help"],
        ),
        case(
            "coracle host up --ingress=perhaps",
            2,
            &["'perhaps'", "--ingress", "--help"],
        ),
        case(
            "coracle connect taken --print -- true",
            2,
            &["--print", "--help"],
        ),
    ]
}

/// Values files and `--set`.
fn values(world: &World) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut file = |name: &str, text: &str, says| -> Result {
        let path = world.file(name, text)?;
        cases.push(case(
            format!("coracle create a -f {}", path.display()),
            2,
            says,
        ));
        Ok(())
    };
    file(
        "misspelt.yaml",
        "sync:\n  toHost:\n    ingreses:\n      enabled: true\n",
        &[
            "misspelt.yaml: sync.toHost.ingreses: unknown key; did you mean ingresses?",
            "hint",
        ],
    )?;
    file(
        "type.yaml",
        "sync:\n  toHost:\n    ingresses:\n      enabled: 'yes'\n",
        &["type.yaml: sync.toHost.ingresses.enabled: expected true or false"],
    )?;
    file("broken.yaml", "sync:\n  toHost: [\n", &["broken.yaml: "])?;
    file("list.yaml", "- a\n", &["list.yaml: expected a map"])?;
    file("twice.yaml", "sync: {}\nsync: {}\n", &["twice.yaml: "])?;
    file(
        "later.yaml",
        "sync: {toHost: {namespaces: {enabled: true}}}\n",
        &["later.yaml: sync.toHost.namespaces: not supported: "],
    )?;
    let binary = world.work_dir.join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0, 1, 2]).map_err(|e| e.to_string())?;
    cases.extend([
        case(
            format!("coracle create a -f {}", binary.display()),
            2,
            &["binary.yaml"],
        ),
        case(
            "coracle convert -f /nonexistent/values.yaml",
            2,
            &["/nonexistent/values.yaml", "No such file"],
        ),
        case(
            "echo 'mapServises: {}' | coracle convert",
            2,
            &["-: mapServises: unknown key"],
        ),
        case(
            "coracle create a -f /nonexistent/values.yaml",
            2,
            &["/nonexistent/values.yaml", "No such file"],
        ),
        case(
            "coracle create a --set sync.toHost.pods.enabled=maybe",
            2,
            &["--set: sync.toHost.pods.enabled: expected true or false"],
        ),
        case(
            "coracle create a --set sync",
            2,
            &["--set: \"sync\" is no assignment: write key=value"],
        ),
    ]);
    Ok(cases)
}

/// Kubeconfigs that are not there, broken, or lead nowhere.
fn kubeconfigs(world: &World) -> Result<Vec<Case>> {
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|e| e.to_string())?;
    let config = |server: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: c, user: {{token: t}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
        )
    };
    let unreachable = world.file("unreachable", &config(&format!("https://{closed}")))?;
    let no_url = world.file("no-url", &config("what is this"))?;
    let half = config("https://127.0.0.1:1").replace("cluster: c,", "cluster: lost,");
    let half = world.file("half", &half)?;
    let garbage = world.file("garbage", "\u{1}\u{2} this: is: [no kubeconfig")?;
    let list = world.file("list", "- a\n- b\n")?;
    let folder = world.work_dir.join("folder");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let mut cases = Vec::new();
    for command in [
        "create a",
        "list",
        "connect a",
        "delete a",
        "connect a -- true",
    ] {
        let with = |file: &str| format!("KUBECONFIG={file} coracle {command}");
        let file = |path: &std::path::Path| with(&path.display().to_string());
        cases.extend([
            case(
                with("/nonexistent/config"),
                1,
                &[
                    "no host cluster: /nonexistent/config names no current context",
                    "coracle host up",
                ],
            ),
            case(file(&unreachable), 1, &["Connection refused", "--context"]),
            case(file(&no_url), 1, &["\"c\" cannot be used"]),
            case(file(&half), 1, &["\"c\" cannot be used", "lost"]),
            case(
                file(&garbage),
                1,
                &["cannot read the kubeconfig", "garbage"],
            ),
            case(file(&list), 1, &["it is not a kubeconfig", "list"]),
            case(file(&folder), 1, &["folder", "directory"]),
            case(
                format!("coracle {} --context nope", command.replace(" -- true", "")),
                1,
                &["there is no context \"nope\"", "get-contexts"],
            ),
        ]);
    }
    cases.extend([
        case(
            "KUBECONFIG=/nonexistent/config coracle disconnect",
            1,
            &["names no current context", "use-context"],
        ),
        case(
            format!("KUBECONFIG={} coracle disconnect", garbage.display()),
            1,
            &["cannot read the kubeconfig", "garbage"],
        ),
        case(
            "env -u KUBECONFIG -u HOME coracle list",
            1,
            &["neither KUBECONFIG nor HOME is set", "--kubeconfig"],
        ),
    ]);
    Ok(cases)
}

/// Names that cannot be, are taken, or are not there.
fn names() -> Vec<Case> {
    let long = "a".repeat(53);
    vec![
        case(
            "coracle create Bad_Name",
            2,
            &["\"Bad_Name\"", "only lower-case letters"],
        ),
        case("coracle create 1a", 2, &["\"1a\"", "start with"]),
        case(format!("coracle create {long}"), 2, &["53 characters"]),
        case("coracle create ''", 2, &["must not be empty"]),
        case("coracle create a-x-b", 2, &["'-x-'"]),
        case(
            "coracle create a -n Bad_Namespace",
            2,
            &["Bad_Namespace", "namespace"],
        ),
        case(
            "coracle create a -n absent --create-namespace=false",
            1,
            &["there is no namespace \"absent\"", "-n"],
        ),
        case(
            format!("coracle create taken -n {NAMESPACE}"),
            1,
            &["exists already in namespace input", "--upgrade"],
        ),
        case(
            format!("coracle create foreign -n {NAMESPACE}"),
            1,
            &["\"foreign\" is taken", "choose another name"],
        ),
        case(
            "coracle connect absent",
            1,
            &["there is no virtual cluster \"absent\"", "input/taken"],
        ),
        case(
            "coracle upgrade absent",
            1,
            &["there is no virtual cluster \"absent\"", "input/taken"],
        ),
        case(
            "coracle describe absent",
            1,
            &["there is no virtual cluster \"absent\"", "input/taken"],
        ),
        case(
            "coracle debug taken -o /nonexistent/file.tar.gz",
            1,
            &["cannot write /nonexistent/file.tar.gz", "-o"],
        ),
        case(
            "coracle connect taken -n default",
            1,
            &["there is no virtual cluster \"taken\" in namespace \"default\""],
        ),
        case(
            "coracle connect absent -- true",
            1,
            &["there is no virtual cluster \"absent\""],
        ),
        case(
            "coracle delete absent",
            1,
            &["there is no virtual cluster \"absent\"", "input/taken"],
        ),
        case(
            format!("coracle delete foreign -n {NAMESPACE}"),
            1,
            &["there is no virtual cluster \"foreign\""],
        ),
        case(
            "coracle disconnect",
            1,
            &["no virtual cluster's", "coracle connect"],
        ),
        case(
            "coracle connect taken -- /nonexistent/program",
            2,
            &["cannot run \"/nonexistent/program\""],
        ),
    ]
}

/// Addresses that are taken.
fn addresses(world: &World, taken: u16) -> Vec<Case> {
    let data = world.work_dir.join("control-plane");
    vec![case(
        format!(
            "coracle control-plane --data-dir {} --listen 127.0.0.1:{taken}",
            data.display()
        ),
        1,
        &["cannot listen on 127.0.0.1:", "choose another port"],
    )]
}

/// What the machine lacks; the machine is ours to bend.
#[expect(clippy::too_many_lines, reason = "one table of bad input")]
fn machine(world: &World) -> Result<Vec<Case>> {
    let data = world.data_dir();
    let junk = world.file("junk.tar", &"this is no image\n".repeat(100))?;
    let work = world.work_dir.display();
    let other = format!("{work}/other");
    // An image whose archive breaks off, and one with a wrong byte.
    world.script(&format!(
        "first=$(echo \"$IMAGES\" | cut -d: -f1); cd {work} && \
         head -c 3000000 \"$first\" > short.tar && cp \"$first\" changed.tar && \
         printf x | dd of=changed.tar bs=1 seek=2000000 conv=notrunc 2>/dev/null"
    ))?;
    // Others cannot reach the folder of the build.
    let nobody = "cp $(command -v coracle) /tmp/nobodys && chmod 755 /tmp/nobodys && \
         setpriv --reuid 65534 --regid 65534 --clear-groups /tmp/nobodys";
    let ended = "; code=$?; rm /tmp/nobodys; exit $code";
    Ok(vec![
        case(
            format!("KUBECONFIG=/tmp/none; {nobody} host up --data-dir {other}{ended}"),
            1,
            &["this needs root", "sudo"],
        ),
        case(
            format!("KUBECONFIG=/tmp/none; {nobody} host down --data-dir {data}{ended}"),
            1,
            &["cannot stop the host", "root"],
        ),
        case(
            format!("env -u KUBECONFIG -u HOME coracle host up --data-dir {other}"),
            1,
            &["neither KUBECONFIG nor HOME is set", "--kubeconfig"],
        ),
        case(
            format!("coracle host up --data-dir {other}"),
            1,
            &["another host is running", "coracle host down --data-dir"],
        ),
        case(
            format!(
                "unshare --net bash -c 'ip link set lo up; coracle control-plane \
                 --data-dir {work}/first --listen 127.0.0.1:6443 2>/dev/null & first=$!; \
                 until (exec 3<>/dev/tcp/127.0.0.1/6443) 2>/dev/null; do sleep 0.1; done; \
                 coracle host up --data-dir {other}; \
                 code=$?; kill $first; wait $first; rm -r {work}/first; exit $code'"
            ),
            1,
            &["cannot listen on 127.0.0.1:6443", "choose another port"],
        ),
        case(
            format!(
                "coracle host up --data-dir {other} --load-balancer-addresses 10.96.0.1-10.96.0.9"
            ),
            1,
            &["10.96.0.0/16", "--load-balancer-addresses"],
        ),
        case(
            format!("coracle host up --data-dir {other} --ingress --load-balancer-addresses none"),
            2,
            &["needs an address", "--load-balancer-addresses"],
        ),
        case(
            format!("coracle host up --data-dir {data} --ingress=false"),
            1,
            &["started with other options", "coracle host down"],
        ),
        case(
            format!("coracle host up --data-dir {other} --node-name Bad_Name"),
            2,
            &["\"Bad_Name\"", "--node-name"],
        ),
        case(
            format!("coracle host up --data-dir /tmp/{}", "d".repeat(100)),
            2,
            &["too long", "--data-dir"],
        ),
        case(
            "unshare --net bash -c 'ip link set lo up; coracle host up --data-dir /etc/passwd'",
            1,
            &["/etc/passwd", "--data-dir"],
        ),
        case(
            format!(
                "unshare --mount sh -c 'mount --bind /dev/null /usr/bin/containerd && \
                 coracle host up --data-dir {other}'"
            ),
            1,
            &["missing on this machine: containerd", "apt-get install"],
        ),
        case(
            "coracle host down --data-dir /etc --purge",
            2,
            &["/etc is no host's data directory", "--data-dir"],
        ),
        case(
            format!(
                "coracle host load-image --data-dir {data} {}",
                junk.display()
            ),
            1,
            &["cannot load", "junk.tar", "docker save"],
        ),
        case(
            format!("coracle host load-image --data-dir {data} {work}/short.tar"),
            1,
            &["short.tar"],
        ),
        case(
            format!("coracle host load-image --data-dir {data} {work}/changed.tar"),
            1,
            &["changed.tar", "sha256"],
        ),
        case(
            format!("coracle host load-image --data-dir {data} /nonexistent.tar"),
            2,
            &["there is no file /nonexistent.tar"],
        ),
        case(
            format!(
                "coracle host load-image --data-dir {data} {} --name 'No Name'",
                junk.display()
            ),
            2,
            &["No Name", "--name"],
        ),
        case(
            format!(
                "coracle host load-image --data-dir {other} {}",
                junk.display()
            ),
            1,
            &["is no host's data directory", "coracle host up"],
        ),
    ])
}

fn deleted_twice(world: &World) -> Result {
    world.coracle(&format!("delete taken -n {NAMESPACE}"))?;
    let again = case(
        format!("coracle delete taken -n {NAMESPACE}"),
        1,
        &[
            "there is no virtual cluster \"taken\"",
            "coracle create taken",
        ],
    );
    check(world, &again)?;
    world.kubectl(&format!("delete namespace {NAMESPACE}"))?;
    ensure(
        world.coracle("list -o json")?.trim() == "[]",
        "a virtual cluster is left",
    )
}
