//! A pod's sandbox as the container runtime wants it described. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, SeccompProfile};

use super::info::{self, Qos};
use crate::cri::{LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};

/// Longest hostname that Linux accepts.
const MAX_HOSTNAME: usize = 63;
/// Most search domains and name servers, as Kubernetes allows.
const MAX_SEARCHES: usize = 32;
const MAX_NAMESERVERS: usize = 3;

/// What the node contributes to a sandbox.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// Cluster DNS server, if there is one.
    pub cluster_dns: Option<IpAddr>,
    /// Cluster DNS domain, as in `cluster.local`.
    pub cluster_domain: String,
    /// Cgroup under which the pods' cgroups are made.
    pub cgroup_parent: String,
    /// Directory of the pods' log directories.
    pub log_dir: std::path::PathBuf,
}

/// The node's own resolver configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolvConf {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf; unknown lines are skipped.
    pub fn parse(text: &str) -> Self {
        let mut result = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let keyword = words.next();
            let rest = words.map(str::to_owned);
            match keyword {
                Some("nameserver") => result.nameservers.extend(rest.take(1)),
                Some("search" | "domain") => result.searches = rest.collect(),
                Some("options") => result.options.extend(rest),
                _ => {}
            }
        }
        result
    }
}

/// Directory name of a pod's logs.
pub fn log_directory_name(pod: &Pod) -> String {
    format!(
        "{}_{}_{}",
        info::namespace(pod),
        info::name(pod),
        info::uid(pod)
    )
}

/// The pod's hostname inside.
pub fn hostname(pod: &Pod, node_name: &str) -> String {
    let spec = pod.spec.as_ref();
    if info::spec(pod).host_network() {
        return node_name.to_owned();
    }
    let wanted = spec
        .and_then(|s| s.hostname_override.as_deref().or(s.hostname.as_deref()))
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| info::name(pod));
    let mut name: String = wanted.chars().take(MAX_HOSTNAME).collect();
    while name.ends_with(['-', '.']) {
        name.pop();
    }
    name
}

/// The pod's domain, if it has a subdomain: `SUBDOMAIN.NS.svc.DOMAIN`.
pub fn host_domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let subdomain = pod
        .spec
        .as_ref()?
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())?;
    Some(format!(
        "{subdomain}.{}.svc.{cluster_domain}",
        info::namespace(pod)
    ))
}

/// The sandbox for `pod`, the `attempt`th of its life.
pub fn config(
    pod: &Pod,
    attempt: u32,
    node_name: &str,
    settings: &SandboxSettings,
    node_dns: &ResolvConf,
) -> cri::PodSandboxConfig {
    let spec = info::spec(pod);
    let labels = [
        (LABEL_POD_NAME, info::name(pod)),
        (LABEL_POD_NAMESPACE, info::namespace(pod)),
        (LABEL_POD_UID, info::uid(pod)),
    ];
    let mut all_labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    all_labels.extend(labels.map(|(k, v)| (k.to_owned(), v.to_owned())));
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: info::name(pod).to_owned(),
            uid: info::uid(pod).to_owned(),
            namespace: info::namespace(pod).to_owned(),
            attempt,
        }),
        // With the node's network comes the node's name, which is not ours to
        // set: the runtime refuses to.
        hostname: if spec.host_network() {
            String::new()
        } else {
            hostname(pod, node_name)
        },
        log_directory: settings
            .log_dir
            .join(log_directory_name(pod))
            .to_string_lossy()
            .into_owned(),
        dns_config: Some(dns(pod, settings, node_dns)),
        // Host ports are the service proxy's: the CNI port mapper would need
        // iptables beside nftables.
        port_mappings: Vec::new(),
        labels: all_labels,
        annotations: pod
            .metadata
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(pod, &settings.cgroup_parent),
            security_context: Some(security(pod)),
            sysctls: spec
                .0
                .and_then(|s| s.security_context.as_ref()?.sysctls.as_ref())
                .into_iter()
                .flatten()
                .map(|s| (s.name.clone(), s.value.clone()))
                .collect(),
            overhead: None,
            resources: None,
        }),
        windows: None,
    }
}

