//! Paths and queries of the kubelet endpoint, and what they are on the host's
//! API server. Pure.

/// Query keys of logs that mean the same on both sides.
const LOG_KEYS: &[&str] = &[
    "follow",
    "tailLines",
    "previous",
    "timestamps",
    "sinceSeconds",
    "sinceTime",
    "limitBytes",
    "stream",
];

/// The streams of exec and attach: the kubelet's names and the API server's.
const STREAMS: &[(&str, &str)] = &[
    ("input", "stdin"),
    ("output", "stdout"),
    ("error", "stderr"),
    ("tty", "tty"),
    ("stdin", "stdin"),
    ("stdout", "stdout"),
    ("stderr", "stderr"),
];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// That the endpoint is up.
    Health,
    /// All pods.
    Pods,
    /// Something of one pod.
    Pod {
        /// The virtual namespace.
        namespace: String,
        /// The virtual name.
        name: String,
        /// The subresource of the host pod.
        subresource: &'static str,
        /// The query for the host.
        query: String,
        /// Whether the connection is upgraded.
        streams: bool,
    },
    /// Nothing that is served.
    Unknown,
}

/// Reads a path and query. Names are taken literally: what is escaped names
/// nothing.
pub(crate) fn route(path: &str, query: &str) -> Route {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz"] => Route::Health,
        ["pods" | "pods/"] => Route::Pods,
        ["containerLogs", namespace, pod, container] if is_name(container) => {
            pod_route(namespace, pod, "log", log_query(container, query), false)
        }
        ["exec", namespace, pod, container] if is_name(container) => pod_route(
            namespace,
            pod,
            "exec",
            stream_query(container, query, true),
            true,
        ),
        ["attach", namespace, pod, container] if is_name(container) => pod_route(
            namespace,
            pod,
            "attach",
            stream_query(container, query, false),
            true,
        ),
        ["portForward", namespace, pod] => {
            let ports: Vec<String> = pairs(query)
                .filter(|(key, value)| {
                    matches!(*key, "port" | "ports") && value.parse::<u16>().is_ok()
                })
                .map(|(_, value)| format!("ports={value}"))
                .collect();
            pod_route(namespace, pod, "portforward", ports.join("&"), true)
        }
        _ => Route::Unknown,
    }
}

fn pod_route(
    namespace: &str,
    name: &str,
    subresource: &'static str,
    query: String,
    streams: bool,
) -> Route {
    if !is_name(namespace) || !is_name(name) {
        return Route::Unknown;
    }
    Route::Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource,
        query,
        streams,
    }
}

/// True for the characters of DNS names, and nothing that a path could mean.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(plain) && !text.starts_with('.')
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn log_query(container: &str, query: &str) -> String {
    let mut host = format!("container={container}");
    for (key, value) in pairs(query).filter(|(key, _)| LOG_KEYS.contains(key)) {
        host.push_str(&format!("&{key}={value}"));
    }
    host
}

fn stream_query(container: &str, query: &str, with_command: bool) -> String {
    let mut host = format!("container={container}");
    for (key, value) in pairs(query) {
        if key == "command" && with_command {
            host.push_str(&format!("&command={value}"));
        } else if let Some((_, name)) = STREAMS.iter().find(|(kubelet, _)| *kubelet == key)
            && matches!(value, "1" | "true")
        {
            host.push_str(&format!("&{name}=true"));
        }
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, query: &str) -> Option<(String, String)> {
        match route(path, query) {
            Route::Pod {
                namespace,
                name,
                subresource,
                query,
                ..
            } => Some((format!("{namespace}/{name}/{subresource}"), query)),
            _ => None,
        }
    }

    #[test]
    fn paths_of_pods() {
        let cases = [
            (
                "/containerLogs/default/a/c",
                "follow=true&tailLines=5&token=x",
                "default/a/log",
                "container=c&follow=true&tailLines=5",
            ),
            (
                "/exec/default/a/c",
                "command=ls&command=%2Ftmp&input=1&output=1&error=0&tty=1",
                "default/a/exec",
                "container=c&command=ls&command=%2Ftmp&stdin=true&stdout=true&tty=true",
            ),
            (
                "/attach/default/a/c",
                "command=ls&output=1",
                "default/a/attach",
                "container=c&stdout=true",
            ),
            (
                "/portForward/default/a.b",
                "port=80&port=x",
                "default/a.b/portforward",
                "ports=80",
            ),
        ];
        for (path, query, place, host) in cases {
            assert_eq!(
                of(path, query),
                Some((place.to_owned(), host.to_owned())),
                "{path}"
            );
        }
    }

    #[test]
    fn nothing_else_is_served() {
        for path in [
            "/",
            "/exec",
            "/exec/default/a",
            "/exec/default/../c",
            "/exec/default/a%2Fb/c",
            "/exec//a/c",
            "/exec/default/a/c/d",
            "/run/default/a/c",
            "/configz",
            "/containerLogs/default/a/c&follow",
            "/portForward/Default/a",
        ] {
            assert_eq!(route(path, ""), Route::Unknown, "{path}");
        }
    }
}
