//! Nobody grants more than they hold: the checks on writes of roles and
//! bindings.

use std::collections::{BTreeMap, BTreeSet};

use coracle_machinery::{ApiError, GroupResource, object};
use serde_json::Value;

use super::rules::{PolicyRule, SimpleRule, SimpleSubject};
use super::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Rbac};
use crate::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::auth::{RBAC_GROUP, SYSTEM_MASTERS};

/// Combinations of verb, group, resource and name that one role may spell
/// out before it is refused unchecked: each is compared with every rule that
/// the caller holds, and a role of 1 MiB could spell out 10^15.
const MAX_COMBINATIONS: usize = 20_000;

/// Missing permissions that a refusal lists; the rest is counted.
const MAX_LISTED: usize = 64;

/// Checks a create (`old` is `None`) or update of one of the four RBAC
/// resources; other resources pass.
///
/// # Errors
/// Forbidden, if the caller would grant what it does not hold and may not
/// `escalate` or `bind`.
pub async fn check(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &GroupResource,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if user.groups.iter().any(|g| g == SYSTEM_MASTERS) {
        return Ok(());
    }
    if *resource == ROLES || *resource == CLUSTER_ROLES {
        check_role(rbac, authorizer, user, resource, object, old).await
    } else if *resource == ROLE_BINDINGS || *resource == CLUSTER_ROLE_BINDINGS {
        check_binding(rbac, authorizer, user, resource, object, old).await
    } else {
        Ok(())
    }
}

async fn check_role(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &GroupResource,
    role: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let (name, namespace) = (object::name(role), object::namespace(role));
    if may(authorizer, user, "escalate", resource, namespace, name).await {
        return Ok(());
    }
    let unchanged = old.is_some_and(|old| {
        object::items(old, "/rules") == object::items(role, "/rules")
            && present(old, "aggregationRule") == present(role, "aggregationRule")
    });
    if unchanged {
        return Ok(());
    }
    let rules: Vec<PolicyRule> = object::items(role, "/rules")
        .iter()
        .map(|rule| PolicyRule::from_value(rule, &mut |t| t.into()))
        .collect();
    confirm(rbac, user, namespace, &rules, resource, name).await?;
    if present(role, "aggregationRule").is_some() {
        let all = PolicyRule::everything();
        if confirm(rbac, user, namespace, &all, resource, name)
            .await
            .is_err()
        {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            return Err(ApiError::forbidden(resource, name, why));
        }
    }
    Ok(())
}

async fn check_binding(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    resource: &GroupResource,
    binding: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let unchanged = old.is_some_and(|old| {
        old.get("roleRef") == binding.get("roleRef")
            && object::items(old, "/subjects") == object::items(binding, "/subjects")
    });
    if unchanged {
        return Ok(());
    }
    let (name, namespace) = (object::name(binding), object::namespace(binding));
    let kind = object::text(binding, "/roleRef/kind");
    let role = object::text(binding, "/roleRef/name");
    let role_resource = if kind == "ClusterRole" {
        CLUSTER_ROLES
    } else {
        ROLES
    };
    if may(authorizer, user, "bind", &role_resource, namespace, role).await {
        return Ok(());
    }
    let rules = rbac.role_rules(kind, namespace, role).await?;
    confirm(rbac, user, namespace, &rules, resource, name).await
}

