//! What a request asks for, read from its method, path and query, after
//! `k8s.io/apiserver/pkg/endpoints/request`.

use http::Method;

use crate::access::Attributes;
use crate::query::{Query, percent_decode};

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, ...; the lower-case method for paths
    /// that name no resource.
    pub verb: String,
    /// False for `/version`, `/apis` and the like.
    pub is_resource: bool,
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace, or empty. For a request to a namespace object it is the
    /// name of that object.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object name, or empty.
    pub name: String,
    /// What follows the subresource, without a leading slash (proxy paths).
    pub tail: String,
    /// The decoded path.
    pub path: String,
}

impl RequestInfo {
    /// Reads a request line.
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Self {
        let path = percent_decode(raw_path, false);
        let mut info = Self {
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let rest = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => {
                info.path = path;
                return info;
            }
        };
        info.is_resource = true;
        info.read_resource(method, rest, query);
        // A trailing slash belongs to a proxied path.
        if !info.tail.is_empty() && path.ends_with('/') {
            info.tail.push('/');
        }
        info.path = path;
        info
    }

    fn read_resource(&mut self, method: &Method, mut rest: &[&str], query: &Query) {
        let mut watch = query.flag("watch");
        if rest[0] == "watch" && rest.len() > 1 {
            watch = true;
            rest = &rest[1..];
        }
        if rest[0] == "namespaces" && rest.len() > 1 {
            self.namespace = rest[1].to_owned();
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        let part = |i: usize| rest.get(i).copied().unwrap_or_default().to_owned();
        self.resource = part(0);
        self.name = part(1);
        self.subresource = part(2);
        if rest.len() > 3 {
            self.tail = rest[3..].join("/");
        }
        let whole = self.name.is_empty();
        self.verb = match *method {
            Method::GET | Method::HEAD if watch && self.subresource.is_empty() => "watch",
            Method::GET | Method::HEAD if whole => "list",
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if whole => "deletecollection",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
        // A list or watch of one object by field selector counts as access to
        // that object, so that rules with resourceNames apply.
        if whole
            && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection")
            && let Some(selector) = query.get("fieldSelector")
            && let Some(name) = single_name(selector)
        {
            self.name = name.to_owned();
        }
    }

    /// What authorisers see.
    pub fn attributes(&self) -> Attributes {
        Attributes {
            verb: self.verb.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: if self.is_resource {
                String::new()
            } else {
                self.path.clone()
            },
        }
    }

    /// True for requests that last as long as the client wants.
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(
                self.subresource.as_str(),
                "exec" | "attach" | "portforward" | "proxy" | "log"
            )
    }

    /// True for requests that only read.
    pub fn read_only(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "get" | "list" | "watch" | "head" | "options"
        )
    }
}

/// The name that a field selector pins down.
fn single_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (!value.is_empty() && !value.contains(['\\', '/'])).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: &str, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let i = RequestInfo::parse(
            &method.parse().unwrap(),
            path,
            &Query::parse(query).unwrap(),
        );
        if i.is_resource {
            format!(
                "{} {}/{} ns={} {}/{} sub={} tail={}",
                i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.tail
            )
        } else {
            format!("{} {}", i.verb, i.path)
        }
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        for (method, target, wanted) in [
            ("GET", "/", "get /"),
            ("GET", "/api", "get /api"),
            ("GET", "/api/v1", "get /api/v1"),
            ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
            ("POST", "/healthz/ping", "post /healthz/ping"),
            ("GET", "/api/v1/pods", "list /v1 ns= pods/ sub= tail="),
            (
                "GET",
                "/api/v1/pods?watch",
                "watch /v1 ns= pods/ sub= tail=",
            ),
            (
                "GET",
                "/api/v1/pods?watch=0",
                "list /v1 ns= pods/ sub= tail=",
            ),
            (
                "GET",
                "/api/v1/watch/pods",
                "watch /v1 ns= pods/ sub= tail=",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/n/pods/p",
                "watch /v1 ns=n pods/p sub= tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces",
                "list /v1 ns= namespaces/ sub= tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/n",
                "get /v1 ns=n namespaces/n sub= tail=",
            ),
            (
                "PUT",
                "/api/v1/namespaces/n/finalize",
                "update /v1 ns=n namespaces/n sub=finalize tail=",
            ),
            (
                "PATCH",
                "/api/v1/namespaces/n/status",
                "patch /v1 ns=n namespaces/n sub=status tail=",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/n/pods",
                "deletecollection /v1 ns=n pods/ sub= tail=",
            ),
            (
                "DELETE",
                "/apis/apps/v1/namespaces/n/deployments/d",
                "delete apps/v1 ns=n deployments/d sub= tail=",
            ),
            (
                "POST",
                "/api/v1/namespaces/n/pods/p/exec?command=a",
                "create /v1 ns=n pods/p sub=exec tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/n/services/s:80/proxy/a/b/",
                "get /v1 ns=n services/s:80 sub=proxy tail=a/b/",
            ),
            (
                "GET",
                "/api/v1/namespaces/n/pods?fieldSelector=metadata.name%3Dx",
                "list /v1 ns=n pods/x sub= tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/a%2Fb/pods/c",
                "get /v1 ns=a b/pods sub=c tail=",
            ),
        ] {
            assert_eq!(shown(method, target), wanted, "{method} {target}");
        }
    }
}
