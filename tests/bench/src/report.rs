//! What was measured, beside goals and the figures of others.

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Told, not judged.
    None,
}

use Goal::{AtLeast, AtMost};

/// A figure that is known by name.
#[derive(Debug)]
struct Row {
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: Goal,
    /// Stock Kubernetes 1.36.2 with etcd, two cores, the same client load.
    stock: Option<f64>,
    /// vcluster 0.36 outside a container, likewise.
    vcluster: Option<f64>,
}

const fn row(
    name: &'static str,
    what: &'static str,
    unit: &'static str,
    goal: Goal,
    stock: Option<f64>,
    vcluster: Option<f64>,
) -> Row {
    Row {
        name,
        what,
        unit,
        goal,
        stock,
        vcluster,
    }
}

/// All figures, in the order of the table.
const ROWS: &[Row] = &[
    row(
        "start.ready",
        "control plane: process start to /readyz, fresh data",
        "s",
        AtMost(0.15),
        Some(2.8),
        Some(11.6),
    ),
    row(
        "start.memory",
        "memory of that process once it is ready, PSS",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "create.usable",
        "`coracle create` to the first answer, warm host",
        "s",
        AtMost(2.0),
        None,
        None,
    ),
    row(
        "create.first",
        "  the first on a host just started",
        "s",
        Goal::None,
        None,
        None,
    ),
    row(
        "idle.memory",
        "idle virtual cluster, both containers, PSS",
        "MiB",
        AtMost(25.0),
        Some(457.0),
        Some(447.0),
    ),
    row(
        "idle.memory.control-plane",
        "  control plane with DNS, PSS",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "idle.memory.syncer",
        "  syncer, PSS",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "idle.memory.anonymous",
        "  both, without mapped files",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "idle.cpu",
        "idle virtual cluster, both containers, share of a core",
        "%",
        AtMost(0.1),
        Some(5.5),
        Some(5.2),
    ),
    row(
        "idle.cpu.control-plane",
        "  control plane with DNS",
        "%",
        Goal::None,
        None,
        None,
    ),
    row("idle.cpu.syncer", "  syncer", "%", Goal::None, None, None),
    row(
        "host.memory",
        "embedded host: supervisor, control plane, node agent, PSS",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "host.memory.all",
        "  with containerd and its shims, PSS",
        "MiB",
        Goal::None,
        None,
        None,
    ),
    row(
        "pods.created.p50",
        "virtual pod created to host pod visible, p50",
        "ms",
        AtMost(10.0),
        None,
        Some(75.0),
    ),
    row("pods.created.p99", "  p99", "ms", AtMost(20.0), None, None),
    row(
        "pods.running.p50",
        "host pod Running to virtual pod Running, p50",
        "ms",
        AtMost(10.0),
        None,
        None,
    ),
    row("pods.running.p99", "  p99", "ms", AtMost(20.0), None, None),
    row(
        "writes.1",
        "durable creates of 1-KiB ConfigMaps, 1 connection",
        "1/s",
        AtLeast(1650.0),
        Some(330.0),
        Some(273.0),
    ),
    row(
        "writes.8",
        "  8 connections",
        "1/s",
        AtLeast(4325.0),
        Some(865.0),
        Some(555.0),
    ),
    row(
        "writes.32",
        "  32 connections",
        "1/s",
        AtLeast(6155.0),
        Some(1231.0),
        Some(677.0),
    ),
    row(
        "reads.1",
        "gets, 1 connection",
        "1/s",
        AtLeast(5008.0),
        Some(626.0),
        Some(424.0),
    ),
    row(
        "reads.8",
        "  8 connections",
        "1/s",
        AtLeast(17040.0),
        Some(2130.0),
        Some(941.0),
    ),
    row(
        "reads.32",
        "  32 connections",
        "1/s",
        AtLeast(20064.0),
        Some(2508.0),
        Some(1059.0),
    ),
    row(
        "list.total",
        "list of 20,000 of them, all bytes",
        "ms",
        AtMost(40.0),
        Some(203.0),
        None,
    ),
    row(
        "list.first",
        "  first byte",
        "ms",
        AtMost(5.0),
        Some(19.0),
        None,
    ),
    row("list.size", "  size", "MB", Goal::None, Some(28.0), None),
    row(
        "list.growth",
        "  growth of memory meanwhile, times the size",
        "x",
        AtMost(2.0),
        None,
        None,
    ),
    row(
        "watch.p50",
        "create sent to event seen, 100 watchers, 20 creates/s, p50",
        "ms",
        AtMost(2.0),
        Some(6.7),
        Some(9.3),
    ),
    row(
        "watch.p99",
        "  p99",
        "ms",
        AtMost(5.0),
        Some(11.8),
        Some(16.4),
    ),
    row(
        "loaded.memory",
        "memory after 20,000 objects and this load, PSS",
        "MiB",
        AtMost(120.0),
        Some(968.0),
        Some(820.0),
    ),
    row(
        "loaded.anonymous",
        "  without mapped files",
        "MiB",
        Goal::None,
        None,
        None,
    ),
];

