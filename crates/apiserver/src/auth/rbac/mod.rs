//! Role-based access control.

pub mod aggregation;
pub mod escalation;
mod index;
mod rules;

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource};

pub use rules::PolicyRule;

use self::index::{Index, Sources};
use super::{RBAC_GROUP, SYSTEM_MASTERS, named};
use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::objects::Objects;

/// ClusterRoles.
pub const CLUSTER_ROLES: GroupResource = named(RBAC_GROUP, "clusterroles");
/// Roles.
pub const ROLES: GroupResource = named(RBAC_GROUP, "roles");
/// ClusterRoleBindings.
pub const CLUSTER_ROLE_BINDINGS: GroupResource = named(RBAC_GROUP, "clusterrolebindings");
/// RoleBindings.
pub const ROLE_BINDINGS: GroupResource = named(RBAC_GROUP, "rolebindings");

/// The four resources, in the order of [`Generations`].
const RESOURCES: [&GroupResource; 4] = [
    &CLUSTER_ROLES,
    &ROLES,
    &CLUSTER_ROLE_BINDINGS,
    &ROLE_BINDINGS,
];

type Generations = [u64; 4];

/// The RBAC authoriser. It keeps a compiled index of all roles and bindings,
/// which is rebuilt when one of them has changed.
pub struct Rbac {
    objects: Arc<dyn Objects>,
    index: RwLock<Option<(Generations, Arc<Index>)>>,
    /// Held while an index is built, so that a burst of requests after a
    /// change builds it once.
    building: tokio::sync::Mutex<()>,
    role_written: tokio::sync::Notify,
}

/// The rules that a user holds in a namespace.
#[derive(Clone, Debug, Default)]
pub struct HeldRules {
    /// The rules, in the order of the bindings.
    pub rules: Vec<PolicyRule>,
    /// Why the list is incomplete: roles that bindings name and that do not
    /// exist.
    pub errors: Vec<String>,
}

