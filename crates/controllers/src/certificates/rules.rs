//! What each signer of Kubernetes' own lets through.

use std::collections::BTreeSet;

/// The signer of certificates by which the API knows its clients.
pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The signer of certificates by which the API knows kubelets.
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of certificates that kubelets show to their callers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// What a certificate request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The common name.
    pub common_name: String,
    /// The organisations.
    pub organizations: Vec<String>,
    /// How many DNS names.
    pub dns_names: usize,
    /// How many addresses.
    pub ip_addresses: usize,
    /// How many addresses of mail.
    pub emails: usize,
    /// How many URIs.
    pub uris: usize,
}

/// Whether a signer signs such a request.
///
/// # Errors
/// Why not.
pub(super) fn check(signer: &str, asked: &Asked, usages: &[String]) -> Result<(), String> {
    match signer {
        CLIENT => client_usages(usages),
        KUBELET_CLIENT => {
            node_subject(asked)?;
            for (count, what) in [(asked.dns_names, "DNS"), (asked.emails, "Email")] {
                none(count, what)?;
            }
            for (count, what) in [(asked.ip_addresses, "IP"), (asked.uris, "URI")] {
                none(count, what)?;
            }
            node_name(asked)?;
            exactly(usages, "client auth")
        }
        KUBELET_SERVING => {
            node_subject(asked)?;
            if asked.dns_names + asked.ip_addresses == 0 {
                return Err("DNS or IP subjectAltName is required".to_owned());
            }
            none(asked.emails, "Email")?;
            none(asked.uris, "URI")?;
            exactly(usages, "server auth")?;
            node_name(asked)
        }
        _ => Err(format!("unrecognized signerName: {signer:?}")),
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|u| !optional.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".to_owned())
}

fn node_subject(asked: &Asked) -> Result<(), String> {
    if asked.organizations == ["system:nodes"] {
        return Ok(());
    }
    Err("subject organization is not system:nodes".to_owned())
}

fn node_name(asked: &Asked) -> Result<(), String> {
    if asked.common_name.starts_with("system:node:") {
        return Ok(());
    }
    Err("subject common name does not begin with system:node:".to_owned())
}

fn none(count: usize, what: &str) -> Result<(), String> {
    if count == 0 {
        return Ok(());
    }
    Err(format!("{what} subjectAltNames are not allowed"))
}

/// That usage and signatures, with or without the encipherment of keys that
/// RSA needs.
fn exactly(usages: &[String], usage: &str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted = BTreeSet::from(["digital signature", usage]);
    if given == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    if given == wanted {
        return Ok(());
    }
    let wanted: Vec<&str> = wanted.into_iter().collect();
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(common_name: &str, organization: &str) -> Asked {
        Asked {
            common_name: common_name.to_owned(),
            organizations: vec![organization.to_owned()],
            ..Asked::default()
        }
    }

    #[test]
    fn signers_let_through_what_is_theirs() {
        let node = asked("system:node:n", "system:nodes");
        let jane = asked("jane", "dev");
        let named = Asked {
            dns_names: 1,
            ..node.clone()
        };
        let mailed = Asked {
            emails: 1,
            ..named.clone()
        };
        let two = Asked {
            organizations: vec!["system:nodes".into(), "dev".into()],
            ..node.clone()
        };
        let other = asked("n", "system:nodes");
        let (client, server): (&[&str], &[&str]) = (
            &["client auth", "digital signature"],
            &["server auth", "digital signature", "key encipherment"],
        );
        for (signer, asked, usages, why) in [
            (CLIENT, &jane, client, ""),
            (
                CLIENT,
                &jane,
                server,
                "invalid usage for client certificate: server auth",
            ),
            (
                CLIENT,
                &jane,
                &["digital signature"],
                "missing required usage for client certificate: client auth",
            ),
            (KUBELET_CLIENT, &node, client, ""),
            (
                KUBELET_CLIENT,
                &jane,
                client,
                "subject organization is not system:nodes",
            ),
            (
                KUBELET_CLIENT,
                &two,
                client,
                "subject organization is not system:nodes",
            ),
            (
                KUBELET_CLIENT,
                &other,
                client,
                "subject common name does not begin with system:node:",
            ),
            (
                KUBELET_CLIENT,
                &named,
                client,
                "DNS subjectAltNames are not allowed",
            ),
            (
                KUBELET_CLIENT,
                &node,
                server,
                "usages did not match [client auth digital signature key encipherment]",
            ),
            (KUBELET_SERVING, &named, server, ""),
            (
                KUBELET_SERVING,
                &node,
                server,
                "DNS or IP subjectAltName is required",
            ),
            (
                KUBELET_SERVING,
                &mailed,
                server,
                "Email subjectAltNames are not allowed",
            ),
            (
                KUBELET_SERVING,
                &named,
                client,
                "usages did not match [digital signature key encipherment server auth]",
            ),
            (
                "example.com/s",
                &jane,
                client,
                "unrecognized signerName: \"example.com/s\"",
            ),
        ] {
            let usages: Vec<String> = usages.iter().map(|u| (*u).to_owned()).collect();
            let found = check(signer, asked, &usages).err().unwrap_or_default();
            assert_eq!(found, why, "{signer} {asked:?}");
        }
    }
}
