//! Reads values files: strict about keys and types, lenient about the past.

use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::model::{Config, Toggle};
use crate::{legacy, semantics, set};

/// Largest values file: a Secret, where the merged configuration is kept,
/// holds 1 MiB.
const MAX_BYTES: usize = 512 * 1024;

/// Most problems that are reported at once; more are no help.
const MAX_PROBLEMS: usize = 20;

/// Parts of a pod or service spec that go to the host as they are: any keys.
const FREE_FORM: &[&str] = &[
    "controlPlane.statefulSet.resources",
    "controlPlane.statefulSet.scheduling.affinity",
    "controlPlane.service.spec",
    "policies.resourceQuota.quota",
    "policies.limitRange.default",
    "policies.limitRange.defaultRequest",
    "policies.limitRange.max",
    "policies.limitRange.min",
];

/// Lists whose items are maps of any keys.
const FREE_ITEMS: &[&str] = &[
    "controlPlane.statefulSet.env",
    "controlPlane.statefulSet.scheduling.tolerations",
    "policies.networkPolicy.controlPlane.egress",
    "policies.networkPolicy.controlPlane.ingress",
    "policies.networkPolicy.workload.egress",
    "policies.networkPolicy.workload.ingress",
    "policies.resourceQuota.scopeSelector.matchExpressions",
];

/// Lists whose items are `{from, to}`.
const MAPPINGS: &[&str] = &[
    "networking.replicateServices.toHost",
    "networking.replicateServices.fromHost",
];

/// Keys of today's `vcluster.yaml` that this version does not carry out.
/// Switched off or empty they are accepted, since that is what happens.
const NOT_YET: &[&str] = &[
    "controlPlane.backingStore",
    "controlPlane.distro",
    "controlPlane.endpoint",
    "controlPlane.gateway",
    "controlPlane.hostPathMapper",
    "controlPlane.ingress",
    "controlPlane.serviceMonitor",
    "deploy",
    "experimental",
    "exportKubeConfig.additionalSecrets",
    "exportKubeConfig.secret",
    "exportKubeConfig.serviceAccount",
    "external",
    "integrations",
    "logging",
    "networking.resolveDNS",
    "networking.podCIDR",
    "platform",
    "plugins",
    "policies.networkPolicy.fallbackDns",
    "policies.podSecurityStandard",
    "policies.centralAdmission",
    "privateNodes",
    "rbac",
    "sleep",
    "sleepMode",
    "snapshots",
    "standalone",
    "sync.fromHost.csiDrivers",
    "sync.fromHost.csiNodes",
    "sync.fromHost.csiStorageCapacities",
    "sync.fromHost.customResources",
    "sync.fromHost.volumeSnapshotClasses",
    "sync.toHost.customResources",
    "sync.toHost.namespaces",
    "sync.toHost.persistentVolumes",
    "sync.toHost.priorityClasses",
    "sync.toHost.storageClasses",
    "sync.toHost.volumeSnapshotContents",
    "sync.toHost.volumeSnapshots",
    "telemetry",
];

/// Something the user should know, though it is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The file, as the caller named it.
    pub source: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// One thing that is wrong with a values file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it, or `--set`.
    pub source: String,
    /// The dotted path of the key; empty if the whole file is meant.
    pub path: String,
    /// What is wrong, and what would be right where that is known.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.source, self.message)
        } else {
            write!(f, "{}: {}: {}", self.source, self.path, self.message)
        }
    }
}

/// The configuration cannot be used.
#[derive(Clone, Debug, Error)]
#[error("{}", lines(.problems))]
pub struct ConfigError {
    /// Everything that is wrong, in the order of the files; never empty.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

impl Config {
    /// Merges values files, later ones over earlier ones, over the defaults.
    /// `sources` are pairs of a name for messages and the YAML text.
    pub fn from_yaml(sources: &[(&str, &str)]) -> Result<(Self, Vec<Hint>), ConfigError> {
        Self::load(sources, &[] as &[&str])
    }

