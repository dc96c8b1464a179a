//! The commands of kubectl that keep a connection to a container: logs, exec,
//! attach, port-forward, cp and debug, against a virtual cluster.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::stream::Stream;
use crate::virtual_cluster::VirtualCluster;
use crate::world::{PATIENCE, Result, World, ensure, has};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c]
    args:
    - |
      for i in 1 2 3; do echo "line $i"; done
      while [ ! -e /tmp/complain ]; do sleep 0.1; done
      echo "to stderr" >&2
      while [ ! -e /tmp/go ]; do sleep 0.1; done
      echo finished
  - {name: side, image: busybox, imagePullPolicy: IfNotPresent, command: [echo, aside]}
---
apiVersion: v1
kind: Pod
metadata: {name: echoes}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [cat], stdin: true}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: nginx, image: nginx, imagePullPolicy: IfNotPresent, ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 8080, targetPort: 80}]
"#;

/// logs, exec, attach, port-forward, cp, debug.
pub fn streams(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "streams", "e2e-streams", "")?;
    let inside = &cluster.inside;
    inside.apply(PODS)?;
    inside.kubectl("wait pod client echoes web --for condition=Ready --timeout 120s")?;
    logs(inside)?;
    exec(inside)?;
    terminal(inside)?;
    attach(inside)?;
    port_forward(inside)?;
    copy(inside)?;
    debug(inside)?;
    cluster.delete()
}

fn start(world: &World, arguments: &[&str]) -> Result<Stream> {
    let mut command = world.command("kubectl");
    command.args(arguments);
    Stream::start(command)
}

fn logs(inside: &World) -> Result {
    let jsonpath = "jsonpath={.status.phase}";
    inside.kubectl(&format!(
        "wait pod talker --for {jsonpath}=Running --timeout 120s"
    ))?;
    let mut follower = start(inside, &["logs", "-f", "talker", "-c", "main"])?;
    for part in ["line 1", "line 2", "line 3"] {
        follower.wait_for(part)?;
    }
    // One after the other: nothing orders what comes by two pipes.
    inside.kubectl("exec talker -c main -- touch /tmp/complain")?;
    follower.wait_for("to stderr")?;
    inside.kubectl("exec talker -c main -- touch /tmp/go")?;
    follower.wait_for("finished")?;
    let (code, rest) = follower.finish()?;
    ensure(
        (code, rest.as_str()) == (0, ""),
        &format!("logs -f: {code} {rest}"),
    )?;

    inside.kubectl(&format!(
        "wait pod talker --for {jsonpath}=Succeeded --timeout 120s"
    ))?;
    let tail = inside.kubectl("logs talker -c main --tail 1")?;
    ensure(tail == "finished\n", &tail)?;
    let stamped = inside.kubectl("logs talker -c main --timestamps --tail 1")?;
    let (time, text) = stamped.split_once(' ').unwrap_or_default();
    ensure(time.ends_with('Z') && text == "finished\n", &stamped)?;
    let all = inside.kubectl("logs -l app=talker --all-containers --prefix")?;
    has(&all, "[pod/talker/main] line 1")?;
    has(&all, "[pod/talker/side] aside")?;
    let few = inside.kubectl("logs talker -c main --limit-bytes 6")?;
    ensure(few == "line 1", &few)?;
    let wrong = inside.try_kubectl("logs talker -c nobody");
    has(&wrong.err, "container nobody is not valid for pod talker")
}

fn exec(inside: &World) -> Result {
    let run = inside.try_kubectl("exec client -- sh -c 'echo out; echo err >&2; exit 7'");
    ensure(
        run.code == 7 && run.out == "out\n",
        &format!("exec: {} {} {}", run.code, run.out, run.err),
    )?;
    has(&run.err, "err\n")?;
    has(&run.err, "command terminated with exit code 7")?;

    let mut typed = start(inside, &["exec", "-i", "client", "--", "cat"])?;
    typed.write("through and back\n")?;
    typed.wait_for("through and back")?;
    let (code, _) = typed.finish()?;
    ensure(code == 0, &format!("exec -i ended with {code}"))?;

    let absent = inside.try_kubectl("exec client -- nonesuch");
    ensure(absent.code != 0, &absent.out)?;
    has(&absent.err, "nonesuch")?;
    has(&absent.err, "executable file not found in $PATH")
}

