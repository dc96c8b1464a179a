//! The columns of events.

use std::sync::Arc;

use coracle_machinery::object;
use coracle_machinery::time;
use serde_json::Value;

use super::{KindName, UNKNOWN, name, number, table};
use crate::kind::TableConvertor;

pub(super) fn of(kind: KindName<'_>) -> Option<Arc<dyn TableConvertor>> {
    matches!(kind, ("" | "events.k8s.io", "Event")).then(|| {
        table(
            &[
                ("Last Seen", "string", 0),
                ("Type", "string", 0),
                ("Reason", "string", 0),
                ("Object", "string", 0),
                ("Subobject", "string", 1),
                ("Source", "string", 1),
                ("Message", "string", 0),
                ("First Seen", "string", 1),
                ("Count", "string", 1),
                ("Name", "string", 1),
            ],
            cells,
        )
    })
}

/// The first of the texts that is not empty: the two groups have different
/// names for the same fields.
fn first<'a>(o: &'a Value, pointers: &[&str]) -> &'a str {
    let mut found = pointers.iter().map(|p| object::text(o, p));
    found.find(|t| !t.is_empty()).unwrap_or_default()
}

fn cells(o: &Value, now: i64) -> Vec<Value> {
    let ago = |text: &str| match text {
        "" => UNKNOWN.to_owned(),
        text => time::age(text, now),
    };
    let began = first(
        o,
        &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"],
    );
    let ended = match first(
        o,
        &[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/deprecatedLastTimestamp",
        ],
    ) {
        "" => began,
        ended => ended,
    };
    let times = ["/series/count", "/count", "/deprecatedCount"];
    let count = times
        .iter()
        .map(|p| number(o, p))
        .find(|n| *n != 0)
        .unwrap_or(1);
    let kind = first(o, &["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    let target = match first(o, &["/involvedObject/name", "/regarding/name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = first(
        o,
        &[
            "/source/component",
            "/deprecatedSource/component",
            "/reportingComponent",
            "/reportingController",
        ],
    );
    let instance = first(
        o,
        &[
            "/source/host",
            "/deprecatedSource/host",
            "/reportingInstance",
        ],
    );
    let source = match (component, instance) {
        (component, "") => component.to_owned(),
        (component, instance) => format!("{component}, {instance}"),
    };
    vec![
        ago(ended).into(),
        object::text(o, "/type").into(),
        object::text(o, "/reason").into(),
        target.into(),
        first(o, &["/involvedObject/fieldPath", "/regarding/fieldPath"]).into(),
        source.into(),
        first(o, &["/message", "/note"]).trim().into(),
        ago(began).into(),
        count.into(),
        name(o),
    ]
}
