//! Service-account tokens: issued for TokenRequests, verified as bearer
//! tokens.
//!
//! A token is worth something only as long as what it is bound to exists: the
//! service account, and the pod, secret or node if one is named. This is
//! looked up anew for every request; only the check of the signature is
//! cached.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_machinery::{ApiError, GroupResource, object};
use coracle_pki::TokenSigner;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::core;
use crate::access::UserInfo;
use crate::objects::Objects;

/// The key of `extra` that tells credentials of one user apart.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Verified tokens that are remembered. An entry takes about 1 KiB.
const MAX_CACHED: usize = 1024;

/// Seconds for which a token survives the deletion timestamp of what it is
/// bound to, so that a pod can still talk while it shuts down.
const DELETION_LEEWAY: i64 = 60;

/// Seconds by which the issuer's clock may be ahead of ours.
const NOT_BEFORE_LEEWAY: i64 = 10;

/// Issues and verifies the tokens of service accounts.
pub struct ServiceAccountTokens {
    signer: Arc<TokenSigner>,
    issuer: String,
    objects: Arc<dyn Objects>,
    /// Claims of tokens with a good signature, by the hash of the token.
    verified: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

/// Who a token stands for.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The caller.
    pub user: UserInfo,
    /// Those of the asked audiences that the token is for.
    pub audiences: Vec<String>,
}

/// An object that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid: an object of the same name that comes later is another one.
    pub uid: String,
}

/// What a new token says.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub account: Bound,
    /// The pod that holds the token, if it is for one.
    pub pod: Option<Bound>,
    /// The secret that the token lives with, if there is one.
    pub secret: Option<Bound>,
    /// The node that the pod runs on, or that the token lives with.
    pub node: Option<Bound>,
    /// Whom the token is for.
    pub audiences: Vec<String>,
    /// Seconds for which it is good.
    pub lifetime: i64,
    /// Seconds after which its use is worth a warning.
    pub warn_after: Option<i64>,
}

/// The claims of a token, as far as they are looked at.
#[derive(Debug)]
struct Claims {
    namespace: String,
    account: Bound,
    pod: Option<Bound>,
    secret: Option<Bound>,
    node: Option<Bound>,
    audiences: Vec<String>,
    id: String,
    not_before: i64,
    expires: i64,
}

impl ServiceAccountTokens {
    /// Tokens of one issuer, whose URL is also the audience of this API
    /// server.
    pub fn new(signer: Arc<TokenSigner>, issuer: &str, objects: Arc<dyn Objects>) -> Self {
        Self {
            signer,
            issuer: issuer.to_owned(),
            objects,
            verified: Mutex::default(),
        }
    }