    /// As [`Config::from_yaml`], and `--set` arguments over all of them.
    pub fn load(
        sources: &[(&str, &str)],
        sets: &[impl AsRef<str>],
    ) -> Result<(Self, Vec<Hint>), ConfigError> {
        let mut reader = Reader::new();
        for (source, text) in sources {
            match parse(text) {
                Ok(values) => reader.add(source, values),
                Err(message) => reader.problem(source, "", message),
            }
        }
        for argument in sets {
            let mut values = Value::Object(Map::new());
            match set::apply(&mut values, argument.as_ref()) {
                Ok(()) => reader.add("--set", values),
                Err(message) => reader.problem("--set", "", message),
            }
        }
        reader.finish()
    }

    /// The whole configuration as YAML, defaults included.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("a tree of texts, numbers and switches serialises")
    }
}

fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("larger than {MAX_BYTES} bytes"));
    }
    let blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    if text.lines().all(blank) {
        return Ok(Value::Object(Map::new()));
    }
    let options = serde_saphyr::options! { strict_booleans: true };
    let value: Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        other => Err(format!("expected a map of keys, found {}", kind(&other))),
    }
}

struct Reader {
    /// The serialised default: the shape of everything.
    shape: Value,
    merged: Value,
    hints: Vec<Hint>,
    problems: Vec<Problem>,
}

impl Reader {
    fn new() -> Self {
        let shape = serde_json::to_value(Config::default())
            .expect("a tree of texts, numbers and switches serialises");
        Self {
            merged: shape.clone(),
            shape,
            hints: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, source: &str, path: &str, message: String) {
        self.problems.push(Problem {
            source: source.to_owned(),
            path: path.to_owned(),
            message,
        });
    }

    fn add(&mut self, source: &str, mut values: Value) {
        self.hints.extend(legacy::translate(source, &mut values));
        drop_not_yet(&mut values, "");
        automatic_claim(&mut values);
        let mut found = Vec::new();
        check(&self.shape, &values, "", &mut found);
        for (path, message) in found {
            self.problem(source, &path, message);
        }
        merge(&mut self.merged, &self.shape, values, "");
    }

    fn finish(mut self) -> Result<(Config, Vec<Hint>), ConfigError> {
        if self.problems.is_empty() {
            match serde_json::from_value::<Config>(self.merged) {
                Ok(config) => {
                    semantics::check(&config, &mut self.problems);
                    if self.problems.is_empty() {
                        return Ok((config, self.hints));
                    }
                }
                Err(error) => self.problems.push(Problem {
                    source: "values".into(),
                    path: String::new(),
                    message: error.to_string(),
                }),
            }
        }
        self.problems.truncate(MAX_PROBLEMS);
        Err(ConfigError {
            problems: self.problems,
        })
    }
}

/// `enabled: auto` of the volume claim: with a store on disk there is one.
fn automatic_claim(values: &mut Value) {
    let pointer = "/controlPlane/statefulSet/persistence/volumeClaim/enabled";
    if let Some(value) = values.pointer_mut(pointer)
        && value == "auto"
    {
        *value = Value::Bool(true);
    }
}

/// Removes keys that are not carried out, where they ask for nothing.
fn drop_not_yet(values: &mut Value, path: &str) {
    if let Value::Object(map) = values {
        map.retain(|key, value| {
            let here = join(path, key);
            if NOT_YET.contains(&here.as_str()) {
                return !asks_for_nothing(value);
            }
            drop_not_yet(value, &here);
            true
        });
    }
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => {
            let off = map
                .get("enabled")
                .is_some_and(|on| *on == Value::Bool(false) || on == Toggle::AUTO);
            off || map.values().all(asks_for_nothing)
        }
    }
}

