//! Reads values files: strict about keys and types, lenient about the past.

use std::fmt;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::model::Config;
use crate::shape::{self, Shape};
use crate::{legacy, refused, semantics, set};

/// Largest values file: a Secret, where the merged configuration is kept,
/// holds 1 MiB.
pub const MAX_BYTES: usize = 512 * 1024;

/// Most problems that are reported at once; more are no help.
const MAX_PROBLEMS: usize = 20;

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
        let mut values = shape::serialised(self);
        shape::name_absent(&mut values, &shape::defaults());
        serde_saphyr::to_string(&values).expect("a JSON value always serialises")
    }

    /// The values that are not the defaults, as a values file would set them.
    pub fn changes(&self) -> Value {
        let values = shape::serialised(self);
        let changes = shape::difference(&values, &shape::defaults());
        changes.unwrap_or_else(|| Value::Object(Map::new()))
    }
}

pub(crate) fn parse(text: &str) -> Result<Value, String> {
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
        other => Err(format!(
            "expected a map of keys, found {}",
            shape::kind(&other)
        )),
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
        let shape = shape::defaults();
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
        refused::drop_idle(&mut values);
        automatic_claim(&mut values);
        let mut found = Vec::new();
        Shape::of("", &self.shape).check(&values, "", &mut found);
        for (path, message) in found {
            self.problem(source, &path, message);
        }
        shape::merge(&mut self.merged, &self.shape, values, "");
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
pub(crate) fn automatic_claim(values: &mut Value) {
    let pointer = "/controlPlane/statefulSet/persistence/volumeClaim/enabled";
    if let Some(value) = values.pointer_mut(pointer)
        && value == "auto"
    {
        *value = Value::Bool(true);
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
                "v: sync.toHost.namespaces: not supported: all host objects of a virtual cluster lie in its one host namespace",
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
            (
                "{sync: {toHost: {networkPolicies: {enabled: true}}}, isolation: {enabled: true}}",
                "values: sync.toHost.networkPolicies.enabled: not together with policies.networkPolicy: \
                 what policies allow adds up on the host, so those of the tenant would open what that \
                 closes, and could not close what it opens",
            ),
            (
                "sync: {toHost: {storageClasses: {enabled: true}}, hoststorageclasses: {enabled: true}}",
                "values: sync.toHost.storageClasses.enabled: not together with \
                 sync.fromHost.storageClasses: classes are either the host's or the tenant's",
            ),
            (
                "sync: {toHost: {customResources: {deployments.apps: {enabled: true}, \
                 a.b.c: {enabled: true, scope: Cluster}, a.b.c/v1: {enabled: true}}}}",
                "values: sync.toHost.customResources[a.b.c/v1]: a custom resource flows in one version only\n\
                 values: sync.toHost.customResources[deployments.apps]: expected the plural name of a \
                 custom resource with its group, such as certificates.cert-manager.io or \
                 certificates.cert-manager.io/v1, found \"deployments.apps\"\n\
                 values: sync.toHost.customResources[a.b.c].scope: only what lies in a namespace flows to \
                 the host: the host has one place for what does not, which would be everybody's",
            ),
            (
                "sync: {fromHost: {customResources: {a.b.c: {enabled: true}, b.b.c: {enabled: true, \
                 scope: Namespaced}, c.b.c: {enabled: true, scope: Cluster, mappings: {byName: {a/b: c/d}}}}}}",
                "values: sync.fromHost.customResources[a.b.c].scope: expected Cluster or Namespaced\n\
                 values: sync.fromHost.customResources[b.b.c].mappings.byName: expected which objects of \
                 the host are shown where\n\
                 values: sync.fromHost.customResources[c.b.c].mappings: what lies in no namespace is shown \
                 under its own names",
            ),
            (
                "sync: {toHost: {customResources: {a.b.c: {enable: true}}}}",
                "v: sync.toHost.customResources[a.b.c].enable: unknown key; did you mean enabled?",
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
    fn written_out_it_means_the_same_whole_or_as_changes() {
        let text = "policies: {resourceQuota: {quota: {requests.cpu: '3', count/pods: null}}}\n\
                    sync: {toHost: {secrets: {all: true}, pods: {translateImage: {a: b}}}}\n\
                    controlPlane: {proxy: {extraSANs: [a.b]}}";
        let config = load(text).unwrap().0;
        assert_eq!(load(&config.to_yaml()).unwrap().0, config);
        let changes = config.changes();
        let expected: Value = serde_saphyr::from_str(text).unwrap();
        assert_eq!(changes, expected);
        assert_eq!(Config::default().changes(), serde_json::json!({}));
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
