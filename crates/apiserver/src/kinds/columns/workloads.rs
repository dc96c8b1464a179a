//! The columns of controllers of pods.

use std::sync::Arc;

use coracle_machinery::object::{self, is_terminating, items};
use coracle_machinery::time;
use serde_json::Value;

use super::{
    KindName, NONE, age, condition, count, flag_or_unset, joined, labels, name, number, selector,
    since, table, text, text_or,
};
use crate::kind::TableConvertor;

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    Some(match kind {
        ("apps", "Deployment") => deployments(),
        ("apps", "ReplicaSet") => replica_sets(),
        ("", "ReplicationController") => replication_controllers(),
        ("apps", "StatefulSet") => stateful_sets(),
        ("apps", "DaemonSet") => daemon_sets(),
        ("batch", "Job") => jobs(),
        ("batch", "CronJob") => cron_jobs(),
        ("apps", "ControllerRevision") => revisions(),
        ("", "PodTemplate") => pod_templates(),
        ("autoscaling", "HorizontalPodAutoscaler") => autoscalers(),
        ("policy", "PodDisruptionBudget") => disruption_budgets(),
        _ => return None,
    })
}

fn container_names(template: &Value) -> Value {
    joined(
        items(template, "/spec/containers")
            .iter()
            .map(|c| object::text(c, "/name")),
    )
}

fn container_images(template: &Value) -> Value {
    joined(
        items(template, "/spec/containers")
            .iter()
            .map(|c| object::text(c, "/image")),
    )
}

fn deployments() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        |o, now| {
            let template = &o["spec"]["template"];
            vec![
                name(o),
                ready_of(o).into(),
                number(o, "/status/updatedReplicas").into(),
                number(o, "/status/availableReplicas").into(),
                age(o, now),
                container_names(template),
                container_images(template),
                selector(o, "/spec/selector"),
            ]
        },
    )
}

fn ready_of(o: &Value) -> String {
    let ready = number(o, "/status/readyReplicas");
    format!("{ready}/{}", number(o, "/spec/replicas"))
}

const REPLICA_HEADS: &[super::Head] = &[
    ("Name", "string", 0),
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

fn replica_cells(o: &Value, now: i64, selector: Value) -> Vec<Value> {
    let template = &o["spec"]["template"];
    vec![
        name(o),
        number(o, "/spec/replicas").into(),
        number(o, "/status/replicas").into(),
        number(o, "/status/readyReplicas").into(),
        age(o, now),
        container_names(template),
        container_images(template),
        selector,
    ]
}

fn replica_sets() -> Arc<dyn TableConvertor> {
    table(REPLICA_HEADS, |o, now| {
        replica_cells(o, now, selector(o, "/spec/selector"))
    })
}

fn replication_controllers() -> Arc<dyn TableConvertor> {
    table(REPLICA_HEADS, |o, now| {
        replica_cells(o, now, labels(o, "/spec/selector"))
    })
}

fn stateful_sets() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
        ],
        |o, now| {
            let template = &o["spec"]["template"];
            vec![
                name(o),
                ready_of(o).into(),
                age(o, now),
                container_names(template),
                container_images(template),
            ]
        },
    )
}

fn daemon_sets() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Desired", "integer", 0),
            ("Current", "integer", 0),
            ("Ready", "integer", 0),
            ("Up-to-date", "integer", 0),
            ("Available", "integer", 0),
            ("Node Selector", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        |o, now| {
            let template = &o["spec"]["template"];
            vec![
                name(o),
                number(o, "/status/desiredNumberScheduled").into(),
                number(o, "/status/currentNumberScheduled").into(),
                number(o, "/status/numberReady").into(),
                number(o, "/status/updatedNumberScheduled").into(),
                number(o, "/status/numberAvailable").into(),
                labels(o, "/spec/template/spec/nodeSelector"),
                age(o, now),
                container_names(template),
                container_images(template),
                selector(o, "/spec/selector"),
            ]
        },
    )
}

fn jobs() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Completions", "string", 0),
            ("Duration", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        |o, now| {
            let template = &o["spec"]["template"];
            vec![
                name(o),
                job_status(o).into(),
                completions(o).into(),
                duration(o, now).into(),
                age(o, now),
                container_names(template),
                container_images(template),
                selector(o, "/spec/selector"),
            ]
        },
    )
}

fn job_status(o: &Value) -> &'static str {
    if condition(o, "Complete") {
        "Complete"
    } else if condition(o, "Failed") {
        "Failed"
    } else if is_terminating(o) {
        "Terminating"
    } else if condition(o, "Suspended") {
        "Suspended"
    } else if condition(o, "FailureTarget") {
        "FailureTarget"
    } else if condition(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(o: &Value) -> String {
    let done = number(o, "/status/succeeded");
    if let Some(wanted) = o["spec"]["completions"].as_i64() {
        return format!("{done}/{wanted}");
    }
    match number(o, "/spec/parallelism") {
        parallel if parallel > 1 => format!("{done}/1 of {parallel}"),
        _ => format!("{done}/1"),
    }
}

fn duration(o: &Value, now: i64) -> String {
    let at = |pointer: &str| time::parse_seconds(object::text(o, pointer));
    match (at("/status/startTime"), at("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), None) => time::human_duration(now.saturating_sub(start)),
        (Some(start), Some(end)) => time::human_duration(end.saturating_sub(start)),
    }
}

fn cron_jobs() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Schedule", "string", 0),
            ("Timezone", "string", 0),
            ("Suspend", "boolean", 0),
            ("Active", "integer", 0),
            ("Last Schedule", "string", 0),
            ("Age", "string", 0),
            ("Containers", "string", 1),
            ("Images", "string", 1),
            ("Selector", "string", 1),
        ],
        |o, now| {
            let job = &o["spec"]["jobTemplate"]["spec"];
            let last = match object::text(o, "/status/lastScheduleTime") {
                "" => NONE.to_owned(),
                _ => since(o, "/status/lastScheduleTime", now),
            };
            vec![
                name(o),
                text(o, "/spec/schedule"),
                text_or(o, "/spec/timeZone", NONE),
                flag_or_unset(o, "/spec/suspend"),
                count(o, "/status/active").into(),
                last.into(),
                age(o, now),
                container_names(&job["template"]),
                container_images(&job["template"]),
                selector(job, "/selector"),
            ]
        },
    )
}