/// Compares `values` with `shape` and reports every key and type that does
/// not fit.
fn check(shape: &Value, values: &Value, path: &str, found: &mut Vec<(String, String)>) {
    if values.is_null() || FREE_FORM.contains(&path) && values.is_object() {
        return;
    }
    match (shape, values) {
        (Value::Object(known), Value::Object(given)) if known.is_empty() => {
            check_texts(given, path, found);
        }
        (Value::Object(known), Value::Object(given)) => {
            for (key, value) in given {
                let here = join(path, key);
                match known.get(key) {
                    Some(shape) => check(shape, value, &here, found),
                    None => found.push((here.clone(), unknown_key(known, key, &here))),
                }
            }
        }
        (Value::Array(_), Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                check_item(item, path, &format!("{path}[{at}]"), found);
            }
        }
        (Value::String(shape), value) if shape == Toggle::AUTO => {
            if !value.is_boolean() && value != Toggle::AUTO {
                found.push((path.to_owned(), wrong_type("true, false or auto", value)));
            }
        }
        (Value::Bool(_), Value::Bool(_)) | (Value::String(_), Value::String(_)) => {}
        (Value::Number(_), Value::Number(n)) if n.is_i64() || n.is_u64() => {}
        // A size or tag that looks like a number is meant as a text.
        (Value::String(_), Value::Number(_)) => {}
        (shape, other) => found.push((path.to_owned(), wrong_type(kind(shape), other))),
    }
}

fn check_texts(given: &Map<String, Value>, path: &str, found: &mut Vec<(String, String)>) {
    for (key, value) in given {
        if !value.is_string() {
            found.push((
                join(path, key),
                wrong_type("a text (put it in quotes)", value),
            ));
        }
    }
}

fn check_item(item: &Value, list: &str, path: &str, found: &mut Vec<(String, String)>) {
    if MAPPINGS.contains(&list) {
        let shape = serde_json::json!({"from": "", "to": ""});
        if item.is_object() {
            check(&shape, item, path, found);
        } else {
            found.push((path.to_owned(), wrong_type("a map with from and to", item)));
        }
    } else if FREE_ITEMS.contains(&list) {
        if !item.is_object() {
            found.push((path.to_owned(), wrong_type("a map", item)));
        }
    } else if !item.is_string() {
        found.push((path.to_owned(), wrong_type("a text", item)));
    }
}

fn unknown_key(known: &Map<String, Value>, key: &str, path: &str) -> String {
    let inside = |prefix: &&&str| path == **prefix || path.starts_with(&format!("{prefix}."));
    if NOT_YET.iter().any(|prefix| inside(&prefix)) {
        return "this version does not support it".to_owned();
    }
    let nearest = known
        .keys()
        .map(|candidate| (distance(candidate, key), candidate))
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + candidate.len() / 3 => {
            format!("unknown key; did you mean {candidate}?")
        }
        _ => {
            let keys: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("unknown key; known here: {}", keys.join(", "))
        }
    }
}

