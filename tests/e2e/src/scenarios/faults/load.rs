//! A load of writes into virtual clusters, and the ledger of what was
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Cluster, Random, agree};
use crate::world::{Result, Run, World, ensure};

/// The namespace inside that is written to.
pub const NAMESPACE: &str = "load";

/// Names of each kind: few, so that each is made again soon after it went.
const NAMES: u64 = 4;

/// What is written, and how often in comparison.
pub type Mix = &'static [(&'static str, u64)];

/// What every cluster has.
pub const USUAL: Mix = &[
    ("configmap", 4),
    ("service", 2),
    ("deployment", 2),
    ("pod", 2),
];

/// How long kubectl waits for one answer.
const TIMEOUT: &str = "30s";

/// A writer that gets no answer tries again after so long.
const RETRY: Duration = Duration::from_millis(200);

/// What an object is: absent, or with this version.
type State = Option<String>;

/// Which object: virtual cluster, kind, name.
type Key = (String, String, String);

/// What is known of every object: one state if its last write was
/// acknowledged; several if a write got no answer.
pub struct Ledger {
    objects: Mutex<BTreeMap<Key, BTreeSet<State>>>,
    /// Every write and kill, for whoever looks for the cause of a failure.
    diary: Mutex<File>,
    started: Instant,
}

impl Ledger {
    /// An empty one.
    pub fn new(world: &World) -> Result<Self> {
        let path = world.work_dir.join("faults.log");
        let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self {
            objects: Mutex::default(),
            diary: Mutex::new(file),
            started: Instant::now(),
        })
    }

    /// Writes a line into the diary.
    pub fn note(&self, text: &str) {
        let at = self.started.elapsed().as_secs_f64();
        let mut file = self.diary.lock().unwrap_or_else(PoisonError::into_inner);
        // The diary helps, but proves nothing.
        let _ = writeln!(file, "{at:9.3} {text}");
    }

    fn states(&self, key: &Key) -> BTreeSet<State> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects
            .get(key)
            .cloned()
            .unwrap_or_else(|| BTreeSet::from([None]))
    }

    fn set(&self, key: &Key, states: BTreeSet<State>) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.insert(key.clone(), states);
    }

    /// Every object of the virtual cluster is as its last acknowledged write
    /// left it.
    pub fn check(&self, world: &World, cluster: &Cluster) -> Result {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kinds = "configmaps,services,deployments,pods".to_owned();
        if objects
            .keys()
            .any(|(owner, kind, _)| owner == cluster.name && kind == "library")
        {
            kinds.push_str(",libraries");
        }
        let found = cluster.items(world, &format!("{kinds} -n {NAMESPACE}"))?;
        let mut present = BTreeMap::new();
        for object in &found {
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let key = (cluster.name.to_owned(), kind, name.to_owned());
            present.insert(key, version(object));
        }
        for (key, states) in objects.iter().filter(|(key, _)| key.0 == cluster.name) {
            let seen = present.get(key).cloned();
            ensure(
                states.contains(&seen),
                &format!("{key:?} is {seen:?}, but was written as {states:?}"),
            )?;
        }
        for (key, version) in &present {
            // Pods of deployments and what every namespace has are not ours.
            let ours = !version.is_empty() && key.2.starts_with("load-");
            let one = key.1 != "pod" || key.2.split('-').count() == 2;
            ensure(
                !(ours && one) || objects.contains_key(key),
                &format!("{key:?} was never written"),
            )?;
        }
        Ok(())
    }
}

