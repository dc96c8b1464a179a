//! Acting as someone else: the `Impersonate-*` headers.

use coracle_machinery::ApiError;
use http::HeaderMap;

use super::denial::forbidden;
use super::tokens::split_username;
use crate::access::{Attributes, Authorizer, Decision, UserInfo};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Groups and extra values that one request may ask for: each is authorised
/// by itself.
const MAX_ASKED: usize = 128;

/// Whom the headers ask to act as; `None` if there are no such headers.
///
/// # Errors
/// Forbidden, if `user` may not impersonate one of the things asked for; bad
/// request, if the headers make no sense.
pub async fn impersonated(
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, ApiError> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(None);
    };
    for attributes in requests(&wanted) {
        match authorizer.authorize(user, &attributes).await {
            Decision::Allow { .. } => {}
            Decision::NoOpinion { reason } => return Err(forbidden(user, &attributes, &reason)),
        }
    }
    Ok(Some(completed(wanted)))
}

fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let mut asked = UserInfo::default();
    let mut count = 0;
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("impersonate-") {
            continue;
        }
        count += 1;
        if count > MAX_ASKED {
            return Err(ApiError::bad_request(format!(
                "more than {MAX_ASKED} impersonation headers"
            )));
        }
        let value = value
            .to_str()
            .map_err(|_| ApiError::bad_request(format!("header {name} is not text")))?
            .to_owned();
        match name {
            USER => asked.username = value,
            UID => asked.uid = value,
            GROUP => asked.groups.push(value),
            _ => {
                if let Some(key) = name.strip_prefix(EXTRA) {
                    asked
                        .extra
                        .entry(percent_decoded(key))
                        .or_default()
                        .push(value);
                }
            }
        }
    }
    if asked.username.is_empty() {
        let nothing = asked.uid.is_empty() && asked.groups.is_empty() && asked.extra.is_empty();
        if nothing {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "groups, uid or extra fields are impersonated without impersonating a user",
        ));
    }
    Ok(Some(asked))
}

/// What has to be allowed, in upstream's order.
fn requests(wanted: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    let mut all = Vec::new();
    match split_username(&wanted.username) {
        Some((namespace, name)) => all.push(Attributes {
            namespace: namespace.to_owned(),
            ..ask("", "serviceaccounts", name)
        }),
        None => all.push(ask("", "users", &wanted.username)),
    }
    all.extend(wanted.groups.iter().map(|group| ask("", "groups", group)));
    for (key, values) in &wanted.extra {
        all.extend(values.iter().map(|value| Attributes {
            subresource: key.clone(),
            ..ask("authentication.k8s.io", "userextras", value)
        }));
    }
    if !wanted.uid.is_empty() {
        all.push(ask("authentication.k8s.io", "uids", &wanted.uid));
    }
    all
}

/// Adds the groups that go without saying.
fn completed(mut user: UserInfo) -> UserInfo {
    if user.groups.is_empty()
        && let Some((namespace, _)) = split_username(&user.username)
    {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let everyone = [AUTHENTICATED, UNAUTHENTICATED];
    if !user.groups.iter().any(|g| everyone.contains(&g.as_str())) {
        let anonymous = user.username == "system:anonymous";
        let group = if anonymous {
            UNAUTHENTICATED
        } else {
            AUTHENTICATED
        };
        user.groups.push(group.to_owned());
    }
    user
}

/// Undoes percent encoding; what is not well encoded stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| char::from(b).to_digit(16);
        let decoded = match bytes.get(i..i + 3) {
            Some([b'%', high, low]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h * 16 + l) as u8),
            _ => None,
        };
        out.push(decoded.unwrap_or(bytes[i]));
        i += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Allows what it lists, as `group/resource/subresource/name`.
    struct Listed(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Listed {
        async fn authorize(&self, _: &UserInfo, a: &Attributes) -> Decision {
            assert_eq!(a.verb, "impersonate");
            let key = format!(
                "{}/{}/{}/{}/{}",
                a.group, a.resource, a.subresource, a.namespace, a.name
            );
            let reason = String::new();
            if self.0.contains(&key.as_str()) {
                Decision::Allow { reason }
            } else {
                Decision::NoOpinion { reason }
            }
        }
    }

    async fn run(
        allowed: &'static [&'static str],
        headers: &[(&'static str, &'static str)],
    ) -> Result<Option<UserInfo>, ApiError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let me = UserInfo::authenticated("me", &[]);
        impersonated(&Listed(allowed), &me, &map).await
    }

    #[tokio::test]
    async fn everything_asked_for_is_authorised() {
        assert_eq!(run(&[], &[("accept", "x")]).await.unwrap(), None);
        let user = run(&["/users///ann"], &[("impersonate-user", "ann")]).await;
        assert_eq!(user.unwrap().unwrap(), UserInfo::authenticated("ann", &[]));
        let error = run(
            &["/users///ann"],
            &[("impersonate-user", "ann"), ("impersonate-group", "g")],
        )
        .await
        .unwrap_err();
        assert_eq!(
            error.message,
            "groups \"g\" is forbidden: User \"me\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
        let user = run(
            &[
                "/users///ann",
                "/groups///g",
                "authentication.k8s.io/uids///7",
                "authentication.k8s.io/userextras/a/b//x",
            ],
            &[
                ("impersonate-user", "ann"),
                ("impersonate-group", "g"),
                ("impersonate-uid", "7"),
                ("impersonate-extra-a%2fb", "x"),
            ],
        )
        .await
        .unwrap()
        .unwrap();
        assert_eq!(user.groups, ["g", "system:authenticated"]);
        assert_eq!(user.extra["a/b"], ["x"]);
        assert_eq!(user.uid, "7");
    }

    #[tokio::test]
    async fn service_accounts_and_anonymous_get_their_groups() {
        let user = run(
            &["/serviceaccounts//n/sa"],
            &[("impersonate-user", "system:serviceaccount:n:sa")],
        );
        assert_eq!(
            user.await.unwrap().unwrap().groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:n",
                "system:authenticated"
            ]
        );
        let user = run(
            &["/users///system:anonymous"],
            &[("impersonate-user", "system:anonymous")],
        );
        assert_eq!(user.await.unwrap().unwrap(), UserInfo::anonymous());
        let error = run(&[], &[("impersonate-group", "g")]).await.unwrap_err();
        assert_eq!(error.code(), 400);
    }
}
