//! Roles and bindings, compiled for lookup by subject.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use coracle_machinery::object;
use serde_json::Value;

use super::aggregation;
use super::rules::PolicyRule;
use crate::access::UserInfo;

type Rules = Arc<[PolicyRule]>;

/// Everything that RBAC knows at one moment.
#[derive(Debug, Default)]
pub(super) struct Index {
    bindings: Vec<Binding>,
    cluster: Subjects,
    namespaces: HashMap<Arc<str>, Subjects>,
    cluster_roles: HashMap<Arc<str>, Rules>,
    /// By namespace and name.
    roles: HashMap<(Arc<str>, Arc<str>), Rules>,
}

/// The bindings of one scope by whom they name, as positions in `bindings`
/// and in the binding's subjects.
#[derive(Debug, Default)]
struct Subjects {
    users: HashMap<Arc<str>, Vec<(u32, u32)>>,
    groups: HashMap<Arc<str>, Vec<(u32, u32)>>,
}

#[derive(Debug)]
struct Binding {
    /// Empty for a ClusterRoleBinding.
    namespace: Arc<str>,
    name: Arc<str>,
    /// True if a ClusterRole is meant, false for a Role.
    cluster_role: bool,
    role: Arc<str>,
    /// `None` if the role does not exist.
    rules: Option<Rules>,
    /// As they are described in reasons: kind, then name or `name/namespace`.
    subjects: Vec<(Arc<str>, Arc<str>)>,
}

/// One role that a user holds, through one binding.
#[derive(Clone, Copy)]
pub(super) struct Grant<'a> {
    binding: &'a Binding,
    subject: u32,
}

impl<'a> Grant<'a> {
    /// The role's rules, or the name of the role that does not exist.
    pub(super) fn rules(&self) -> Result<&'a [PolicyRule], String> {
        let binding = self.binding;
        binding.rules.as_deref().ok_or_else(|| {
            let kind = if binding.cluster_role {
                "clusterrole"
            } else {
                "role"
            };
            role_not_found(kind, &binding.role)
        })
    }

    /// Why a request is allowed, if a rule of this grant allows it.
    pub(super) fn reason(&self) -> String {
        let b = self.binding;
        let role_kind = if b.cluster_role {
            "ClusterRole"
        } else {
            "Role"
        };
        let (kind, name) = &b.subjects[self.subject as usize];
        let (binding_kind, binding_name) = if b.namespace.is_empty() {
            ("ClusterRoleBinding", b.name.to_string())
        } else {
            ("RoleBinding", format!("{}/{}", b.name, b.namespace))
        };
        format!(
            "RBAC: allowed by {binding_kind} {binding_name:?} of {role_kind} {:?} to {kind} {name:?}",
            b.role
        )
    }
}

/// The sentence for a role that is referred to but absent.
pub(super) fn role_not_found(kind: &str, name: &str) -> String {
    format!("{kind}.{} {name:?} not found", crate::auth::RBAC_GROUP)
}

/// The objects that an index is made of.
pub(super) struct Sources {
    pub(super) cluster_roles: Vec<Arc<Value>>,
    pub(super) roles: Vec<Arc<Value>>,
    pub(super) cluster_role_bindings: Vec<Arc<Value>>,
    pub(super) role_bindings: Vec<Arc<Value>>,
}

impl Index {
    pub(super) fn build(sources: &Sources) -> Self {
        let mut texts = Texts::default();
        let mut index = Self::default();
        for role in &sources.cluster_roles {
            let rules = match aggregation::aggregated_rules(role, &sources.cluster_roles) {
                Some(rules) => texts.rules(&rules),
                None => texts.rules(object::items(role, "/rules")),
            };
            let name = texts.get(object::name(role));
            index.cluster_roles.insert(name, rules);
        }
        for role in &sources.roles {
            let rules = texts.rules(object::items(role, "/rules"));
            let namespace = texts.get(object::namespace(role));
            let name = texts.get(object::name(role));
            index.roles.insert((namespace, name), rules);
        }
        for binding in &sources.cluster_role_bindings {
            index.add(binding, "", &mut texts);
        }
        for binding in &sources.role_bindings {
            index.add(binding, object::namespace(binding), &mut texts);
        }
        index
    }

    fn add(&mut self, value: &Value, namespace: &str, texts: &mut Texts) {
        let namespace = texts.get(namespace);
        let role = texts.get(object::text(value, "/roleRef/name"));
        let cluster_role = object::text(value, "/roleRef/kind") == "ClusterRole";
        let rules = if cluster_role {
            self.cluster_roles.get(&role).cloned()
        } else {
            self.roles.get(&(namespace.clone(), role.clone())).cloned()
        };
        let position = self.bindings.len() as u32;
        let scope = if namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaces.entry(namespace.clone()).or_default()
        };
        let mut subjects = Vec::new();
        for subject in object::items(value, "/subjects") {
            let kind = object::text(subject, "/kind");
            let name = object::text(subject, "/name");
            let here = (position, subjects.len() as u32);
            match kind {
                "User" => scope.users.entry(texts.get(name)).or_default().push(here),
                "Group" => scope.groups.entry(texts.get(name)).or_default().push(here),
                "ServiceAccount" => {
                    let own = object::text(subject, "/namespace");
                    let own = if own.is_empty() { &namespace } else { own };
                    let user = format!("system:serviceaccount:{own}:{name}");
                    scope.users.entry(texts.get(&user)).or_default().push(here);
                    let shown = texts.get(&format!("{name}/{own}"));
                    subjects.push((texts.get(kind), shown));
                    continue;
                }
                _ => {}
            }
            subjects.push((texts.get(kind), texts.get(name)));
        }
        self.bindings.push(Binding {
            name: texts.get(object::name(value)),
            namespace,
            cluster_role,
            role,
            rules,
            subjects,
        });
    }

    /// What a user holds in the cluster and, unless it is empty, in a
    /// namespace; a binding that names the user twice appears once.
    pub(super) fn grants<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &str,
    ) -> impl Iterator<Item = Grant<'a>> {
        let scopes = [Some(&self.cluster), self.namespaces.get(namespace)];
        scopes.into_iter().flatten().flat_map(move |scope| {
            let mut found: Vec<(u32, u32)> = Vec::new();
            let lists = std::iter::once(scope.users.get(&*user.username))
                .chain(user.groups.iter().map(|g| scope.groups.get(&**g)));
            for list in lists.flatten() {
                found.extend_from_slice(list);
            }
            found.sort_unstable();
            found.dedup_by_key(|(binding, _)| *binding);
            found.into_iter().map(|(binding, subject)| Grant {
                binding: &self.bindings[binding as usize],
                subject,
            })
        })
    }

    /// The rules of the role that a binding in `namespace` refers to.
    pub(super) fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&[PolicyRule]> {
        if kind == "ClusterRole" {
            self.cluster_roles.get(name).map(|rules| &**rules)
        } else {
            let key = (Arc::from(namespace), Arc::from(name));
            self.roles.get(&key).map(|rules| &**rules)
        }
    }
}

/// Gives equal texts one allocation.
#[derive(Default)]
struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.0.get(text) {
            return held.clone();
        }
        let new: Arc<str> = Arc::from(text);
        self.0.insert(new.clone());
        new
    }

    fn rules(&mut self, rules: &[Value]) -> Rules {
        rules
            .iter()
            .map(|rule| PolicyRule::from_value(rule, &mut |t| self.get(t)))
            .collect()
    }
}