impl Rbac {
    /// An authoriser over the roles and bindings of these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self {
            objects,
            index: RwLock::new(None),
            building: tokio::sync::Mutex::new(()),
            role_written: tokio::sync::Notify::new(),
        }
    }

    /// Says that a ClusterRole is about to be written, so that
    /// [`aggregation::run`] has something to do.
    pub fn cluster_role_written(&self) {
        self.role_written.notify_one();
    }

    /// All rules that a user holds in the cluster and, unless it is empty, in
    /// a namespace.
    ///
    /// # Errors
    /// If roles or bindings cannot be read.
    pub async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<HeldRules, ApiError> {
        let index = self.index().await?;
        let mut held = HeldRules::default();
        for grant in index.grants(user, namespace) {
            match grant.rules() {
                Ok(rules) => held.rules.extend_from_slice(rules),
                Err(error) => held.errors.push(error),
            }
        }
        Ok(held)
    }

    /// The rules of a role that a binding in `namespace` refers to.
    ///
    /// # Errors
    /// Not found, or if roles cannot be read.
    pub async fn role_rules(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Vec<PolicyRule>, ApiError> {
        let index = self.index().await?;
        index
            .role(kind, namespace, name)
            .map(<[_]>::to_vec)
            .ok_or_else(|| {
                let resource = if kind == "ClusterRole" {
                    "clusterrole"
                } else {
                    "role"
                };
                ApiError::not_found(&GroupResource::new(RBAC_GROUP, resource), name)
            })
    }

    /// Decides by roles and bindings alone.
    pub async fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.groups.iter().any(|g| g == SYSTEM_MASTERS) {
            return Decision::Allow {
                reason: String::new(),
            };
        }
        let index = match self.index().await {
            Ok(index) => index,
            Err(error) => {
                return Decision::NoOpinion {
                    reason: format!("RBAC: {error}"),
                };
            }
        };
        let mut errors: Vec<String> = Vec::new();
        for grant in index.grants(user, &attributes.namespace) {
            match grant.rules() {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Decision::Allow {
                        reason: grant.reason(),
                    };
                }
                Ok(_) => {}
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        let reason = match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion { reason }
    }

    fn generations(&self) -> Generations {
        RESOURCES.map(|resource| self.objects.generation(resource))
    }

    fn current(&self, generations: Generations) -> Option<Arc<Index>> {
        // A poisoned lock only means that a reader elsewhere panicked; the
        // value is replaced whole, so it is sound.
        let held = self.index.read().unwrap_or_else(|e| e.into_inner());
        match &*held {
            Some((at, index)) if *at == generations => Some(index.clone()),
            _ => None,
        }
    }

    async fn index(&self) -> Result<Arc<Index>, ApiError> {
        if let Some(index) = self.current(self.generations()) {
            return Ok(index);
        }
        let _building = self.building.lock().await;
        // The numbers are read before the objects, so that a change in
        // between leads to another build and never to a stale index.
        let generations = self.generations();
        if let Some(index) = self.current(generations) {
            return Ok(index);
        }
        let sources = Sources {
            cluster_roles: self.objects.list(&CLUSTER_ROLES, "").await?,
            roles: self.objects.list(&ROLES, "").await?,
            cluster_role_bindings: self.objects.list(&CLUSTER_ROLE_BINDINGS, "").await?,
            role_bindings: self.objects.list(&ROLE_BINDINGS, "").await?,
        };
        let index = Arc::new(Index::build(&sources));
        let mut held = self.index.write().unwrap_or_else(|e| e.into_inner());
        *held = Some((generations, index.clone()));
        Ok(index)
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.decide(user, attributes).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::{Value, json};

    use super::*;
    use crate::auth::fake::FakeObjects;

    fn role(namespace: &str, name: &str, verb: &str, resource: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace},
               "rules": [{"verbs": [verb], "apiGroups": [""], "resources": [resource]}]})
    }

    fn binding(namespace: &str, name: &str, role: (&str, &str), subject: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace},
               "roleRef": {"kind": role.0, "name": role.1}, "subjects": [subject]})
    }

    fn ask(verb: &str, resource: &str, namespace: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        }
    }

    fn setup() -> (Arc<FakeObjects>, Rbac) {
        let objects = FakeObjects::new();
        objects.put(&CLUSTER_ROLES, role("", "reader", "get", "pods"));
        objects.put(&ROLES, role("n", "writer", "update", "pods"));
        let account = json!({"kind": "ServiceAccount", "name": "sa"});
        let group = json!({"kind": "Group", "name": "g"});
        let user = json!({"kind": "User", "name": "u"});
        objects.put(
            &ROLE_BINDINGS,
            binding("n", "b", ("Role", "writer"), account),
        );
        objects.put(
            &CLUSTER_ROLE_BINDINGS,
            binding("", "c", ("ClusterRole", "reader"), group),
        );
        objects.put(
            &ROLE_BINDINGS,
            binding("m", "d", ("ClusterRole", "reader"), user.clone()),
        );
        objects.put(
            &ROLE_BINDINGS,
            binding("m", "e", ("ClusterRole", "gone"), user),
        );
        let rbac = Rbac::new(objects.clone());
        (objects, rbac)
    }

    #[tokio::test]
    async fn users_groups_and_service_accounts_are_found() {
        let (_, rbac) = setup();
        let account = UserInfo::authenticated("system:serviceaccount:n:sa", &[]);
        let member = UserInfo::authenticated("x", &["g"]);
        let user = UserInfo::authenticated("u", &[]);
        let master = UserInfo::system_masters("root");
        let cases = [
            (
                &account,
                ask("update", "pods", "n"),
                Some(
                    "RBAC: allowed by RoleBinding \"b/n\" of Role \"writer\" to ServiceAccount \"sa/n\"",
                ),
            ),
            (&account, ask("update", "pods", "m"), None),
            (
                &member,
                ask("get", "pods", ""),
                Some(
                    "RBAC: allowed by ClusterRoleBinding \"c\" of ClusterRole \"reader\" to Group \"g\"",
                ),
            ),
            (
                &member,
                ask("get", "pods", "any"),
                Some(
                    "RBAC: allowed by ClusterRoleBinding \"c\" of ClusterRole \"reader\" to Group \"g\"",
                ),
            ),
            (
                &user,
                ask("get", "pods", "m"),
                Some(
                    "RBAC: allowed by RoleBinding \"d/m\" of ClusterRole \"reader\" to User \"u\"",
                ),
            ),
            (&user, ask("get", "pods", ""), None),
            (&master, ask("delete", "nodes", ""), Some("")),
        ];
        for (who, what, reason) in cases {
            match (rbac.decide(who, &what).await, reason) {
                (Decision::Allow { reason }, Some(wanted)) => assert_eq!(reason, wanted),
                (Decision::NoOpinion { .. }, None) => {}
                (decision, _) => panic!("{who:?} {what:?} {decision:?}"),
            }
        }
        let denied = rbac.decide(&user, &ask("delete", "pods", "m")).await;
        let reason = "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".to_owned();
        assert_eq!(denied, Decision::NoOpinion { reason });
    }

    #[tokio::test]
    async fn the_index_is_rebuilt_only_after_a_change() {
        let (objects, rbac) = setup();
        let user = UserInfo::authenticated("u", &[]);
        let what = ask("get", "pods", "m");
        for _ in 0..10 {
            assert!(matches!(
                rbac.decide(&user, &what).await,
                Decision::Allow { .. }
            ));
        }
        assert_eq!(objects.lists.load(Ordering::SeqCst), 4);
        objects.remove(&ROLE_BINDINGS, "m", "d");
        assert!(matches!(
            rbac.decide(&user, &what).await,
            Decision::NoOpinion { .. }
        ));
        assert_eq!(objects.lists.load(Ordering::SeqCst), 8);
    }
}
