//! Names of host objects, in one place.
//!
//! A namespaced virtual object `NAME` in `VNS` of the virtual cluster `VC` is
//! `NAME-x-VNS-x-VC` on the host. Where that would be too long, or could be
//! read in two ways, a hash of the three parts makes it unique.

use std::fmt;

use crate::marks::short_hash;

/// The longest name that we give: that of a DNS label, so that it also fits
/// label values, host names and services.
pub const MAX_NAME: usize = 63;

/// How much of a long name stays readable in front of its hash.
const KEPT: usize = 52;

/// The longest name of a virtual cluster. A StatefulSet of this length still
/// gets pods, since its revision label appends eleven characters.
pub const MAX_VC_NAME: usize = 52;

/// The host name of a namespaced virtual object.
pub fn host_name(name: &str, namespace: &str, vc: &str) -> String {
    let full = format!("{name}-x-{namespace}-x-{vc}");
    join(full, &[name, namespace], vc)
}

/// The host name of a cluster-scoped virtual object of the virtual cluster
/// `vc` in the host namespace `host_namespace`.
pub fn host_cluster_name(name: &str, host_namespace: &str, vc: &str) -> String {
    let full = format!("coracle-{name}-x-{host_namespace}-x-{vc}");
    join(full, &[name, host_namespace], vc)
}

fn join(full: String, parts: &[&str], vc: &str) -> String {
    let ambiguous = parts.iter().any(|part| is_ambiguous(part));
    if full.len() <= MAX_NAME && !ambiguous {
        return full;
    }
    // The plain text of an ambiguous name does not tell its parts apart, so
    // its hash is taken over parts that are separated by what no name contains.
    let hash = if ambiguous {
        short_hash(&format!("{}/{vc}", parts.join("/")))
    } else {
        short_hash(&full)
    };
    let mut end = KEPT.min(full.len());
    while !full.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &full[..end]).replace(".-", "-")
}

/// True if `-x-` within the part, or at its edge together with the separator
/// next to it, could be taken for a separator.
fn is_ambiguous(part: &str) -> bool {
    part.contains("-x-") || part.starts_with("x-") || part.ends_with("-x")
}

/// The StatefulSet of the control plane.
pub fn stateful_set(vc: &str) -> String {
    vc.to_owned()
}

/// The pod of the control plane.
pub fn pod(vc: &str) -> String {
    format!("{vc}-0")
}

/// The Service of the virtual API server: 443 to 8443. It owns everything that
/// is created for the virtual cluster.
pub fn service(vc: &str) -> String {
    vc.to_owned()
}

/// The headless Service of the StatefulSet.
pub fn headless_service(vc: &str) -> String {
    format!("{vc}-headless")
}

/// The service account of the syncer.
pub fn service_account(vc: &str) -> String {
    format!("vc-{vc}")
}

/// The service account of all workload pods, without rights.
pub fn workload_service_account(vc: &str) -> String {
    format!("vc-workload-{vc}")
}

/// The Role of the syncer.
pub fn role(vc: &str) -> String {
    format!("vc-{vc}")
}

/// The RoleBinding of the syncer.
pub fn role_binding(vc: &str) -> String {
    format!("vc-{vc}")
}

/// The ResourceQuota and the LimitRange of the host namespace.
pub fn limits(vc: &str) -> String {
    format!("vc-{vc}")
}

/// The NetworkPolicy around the workloads.
pub fn workload_policy(vc: &str) -> String {
    format!("vc-work-{vc}")
}

/// The NetworkPolicy around the control plane.
pub fn control_plane_policy(vc: &str) -> String {
    format!("vc-cp-{vc}")
}

/// The role, and its binding, by which the syncer has rights outside of its
/// namespace. A colon is in no namespace's name, so no two virtual clusters of
/// a host share this name.
pub fn grant(host_namespace: &str, vc: &str) -> String {
    format!("coracle:{host_namespace}:{vc}")
}

/// The Secret that holds the merged configuration, under the key
/// [`CONFIG_KEY`].
pub fn config_secret(vc: &str) -> String {
    format!("vc-config-{vc}")
}

/// The key of the configuration in its Secret.
pub const CONFIG_KEY: &str = "config.yaml";

/// The Secret that holds the kubeconfig: keys `config`,
/// `certificate-authority`, `client-certificate`, `client-key`.
pub fn kubeconfig_secret(vc: &str) -> String {
    format!("vc-{vc}")
}