/// A terminal end to end: `script` gives kubectl one.
fn terminal(inside: &World) -> Result {
    let mut command = inside.command("script");
    command.args([
        "-qec",
        "stty rows 33 cols 101; kubectl exec -it client -- sh",
        "/dev/null",
    ]);
    let mut shell = Stream::start(command)?;
    shell.write("test -t 0 && test -t 1 && echo is-a-$((40 + 2))-terminal\n")?;
    shell.wait_for("is-a-42-terminal")?;
    // The size comes on a channel of its own, so it may be late.
    shell.write("until busybox stty size | grep -x '33 101'; do sleep 0.1; done\n")?;
    shell.wait_for("33 101")?;
    // Control-C ends what runs in the foreground, not the shell.
    shell.write("echo sleeps-$((20 + 1)); sleep 3600; echo woke-$((20 + 2))\n")?;
    shell.wait_for("sleeps-21")?;
    shell.write("\u{3}")?;
    shell.write("echo still-$((20 + 3))\n")?;
    shell.wait_for("still-23")?;
    shell.write("exit 9\n")?;
    let (code, rest) = shell.finish()?;
    ensure(code == 9, &format!("exec -it ended with {code}: {rest}"))
}

fn attach(inside: &World) -> Result {
    let mut attached = start(inside, &["attach", "-i", "echoes"])?;
    attached.write("said to a container\n")?;
    attached.wait_for("said to a container")?;
    drop(attached);
    has(&inside.kubectl("logs echoes")?, "said to a container")?;

    let mut once = start(
        inside,
        &[
            "run",
            "once",
            "-i",
            "--rm",
            "--restart=Never",
            "--image=busybox",
            "--image-pull-policy=IfNotPresent",
            "--",
            "sh",
            "-c",
            "read line; echo \"heard $line\"; exit 3",
        ],
    )?;
    once.write("something\n")?;
    once.wait_for("heard something")?;
    let (code, rest) = once.finish()?;
    ensure(code == 3, &format!("run -i ended with {code}: {rest}"))?;
    has(&rest, "pod \"once\" deleted")?;
    let gone = inside.try_kubectl("get pod once");
    has(&gone.err, "pods \"once\" not found")
}

fn port_forward(inside: &World) -> Result {
    for target in ["pod/web", "service/web"] {
        let port = if target == "pod/web" { ":80" } else { ":8080" };
        let mut forward = start(inside, &["port-forward", target, port])?;
        let line = forward.wait_for("Forwarding from 127.0.0.1:")?;
        let port = line
            .strip_prefix("Forwarding from ")
            .and_then(|l| l.split(' ').next())
            .ok_or(&*line)?;
        // One forwarded port serves many connections.
        for _ in 0..3 {
            has(&http_get(port)?, "Welcome to nginx")?;
        }
    }
    Ok(())
}

fn http_get(address: &str) -> Result<String> {
    let failed = |e: std::io::Error| format!("{address}: {e}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
        .map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    Ok(answer)
}

fn copy(inside: &World) -> Result {
    // More than any buffer on the way, and no text.
    let bytes: Vec<u8> = (0u32..1_500_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let directory = inside.work_dir.join("to-copy");
    let back = inside.work_dir.join("copied");
    let _ = std::fs::remove_dir_all(&back);
    std::fs::create_dir_all(directory.join("deep")).map_err(|e| e.to_string())?;
    std::fs::write(directory.join("deep/data"), &bytes).map_err(|e| e.to_string())?;
    std::fs::write(directory.join("note"), "a note\n").map_err(|e| e.to_string())?;
    inside.kubectl(&format!("cp {} client:/tmp/copied", directory.display()))?;
    let note = inside.kubectl("exec client -- cat /tmp/copied/note")?;
    ensure(note == "a note\n", &note)?;
    inside.kubectl(&format!("cp client:/tmp/copied {}", back.display()))?;
    let same = std::fs::read(back.join("deep/data")).map_err(|e| e.to_string())? == bytes;
    ensure(same, "what came back differs from what was sent")
}

/// An ephemeral container beside the pod's own.
fn debug(inside: &World) -> Result {
    inside.kubectl(
        "debug web --image busybox --image-pull-policy IfNotPresent --container probe \
         --target nginx -- wget -qO- http://127.0.0.1",
    )?;
    inside.eventually("the ephemeral container has run", || {
        has(&inside.kubectl("logs web -c probe")?, "Welcome to nginx")
    })?;
    let names = inside.kubectl("get pod web -o jsonpath={.spec.ephemeralContainers[*].name}")?;
    ensure(names == "probe", &names)
}
