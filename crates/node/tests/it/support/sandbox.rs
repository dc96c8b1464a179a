//! A place for real containers that leaves nothing behind: namespaces of its
//! own, and a containerd that ends with them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle_image::{Image, ImageSpec, Layer, Reference};

const INSIDE: &str = "CORACLE_NODE_TEST_INSIDE";
const SETUP: &str = "mount --make-rshared / && mkdir -p /run/netns /run/containerd \
    && mount -t tmpfs t /run/netns && mount -t tmpfs t /run/containerd \
    && ip link set lo up && \"$0\" \"$@\"";

/// Runs this test again in a sandbox; in the sandbox itself, a directory for
/// the test's files. The directory goes when the sandbox, and with it every
/// mount, has gone.
pub fn enter(test: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(INSIDE) {
        return Some(PathBuf::from(dir));
    }
    let dir = tempfile::Builder::new()
        .prefix("coracle-node-test")
        .tempdir()
        .unwrap();
    let status = Command::new("unshare")
        .args(["--fork", "--pid", "--kill-child", "--mount", "--mount-proc"])
        .args(["--net", "--uts", "--ipc", "bash", "-c", SETUP])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, dir.path())
        .stdin(Stdio::null())
        .status()
        .expect("unshare (util-linux)");
    assert!(status.success(), "{test} failed in its sandbox");
    None
}

/// A containerd of the test's own.
pub struct Containerd {
    root: PathBuf,
    child: Child,
}

impl Containerd {
    pub fn start(root: &Path) -> Self {
        let root = root.to_owned();
        std::fs::create_dir_all(root.join("cni-conf")).unwrap();
        let dir = root.display();
        let config = format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/t.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{dir}/cni-conf"
"#
        );
        std::fs::write(root.join("config.toml"), config).unwrap();
        let child = Self::spawn(&root);
        let this = Self { root, child };
        this.import("local/pause:1", &["/bin/busybox", "sleep", "1000000000"]);
        this.import("local/busybox:1", &["/bin/sh"]);
        this
    }

    fn spawn(root: &Path) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(root.join("containerd.log"))
            .unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(root.join("config.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd (Debian package containerd)");
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(root.join("c.sock")).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "containerd does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    pub fn socket(&self) -> PathBuf {
        self.root.join("c.sock")
    }

    /// Kills containerd and starts it again; containers are to survive.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.root);
    }

    fn import(&self, name: &str, command: &[&str]) {
        let files = self.root.join("image");
        std::fs::create_dir_all(files.join("bin")).unwrap();
        std::fs::create_dir_all(files.join("etc")).unwrap();
        std::fs::create_dir_all(files.join("tmp")).unwrap();
        std::fs::copy("/bin/busybox", files.join("bin/busybox"))
            .expect("busybox (Debian package busybox-static)");
        for applet in [
            "sh", "sleep", "cat", "echo", "nc", "httpd", "id", "test", "true", "ls", "env",
        ] {
            let _ = std::os::unix::fs::symlink("busybox", files.join("bin").join(applet));
        }
        let spec = ImageSpec {
            entrypoint: command.iter().map(|c| (*c).to_owned()).collect(),
            env: vec!["PATH=/bin".to_owned()],
            ..Default::default()
        };
        let image = Image::build(&spec, &Layer::Directory(files)).unwrap();
        let tarball = self.root.join("image.tar");
        let out = std::fs::File::create(&tarball).unwrap();
        image
            .write_tar(&Reference::parse(name).unwrap(), out)
            .unwrap();
        let status = Command::new("ctr")
            .arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io", "images", "import"])
            .arg(&tarball)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "image not imported");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
