//! Counts of requests and their durations, in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use crate::request::RequestInfo;
use crate::sync::lock;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 60.0];
/// Series kept: paths that clients make up must not add series without end.
const MAX_SERIES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, Default)]
struct Series {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

/// The counters of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
}

impl Metrics {
    /// Counts a request that was answered. `known` is false if the path names
    /// nothing that is served.
    pub fn observe(&self, info: &RequestInfo, known: bool, code: u16, took: Duration) {
        let text = |text: &str| {
            if known {
                text.to_owned()
            } else {
                String::new()
            }
        };
        let labels = Labels {
            verb: info.verb.clone(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            code,
        };
        let mut requests = lock(&self.requests);
        if requests.len() >= MAX_SERIES && !requests.contains_key(&labels) {
            return;
        }
        let series = requests.entry(labels).or_default();
        series.count += 1;
        let seconds = took.as_secs_f64();
        series.seconds += seconds;
        for (bound, count) in BUCKETS.iter().zip(&mut series.buckets) {
            if seconds <= *bound {
                *count += 1;
            }
        }
    }

    /// Appends all counters.
    pub fn render(&self, out: &mut String) {
        let requests = lock(&self.requests).clone();
        let name = "apiserver_request_total";
        header(out, name, "counter", "Requests answered.");
        for (labels, series) in &requests {
            let Labels { code, .. } = labels;
            let _ = writeln!(
                out,
                "{name}{{{},code=\"{code}\"}} {}",
                labels.text(),
                series.count
            );
        }
        let name = "apiserver_request_duration_seconds";
        header(out, name, "histogram", "Time to the response's head.");
        for (labels, series) in &requests {
            let text = format!("{},code=\"{}\"", labels.text(), labels.code);
            for (bound, count) in BUCKETS.iter().zip(&series.buckets) {
                let _ = writeln!(out, "{name}_bucket{{{text},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{{text},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "{name}_sum{{{text}}} {}", series.seconds);
            let _ = writeln!(out, "{name}_count{{{text}}} {}", series.count);
        }
    }
}

impl Labels {
    fn text(&self) -> String {
        format!(
            "verb=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\"",
            self.verb.to_uppercase(),
            self.group,
            self.version,
            self.resource,
            self.subresource
        )
    }
}

/// Appends the two comment lines of a metric.
pub fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