async fn may(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    verb: &str,
    resource: &GroupResource,
    namespace: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        verb: verb.to_owned(),
        group: RBAC_GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: resource.resource.to_string(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let decision = authorizer.authorize(user, &attributes).await;
    matches!(decision, Decision::Allow { .. })
}

fn present<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// Refuses if `wanted` has anything that the user does not hold.
async fn confirm(
    rbac: &Rbac,
    user: &UserInfo,
    namespace: &str,
    wanted: &[PolicyRule],
    resource: &GroupResource,
    name: &str,
) -> Result<(), ApiError> {
    let held = rbac.rules_for(user, namespace).await?;
    let missing = match missing_rights(&held.rules, wanted) {
        Ok(missing) if missing.is_empty() => return Ok(()),
        Ok(missing) => missing,
        Err(TooMany) => {
            let why = format!(
                "the rules spell out more than {MAX_COMBINATIONS} combinations of verb, group, resource and name"
            );
            return Err(ApiError::forbidden(resource, name, &why));
        }
    };
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    let mut why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.username,
        groups.join(" "),
        missing.join("\n")
    );
    if !held.errors.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", held.errors.join(" ")));
    }
    Err(ApiError::forbidden(resource, name, &why))
}

/// The rules spell out too many combinations to compare.
struct TooMany;

/// What of `wanted` no rule of `held` grants, described, sorted.
fn missing_rights(held: &[PolicyRule], wanted: &[PolicyRule]) -> Result<Vec<String>, TooMany> {
    let mut left = MAX_COMBINATIONS;
    let mut missing: BTreeMap<SimpleSubject<'_>, Vec<&str>> = BTreeMap::new();
    for rule in wanted {
        if held.iter().any(|h| h == rule) {
            continue;
        }
        for part in parts(rule) {
            left = left.checked_sub(1).ok_or(TooMany)?;
            if !held.iter().any(|h| h.covers(&part)) {
                let verbs = missing.entry(part.subject).or_default();
                if !verbs.contains(&part.verb) {
                    verbs.push(part.verb);
                }
            }
        }
    }
    let described: BTreeSet<String> = missing
        .iter()
        .map(|(subject, verbs)| subject.describe(verbs))
        .collect();
    let more = described.len().saturating_sub(MAX_LISTED);
    let mut listed: Vec<String> = described.into_iter().take(MAX_LISTED).collect();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    Ok(listed)
}

