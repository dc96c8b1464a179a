//! Labels and annotations on host objects. All keys of ours lie under
//! [`DOMAIN`], which no user label may use on the host.

use sha2::{Digest, Sha256};

/// The prefix of every key of ours.
pub const DOMAIN: &str = "coracle.dev";

/// Label: the virtual cluster that the host object belongs to.
pub const MANAGED_BY: &str = "coracle.dev/managed-by";
/// Label: the namespace of the virtual object.
pub const NAMESPACE: &str = "coracle.dev/namespace";

/// Annotation: the name of the virtual object.
pub const OBJECT_NAME: &str = "coracle.dev/object-name";
/// Annotation: the namespace of the virtual object.
pub const OBJECT_NAMESPACE: &str = "coracle.dev/object-namespace";
/// Annotation: the UID of the virtual object.
pub const OBJECT_UID: &str = "coracle.dev/object-uid";
/// Annotation: the kind of the virtual object, as in `apps/v1, Kind=Deployment`.
pub const OBJECT_KIND: &str = "coracle.dev/object-kind";
/// Annotation: the name that the host object was created with.
pub const HOST_NAME: &str = "coracle.dev/host-name";
/// Annotation: the keys of the annotations that came from the virtual object,
/// one per line, so that a removal inside is a removal on the host.
pub const MANAGED_ANNOTATIONS: &str = "coracle.dev/managed-annotations";

/// Annotation on host pods: the virtual labels in the format of downward
/// volumes; downward fields that ask for all labels read it.
pub const POD_LABELS: &str = "coracle.dev/labels";
/// Annotation on host pods: the virtual annotations, likewise.
pub const POD_ANNOTATIONS: &str = "coracle.dev/annotations";
/// Annotation on host pods: the virtual service account.
pub const POD_SERVICE_ACCOUNT: &str = "coracle.dev/service-account-name";
/// Annotation on host pods: the names of the secrets that hold its tokens.
pub const TOKEN_SECRETS: &str = "coracle.dev/token-secrets";

/// Label on host secrets that hold service-account tokens: `true`.
pub const TOKEN: &str = "coracle.dev/token";
/// Label on objects inside that mirror one of the host and have no life of
/// their own: `host`.
pub const IMPORTED: &str = "coracle.dev/imported";
/// Annotation on real nodes inside: what was last shown of the host's labels and
/// taints, as JSON, so that changes made inside are told from the host's.
pub const SHOWN: &str = "coracle.dev/shown";
/// Annotation on objects inside that are shown from the host: their namespace and
/// name, so that a copy under another name is no such object.
pub const SHOWN_AS: &str = "coracle.dev/shown-as";
/// Annotation on virtual objects: what the syncer last wrote to the host, for
/// the three-way merge, as a hash.
pub const APPLIED: &str = "coracle.dev/applied";

/// Labels of the control plane's own host objects: the value of `app`.
pub const APP: &str = "coracle";
/// Label of the control plane's own host objects that lie outside of its
/// namespace: that namespace.
pub const HOST_NAMESPACE: &str = "coracle.dev/host-namespace";
/// Annotation on the StatefulSet: where the virtual cluster has rights outside
/// of its namespace, as namespaces with commas between; `*` is the whole host.
pub const GRANTS: &str = "coracle.dev/grants";
/// Annotation on the StatefulSet: the version of Kubernetes inside.
pub const KUBERNETES_VERSION: &str = "coracle.dev/kubernetes-version";
/// Annotation on the control plane's pod: a digest of the values it runs with.
pub const VALUES: &str = "coracle.dev/values";
/// The label key of the virtual cluster's name on the control plane's own host
/// objects. User labels with this key are rewritten: a tenant's pod must never
/// be selected by the Service of a control plane.
pub const RELEASE: &str = "release";

/// True if a user's label or annotation key may not appear on the host as it
/// is, because it would pass for a mark of ours.
pub fn is_reserved(key: &str) -> bool {
    key == RELEASE || is_mark(key)
}

/// True if the key lies under our domain or a subdomain of it.
pub fn is_mark(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, _)) => {
            prefix == DOMAIN
                || prefix
                    .strip_suffix(DOMAIN)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
        None => false,
    }
}

/// The host key of a user's label: the key itself, or a hashed key under our
/// domain if it is reserved.
pub fn host_label_key(key: &str) -> String {
    if is_reserved(key) {
        format!("{DOMAIN}/label-{}", short_hash(key))
    } else {
        key.to_owned()
    }
}

/// The host key under which a label of the virtual namespace is copied onto
/// its pods, so that namespace selectors can be answered on the host.
pub fn namespace_label_key(key: &str) -> String {
    format!("{DOMAIN}/ns-label-{}", short_hash(key))
}

/// The first ten hexadecimal digits of SHA-256.
pub fn short_hash(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(5).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Label of a secret with a kubeconfig that the values ask for: `additional`.
pub const EXPORTED: &str = "coracle.dev/kubeconfig";

/// Labels of a further secret with a kubeconfig of the virtual cluster `vc` in
/// `host_namespace`.
pub fn exported_labels(host_namespace: &str, vc: &str) -> [(&'static str, String); 4] {
    let [app, release] = control_plane_labels(vc);
    [
        app,
        release,
        (HOST_NAMESPACE, host_namespace.to_owned()),
        (EXPORTED, "additional".to_owned()),
    ]
}

/// Labels of the control plane's own host objects (StatefulSet, pod, services).
pub fn control_plane_labels(vc: &str) -> [(&'static str, String); 2] {
    [("app", APP.to_owned()), (RELEASE, vc.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_keys_are_rewritten_and_others_are_not() {
        for key in ["app", "example.com/release", "notcoracle.dev/x", "coracle"] {
            assert_eq!(host_label_key(key), key);
        }
        for key in [
            "release",
            MANAGED_BY,
            "a.coracle.dev/x",
            "coracle.dev/label-1",
        ] {
            let host = host_label_key(key);
            assert!(host.starts_with("coracle.dev/label-"), "{host}");
            assert_ne!(host, key);
        }
    }
}
