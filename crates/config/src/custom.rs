//! Names of custom resources, as values have them: `plural.group`, or
//! `plural.group/version`.

use crate::semantics::{is_label, is_subdomain};

/// Groups that an API server serves by itself: what they hold is not custom,
/// and rights to it would be rights to the host's own machinery.
const BUILT_IN: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "metrics.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// A custom resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CustomName {
    /// Plural name.
    pub plural: String,
    /// API group.
    pub group: String,
    /// The version to use; that which the host stores if none is chosen.
    pub version: Option<String>,
}

impl CustomName {
    /// Reads the name of a custom resource.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let wrong = || {
            format!(
                "expected the plural name of a custom resource with its group, such as \
                 certificates.cert-manager.io or certificates.cert-manager.io/v1, found {text:?}"
            )
        };
        let (plural, group) = name.split_once('.').ok_or_else(wrong)?;
        let version_fits = version.is_none_or(is_label);
        if !is_label(plural) || !is_subdomain(group) || !group.contains('.') || !version_fits {
            return Err(wrong());
        }
        if BUILT_IN.contains(&group) {
            return Err(format!("{name} is no custom resource, but built in"));
        }
        Ok(Self {
            plural: plural.to_owned(),
            group: group.to_owned(),
            version: version.map(str::to_owned),
        })
    }

    /// The name of its definition.
    pub fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_custom_resources() {
        let name = CustomName::parse("certificates.cert-manager.io/v1").unwrap();
        assert_eq!(name.plural, "certificates");
        assert_eq!(name.group, "cert-manager.io");
        assert_eq!(name.version.as_deref(), Some("v1"));
        assert_eq!(name.definition(), "certificates.cert-manager.io");
        let name = CustomName::parse("gateways.gateway.networking.k8s.io").unwrap();
        assert_eq!(
            (name.group.as_str(), name.version),
            ("gateway.networking.k8s.io", None)
        );
        for wrong in [
            "",
            "certificates",
            "deployments.apps",
            "A.b.c",
            "a..b.c",
            "a.b.c/",
            "a.b.c/v1/x",
        ] {
            assert!(CustomName::parse(wrong).is_err(), "{wrong}");
        }
        let error = CustomName::parse("roles.rbac.authorization.k8s.io").unwrap_err();
        assert!(error.contains("built in"), "{error}");
    }
}