/// Every combination that a rule spells out, made one by one.
fn parts(rule: &PolicyRule) -> impl Iterator<Item = SimpleRule<'_>> {
    let names = move || {
        let unnamed = rule.names.is_empty().then_some(None);
        unnamed
            .into_iter()
            .chain(rule.names.iter().map(|n| Some(&**n)))
    };
    let resources = rule.groups.iter().flat_map(move |group| {
        rule.resources.iter().flat_map(move |resource| {
            names().map(move |name| SimpleSubject::Resource {
                group,
                resource,
                name,
            })
        })
    });
    let urls = rule.urls.iter().map(|url| SimpleSubject::Url(url));
    resources.chain(urls).flat_map(|subject| {
        rule.verbs
            .iter()
            .map(move |verb| SimpleRule { verb, subject })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::auth::fake::FakeObjects;

    fn rules(value: Value) -> Vec<PolicyRule> {
        let read = |rule: &Value| PolicyRule::from_value(rule, &mut |t| t.into());
        value.as_array().unwrap().iter().map(read).collect()
    }

    fn missing(held: Value, wanted: Value) -> Vec<String> {
        missing_rights(&rules(held), &rules(wanted)).ok().unwrap()
    }

    #[test]
    fn what_is_not_held_is_named() {
        let held = json!([
            {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]},
            {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["get"], "nonResourceURLs": ["/api/*"]},
        ]);
        let none: [&str; 0] = [];
        let wanted = json!([
            {"verbs": ["list"], "apiGroups": [""], "resources": ["pods", "x/scale"]},
            {"verbs": ["delete"], "apiGroups": ["apps"], "resources": ["deployments/scale"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]},
            {"verbs": ["get"], "nonResourceURLs": ["/api/v1", "/api/v1/*"]},
        ]);
        assert_eq!(missing(held.clone(), wanted), none);
        let wanted = json!([
            {"verbs": ["get", "delete", "patch"], "apiGroups": [""], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]},
            {"verbs": ["get"], "nonResourceURLs": ["/apis/*"]},
            {"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["n"]},
        ]);
        assert_eq!(
            missing(held, wanted),
            [
                "{APIGroups:[\"\"], Resources:[\"pods\"], ResourceNames:[\"n\"], Verbs:[\"*\"]}",
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"patch\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
                "{NonResourceURLs:[\"/apis/*\"], Verbs:[\"get\"]}",
            ]
        );
    }

    #[test]
    fn a_huge_role_is_refused_and_not_multiplied_out() {
        let many: Vec<String> = (0..1000).map(|i| format!("r{i}")).collect();
        let wanted = json!([{"verbs": many, "apiGroups": many, "resources": many}]);
        assert!(missing_rights(&[], &rules(wanted)).is_err());
    }

    async fn attempt(
        user: &UserInfo,
        resource: &GroupResource,
        object: Value,
    ) -> Result<(), ApiError> {
        let objects = FakeObjects::new();
        let rule = |verb: &str, group: &str, resource: &str| json!({"verbs": [verb], "apiGroups": [group], "resources": [resource]});
        let grant = |name: &str, rules: Value| {
            objects.put(
                &CLUSTER_ROLES,
                json!({"metadata": {"name": name}, "rules": rules}),
            );
            objects.put(
                &CLUSTER_ROLE_BINDINGS,
                json!({"metadata": {"name": name},
                "roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "User", "name": name}]}),
            );
        };
        grant("reader", json!([rule("get", "", "pods")]));
        grant("binder", json!([rule("bind", RBAC_GROUP, "clusterroles")]));
        grant("escalator", json!([rule("escalate", RBAC_GROUP, "roles")]));
        let urls = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
        grant("strong", json!([rule("*", "*", "*"), urls]));
        let rbac = Arc::new(Rbac::new(objects.clone()));
        check(&rbac, &*rbac, user, resource, &object, None).await
    }

    #[tokio::test]
    async fn roles_and_bindings_are_checked_against_the_caller() {
        let role = |verb: &str| {
            json!({"metadata": {"name": "r", "namespace": "n"},
            "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]})
        };
        let bind = |name: &str| {
            json!({"metadata": {"name": "b", "namespace": "n"},
            "roleRef": {"kind": "ClusterRole", "name": name}, "subjects": []})
        };
        let aggregate = json!({"metadata": {"name": "r"}, "aggregationRule": {}});
        let cases = [
            ("reader", &ROLES, role("get"), None),
            (
                "reader",
                &ROLES,
                role("delete"),
                Some(
                    "currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
                ),
            ),
            ("escalator", &ROLES, role("delete"), None),
            ("reader", &ROLE_BINDINGS, bind("reader"), None),
            (
                "reader",
                &ROLE_BINDINGS,
                bind("strong"),
                Some(
                    "currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}",
                ),
            ),
            (
                "reader",
                &ROLE_BINDINGS,
                bind("absent"),
                Some("clusterrole.rbac.authorization.k8s.io \"absent\" not found"),
            ),
            ("binder", &ROLE_BINDINGS, bind("strong"), None),
            (
                "reader",
                &CLUSTER_ROLES,
                aggregate.clone(),
                Some("must have cluster-admin privileges to use an aggregationRule"),
            ),
            ("strong", &CLUSTER_ROLES, aggregate, None),
        ];
        for (who, resource, object, refusal) in cases {
            let user = UserInfo::authenticated(who, &[]);
            let got = attempt(&user, resource, object.clone()).await;
            match (got, refusal) {
                (Ok(()), None) => {}
                (Err(e), Some(text)) => assert!(e.message.ends_with(text), "{}", e.message),
                (got, _) => panic!("{who} {object} {got:?}"),
            }
        }
        let error = attempt(
            &UserInfo::authenticated("reader", &["g"]),
            &ROLES,
            role("delete"),
        )
        .await
        .unwrap_err();
        assert!(error.message.starts_with(
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"reader\" (groups=[\"g\" \"system:authenticated\"]) is attempting"
        ), "{}", error.message);
    }
}
