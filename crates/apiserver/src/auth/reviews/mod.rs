//! Questions about callers and permissions: the review kinds of
//! authentication.k8s.io and authorization.k8s.io. They are answered and not
//! stored.

mod access;
mod token;

use std::sync::Arc;

use coracle_machinery::{ApiError, FieldError, GroupKind, object};
use serde_json::{Value, json};

pub use self::token::{TokenRequests, openid_configuration};
use super::ServiceAccountTokens;
use super::rbac::Rbac;
use crate::access::{Authorizer, UserInfo};

/// Answers all reviews.
pub struct Reviews {
    authorizer: Arc<dyn Authorizer>,
    rbac: Arc<Rbac>,
    tokens: Arc<ServiceAccountTokens>,
}

impl Reviews {
    /// `authorizer` is the one that judges requests; `rbac` lists rules.
    pub fn new(
        authorizer: Arc<dyn Authorizer>,
        rbac: Arc<Rbac>,
        tokens: Arc<ServiceAccountTokens>,
    ) -> Self {
        Self {
            authorizer,
            rbac,
            tokens,
        }
    }

    /// Who a token stands for.
    ///
    /// # Errors
    /// Invalid, if there is no token; a bad token is an answer.
    pub async fn token_review(&self, mut review: Value) -> Result<Value, ApiError> {
        let given = object::text(&review, "/spec/token").to_owned();
        if given.is_empty() {
            let kind = GroupKind::new("authentication.k8s.io", "TokenReview");
            let path = coracle_machinery::FieldPath::new("spec").child("token");
            let error = FieldError::required(&path, "");
            return Err(ApiError::invalid(&kind, "", &[error]));
        }
        let asked: Vec<String> = object::items(&review, "/spec/audiences")
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let audiences = (!asked.is_empty()).then_some(asked.as_slice());
        review["status"] = match self.tokens.authenticate(&given, audiences).await {
            Ok(identity) => json!({
                "authenticated": true,
                "user": user_value(&identity.user),
                "audiences": identity.audiences,
            }),
            Err(why) => json!({
                "user": {},
                "error": format!("[invalid bearer token, {why}]"),
            }),
        };
        Ok(review)
    }

    /// Who the caller is.
    pub fn self_subject_review(&self, user: &UserInfo, mut review: Value) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let at = jiff::Timestamp::from_second(now).map_or(String::new(), |t| t.to_string());
        object::metadata_mut(&mut review).insert("creationTimestamp".into(), json!(at));
        review["status"] = json!({"userInfo": user_value(user)});
        review
    }
}

/// A user as reviews write it; empty fields are left out.
pub fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.username});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

#[cfg(test)]
mod tests {
    use coracle_pki::TokenSigner;

    use super::*;
    use crate::auth::core;
    use crate::auth::fake::FakeObjects;
    use crate::auth::tokens::{Bound, Grant};

    #[tokio::test]
    async fn a_token_review_tells_the_user_or_why_not() {
        let objects = FakeObjects::new();
        let account = objects.put(
            &core("serviceaccounts"),
            json!({"metadata": {"name": "sa", "namespace": "n"}}),
        );
        let signer = Arc::new(TokenSigner::generate().unwrap());
        let tokens = ServiceAccountTokens::new(signer, "https://me", objects.clone());
        let tokens = Arc::new(tokens);
        let grant = Grant {
            namespace: "n".into(),
            account: Bound {
                name: "sa".into(),
                uid: object::uid(&account).into(),
            },
            pod: None,
            secret: None,
            node: None,
            audiences: vec!["https://me".into()],
            lifetime: 600,
            warn_after: None,
        };
        let now = jiff::Timestamp::now().as_second();
        let token = tokens.issue(&grant, now).unwrap();
        let rbac = Arc::new(Rbac::new(objects));
        let reviews = Reviews::new(rbac.clone(), rbac, tokens);
        let ask = |token: &str, audiences: Value| {
            reviews.token_review(json!({"spec": {"token": token, "audiences": audiences}}))
        };
        let review = ask(&token, Value::Null).await.unwrap();
        assert_eq!(review["status"]["authenticated"], true);
        assert_eq!(
            review["status"]["user"]["username"],
            "system:serviceaccount:n:sa"
        );
        assert_eq!(review["status"]["audiences"], json!(["https://me"]));
        let review = ask(&token, json!(["other"])).await.unwrap();
        assert_eq!(review["status"]["authenticated"], Value::Null);
        assert!(
            review["status"]["error"]
                .as_str()
                .unwrap()
                .contains("audiences")
        );
        let error = ask("", Value::Null).await.unwrap_err();
        assert_eq!(
            error.message,
            "TokenReview.authentication.k8s.io \"\" is invalid: spec.token: Required value"
        );
    }
}