/// The figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<(&'static Row, f64)>,
}

impl Report {
    /// Records a figure, in the unit of its row, and tells it.
    pub fn add(&mut self, name: &str, value: f64) {
        let Some(row) = ROWS.iter().find(|row| row.name == name) else {
            crate::say(&format!("{name}: {value} (in no row of the table)"));
            return;
        };
        crate::say(&format!("{name}: {} {}", short(value), row.unit));
        self.figures.retain(|(known, _)| known.name != name);
        self.figures.push((row, value));
    }

    fn sorted(&self) -> Vec<(&'static Row, f64)> {
        let measured = |row: &Row| self.figures.iter().find(|(r, _)| r.name == row.name);
        ROWS.iter().filter_map(measured).copied().collect()
    }

    /// A table for people, in Markdown.
    pub fn table(&self) -> String {
        let mut lines =
            vec![["figure", "measured", "goal", "", "stock", "vcluster"].map(str::to_owned)];
        for (row, value) in self.sorted() {
            let other = |figure: Option<f64>| figure.map_or("-".to_owned(), short);
            let (goal, met) = match row.goal {
                AtMost(limit) => (format!("<= {}", short(limit)), value <= limit),
                AtLeast(limit) => (format!(">= {}", short(limit)), value >= limit),
                Goal::None => ("-".to_owned(), true),
            };
            lines.push([
                row.what.to_owned(),
                format!("{} {}", short(value), row.unit),
                goal,
                if met { "" } else { "missed" }.to_owned(),
                other(row.stock),
                other(row.vcluster),
            ]);
        }
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
        let widths: Vec<usize> = (0..6).map(|c| width(c).unwrap_or_default()).collect();
        let mut text = String::new();
        for (index, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths);
            let cells: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
            if index == 0 {
                let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
                text.push_str(&format!("| {} |\n", rule.join(" | ")));
            }
        }
        text
    }

    /// The same as data: an object of figures by name.
    pub fn json(&self) -> String {
        let figures = self.sorted().into_iter().map(|(row, value)| {
            let (goal, met) = match row.goal {
                AtMost(limit) => (json!({"atMost": limit}), json!(value <= limit)),
                AtLeast(limit) => (json!({"atLeast": limit}), json!(value >= limit)),
                Goal::None => (Value::Null, Value::Null),
            };
            let figure = json!({
                "what": row.what.trim(), "unit": row.unit, "value": value, "goal": goal,
                "met": met, "stock": row.stock, "vcluster": row.vcluster,
            });
            (row.name.to_owned(), figure)
        });
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "loadAverage": load.split_whitespace().next(),
            "figures": figures.collect::<serde_json::Map<_, _>>(),
        });
        format!("{value:#}\n")
    }
}

/// Three significant digits, or all before the point.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let mut names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn the_table_judges_by_the_goal() {
        let mut report = Report::default();
        report.add("writes.1", 100.0);
        report.add("start.ready", 0.0512);
        let table = report.table();
        let lines: Vec<&str> = table.lines().skip(2).collect();
        assert!(
            lines[0].contains("0.051 s") && !lines[0].contains("missed"),
            "{table}"
        );
        assert!(
            lines[1].contains("100 1/s") && lines[1].contains("missed"),
            "{table}"
        );
        let data: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(data["figures"]["writes.1"]["met"], false);
        assert_eq!(data["figures"]["start.ready"]["goal"]["atMost"], 0.15);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0512, 2.0, 2.345, 25.06, 1650.4].map(short),
            ["0.051", "2", "2.35", "25.1", "1650"]
        );
    }
}
