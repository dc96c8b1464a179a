use super::*;
use crate::objects::object;

/// Drives plans against a toy cluster in which replica sets obey at once.
struct World {
    deployment: Value,
    sets: Vec<Value>,
    version: i64,
    /// Whether pods of new sets become available.
    healthy: bool,
    log: Vec<String>,
    lowest: i64,
    highest: i64,
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

impl World {
    fn new(replicas: i64, strategy: Value) -> Self {
        Self {
            deployment: json!({
                "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
                "spec": {
                    "replicas": replicas, "strategy": strategy,
                    "selector": {"matchLabels": {"app": "web"}},
                    "progressDeadlineSeconds": 600,
                    "template": image("v1"),
                },
            }),
            sets: Vec::new(),
            version: 0,
            healthy: true,
            log: Vec::new(),
            lowest: i64::MAX,
            highest: 0,
        }
    }

    fn step(&mut self) -> Plan {
        let deployment: Deployment = object(self.deployment.clone());
        let sets: Vec<Arc<ReplicaSet>> = self
            .sets
            .iter()
            .map(|set| Arc::new(object(set.clone())))
            .collect();
        let wanted = template(deployment.spec.template.as_deref()).unwrap();
        let plan = plan(&deployment, &wanted, &sets, now()).unwrap();
        for step in &plan.steps {
            self.apply(step);
        }
        if let Some(revision) = &plan.revision {
            self.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] =
                revision.as_str().into();
        }
        let mut status = status::to_patch(&plan.status);
        status
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        self.deployment["status"] = status;
        plan
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create {
                name,
                body,
                message,
            } => {
                let mut set = body.clone();
                self.version += 1;
                set["metadata"]["uid"] = name.as_str().into();
                set["metadata"]["creationTimestamp"] =
                    format!("2026-01-01T00:00:{:02}Z", self.version).into();
                self.log.extend(message.clone());
                self.sets.push(set);
            }
            Step::Patch {
                name,
                patch,
                message,
            } => {
                let set = self
                    .sets
                    .iter_mut()
                    .find(|set| set["metadata"]["name"] == name.as_str());
                let set = set.expect("the set exists");
                for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
                    set["metadata"]["annotations"][key] = value.clone();
                }
                for (key, value) in patch["spec"].as_object().unwrap() {
                    set["spec"][key] = value.clone();
                }
                self.log.extend(message.clone());
            }
            Step::Delete { name, .. } => {
                self.sets
                    .retain(|set| set["metadata"]["name"] != name.as_str());
            }
        }
    }

    /// Replica sets bring their pods into line.
    fn obey(&mut self) {
        let newest = self.deployment["spec"]["template"].clone();
        let (mut total, mut available) = (0, 0);
        for set in &mut self.sets {
            let wanted = set["spec"]["replicas"].as_i64().unwrap();
            let is_new = same_template(&set["spec"]["template"], &newest);
            let up = if is_new && !self.healthy { 0 } else { wanted };
            total += wanted;
            available += up;
            set["status"] = json!({
                "replicas": wanted, "readyReplicas": up, "availableReplicas": up,
            });
        }
        self.lowest = self.lowest.min(available);
        self.highest = self.highest.max(total);
    }

    fn settle(&mut self) -> Plan {
        for _ in 0..50 {
            let before = (self.sets.clone(), self.deployment.clone());
            let plan = self.step();
            self.obey();
            if plan.steps.is_empty() && before == (self.sets.clone(), self.deployment.clone()) {
                return plan;
            }
        }
        panic!("the rollout does not settle: {:?}", self.log);
    }

    fn sizes(&self) -> Vec<i64> {
        self.sets
            .iter()
            .map(|set| set["spec"]["replicas"].as_i64().unwrap())
            .collect()
    }

    fn update(&mut self, version: &str) {
        self.deployment["spec"]["template"] = image(version);
        let generation = self.deployment["metadata"]["generation"].as_i64().unwrap();
        self.deployment["metadata"]["generation"] = (generation + 1).into();
    }

    fn reason(&self, kind: &str) -> &str {
        let conditions = self.deployment["status"]["conditions"].as_array().unwrap();
        let condition = conditions
            .iter()
            .find(|condition| condition["type"] == kind)
            .unwrap();
        condition["reason"].as_str().unwrap()
    }

    fn revision(&self) -> &str {
        self.deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
            .as_str()
            .unwrap()
    }
}

