//! Names of API groups, versions, kinds and resources.

use std::borrow::Cow;
use std::fmt;

/// A string that is usually a constant of the program but may come from a
/// CustomResourceDefinition.
pub type Name = Cow<'static, str>;

macro_rules! names {
    ($(#[$meta:meta])* $type:ident { $($field:ident),+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            $(#[doc = concat!("The ", stringify!($field), "; the core group is the empty string.")]
            pub $field: Name,)+
        }

        impl $type {
            /// Builds the name from its parts.
            pub fn new($($field: impl Into<Name>),+) -> Self {
                Self { $($field: $field.into()),+ }
            }
        }
    };
}

names!(/// An API group and version, as in `apps/v1`.
    GroupVersion { group, version });
names!(/// A kind within a group, over all versions.
    GroupKind { group, kind });
names!(/// A resource within a group, over all versions.
    GroupResource { group, resource });
names!(/// A kind at one version.
    GroupVersionKind { group, version, kind });
names!(/// A resource at one version.
    GroupVersionResource { group, version, resource });

impl GroupVersion {
    /// Reads an `apiVersion` value: `v1` or `apps/v1`.
    pub fn parse(api_version: &str) -> Self {
        match api_version.split_once('/') {
            Some((group, version)) => Self::new(group.to_owned(), version.to_owned()),
            None => Self::new("", api_version.to_owned()),
        }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_dotted(f, &self.kind, &self.group)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_dotted(f, &self.resource, &self.group)
    }
}

fn write_dotted(f: &mut fmt::Formatter<'_>, head: &str, group: &str) -> fmt::Result {
    if group.is_empty() {
        f.write_str(head)
    } else {
        write!(f, "{head}.{group}")
    }
}

impl GroupVersionKind {
    /// The `apiVersion` value of objects of this kind.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }

    /// The group and version alone.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(self.group.clone(), self.version.clone())
    }

    /// The group and kind alone.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group.clone(), self.kind.clone())
    }
}

impl GroupVersionResource {
    /// The group and resource alone.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.clone(), self.resource.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_round_trip() {
        for text in ["v1", "apps/v1", "rbac.authorization.k8s.io/v1"] {
            assert_eq!(GroupVersion::parse(text).to_string(), text);
        }
        assert_eq!(
            GroupResource::new("apps", "deployments").to_string(),
            "deployments.apps"
        );
        assert_eq!(GroupResource::new("", "pods").to_string(), "pods");
    }
}