/// The label that every write changes.
fn version(object: &Value) -> String {
    object["metadata"]["labels"]["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Writes into one virtual cluster.
pub struct Worker<'a> {
    world: &'a World,
    cluster: &'a Cluster,
    ledger: &'a Ledger,
    random: Random,
    number: u64,
    acknowledged: usize,
    unsure: usize,
}

impl<'a> Worker<'a> {
    /// One that has written nothing yet.
    pub fn new(world: &'a World, cluster: &'a Cluster, ledger: &'a Ledger, seed: u64) -> Self {
        Self {
            world,
            cluster,
            ledger,
            random: Random(seed),
            number: 0,
            acknowledged: 0,
            unsure: 0,
        }
    }

    /// Writes until told to stop; returns how many writes were acknowledged
    /// and how many got no answer.
    ///
    /// # Errors
    /// As soon as an acknowledged write turns out to be lost.
    pub fn run(mut self, stop: &AtomicBool, mix: Mix) -> Result<(usize, usize)> {
        while !stop.load(Ordering::Relaxed) {
            let kind = self.random.weighted(mix);
            // What an operator makes for its objects has their names.
            let prefix = if kind == "library" { "load-l" } else { "load-" };
            let name = format!("{prefix}{}", self.random.below(NAMES));
            if !self.turn(kind, &name)? {
                std::thread::sleep(RETRY);
            }
        }
        Ok((self.acknowledged, self.unsure))
    }

    /// Makes, sees run, and removes a pod and its service.
    pub fn round_trip(&mut self, patience: Duration) -> Result {
        let name = "load-trip";
        for (kind, wanted) in [("service", true), ("pod", true)] {
            agree::within(patience, || {
                let written = self.turn_to(kind, name, wanted)?;
                ensure(written, &format!("{kind} {name} cannot be written"))
            })?;
        }
        let ready = format!("wait pod {name} -n {NAMESPACE} --for condition=Ready --timeout 5s");
        agree::within(patience, || self.cluster.kubectl(self.world, &ready))?;
        for kind in ["pod", "service"] {
            agree::within(patience, || {
                let written = self.turn_to(kind, name, false)?;
                ensure(written, &format!("{kind} {name} cannot be deleted"))
            })?;
        }
        let gone = format!("wait pod {name} -n {NAMESPACE} --for delete --timeout 5s");
        agree::within(patience, || self.cluster.kubectl(self.world, &gone)).map(drop)
    }

    /// One write; true if it was acknowledged.
    fn turn(&mut self, kind: &str, name: &str) -> Result<bool> {
        let key = self.key(kind, name);
        let Some(state) = self.resolve(&key)? else {
            return Ok(false);
        };
        match state {
            None => self.create(&key),
            Some(_) if self.random.below(2) == 0 => self.delete(&key),
            Some(_) => self.update(&key),
        }
    }

    /// Makes or deletes an object, whatever it is now.
    fn turn_to(&mut self, kind: &str, name: &str, wanted: bool) -> Result<bool> {
        let key = self.key(kind, name);
        match self.resolve(&key)? {
            Some(None) if wanted => self.create(&key),
            Some(Some(_)) if !wanted => self.delete(&key),
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    fn key(&self, kind: &str, name: &str) -> Key {
        (
            self.cluster.name.to_owned(),
            kind.to_owned(),
            name.to_owned(),
        )
    }

    /// The object's state. After a write without an answer it is read, and
    /// must be one of those possible; `None` if that gets no answer either.
    fn resolve(&mut self, key: &Key) -> Result<Option<State>> {
        let states = self.ledger.states(key);
        if states.len() == 1 {
            return Ok(states.into_iter().next());
        }
        let run = self.kubectl(&format!(
            "get {} {} -o json --ignore-not-found",
            key.1, key.2
        ));
        if run.code != 0 {
            return Ok(None);
        }
        let state = if run.out.trim().is_empty() {
            None
        } else {
            let object: Value =
                serde_json::from_str(&run.out).map_err(|e| format!("{e} in {}", run.out))?;
            if object["metadata"]["deletionTimestamp"].is_string() {
                // It was deleted, and will be gone.
                return Ok(None);
            }
            Some(version(&object))
        };
        ensure(
            states.contains(&state),
            &format!("{key:?} is {state:?}, but was written as {states:?}"),
        )?;
        self.ledger.note(&format!("{key:?} turns out as {state:?}"));
        self.ledger.set(key, BTreeSet::from([state.clone()]));
        Ok(Some(state))
    }

    fn create(&mut self, key: &Key) -> Result<bool> {
        let version = self.next();
        let manifest = manifest(&key.1, &key.2, &version);
        let file = format!("load-{}.json", self.cluster.name);
        let file = self.world.file(&file, &manifest.to_string())?;
        let arguments = format!("create -f {}", file.display());
        self.write(key, &arguments, Some(version))
    }

    fn update(&mut self, key: &Key) -> Result<bool> {
        let version = self.next();
        let arguments = format!("label {} {} version={version} --overwrite", key.1, key.2);
        self.write(key, &arguments, Some(version))
    }

    fn delete(&mut self, key: &Key) -> Result<bool> {
        let arguments = format!("delete {} {} --wait=false", key.1, key.2);
        self.write(key, &arguments, None)
    }

    fn next(&mut self) -> String {
        self.number += 1;
        format!(
            "v{}",
            self.ledger.started.elapsed().as_micros() + u128::from(self.number)
        )
    }

    fn write(&mut self, key: &Key, arguments: &str, to: State) -> Result<bool> {
        let run = self.kubectl(arguments);
        let answer = run.err.trim();
        self.ledger.note(&format!(
            "{key:?} to {to:?}: {} {}",
            run.code,
            answer.lines().last().unwrap_or_default()
        ));
        if run.code == 0 {
            self.acknowledged += 1;
            self.ledger.set(key, BTreeSet::from([to]));
            return Ok(true);
        }
        // A pod that is still stopping has its name until it is gone.
        let stopping =
            answer.contains("AlreadyExists") && answer.contains("object is being deleted");
        let pod_ends = key.1 == "pod" && answer.contains("AlreadyExists");
        if stopping || pod_ends {
            return Ok(false);
        }
        self.unsure += 1;
        let mut states = self.ledger.states(key);
        states.insert(to);
        self.ledger.set(key, states);
        Ok(false)
    }

    fn kubectl(&self, arguments: &str) -> Run {
        self.world.try_kubectl(&format!(
            "--kubeconfig {} -n {NAMESPACE} --request-timeout {TIMEOUT} {arguments}",
            self.cluster.kubeconfig
        ))
    }
}

fn manifest(kind: &str, name: &str, version: &str) -> Value {
    let labels = json!({"version": version});
    let metadata = json!({"name": name, "labels": labels});
    let pod = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "100000"],
            "envFrom": [{"configMapRef": {"name": "load-0", "optional": true}}],
        }],
    });
    match kind {
        "configmap" => json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": {"version": version}}),
        "service" => json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}}),
        "deployment" => json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod}}}),
        "library" => json!({"apiVersion": "books.example.com/v1", "kind": "Library",
            "metadata": metadata, "spec": {
                "replicas": 1,
                "podTemplate": {"spec": {"terminationGracePeriodSeconds": 0}},
                "volumeClaimTemplates": [{"metadata": {"name": "books"}, "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                    "resources": {"requests": {"storage": "1Mi"}}}}]}}),
        _ => json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}),
    }
}