    /// The URL of the issuer, and the audience of this API server.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public keys, as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        self.signer.jwks()
    }

    /// Signs a token. `now` is in seconds since the epoch.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn issue(&self, grant: &Grant, now: i64) -> Result<String, ApiError> {
        let bound = |b: &Bound| json!({"name": b.name, "uid": b.uid});
        let mut kubernetes = json!({
            "namespace": grant.namespace,
            "serviceaccount": bound(&grant.account),
        });
        for (key, value) in [
            ("pod", &grant.pod),
            ("secret", &grant.secret),
            ("node", &grant.node),
        ] {
            if let Some(value) = value {
                kubernetes[key] = bound(value);
            }
        }
        if let Some(seconds) = grant.warn_after {
            kubernetes["warnafter"] = json!(now + seconds);
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": username(&grant.namespace, &grant.account.name),
            "aud": grant.audiences,
            "iat": now,
            "nbf": now,
            "exp": now.saturating_add(grant.lifetime),
            "jti": random_uuid(),
            "kubernetes.io": kubernetes,
        });
        self.signer.sign(&claims).map_err(ApiError::internal)
    }

    /// Whom a token stands for, now. It must be meant for one of `audiences`,
    /// by default for this API server.
    ///
    /// # Errors
    /// Why the token is worth nothing, for a log or a TokenReview.
    pub async fn authenticate(
        &self,
        token: &str,
        audiences: Option<&[String]>,
    ) -> Result<Identity, String> {
        let now = jiff::Timestamp::now().as_second();
        self.authenticate_at(token, audiences, now).await
    }

    async fn authenticate_at(
        &self,
        token: &str,
        audiences: Option<&[String]>,
        now: i64,
    ) -> Result<Identity, String> {
        let claims = self.claims(token)?;
        if now >= claims.expires {
            self.forget(token);
            return Err("service account token has expired".into());
        }
        if now + NOT_BEFORE_LEEWAY < claims.not_before {
            return Err("service account token is not valid yet".into());
        }
        let own = [self.issuer.clone()];
        let asked = audiences.unwrap_or(&own);
        let matching: Vec<String> = asked
            .iter()
            .filter(|a| claims.audiences.contains(a))
            .cloned()
            .collect();
        if matching.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {asked:?}",
                claims.audiences
            ));
        }
        self.check_bound(&claims, now).await?;
        Ok(Identity {
            user: claims.user(),
            audiences: matching,
        })
    }

    fn claims(&self, token: &str) -> Result<Arc<Claims>, String> {
        let key: [u8; 32] = Sha256::digest(token).into();
        let mut held = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = held.get(&key) {
            return Ok(claims.clone());
        }
        drop(held);
        let value = self.signer.verify(token).map_err(|e| e.to_string())?;
        let claims = Arc::new(Claims::read(&value, &self.issuer)?);
        held = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_CACHED {
            // Rare, as it takes more live pods than a small cluster has; what
            // is still in use is verified once more.
            held.clear();
        }
        held.insert(key, claims.clone());
        Ok(claims)
    }

    fn forget(&self, token: &str) {
        let key: [u8; 32] = Sha256::digest(token).into();
        let mut held = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        held.remove(&key);
    }

    /// Checks that everything the token is bound to still exists.
    async fn check_bound(&self, claims: &Claims, now: i64) -> Result<(), String> {
        let ns = claims.namespace.as_str();
        let node = claims.node.as_ref().filter(|_| claims.pod.is_none());
        let bound = [
            (
                "service account",
                core("serviceaccounts"),
                ns,
                Some(&claims.account),
            ),
            ("pod", core("pods"), ns, claims.pod.as_ref()),
            ("secret", core("secrets"), ns, claims.secret.as_ref()),
            // The node of a pod is told for information only.
            ("node", core("nodes"), "", node),
        ];
        for (what, resource, namespace, bound) in bound {
            let Some(bound) = bound else { continue };
            self.check_one(what, &resource, namespace, bound, now)
                .await?;
        }
        Ok(())
    }

    async fn check_one(
        &self,
        what: &str,
        resource: &GroupResource,
        namespace: &str,
        bound: &Bound,
        now: i64,
    ) -> Result<(), String> {
        let found = self.objects.get(resource, namespace, &bound.name).await;
        let Some(object) = found.map_err(|e| e.to_string())? else {
            return Err(format!("{what} {:?} has been deleted", bound.name));
        };
        if object::uid(&object) != bound.uid {
            return Err(format!(
                "{what} UID ({}) does not match claim ({})",
                object::uid(&object),
                bound.uid
            ));
        }
        let deleted = object::text(&object, "/metadata/deletionTimestamp");
        if !deleted.is_empty() {
            // An unreadable time counts as long past.
            let at = deleted
                .parse::<jiff::Timestamp>()
                .map_or(0, |t| t.as_second());
            if at < now - DELETION_LEEWAY {
                return Err(format!("{what} {:?} has been deleted", bound.name));
            }
        }
        Ok(())
    }
}