fn image(version: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": version}]},
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
           "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn the_first_replica_set() {
    let mut world = World::new(3, rolling(json!("25%"), json!("25%")));
    world.step();
    assert_eq!(world.sizes(), [3]);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetCreated");
    assert_eq!(world.reason("Available"), "MinimumReplicasUnavailable");
    let set = &world.sets[0];
    let hash = set["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(
        set["spec"]["selector"]["matchLabels"]["pod-template-hash"],
        hash
    );
    assert_eq!(
        set["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"],
        "4"
    );
    world.settle();
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "MinimumReplicasAvailable");
    assert_eq!(world.revision(), "1");
}

#[test]
fn a_rolling_update_keeps_its_limits_and_can_be_undone() {
    for (surge, unavailable, lowest, highest) in [
        (json!(1), json!(0), 10, 11),
        (json!(0), json!(2), 8, 10),
        (json!("25%"), json!("25%"), 8, 13),
    ] {
        let mut world = World::new(10, rolling(surge, unavailable));
        world.settle();
        (world.lowest, world.highest) = (i64::MAX, 0);
        world.update("v2");
        world.settle();
        assert_eq!(world.sizes(), [0, 10]);
        assert!(world.lowest >= lowest, "{} < {lowest}", world.lowest);
        assert!(world.highest <= highest, "{} > {highest}", world.highest);
        assert_eq!(world.revision(), "2");
        world.update("v1");
        world.settle();
        assert_eq!(world.sizes(), [10, 0]);
        assert_eq!(world.revision(), "3");
        let annotations = &world.sets[0]["metadata"]["annotations"];
        assert_eq!(
            annotations["deployment.kubernetes.io/revision-history"],
            "1"
        );
    }
}

#[test]
fn a_broken_template_stops_at_the_limit() {
    let mut world = World::new(4, rolling(json!(1), json!(0)));
    world.settle();
    world.healthy = false;
    world.update("broken");
    world.settle();
    assert_eq!(world.sizes(), [4, 1]);
    // Ten minutes later the deadline has passed.
    let mut deployment: Deployment = object(world.deployment.clone());
    for condition in &mut deployment.status.conditions {
        condition.last_update_time = Some(now() - jiff::SignedDuration::from_secs(601));
    }
    let sets: Vec<Arc<ReplicaSet>> = world
        .sets
        .iter()
        .map(|set| Arc::new(object(set.clone())))
        .collect();
    let wanted = template(deployment.spec.template.as_deref()).unwrap();
    let plan = plan(&deployment, &wanted, &sets, now()).unwrap();
    let progressing = condition(&plan.status.conditions, "Progressing").unwrap();
    assert_eq!(
        (progressing.status.as_str(), progressing.reason.as_str()),
        ("False", "ProgressDeadlineExceeded")
    );
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut world = World::new(10, rolling(json!(3), json!(2)));
    world.settle();
    world.healthy = false;
    world.update("broken");
    world.settle();
    assert_eq!(world.sizes(), [8, 5]);
    world.deployment["spec"]["replicas"] = 15.into();
    world.step();
    assert_eq!(world.sizes(), [11, 7]);
}

#[test]
fn recreate_waits_for_the_old_to_be_gone() {
    let mut world = World::new(2, json!({"type": "Recreate"}));
    world.settle();
    world.update("v2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.step();
    assert_eq!(world.sizes(), [0], "the old pods still run");
    world.settle();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn paused_deployments_scale_but_do_not_roll() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.settle();
    world.deployment["spec"]["paused"] = true.into();
    world.update("v2");
    world.settle();
    assert_eq!(world.sizes(), [2]);
    assert_eq!(world.reason("Progressing"), "DeploymentPaused");
    world.deployment["spec"]["replicas"] = 5.into();
    world.settle();
    assert_eq!(world.sizes(), [5]);
    world.deployment["spec"]["paused"] = false.into();
    world.settle();
    assert_eq!(world.sizes(), [0, 5]);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn history_is_limited() {
    let mut world = World::new(1, rolling(json!(1), json!(0)));
    world.deployment["spec"]["revisionHistoryLimit"] = 2.into();
    for version in ["v1", "v2", "v3", "v4", "v5"] {
        world.update(version);
        world.settle();
    }
    assert_eq!(world.sizes(), [0, 0, 1]);
    assert_eq!(world.revision(), "5");
}
