//! Service accounts inside whose tokens are published in kubeconfigs.

use std::collections::BTreeSet;
use std::time::Duration;

use coracle_config::marks;
use coracle_config::model::TokenAccount;
use coracle_machinery::object;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::delete;
use crate::api::{ApiError, Narrow};
use crate::engine::Syncer;
use crate::kinds::{Kind, other};

/// How long a published token lives. Kubeconfigs are copied, and a copy is good
/// for two thirds of it at least.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// After which part of its life it is renewed in the secret.
const RENEW_AFTER: u32 = 3;

/// What is known of a token that was published.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    account_uid: String,
    renew_at: Timestamp,
}

impl Held {
    fn new(account_uid: String, now: Timestamp, expires: Timestamp) -> Self {
        let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
        Self {
            account_uid,
            renew_at: now + life / RENEW_AFTER,
        }
    }

    /// True if the token need not be renewed: its account is still the same, and
    /// it will live for long.
    pub(crate) fn is_good(&self, account_uid: &str, now: Timestamp) -> bool {
        self.account_uid == account_uid && now < self.renew_at
    }
}

/// Makes the account and what binds it, if they are missing; gives its UID.
pub(crate) async fn ensure(syncer: &Syncer, account: &TokenAccount) -> Result<String, ApiError> {
    let cluster = &syncer.inside.cluster;
    let (namespace, name) = (account.namespace(), account.name.as_str());
    let accounts = other::SERVICE_ACCOUNTS;
    let uid = match cluster.get(accounts, namespace, name).await? {
        Some(found) => object::uid(&found).to_owned(),
        None => {
            let wanted = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": namespace},
            });
            let made = match cluster.create(accounts, &wanted).await {
                Err(error) if error.is_not_found() => {
                    let wanted = json!({
                        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
                    });
                    cluster.create(Kind::Namespace.resource(), &wanted).await?;
                    return Err(error);
                }
                made => made?,
            };
            object::uid(&made).to_owned()
        }
    };
    let Some(binding) = binding(account) else {
        return Ok(uid);
    };
    let bindings = other::CLUSTER_ROLE_BINDINGS;
    let there = cluster.get(bindings, "", object::name(&binding)).await?;
    match there {
        None => {
            cluster.create(bindings, &binding).await?;
        }
        Some(mut there) if there["subjects"] != binding["subjects"] => {
            there["subjects"] = binding["subjects"].clone();
            cluster.update(bindings, "", &there).await?;
        }
        Some(_) => {}
    }
    Ok(uid)
}

/// A token of the account, and what to know of it.
pub(crate) async fn token(
    syncer: &Syncer,
    account: &TokenAccount,
    uid: String,
) -> Result<(String, Held), ApiError> {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": LIFE.as_secs()},
    });
    let cluster = &syncer.inside.cluster;
    let place = (account.namespace(), account.name.as_str());
    let accounts = other::SERVICE_ACCOUNTS;
    let now = Timestamp::now();
    let answer = cluster
        .post(accounts, place.0, place.1, "token", &body)
        .await?;
    let token = object::text(&answer, "/status/token").to_owned();
    let expires = object::text(&answer, "/status/expirationTimestamp").parse();
    match expires {
        Ok(expires) if !token.is_empty() => Ok((token, Held::new(uid, now, expires))),
        _ => Err(ApiError::Transport(
            "the token request was answered without a token".into(),
        )),
    }
}

/// Removes what bound accounts of earlier values.
pub(crate) async fn sweep(syncer: &Syncer, accounts: &[TokenAccount]) -> Result<(), ApiError> {
    let wanted: BTreeSet<String> = accounts
        .iter()
        .filter_map(binding)
        .map(|binding| object::name(&binding).to_owned())
        .collect();
    let cluster = &syncer.inside.cluster;
    let bindings = other::CLUSTER_ROLE_BINDINGS;
    let narrow = Narrow {
        labels: format!("{}={BOUND}", marks::EXPORTED),
        ..Narrow::default()
    };
    let (all, _) = cluster.list(bindings, &narrow).await?;
    for binding in all {
        if !wanted.contains(object::name(&binding)) {
            delete(cluster, bindings, &binding, None).await?;
        }
    }
    Ok(())
}

/// The label's value of what binds such accounts.
const BOUND: &str = "account";

/// What binds an account to its role. Another role is another binding, since the
/// role of one cannot be changed.
fn binding(account: &TokenAccount) -> Option<Value> {
    let TokenAccount {
        name, cluster_role, ..
    } = account;
    let namespace = account.namespace();
    (!cluster_role.is_empty()).then(|| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {
                "name": format!("coracle:kubeconfig:{namespace}:{name}:{cluster_role}"),
                "labels": {marks::EXPORTED: BOUND},
            },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": cluster_role,
            },
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_after_a_third_of_its_life_or_with_its_account() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let at = |days: u64| now + Duration::from_secs(days * 24 * 3600);
        let held = Held::new("u".into(), now, at(90));
        assert!(held.is_good("u", at(29)));
        assert!(!held.is_good("other", now));
        assert!(!held.is_good("u", at(30)));
        // The server may give it a shorter life than asked for.
        assert!(!Held::new("u".into(), now, at(3)).is_good("u", at(1)));
    }
}