/// Cgroup of the pod: below the class of service, named by uid.
pub fn cgroup_parent(pod: &Pod, root: &str) -> String {
    let root = root.trim_end_matches('/');
    let uid = info::uid(pod);
    match info::qos(pod) {
        Qos::Guaranteed => format!("{root}/pod{uid}"),
        Qos::Burstable => format!("{root}/burstable/pod{uid}"),
        Qos::BestEffort => format!("{root}/besteffort/pod{uid}"),
    }
}

/// Which namespaces the pod shares with the node or among its containers.
pub fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let spec = pod.spec.as_ref();
    let node_or = |on: Option<bool>, otherwise: cri::NamespaceMode| {
        if on.unwrap_or(false) {
            cri::NamespaceMode::Node
        } else {
            otherwise
        }
    };
    let shared = spec
        .and_then(|s| s.share_process_namespace)
        .unwrap_or(false);
    let pid = if shared {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: node_or(spec.and_then(|s| s.host_network), cri::NamespaceMode::Pod).into(),
        pid: node_or(spec.and_then(|s| s.host_pid), pid).into(),
        ipc: node_or(spec.and_then(|s| s.host_ipc), cri::NamespaceMode::Pod).into(),
        target_id: String::new(),
        userns_options: None,
    }
}

fn security(pod: &Pod) -> cri::LinuxSandboxSecurityContext {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let privileged = info::spec(pod)
        .containers()
        .iter()
        .chain(info::spec(pod).init_containers())
        .any(|c| {
            c.security_context
                .as_ref()
                .and_then(|s| s.privileged)
                .unwrap_or(false)
        });
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: context
            .and_then(|c| c.run_as_user)
            .map(|value| cri::Int64Value { value }),
        run_as_group: context
            .filter(|c| c.run_as_user.is_some())
            .and_then(|c| c.run_as_group)
            .map(|value| cri::Int64Value { value }),
        supplemental_groups: supplemental_groups(context),
        privileged,
        seccomp: Some(seccomp(context.and_then(|c| c.seccomp_profile.as_ref()))),
        ..Default::default()
    }
}

/// Groups of the pod's processes: the named ones and the volumes' group.
pub fn supplemental_groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let Some(context) = context else {
        return Vec::new();
    };
    let mut groups = context.supplemental_groups.clone().unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

/// A seccomp profile in the runtime's terms; none named means unconfined.
pub fn seccomp(profile: Option<&SeccompProfile>) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (kind, localhost) = match profile.map(|p| p.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, None),
        Some("Localhost") => (
            ProfileType::Localhost,
            profile.and_then(|p| p.localhost_profile.clone()),
        ),
        _ => (ProfileType::Unconfined, None),
    };
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: localhost
            .map(|name| format!("/var/lib/kubelet/seccomp/{name}"))
            .unwrap_or_default(),
    }
}

