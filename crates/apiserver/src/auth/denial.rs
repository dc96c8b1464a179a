//! The words in which a refused request is answered.

use coracle_machinery::{ApiError, GroupResource, Reason};

use crate::access::{Attributes, UserInfo};

/// The error (403) for a caller whom no authoriser allowed the request.
/// `reason` is the authoriser's, and may be empty.
pub fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> ApiError {
    let mut why = sentence(user, attributes);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    if attributes.resource.is_empty() {
        return ApiError {
            reason: Reason::Forbidden,
            message: format!("forbidden: {why}"),
            details: serde_json::json!({}),
        };
    }
    let resource = GroupResource::new(attributes.group.clone(), attributes.resource.clone());
    ApiError::forbidden(&resource, &attributes.name, &why)
}

fn sentence(user: &UserInfo, a: &Attributes) -> String {
    let (username, verb) = (&user.username, &a.verb);
    if a.resource.is_empty() {
        return format!("User {username:?} cannot {verb} path {:?}", a.path);
    }
    let mut resource = a.resource.clone();
    if !a.subresource.is_empty() {
        resource = format!("{resource}/{}", a.subresource);
    }
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    format!(
        "User {username:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
        a.group
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_like_upstream() {
        let user = UserInfo::authenticated("x", &[]);
        let mut attributes = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "y".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&user, &attributes, "").message,
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\""
        );
        attributes.verb = "get".into();
        attributes.group = "apps".into();
        attributes.resource = "deployments".into();
        attributes.subresource = "scale".into();
        attributes.namespace = String::new();
        attributes.name = "web".into();
        let error = forbidden(&user, &attributes, "RBAC: oops");
        assert_eq!(
            error.message,
            "deployments.apps \"web\" is forbidden: User \"x\" cannot get resource \"deployments/scale\" in API group \"apps\" at the cluster scope: RBAC: oops"
        );
        assert_eq!(error.code(), 403);
        let path = Attributes {
            verb: "get".into(),
            path: "/metrics".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&user, &path, "").message,
            "forbidden: User \"x\" cannot get path \"/metrics\""
        );
    }
}
