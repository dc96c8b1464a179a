//! Files of configMap, secret, downwardAPI and projected volumes, with
//! service-account tokens that are renewed before they expire.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ConfigMap, Pod, Secret, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::atomic::{File, Files};
use super::content::{self, Keys, mode_bits};
use super::{SourceError, Volumes, fs_group};
use crate::pod::info;

/// Permission bits of files that name none.
const DEFAULT_MODE: i32 = 0o644;
/// Lifetime of a token that asks for none, in seconds.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;
/// A token older than this is renewed whatever its lifetime.
const MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);

/// What a token was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Uid of the pod it is bound to.
    pub pod_uid: String,
    audience: String,
    seconds: i64,
}

/// A token with the moment at which to replace it.
pub struct Token {
    text: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

impl Volumes {
    /// Kind of directory, whether it is kept in memory, and the files of a
    /// volume made from API objects; `None` for other volumes.
    pub(super) async fn files_of(
        &self,
        pod: &Pod,
        volume: &Volume,
    ) -> Result<Option<(&'static str, bool, Files)>, SourceError> {
        let mut files = Files::new();
        if let Some(source) = &volume.config_map {
            let keys = Keys {
                items: source.items.as_deref(),
                mode: mode_bits(source.default_mode.unwrap_or(DEFAULT_MODE)),
                optional: source.optional.unwrap_or(false),
            };
            self.add_config_map(pod, &source.name, &keys, &mut files)
                .await?;
            return Ok(Some(("configmap", false, files)));
        }
        if let Some(source) = &volume.secret {
            let keys = Keys {
                items: source.items.as_deref(),
                mode: mode_bits(source.default_mode.unwrap_or(DEFAULT_MODE)),
                optional: source.optional.unwrap_or(false),
            };
            let name = source.secret_name.as_deref().unwrap_or_default();
            self.add_secret(pod, name, &keys, &mut files).await?;
            return Ok(Some(("secret", true, files)));
        }
        if let Some(source) = &volume.downward_api {
            let mode = mode_bits(source.default_mode.unwrap_or(DEFAULT_MODE));
            let items = source.items.as_deref().unwrap_or_default();
            content::downward(pod, &self.node, items, mode, &mut files)?;
            return Ok(Some(("downward-api", false, files)));
        }
        if let Some(source) = &volume.projected {
            let mode = mode_bits(source.default_mode.unwrap_or(DEFAULT_MODE));
            for part in source.sources.iter().flatten() {
                self.add_projection(pod, part, mode, &mut files).await?;
            }
            return Ok(Some(("projected", true, files)));
        }
        Ok(None)
    }

    async fn add_projection(
        &self,
        pod: &Pod,
        part: &VolumeProjection,
        mode: u32,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        if let Some(source) = &part.config_map {
            let optional = source.optional.unwrap_or(false);
            let keys = Keys {
                items: source.items.as_deref(),
                mode,
                optional,
            };
            self.add_config_map(pod, &source.name, &keys, files).await?;
        }
        if let Some(source) = &part.secret {
            let optional = source.optional.unwrap_or(false);
            let keys = Keys {
                items: source.items.as_deref(),
                mode,
                optional,
            };
            self.add_secret(pod, &source.name, &keys, files).await?;
        }
        if let Some(source) = &part.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            content::downward(pod, &self.node, items, mode, files)?;
        }
        if let Some(source) = &part.service_account_token {
            let token = self.token(pod, source).await?;
            let (mode, owner) = token_access(pod, mode);
            files.insert(
                source.path.clone(),
                File {
                    data: token.into_bytes(),
                    mode,
                    owner,
                },
            );
        }
        Ok(())
    }

    async fn add_config_map(
        &self,
        pod: &Pod,
        name: &str,
        keys: &Keys<'_>,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), info::namespace(pod));
        match maps.get_opt(name).await? {
            Some(map) => Ok(content::config_map(&map, keys, files)?),
            None if keys.optional => Ok(()),
            None => Err(SourceError::Missing(format!(
                "configmap \"{name}\" not found"
            ))),
        }
    }