/// The Secret that holds the certificates and keys of the control plane.
pub fn certs_secret(vc: &str) -> String {
    format!("{vc}-certs")
}

/// The volume claim of the control plane's data.
pub fn data_claim(vc: &str) -> String {
    format!("data-{vc}-0")
}

/// Why a text cannot name a virtual cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    name: String,
    why: String,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid virtual cluster name {:?}: {}",
            self.name, self.why
        )
    }
}

impl std::error::Error for NameError {}

/// Checks the name of a virtual cluster: a DNS label that starts with a letter
/// (it also names a Service), short enough for every name made from it, and
/// not to be confused with what other virtual clusters own.
pub fn validate_name(name: &str) -> Result<(), NameError> {
    let refuse = |why: String| {
        Err(NameError {
            name: name.to_owned(),
            why,
        })
    };
    if name.is_empty() {
        return refuse("it must not be empty".into());
    }
    if name.len() > MAX_VC_NAME {
        return refuse(format!(
            "it has {} characters, at most {MAX_VC_NAME} are possible",
            name.len()
        ));
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(plain) {
        return refuse("only lower-case letters, digits and '-' are possible".into());
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return refuse("it must start with a lower-case letter".into());
    }
    if name.ends_with('-') {
        return refuse("it must end with a letter or digit".into());
    }
    if is_ambiguous(name) {
        return refuse("'-x-' separates the parts of host names and may not occur in it".into());
    }
    for prefix in ["config-", "workload-"] {
        if let Some(other) = name.strip_prefix(prefix) {
            return refuse(format!(
                "its objects would be named like those of a virtual cluster {other:?}"
            ));
        }
    }
    if let Some(other) = name.strip_suffix("-headless") {
        return refuse(format!(
            "its Service would be named like one of a virtual cluster {other:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn known_vectors() {
        assert_eq!(
            host_name("nginx", "default", "my-vcluster"),
            "nginx-x-default-x-my-vcluster"
        );
        assert_eq!(
            host_name(
                "production-knative-serving-autoscaler-7d9c6b5f4-abcde",
                "knative-serving",
                "my-vcluster"
            ),
            "production-knative-serving-autoscaler-7d9c6b5f4-abcd-824de884c3"
        );
        assert_eq!(
            host_cluster_name("fast", "demo", "vc"),
            "coracle-fast-x-demo-x-vc"
        );
    }

    #[test]
    fn ambiguous_parts_take_the_hashed_form() {
        let pairs = [
            (("a-x-b", "c"), ("a", "b-x-c")),
            (("a-x", "b"), ("a", "x-b")),
            (("a-x-x", "b"), ("a-x", "x-b")),
        ];
        for (left, right) in pairs {
            let left = host_name(left.0, left.1, "vc");
            let right = host_name(right.0, right.1, "vc");
            assert_ne!(left, right);
        }
    }

    #[test]
    fn a_cut_after_a_dot_stays_a_valid_name() {
        let name = format!("{}.{}", "a".repeat(51), "b".repeat(20));
        let host = host_name(&name, "default", "vc");
        assert!(!host.contains(".-"), "{host}");
    }

    #[test]
    fn names_of_virtual_clusters() {
        for good in ["a", "testcluster", "my-vc-2", "x", "ax-b"] {
            assert_eq!(validate_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(53);
        for bad in [
            "",
            "A",
            "1a",
            "a_b",
            "a.b",
            "-a",
            "a-",
            "a-x-b",
            "x-a",
            "a-x",
            "config-a",
            "workload-a",
            "a-headless",
            "ä",
            &long,
        ] {
            assert!(validate_name(bad).is_err(), "{bad}");
        }
    }

    fn part() -> impl Strategy<Value = String> {
        // Few letters and many separators: near misses are the rule here.
        "[ax]([ax-]{0,6}[ax])?|[a-z]([a-z0-9-]{0,60}[a-z0-9])?"
    }

    proptest! {
        // Generating names is slow; most of the value lies in the first few.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn distinct_objects_have_distinct_names(
            parts in proptest::collection::vec((part(), part()), 2..80),
        ) {
            let mut seen: HashMap<String, (String, String)> = HashMap::new();
            for (name, namespace) in parts {
                let host = host_name(&name, &namespace, "vc");
                prop_assert!(host.len() <= MAX_NAME);
                let pair = (name, namespace);
                let first = seen.entry(host).or_insert_with(|| pair.clone());
                prop_assert_eq!(&*first, &pair);
            }
        }
    }
}