impl Claims {
    fn read(value: &Value, issuer: &str) -> Result<Self, String> {
        if object::text(value, "/iss") != issuer {
            return Err("token has another issuer".into());
        }
        let at = |key: &str| format!("/kubernetes.io/{key}");
        let bound = |key: &str| {
            let name = object::text(value, &at(&format!("{key}/name"))).to_owned();
            let uid = object::text(value, &at(&format!("{key}/uid"))).to_owned();
            (!name.is_empty()).then_some(Bound { name, uid })
        };
        let namespace = object::text(value, &at("namespace")).to_owned();
        let account = bound("serviceaccount").ok_or("token names no service account")?;
        if object::text(value, "/sub") != username(&namespace, &account.name) {
            return Err("token's subject is not its service account".into());
        }
        let audiences = match value.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            _ => object::items(value, "/aud")
                .iter()
                .filter_map(|a| a.as_str().map(str::to_owned))
                .collect(),
        };
        let number = |key: &str| value.get(key).and_then(Value::as_i64);
        Ok(Self {
            pod: bound("pod"),
            secret: bound("secret"),
            node: bound("node"),
            namespace,
            account,
            audiences,
            id: object::text(value, "/jti").to_owned(),
            not_before: number("nbf").unwrap_or_default(),
            expires: number("exp").ok_or("token has no expiry")?,
        })
    }

    fn user(&self) -> UserInfo {
        let groups = [
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{}", self.namespace),
        ];
        let mut user =
            UserInfo::authenticated(&username(&self.namespace, &self.account.name), &groups);
        user.uid.clone_from(&self.account.uid);
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            let key = format!("authentication.kubernetes.io/{key}");
            extra.insert(key, vec![value.to_owned()]);
        };
        if !self.id.is_empty() {
            add("credential-id", &format!("JTI={}", self.id));
        }
        if let Some(pod) = &self.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &self.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        user.extra = extra;
        user
    }
}

