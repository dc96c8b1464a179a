//! TokenRequest: a token for a service account.

use std::sync::Arc;

use coracle_machinery::{ApiError, FieldError, FieldPath, GroupKind, GroupResource, object};
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::auth::core;
use crate::auth::node::node_name;
use crate::auth::tokens::{Bound, Grant, ServiceAccountTokens};
use crate::objects::Objects;

/// The shortest lifetime that may be asked for, in seconds.
const MIN_LIFETIME: i64 = 600;

/// The lifetime of a token whose request names none.
const DEFAULT_LIFETIME: i64 = 3600;

/// The longest lifetime that may be asked for.
const MAX_LIFETIME: i64 = 1 << 32;

/// What the kubelet asks for on behalf of a pod that did not choose: an hour
/// and a little, so that the request can be recognised.
const POD_LIFETIME: i64 = 60 * 60 + 7;

/// Old clients never read their token again; such a token is good for a year
/// (or until its pod is gone), and its use after `POD_LIFETIME` is worth a
/// warning.
const EXTENDED_LIFETIME: i64 = 365 * 24 * 60 * 60;

/// Answers `serviceaccounts/token`.
pub struct TokenRequests {
    tokens: Arc<ServiceAccountTokens>,
    objects: Arc<dyn Objects>,
}

impl TokenRequests {
    /// `objects` holds the service accounts and what tokens are bound to.
    pub fn new(tokens: Arc<ServiceAccountTokens>, objects: Arc<dyn Objects>) -> Self {
        Self { tokens, objects }
    }

    /// Issues a token; the answer is the request with its `status`. A node
    /// gets tokens only for the pods that run on it.
    ///
    /// # Errors
    /// Not found, forbidden, invalid, or a conflict about the uid of a bound
    /// object.
    pub async fn create(
        &self,
        user: &UserInfo,
        namespace: &str,
        name: &str,
        mut request: Value,
    ) -> Result<Value, ApiError> {
        let accounts = core("serviceaccounts");
        let account = self
            .objects
            .get(&accounts, namespace, name)
            .await?
            .ok_or_else(|| ApiError::not_found(&accounts, name))?;
        check_metadata(&request, namespace, name)?;
        complete(&mut request, self.tokens.issuer());
        let lifetime = request
            .pointer("/spec/expirationSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(DEFAULT_LIFETIME);
        check_lifetime(lifetime, name)?;
        let audiences: Vec<String> = object::items(&request, "/spec/audiences")
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let mut grant = Grant {
            namespace: namespace.to_owned(),
            account: bound(&account),
            pod: None,
            secret: None,
            node: None,
            audiences,
            lifetime,
            warn_after: None,
        };
        self.bind(&request, &mut grant).await?;
        if let Some(node) = node_name(user) {
            check_node(node, &grant)?;
        }
        if grant.pod.is_some()
            && lifetime == POD_LIFETIME
            && grant.audiences == [self.tokens.issuer()]
        {
            grant.warn_after = Some(POD_LIFETIME);
            grant.lifetime = EXTENDED_LIFETIME;
        }
        let now = jiff::Timestamp::now().as_second();
        let token = self.tokens.issue(&grant, now)?;
        // The holder is told the time at which to ask again, not the extended
        // one.
        let expires = jiff::Timestamp::from_second(now.saturating_add(lifetime))
            .map_err(ApiError::internal)?;
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        let metadata = object::metadata_mut(&mut request);
        metadata.insert("name".into(), json!(name));
        metadata.insert("namespace".into(), json!(namespace));
        let created = jiff::Timestamp::from_second(now).map_err(ApiError::internal)?;
        metadata.insert("creationTimestamp".into(), json!(created.to_string()));
        Ok(request)
    }

    /// Looks up the object that the token is to be bound to.
    async fn bind(&self, request: &Value, grant: &mut Grant) -> Result<(), ApiError> {
        let Some(reference) = request
            .pointer("/spec/boundObjectRef")
            .filter(|r| !r.is_null())
        else {
            return Ok(());
        };
        let name = object::text(reference, "/name");
        let (kind, version) = (
            object::text(reference, "/kind"),
            object::text(reference, "/apiVersion"),
        );
        match (kind, version) {
            ("Pod", "v1") => {
                let pod = self
                    .referent(&core("pods"), &grant.namespace, reference)
                    .await?;
                let account = object::text(&pod, "/spec/serviceAccountName");
                if account != grant.account.name {
                    let why = format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        grant.account.name
                    );
                    return Err(ApiError::bad_request(why));
                }
                let node = object::text(&pod, "/spec/nodeName");
                if !node.is_empty() {
                    let found = self.objects.get(&core("nodes"), "", node).await?;
                    grant.node = Some(Bound {
                        name: node.to_owned(),
                        uid: found.map_or(String::new(), |n| object::uid(&n).to_owned()),
                    });
                }
                grant.pod = Some(bound(&pod));
            }
            ("Secret", "v1") => {
                let found = self
                    .referent(&core("secrets"), &grant.namespace, reference)
                    .await?;
                grant.secret = Some(bound(&found));
            }
            ("Node", "v1") => {
                let found = self.referent(&core("nodes"), "", reference).await?;
                grant.node = Some(bound(&found));
            }
            _ => {
                let why = format!(
                    "cannot bind token to object of type {}: {name:?}",
                    if version.is_empty() {
                        kind.to_owned()
                    } else {
                        format!("{version}, Kind={kind}")
                    }
                );
                return Err(ApiError::bad_request(why));
            }
        }
        Ok(())
    }