fn wrong_type(expected: &str, found: &Value) -> String {
    let shown = match found {
        Value::Object(_) | Value::Array(_) => String::new(),
        other => format!(" {other}"),
    };
    format!("expected {expected}, found {}{shown}", kind(found))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Edits (insert, delete, replace a letter, letter case aside) between two
/// keys.
fn distance(left: &str, right: &str) -> usize {
    // Keys are short; a tenant-sized key needs no exact answer.
    const LONGEST: usize = 64;
    let left: Vec<char> = left.to_lowercase().chars().take(LONGEST).collect();
    let right: Vec<char> = right.to_lowercase().chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// Maps are merged, everything else is replaced; null goes back to the default.
fn merge(into: &mut Value, shape: &Value, values: Value, path: &str) {
    match (into, values) {
        (Value::Object(into), Value::Object(values)) => {
            let any_keys = FREE_FORM.contains(&path);
            for (key, value) in values {
                if any_keys && value.is_null() {
                    into.remove(&key);
                    continue;
                }
                let default = shape.get(&key).unwrap_or(&Value::Null);
                let slot = into.entry(key.as_str()).or_insert(Value::Null);
                merge(slot, default, value, &join(path, &key));
            }
            let free = shape.as_object().is_none_or(Map::is_empty);
            if free {
                into.retain(|_, value| !value.is_null());
            }
        }
        (into, Value::Null) => *into = shape.clone(),
        (into, Value::Number(number)) if shape.is_string() => {
            *into = Value::String(number.to_string());
        }
        (into, value) => *into = value,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<(Config, Vec<Hint>), ConfigError> {
        Config::from_yaml(&[("values.yaml", text)])
    }

    #[test]
    fn nothing_gives_the_defaults() {
        for text in ["", "# only a comment\n", "---\n", "sync: {}", "sync:\n"] {
            let (config, hints) = load(text).expect(text);
            assert_eq!(config, Config::default(), "{text}");
            assert!(hints.is_empty());
        }
    }

    #[test]
    fn the_configuration_survives_its_own_yaml() {
        let text = "controlPlane: {service: {spec: {type: NodePort}}, proxy: {extraSANs: [a.b]}}\n\
                    sync: {toHost: {configMaps: {all: true}}}";
        let (config, _) = load(text).unwrap();
        let (again, hints) = load(&config.to_yaml()).unwrap();
        assert_eq!(config, again);
        assert!(hints.is_empty());
    }

    #[test]
    fn keys_of_the_past_are_taken_with_a_hint() {
        let text = r#"
sync:
  ingresses: {enabled: true}
  hoststorageclasses: {enabled: true}
  nodes: {enabled: true, enableScheduler: true, nodeSelector: "env=dev, zone=a"}
"#;
        let (config, hints) = load(text).unwrap();
        assert!(config.sync.to_host.ingresses.enabled);
        assert!(config.sync.from_host.ingress_classes.enabled);
        assert!(config.shows_storage_classes());
        assert!(config.sync.from_host.nodes.enabled);
        assert!(config.control_plane.advanced.virtual_scheduler.enabled);
        assert_eq!(
            config.sync.from_host.nodes.selector.labels["zone"],
            "a".to_owned()
        );
        assert_eq!(hints.len(), 5);
        assert_eq!(
            hints[1].to_string(),
            "values.yaml: sync.hoststorageclasses.enabled is a key of 0.15; \
             today it is sync.fromHost.storageClasses.enabled"
        );
    }

    #[test]
    fn problems_name_the_key_and_the_next_step() {
        let cases = [
            (
                "sync: {toHost: {pod: {enabled: true}}}",
                "v: sync.toHost.pod: unknown key; did you mean pods?",
            ),
            (
                "sync: {toHost: {pods: {enabled: 'yes'}}}",
                "v: sync.toHost.pods.enabled: expected true or false, found a text \"yes\"",
            ),
            (
                "sync: {toHost: {services: {enabled: yes}}}",
                "v: sync.toHost.services.enabled: expected true or false, found a text \"yes\"",
            ),
            ("sync: [1]", "v: sync: expected a map, found a list"),
            (
                "qqqq: 1",
                "v: qqqq: unknown key; known here: controlPlane, exportKubeConfig, networking, policies, sync",
            ),
            (
                "sync: {toHost: {namespaces: {enabled: true}}}",
                "v: sync.toHost.namespaces: this version does not support it",
            ),
            (
                "controlPlane: {proxy: {extraSANs: [1]}}",
                "v: controlPlane.proxy.extraSANs[0]: expected a text, found a number 1",
            ),
            (
                "controlPlane: {statefulSet: {labels: {a: 1}}}",
                "v: controlPlane.statefulSet.labels.a: expected a text (put it in quotes), found a number 1",
            ),
            (
                "policies: {resourceQuota: {enabled: maybe}}",
                "v: policies.resourceQuota.enabled: expected true, false or auto, found a text \"maybe\"",
            ),
            (
                "policies: {networkPolicy: {workload: {publicEgress: {cidr: 10.0.0.0, except: [x/8]}}}}",
                "values: policies.networkPolicy.workload.publicEgress.cidr: \"10.0.0.0\" is no range of addresses\n\
                 values: policies.networkPolicy.workload.publicEgress.except[0]: \"x/8\" is no range of addresses",
            ),
            (
                "mapServices: {fromVirtual: [{from: default/a, to: b/c}]}",
                "values: networking.replicateServices.toHost[0].to: expected the name of a service in the host namespace of the virtual cluster, found \"b/c\"",
            ),
            (
                "mapServices: {fromHost: [{from: default/a, to: b}]}",
                "values: networking.replicateServices.fromHost[0].to: expected namespace/name, found \"b\"",
            ),
            (
                "sync: {fromHost: {secrets: {enabled: true, mappings: {byName: {a: b/c, d/e: 'f/*'}}}}}",
                "values: sync.fromHost.secrets.mappings.byName.a: expected namespace/name, namespace/*, /name or the empty text, found \"a\"\n\
                 values: sync.fromHost.secrets.mappings.byName.d/e: expected namespace/name, found \"f/*\"",
            ),
            (
                "sync: {toHost: {pods: {enforceTolerations: ['a=b:Never']}}}",
                "values: sync.toHost.pods.enforceTolerations[0]: \"a=b:Never\" is no toleration: write key=value:Effect or key:Effect",
            ),
            ("- a", "v: expected a map of keys, found a list"),
        ];
        for (text, expected) in cases {
            let error = Config::from_yaml(&[("v", text)]).expect_err(text);
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn auto_goes_along() {
        let loaded = |text: &str| load(text).expect(text).0;
        let none = loaded("policies: {resourceQuota: {enabled: auto}}");
        assert!(!none.policies.has_quota() && !none.policies.has_limit_range());
        let both = loaded("policies: {limitRange: {enabled: true}}");
        assert!(both.policies.has_quota() && both.policies.has_limit_range());
        let one =
            loaded("policies: {limitRange: {enabled: true}, resourceQuota: {enabled: false}}");
        assert!(!one.policies.has_quota() && one.policies.has_limit_range());
        assert!(!none.shows_storage_classes());
        let scheduler = "controlPlane: {advanced: {virtualScheduler: {enabled: true}}}";
        assert!(loaded(scheduler).shows_storage_classes());
        let csi = "sync: {fromHost: {csiNodes: {enabled: auto}}}";
        assert_eq!(loaded(csi), Config::default());
        let isolated = loaded("isolation: {enabled: true}");
        assert!(isolated.policies.has_quota() && isolated.policies.network_policy.enabled);
        assert_eq!(loaded(&isolated.to_yaml()), isolated);
    }

    #[test]
    fn values_of_a_free_form_are_added_and_null_takes_one_away() {
        let text = "policies: {resourceQuota: {quota: {requests.cpu: 3, count/pods: null, a: b}}}";
        let quota = load(text).unwrap().0.policies.resource_quota.quota;
        assert_eq!(quota["requests.cpu"], "3");
        assert_eq!(quota["a"], "b");
        assert_eq!(quota["limits.cpu"], "20");
        assert!(!quota.contains_key("count/pods"));
    }

    #[test]
    fn broken_yaml_names_the_file() {
        let error = Config::from_yaml(&[("v.yaml", "a: [")]).unwrap_err();
        assert!(error.to_string().starts_with("v.yaml: "), "{error}");
    }

    #[test]
    fn switched_off_features_of_the_future_are_fine() {
        let text = "sync: {toHost: {namespaces: {enabled: false}}}\nplugins: {}\n\
                    controlPlane: {ingress: {enabled: false, host: x}}";
        assert!(load(text).is_ok());
    }

    #[test]
    fn later_files_and_sets_win() {
        let first = "controlPlane: {statefulSet: {labels: {a: b}, image: {tag: '1'}}}";
        let second = "controlPlane: {statefulSet: {labels: {c: d}, image: {tag: 1.5}}}";
        let (config, _) = Config::load(
            &[("1", first), ("2", second)],
            &["controlPlane.service.spec.type=NodePort,sync.toHost.secrets.all=true"],
        )
        .unwrap();
        let set = &config.control_plane.stateful_set;
        assert_eq!(set.labels.len(), 2);
        assert_eq!(set.image.tag, "1.5");
        assert_eq!(config.control_plane.service.spec["type"], "NodePort");
        assert!(config.sync.to_host.secrets.all);
        let error = Config::load(&[], &["a.b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--set: \"a.b\" is no assignment: write key=value"
        );
    }
}
