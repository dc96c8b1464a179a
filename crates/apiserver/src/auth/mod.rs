//! Who is calling, and may they: authenticators, RBAC, the default policy and
//! the reviews that answer questions about both.

pub mod authenticate;
pub mod bootstrap;
pub mod denial;
pub mod handlers;
pub mod impersonation;
pub mod node;
pub mod rbac;
pub mod reviews;
pub mod tokens;

#[cfg(test)]
pub(crate) mod fake;

pub use authenticate::Authenticators;
use coracle_machinery::GroupResource;
pub use tokens::ServiceAccountTokens;

/// The API group of roles and bindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The group whose members may do everything.
pub const SYSTEM_MASTERS: &str = "system:masters";

/// A resource of the core group.
pub(crate) const fn core(resource: &'static str) -> GroupResource {
    named("", resource)
}

/// A resource of a group.
pub(crate) const fn named(group: &'static str, resource: &'static str) -> GroupResource {
    GroupResource {
        group: std::borrow::Cow::Borrowed(group),
        resource: std::borrow::Cow::Borrowed(resource),
    }
}