/// The user name of a service account.
pub fn username(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Namespace and name of the service account that a user name stands for.
pub fn split_username(username: &str) -> Option<(&str, &str)> {
    username
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')
}

/// A random (version 4) UUID.
fn random_uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fake::FakeObjects;

    const NOW: i64 = 1_800_000_000;

    fn bound(object: &Value) -> Bound {
        Bound {
            name: object::name(object).to_owned(),
            uid: object::uid(object).to_owned(),
        }
    }

    fn setup() -> (Arc<FakeObjects>, ServiceAccountTokens, Grant) {
        let objects = FakeObjects::new();
        let in_namespace = |name: &str| json!({"metadata": {"name": name, "namespace": "n"}});
        let account = objects.put(&core("serviceaccounts"), in_namespace("sa"));
        let pod = objects.put(&core("pods"), in_namespace("p"));
        let signer = Arc::new(TokenSigner::generate().unwrap());
        let tokens = ServiceAccountTokens::new(signer, "https://me", objects.clone());
        let grant = Grant {
            namespace: "n".into(),
            account: bound(&account),
            pod: Some(bound(&pod)),
            secret: None,
            node: Some(Bound {
                name: "host".into(),
                uid: "node-uid".into(),
            }),
            audiences: vec!["https://me".into(), "vault".into()],
            lifetime: 600,
            warn_after: None,
        };
        (objects, tokens, grant)
    }

    #[tokio::test]
    async fn a_token_stands_for_its_account_and_pod() {
        let (_, tokens, grant) = setup();
        let token = tokens.issue(&grant, NOW).unwrap();
        for _ in 0..2 {
            let identity = tokens
                .authenticate_at(&token, None, NOW + 599)
                .await
                .unwrap();
            let user = identity.user;
            assert_eq!(user.username, "system:serviceaccount:n:sa");
            assert_eq!(
                user.groups,
                [
                    "system:serviceaccounts",
                    "system:serviceaccounts:n",
                    "system:authenticated"
                ]
            );
            assert_eq!(user.uid, grant.account.uid);
            assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
            assert_eq!(
                user.extra["authentication.kubernetes.io/node-uid"],
                ["node-uid"]
            );
            assert!(user.extra[CREDENTIAL_ID][0].starts_with("JTI="));
            assert_eq!(identity.audiences, ["https://me"]);
        }
        assert_eq!(tokens.verified.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn times_and_audiences_bound_a_token() {
        let (_, tokens, grant) = setup();
        let token = tokens.issue(&grant, NOW).unwrap();
        assert!(
            tokens
                .authenticate_at(&token, None, NOW + 600)
                .await
                .is_err()
        );
        assert!(
            tokens
                .authenticate_at(&token, None, NOW - 60)
                .await
                .is_err()
        );
        let other = ["vault".to_owned(), "x".to_owned()];
        let identity = tokens
            .authenticate_at(&token, Some(&other), NOW)
            .await
            .unwrap();
        assert_eq!(identity.audiences, ["vault"]);
        assert!(
            tokens
                .authenticate_at(&token, Some(&other[1..]), NOW)
                .await
                .is_err()
        );
        let mut foreign = grant;
        foreign.audiences = vec!["vault".into()];
        let token = tokens.issue(&foreign, NOW).unwrap();
        assert!(tokens.authenticate_at(&token, None, NOW).await.is_err());
    }

    #[tokio::test]
    async fn a_token_dies_with_what_it_is_bound_to() {
        for resource in [core("serviceaccounts"), core("pods")] {
            let (objects, tokens, grant) = setup();
            let token = tokens.issue(&grant, NOW).unwrap();
            assert!(tokens.authenticate_at(&token, None, NOW).await.is_ok());
            let name = if resource == core("pods") { "p" } else { "sa" };
            objects.remove(&resource, "n", name);
            assert!(tokens.authenticate_at(&token, None, NOW).await.is_err());
            // Its successor of the same name is someone else.
            objects.put(
                &resource,
                json!({"metadata": {"name": name, "namespace": "n"}}),
            );
            assert!(tokens.authenticate_at(&token, None, NOW).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_terminating_pod_keeps_its_token_for_a_minute() {
        let (objects, tokens, grant) = setup();
        let token = tokens.issue(&grant, NOW).unwrap();
        let uid = &grant.pod.as_ref().unwrap().uid;
        let at = jiff::Timestamp::from_second(NOW).unwrap().to_string();
        objects.put(
            &core("pods"),
            json!({"metadata": {"name": "p", "namespace": "n",
            "uid": uid, "deletionTimestamp": at}}),
        );
        assert!(tokens.authenticate_at(&token, None, NOW + 60).await.is_ok());
        assert!(
            tokens
                .authenticate_at(&token, None, NOW + 61)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn tokens_of_others_are_refused() {
        let (objects, tokens, grant) = setup();
        let (_, stranger, _) = setup();
        let token = stranger.issue(&grant, NOW).unwrap();
        assert!(tokens.authenticate_at(&token, None, NOW).await.is_err());
        let same_key = TokenSigner::from_pem(tokens.signer.to_pem()).unwrap();
        let other_issuer = ServiceAccountTokens::new(Arc::new(same_key), "https://you", objects);
        let token = other_issuer.issue(&grant, NOW).unwrap();
        assert!(tokens.authenticate_at(&token, None, NOW).await.is_err());
    }

    #[test]
    fn the_cache_is_bounded() {
        let (_, tokens, grant) = setup();
        for _ in 0..MAX_CACHED + 2 {
            let token = tokens.issue(&grant, NOW).unwrap();
            tokens.claims(&token).unwrap();
        }
        assert!(tokens.verified.lock().unwrap().len() <= MAX_CACHED);
    }

    #[test]
    fn user_names_are_split() {
        assert_eq!(
            split_username("system:serviceaccount:a:b"),
            Some(("a", "b"))
        );
        assert_eq!(split_username("system:node:a"), None);
    }
}
