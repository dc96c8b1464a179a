//! containerd's configuration for the embedded host.

use std::path::{Path, PathBuf};

/// The image that holds a pod's namespaces: this very binary, which sleeps.
pub const PAUSE_IMAGE: &str = "coracle.dev/pause:1";

/// Where one containerd keeps its things.
#[derive(Clone, Debug)]
pub struct ContainerdPaths {
    /// Images and snapshots; survives restarts.
    pub root: PathBuf,
    /// Sockets and running state.
    pub state: PathBuf,
    /// Directory of CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Directory of CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Directory of registry host configurations.
    pub certs_dir: PathBuf,
}

impl ContainerdPaths {
    /// The socket that serves CRI.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// The socket that its shims call, the longest path of all.
    pub fn ttrpc_socket(&self) -> PathBuf {
        self.state.join("containerd.sock.ttrpc")
    }
}

/// The configuration file.
///
/// `restrict_oom_score_adj` and `disable_apparmor`: this must also run where
/// root lacks CAP_SYS_RESOURCE and the kernel lacks AppArmor.
pub fn config(paths: &ContainerdPaths) -> String {
    let quoted = |path: &Path| toml_string(&path.display().to_string());
    format!(
        r#"version = 2
root = {root}
state = {state}
oom_score = 0

[grpc]
  address = {socket}

[ttrpc]
  address = {ttrpc}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  max_concurrent_downloads = 3

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {cni_bin}
  conf_dir = {cni_conf}

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = {certs}
"#,
        root = quoted(&paths.root),
        state = quoted(&paths.state),
        socket = quoted(&paths.socket()),
        ttrpc = quoted(&paths.ttrpc_socket()),
        cni_bin = quoted(&paths.cni_bin_dir),
        cni_conf = quoted(&paths.cni_conf_dir),
        certs = quoted(&paths.certs_dir),
    )
}

/// `_default/hosts.toml`: ask the mirror before the image's own registry.
pub fn mirror_hosts(port: u16) -> String {
    format!("[host.\"http://127.0.0.1:{port}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// A TOML basic string.
fn toml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted() {
        assert_eq!(toml_string("/a \"b\"\\\n"), "\"/a \\\"b\\\"\\\\\\u000a\"");
        let paths = ContainerdPaths {
            root: "/r".into(),
            state: "/s".into(),
            cni_conf_dir: "/c".into(),
            cni_bin_dir: "/b".into(),
            certs_dir: "/t".into(),
        };
        let text = config(&paths);
        assert!(
            text.contains("address = \"/s/containerd.sock\"\n"),
            "{text}"
        );
        assert!(text.contains("config_path = \"/t\""));
    }
}