    async fn referent(
        &self,
        resource: &GroupResource,
        namespace: &str,
        reference: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let name = object::text(reference, "/name");
        let found = self.objects.get(resource, namespace, name).await?;
        let found = found.ok_or_else(|| ApiError::not_found(resource, name))?;
        let uid = object::text(reference, "/uid");
        if !uid.is_empty() && uid != object::uid(&found) {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        Ok(found)
    }
}

/// The OpenID Connect discovery document of an issuer, for `GET
/// /.well-known/openid-configuration`.
pub fn openid_configuration(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}/openid/v1/jwks", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// A node may not ask for more than its pods have.
fn check_node(node: &str, grant: &Grant) -> Result<(), ApiError> {
    let why = if grant.pod.is_none() {
        "node requested token not bound to a pod"
    } else if grant.node.as_ref().is_none_or(|bound| bound.name != node) {
        "node requested token bound to a pod scheduled on a different node"
    } else {
        return Ok(());
    };
    let accounts = core("serviceaccounts");
    Err(ApiError::forbidden(&accounts, &grant.account.name, why))
}

fn bound(object: &Value) -> Bound {
    Bound {
        name: object::name(object).to_owned(),
        uid: object::uid(object).to_owned(),
    }
}

/// Fills in what the request leaves open.
fn complete(request: &mut Value, issuer: &str) {
    if object::items(request, "/spec/audiences").is_empty() {
        request["spec"]["audiences"] = json!([issuer]);
    }
    let seconds = &mut request["spec"]["expirationSeconds"];
    if seconds.is_null() {
        *seconds = json!(DEFAULT_LIFETIME);
    }
}

fn check_metadata(request: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    if request
        .pointer("/spec")
        .is_some_and(|s| !s.is_object() && !s.is_null())
    {
        return Err(ApiError::bad_request("spec is not an object"));
    }
    for (field, given, path) in [
        ("namespace", object::namespace(request), namespace),
        ("name", object::name(request), name),
    ] {
        if !given.is_empty() && given != path {
            let what = if field == "name" {
                "service account name"
            } else {
                field
            };
            return Err(ApiError::bad_request(format!(
                "the {field} of the provided object does not match the {what} sent on the request"
            )));
        }
    }
    Ok(())
}

fn check_lifetime(seconds: i64, name: &str) -> Result<(), ApiError> {
    let why = if seconds < MIN_LIFETIME {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_LIFETIME {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let path = FieldPath::new("spec").child("expirationSeconds");
    let kind = GroupKind::new("authentication.k8s.io", "TokenRequest");
    Err(ApiError::invalid(
        &kind,
        name,
        &[FieldError::invalid(&path, seconds, why)],
    ))
}

#[cfg(test)]
mod tests {
    use coracle_pki::TokenSigner;

    use super::*;
    use crate::auth::fake::FakeObjects;

    const ISSUER: &str = "https://kubernetes.default.svc";

    fn setup() -> (Arc<FakeObjects>, TokenRequests, Arc<TokenSigner>) {
        let objects = FakeObjects::new();
        let put = |resource, value| objects.put(&core(resource), value);
        put(
            "serviceaccounts",
            json!({"metadata": {"name": "sa", "namespace": "n", "uid": "sa-uid"}}),
        );
        put(
            "nodes",
            json!({"metadata": {"name": "host", "uid": "node-uid"}}),
        );
        put(
            "pods",
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "pod-uid"},
            "spec": {"serviceAccountName": "sa", "nodeName": "host"}}),
        );
        put(
            "pods",
            json!({"metadata": {"name": "q", "namespace": "n"},
            "spec": {"serviceAccountName": "other"}}),
        );
        let signer = Arc::new(TokenSigner::generate().unwrap());
        let tokens = ServiceAccountTokens::new(signer.clone(), ISSUER, objects.clone());
        let requests = TokenRequests::new(Arc::new(tokens), objects.clone());
        (objects, requests, signer)
    }