/// The pod's resolver configuration, by its DNS policy.
fn dns(pod: &Pod, settings: &SandboxSettings, node: &ResolvConf) -> cri::DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !info::spec(pod).host_network(),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut result = match (policy, settings.cluster_dns.filter(|_| cluster)) {
        ("None", _) => cri::DnsConfig::default(),
        (_, Some(server)) => {
            let domain = &settings.cluster_domain;
            let mut searches = vec![
                format!("{}.svc.{domain}", info::namespace(pod)),
                format!("svc.{domain}"),
                domain.clone(),
            ];
            searches.extend(node.searches.iter().cloned());
            cri::DnsConfig {
                servers: vec![server.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => cri::DnsConfig {
            servers: node.nameservers.clone(),
            searches: node.searches.clone(),
            options: node.options.clone(),
        },
    };
    if let Some(extra) = spec.and_then(|s| s.dns_config.as_ref()) {
        result
            .servers
            .extend(extra.nameservers.iter().flatten().cloned());
        result
            .searches
            .extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else {
                continue;
            };
            // The pod's own option replaces one of the same name.
            result.options.retain(|o| o.split(':').next() != Some(name));
            result.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    dedup(&mut result.servers);
    dedup(&mut result.searches);
    result.servers.truncate(MAX_NAMESERVERS);
    result.searches.truncate(MAX_SEARCHES);
    result
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// The pod's `/etc/hosts`.
pub fn hosts_file(
    pod: &Pod,
    pod_ips: &[String],
    hostname: &str,
    domain: Option<&str>,
    node_hosts: &str,
) -> String {
    let mut text = String::new();
    if info::spec(pod).host_network() {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(node_hosts);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str("# Kubernetes-managed hosts file.\n");
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
        text.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        for ip in pod_ips {
            match domain {
                Some(domain) => {
                    text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
                }
                None => text.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
    }
    let aliases = pod
        .spec
        .as_ref()
        .and_then(|s| s.host_aliases.as_deref())
        .unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings() -> SandboxSettings {
        SandboxSettings {
            cluster_dns: Some("10.96.0.10".parse().unwrap()),
            cluster_domain: "cluster.local".into(),
            cgroup_parent: "/kubepods".into(),
            log_dir: "/var/log/pods".into(),
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": spec
        }))
        .unwrap()
    }

    #[test]
    fn dns_by_policy() {
        let node = ResolvConf::parse("nameserver 1.1.1.1\nsearch corp.example\noptions rotate\n");
        let cluster = (
            vec!["10.96.0.10"],
            vec![
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example",
            ],
            vec!["ndots:5"],
        );
        let own = (vec!["1.1.1.1"], vec!["corp.example"], vec!["rotate"]);
        for (spec, want) in [
            (json!({"containers": []}), cluster.clone()),
            (
                json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirst"}),
                own.clone(),
            ),
            (
                json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), own),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                    "nameservers": ["9.9.9.9"], "searches": ["x"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                (vec!["9.9.9.9"], vec!["x"], vec!["ndots:2", "edns0"]),
            ),
        ] {
            let config = config(&pod(spec.clone()), 0, "node", &settings(), &node);
            let dns = config.dns_config.unwrap();
            assert_eq!(dns.servers, want.0, "{spec}");
            assert_eq!(dns.searches, want.1, "{spec}");
            assert_eq!(dns.options, want.2, "{spec}");
        }
    }

    #[test]
    fn namespaces_and_cgroup() {
        let plain = config(
            &pod(json!({"containers": []})),
            2,
            "node",
            &settings(),
            &ResolvConf::default(),
        );
        assert_eq!(plain.metadata.unwrap().attempt, 2);
        let linux = plain.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/podu");
        assert_eq!(plain.log_directory, "/var/log/pods/ns_web_u");
        assert_eq!(plain.hostname, "web");
        let host = pod(json!({"containers": [], "hostNetwork": true, "hostPID": true}));
        let own = config(&host, 0, "node", &settings(), &ResolvConf::default());
        assert_eq!(own.hostname, "", "the node's name is not ours to set");
        let host = namespaces(&host);
        assert_eq!(host.network(), cri::NamespaceMode::Node);
        assert_eq!(host.pid(), cri::NamespaceMode::Node);
        assert_eq!(host.ipc(), cri::NamespaceMode::Pod);
    }

    #[test]
    fn hostnames() {
        let long = "a".repeat(62) + "-b";
        for (spec, want) in [
            (json!({"containers": []}), "web".to_owned()),
            (json!({"containers": [], "hostname": "h"}), "h".to_owned()),
            (
                json!({"containers": [], "hostNetwork": true}),
                "node".to_owned(),
            ),
            (json!({"containers": [], "hostname": long}), "a".repeat(62)),
        ] {
            assert_eq!(hostname(&pod(spec), "node"), want);
        }
    }

    #[test]
    fn hosts_entries() {
        let pod = pod(json!({"containers": [], "subdomain": "sub",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let domain = host_domain(&pod, "cluster.local");
        let text = hosts_file(&pod, &["10.1.1.1".into()], "web", domain.as_deref(), "");
        assert!(text.contains("10.1.1.1\tweb.sub.ns.svc.cluster.local\tweb\n"));
        assert!(text.ends_with("1.2.3.4\ta\tb\n"));
    }
}