fn revisions() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Controller", "string", 0),
            ("Revision", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let owners = items(o, "/metadata/ownerReferences");
            let controller = match owners.iter().find(|r| r["controller"] == true) {
                Some(owner) => {
                    let api_version = object::text(owner, "/apiVersion");
                    let kind = object::text(owner, "/kind").to_lowercase();
                    let kind = match api_version.split_once('/') {
                        Some((group, _)) => format!("{kind}.{group}"),
                        None => kind,
                    };
                    format!("{kind}/{}", object::text(owner, "/name"))
                }
                None => NONE.to_owned(),
            };
            vec![
                name(o),
                controller.into(),
                number(o, "/revision").into(),
                age(o, now),
            ]
        },
    )
}

fn pod_templates() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Containers", "string", 0),
            ("Images", "string", 0),
            ("Pod Labels", "string", 0),
        ],
        |o, _| {
            vec![
                name(o),
                container_names(&o["template"]),
                container_images(&o["template"]),
                labels(o, "/template/metadata/labels"),
            ]
        },
    )
}

fn autoscalers() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Reference", "string", 0),
            ("Targets", "string", 0),
            ("MinPods", "string", 0),
            ("MaxPods", "string", 0),
            ("Replicas", "string", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let kind = object::text(o, "/spec/scaleTargetRef/kind");
            let target = object::text(o, "/spec/scaleTargetRef/name");
            let least = match o["spec"]["minReplicas"].as_i64() {
                Some(least) => least.to_string(),
                None => super::UNSET.to_owned(),
            };
            vec![
                name(o),
                format!("{kind}/{target}").into(),
                targets(o).into(),
                least.into(),
                number(o, "/spec/maxReplicas").into(),
                number(o, "/status/currentReplicas").into(),
                age(o, now),
            ]
        },
    )
}

/// Most metrics that are shown.
const SHOWN_METRICS: usize = 2;

fn targets(o: &Value) -> String {
    let metrics = items(o, "/spec/metrics");
    if metrics.is_empty() {
        // The v1 form has its only target in a field of its own.
        let Some(target) = o["spec"]["targetCPUUtilizationPercentage"].as_i64() else {
            return NONE.to_owned();
        };
        let current = match o["status"]["currentCPUUtilizationPercentage"].as_i64() {
            Some(current) => format!("{current}%"),
            None => super::UNKNOWN.to_owned(),
        };
        return format!("cpu: {current}/{target}%");
    }
    let current = items(o, "/status/currentMetrics");
    let shown = metrics.iter().take(SHOWN_METRICS).enumerate();
    let list: Vec<String> = shown.map(|(i, m)| metric(m, current.get(i))).collect();
    match metrics.len().checked_sub(SHOWN_METRICS) {
        Some(more) if more > 0 => format!("{} + {more} more...", list.join(", ")),
        _ => list.join(", "),
    }
}

fn metric(metric: &Value, current: Option<&Value>) -> String {
    let field = match object::text(metric, "/type") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let target = &metric[field]["target"];
    let now = current.map_or(&Value::Null, |c| &c[field]["current"]);
    let quantity = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let prefix = match field {
        "resource" | "containerResource" => format!("{}: ", object::text(&metric[field], "/name")),
        _ => String::new(),
    };
    let (key, suffix) = if target["averageUtilization"].is_number() {
        ("averageUtilization", "%")
    } else if !target["averageValue"].is_null() {
        ("averageValue", "")
    } else {
        ("value", "")
    };
    let tail = if key == "averageValue" && matches!(field, "object" | "external") {
        " (avg)"
    } else {
        ""
    };
    let shown = match &now[key] {
        Value::Null => super::UNKNOWN.to_owned(),
        value => format!("{}{suffix}", quantity(value)),
    };
    format!("{prefix}{shown}/{}{suffix}{tail}", quantity(&target[key]))
}

fn disruption_budgets() -> Arc<dyn TableConvertor> {
    table(
        &[
            ("Name", "string", 0),
            ("Min Available", "string", 0),
            ("Max Unavailable", "string", 0),
            ("Allowed Disruptions", "integer", 0),
            ("Age", "string", 0),
        ],
        |o, now| {
            let bound = |key: &str| match &o["spec"][key] {
                Value::Null => "N/A".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            vec![
                name(o),
                bound("minAvailable").into(),
                bound("maxUnavailable").into(),
                number(o, "/status/disruptionsAllowed").into(),
                age(o, now),
            ]
        },
    )
}