    async fn add_secret(
        &self,
        pod: &Pod,
        name: &str,
        keys: &Keys<'_>,
        files: &mut Files,
    ) -> Result<(), SourceError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), info::namespace(pod));
        match secrets.get_opt(name).await? {
            Some(secret) => Ok(content::secret(&secret, keys, files)?),
            None if keys.optional => Ok(()),
            None => Err(SourceError::Missing(format!("secret \"{name}\" not found"))),
        }
    }

    /// A token for the pod: the one in hand while it is fresh, else a new one.
    async fn token(
        &self,
        pod: &Pod,
        source: &ServiceAccountTokenProjection,
    ) -> Result<String, SourceError> {
        let key = TokenKey {
            pod_uid: info::uid(pod).to_owned(),
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
        };
        let now = Timestamp::now();
        let held = {
            let tokens = self
                .tokens
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            tokens
                .get(&key)
                .map(|t| (t.text.clone(), t.renew_at, t.expires_at))
        };
        if let Some((text, renew_at, _)) = &held
            && now < *renew_at
        {
            return Ok(text.clone());
        }
        match self.request_token(pod, &key, now).await {
            Ok(token) => {
                let text = token.text.clone();
                let mut tokens = self
                    .tokens
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                tokens.insert(key, token);
                Ok(text)
            }
            // An old token that is still good beats none.
            Err(error) => match held {
                Some((text, _, expires_at)) if now < expires_at => Ok(text),
                _ => Err(error),
            },
        }
    }

    async fn request_token(
        &self,
        pod: &Pod,
        key: &TokenKey,
        now: Timestamp,
    ) -> Result<Token, SourceError> {
        let account = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .filter(|n| !n.is_empty())
            .unwrap_or("default");
        let audiences: Vec<&str> = Some(key.audience.as_str())
            .filter(|a| !a.is_empty())
            .into_iter()
            .collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": key.seconds,
                "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod",
                    "name": info::name(pod), "uid": info::uid(pod),
                },
            },
        });
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), info::namespace(pod));
        let answer: Value = accounts
            .create_subresource("token", account, &PostParams::default(), &request)
            .await?;
        let status = &answer["status"];
        let text = status["token"]
            .as_str()
            .filter(|t| !t.is_empty())
            .ok_or_else(|| {
                SourceError::Missing("the token request was answered without a token".to_owned())
            })?;
        let expires_at = status["expirationTimestamp"]
            .as_str()
            .and_then(|t| t.parse::<Timestamp>().ok())
            .unwrap_or_else(|| now + SignedDuration::from_secs(key.seconds.clamp(600, 1 << 32)));
        Ok(Token {
            text: text.to_owned(),
            renew_at: renewal(now, expires_at),
            expires_at,
        })
    }
}

/// When to renew a token: at four fifths of its life, or after a day.
fn renewal(now: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = expires_at.duration_since(now);
    now + (life * 4 / 5).min(MAX_TOKEN_AGE)
}

/// Mode and owner of a token's file: private to the one user that all
/// containers run as, or to the volumes' group, or else readable.
fn token_access(pod: &Pod, mode: u32) -> (u32, Option<u32>) {
    if fs_group(pod).is_some() {
        return (0o600, None);
    }
    let shared = pod
        .spec
        .as_ref()
        .and_then(|s| s.security_context.as_ref())
        .and_then(|c| c.run_as_user);
    let spec = info::spec(pod);
    let mut users = spec
        .containers()
        .iter()
        .chain(spec.init_containers())
        .map(|c| {
            c.security_context
                .as_ref()
                .and_then(|s| s.run_as_user)
                .or(shared)
        });
    let first = users.next().flatten();
    match first {
        Some(user) if users.all(|u| u == Some(user)) => (0o600, u32::try_from(user).ok()),
        _ => (mode, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_renew_before_they_expire() {
        let now = Timestamp::UNIX_EPOCH;
        for (life, want) in [(3600, 2880), (600, 480), (365 * 86400, 86400)] {
            let renew = renewal(now, now + SignedDuration::from_secs(life));
            assert_eq!(renew.as_second(), want);
        }
    }

    #[test]
    fn token_files_are_private_where_possible() {
        for (spec, want) in [
            (json!({"containers": [{"name": "a"}]}), (0o644, None)),
            (
                json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}]}),
                (0o600, Some(7)),
            ),
            (
                json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"},
                    {"name": "b", "securityContext": {"runAsUser": 8}}]}),
                (0o644, None),
            ),
            (
                json!({"securityContext": {"fsGroup": 7}, "containers": [{"name": "a"}]}),
                (0o600, None),
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(token_access(&pod, 0o644), want);
        }
    }
}
