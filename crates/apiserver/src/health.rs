//! `/livez`, `/readyz`, `/healthz`, `/version` and `/metrics`.

use std::fmt::Write;
use std::sync::Arc;

use http::{Response, StatusCode};

use crate::body::{Body, json_value, with_body};
use crate::hooks::RequestContext;
use crate::metrics::header;
use crate::server::Inner;

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers one of these paths; `None` for any other.
pub(crate) async fn answer(
    server: &Arc<Inner>,
    context: &RequestContext,
) -> Option<Response<Body>> {
    let path = context.info.path.trim_end_matches('/');
    if !matches!(context.info.verb.as_str(), "get" | "head") {
        return None;
    }
    let (endpoint, check) = match path.get(1..)?.split_once('/') {
        Some((endpoint, check)) => (endpoint, Some(check)),
        None => (path.get(1..)?, None),
    };
    match (endpoint, check) {
        ("version", None) => Some(json_value(StatusCode::OK, &server.version)),
        ("metrics", None) => Some(with_body(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            Body::full(metrics(server).await),
        )),
        ("livez" | "readyz" | "healthz", check) => health(server, context, endpoint, check).await,
        _ => None,
    }
}

async fn health(
    server: &Inner,
    context: &RequestContext,
    endpoint: &str,
    only: Option<&str>,
) -> Option<Response<Body>> {
    let excluded: Vec<&str> = context.query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = Vec::new();
    let mut found = only.is_none();
    let mut note = |name: &str, outcome: Result<(), String>| match outcome {
        _ if excluded.contains(&name) => {
            let _ = writeln!(lines, "[+]{name} excluded: ok");
        }
        Ok(()) => {
            let _ = writeln!(lines, "[+]{name} ok");
        }
        Err(why) => {
            tracing::warn!(check = name, %why, "health check failed");
            let _ = writeln!(lines, "[-]{name} failed: reason withheld");
            failed.push(name.to_owned());
        }
    };
    let wanted = |name: &str| only.is_none_or(|o| o == name);
    if wanted("ping") {
        found = true;
        note("ping", Ok(()));
    }
    if wanted("etcd") {
        found = true;
        let revision = server.storage.store.revision().await;
        note("etcd", revision.map(drop).map_err(|e| e.to_string()));
    }
    for check in &server.checks {
        if wanted(check.name()) {
            found = true;
            note(check.name(), check.check().await);
        }
    }
    if endpoint == "readyz" && wanted("shutdown") {
        found = true;
        let stopping = server.stop.is_cancelled();
        note(
            "shutdown",
            if stopping {
                Err("the server is stopping".to_owned())
            } else {
                Ok(())
            },
        );
    }
    if !found {
        return None;
    }
    if !failed.is_empty() {
        let _ = write!(lines, "{endpoint} check failed");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Some(with_body(status, TEXT, Body::full(lines)));
    }
    let text = if context.query.optional_flag("verbose").is_some() {
        let _ = writeln!(lines, "{endpoint} check passed");
        lines
    } else {
        "ok".to_owned()
    };
    Some(with_body(StatusCode::OK, TEXT, Body::full(text)))
}

async fn metrics(server: &Inner) -> String {
    let mut out = String::new();
    server.metrics.render(&mut out);
    let name = "apiserver_current_inflight_requests";
    header(&mut out, name, "gauge", "Requests under way.");
    let used = |limit: usize, free: usize| limit.saturating_sub(free);
    let mutating = used(server.limits.mutating, server.mutating.available_permits());
    let reading = used(server.limits.reading, server.reading.available_permits());
    let _ = writeln!(out, "{name}{{request_kind=\"mutating\"}} {mutating}");
    let _ = writeln!(out, "{name}{{request_kind=\"readOnly\"}} {reading}");
    let name = "apiserver_longrunning_requests";
    header(&mut out, name, "gauge", "Watches under way.");
    let watches = used(server.limits.watches, server.watches.available_permits());
    let _ = writeln!(out, "{name}{{verb=\"WATCH\"}} {watches}");
    let name = "apiserver_registered_watchers";
    header(&mut out, name, "gauge", "Watchers of a resource.");
    for (resource, count) in server.storage.hubs.watchers() {
        let (group, resource) = (&resource.group, &resource.resource);
        let _ = writeln!(
            out,
            "{name}{{group=\"{group}\",resource=\"{resource}\"}} {count}"
        );
    }
    let name = "coracle_storage_revision";
    header(&mut out, name, "gauge", "The store's latest revision.");
    if let Ok(revision) = server.storage.store.revision().await {
        let _ = writeln!(out, "{name} {revision}");
    }
    out
}