    fn ann() -> UserInfo {
        UserInfo::authenticated("ann", &[])
    }

    #[tokio::test]
    async fn a_node_asks_for_its_pods_only() {
        let (_, requests, _) = setup();
        let ask = |node: &str, spec: Value| {
            let user = UserInfo::authenticated(&format!("system:node:{node}"), &["system:nodes"]);
            let requests = &requests;
            async move {
                requests
                    .create(&user, "n", "sa", json!({"spec": spec}))
                    .await
            }
        };
        let pod = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}});
        assert!(ask("host", pod.clone()).await.is_ok());
        assert_eq!(ask("other", pod).await.unwrap_err().code(), 403);
        assert_eq!(ask("host", json!({})).await.unwrap_err().code(), 403);
    }

    #[tokio::test]
    async fn a_plain_request_gets_an_hour_for_this_server() {
        let (_, requests, signer) = setup();
        let answer = requests
            .create(&ann(), "n", "sa", json!({"spec": {}}))
            .await
            .unwrap();
        assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
        assert_eq!(answer["spec"]["expirationSeconds"], 3600);
        let claims = signer
            .verify(answer["status"]["token"].as_str().unwrap())
            .unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:n:sa");
        let (issued, expires) = (
            claims["iat"].as_i64().unwrap(),
            claims["exp"].as_i64().unwrap(),
        );
        assert_eq!(expires - issued, 3600);
        let told: jiff::Timestamp = answer["status"]["expirationTimestamp"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(told.as_second(), expires);
    }

    #[tokio::test]
    async fn a_pod_s_token_names_pod_and_node_and_is_extended() {
        let (_, requests, signer) = setup();
        let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pod-uid"});
        let spec = json!({"expirationSeconds": POD_LIFETIME, "boundObjectRef": reference});
        let answer = requests
            .create(&ann(), "n", "sa", json!({"spec": spec}))
            .await
            .unwrap();
        let claims = signer
            .verify(answer["status"]["token"].as_str().unwrap())
            .unwrap();
        let issued = claims["iat"].as_i64().unwrap();
        assert_eq!(
            claims["kubernetes.io"],
            json!({
                "namespace": "n",
                "serviceaccount": {"name": "sa", "uid": "sa-uid"},
                "pod": {"name": "p", "uid": "pod-uid"},
                "node": {"name": "host", "uid": "node-uid"},
                "warnafter": issued + POD_LIFETIME,
            })
        );
        assert_eq!(claims["exp"].as_i64().unwrap() - issued, EXTENDED_LIFETIME);
    }

    #[tokio::test]
    async fn bad_requests_are_refused() {
        let (_, requests, _) = setup();
        let pod = |name: &str, uid: &str| {
            json!({"boundObjectRef":
            {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}})
        };
        let cases = [
            ("none", json!({}), 404, "serviceaccounts \"none\" not found"),
            (
                "sa",
                json!({"expirationSeconds": 5}),
                422,
                "less than 10 minutes",
            ),
            (
                "sa",
                json!({"expirationSeconds": 1_i64 << 33}),
                422,
                "larger than 2^32",
            ),
            ("sa", pod("q", ""), 400, "different serviceaccount"),
            ("sa", pod("p", "other"), 409, "does not match the UID"),
            ("sa", pod("absent", ""), 404, "pods \"absent\" not found"),
            (
                "sa",
                json!({"boundObjectRef": {"kind": "Job", "apiVersion": "batch/v1"}}),
                400,
                "cannot bind token",
            ),
        ];
        for (name, spec, code, text) in cases {
            let error = requests
                .create(&ann(), "n", name, json!({"spec": spec}))
                .await
                .unwrap_err();
            assert_eq!(error.code(), code, "{}", error.message);
            assert!(error.message.contains(text), "{}", error.message);
        }
    }

    #[test]
    fn discovery_points_to_the_keys() {
        let document = openid_configuration(ISSUER);
        assert_eq!(
            document["jwks_uri"],
            "https://kubernetes.default.svc/openid/v1/jwks"
        );
    }
}
