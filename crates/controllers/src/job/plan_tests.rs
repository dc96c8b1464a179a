use super::*;
use crate::objects::object;
use serde_json::{Value, json};

/// A job whose pods end as they are told.
struct World {
    job: Value,
    pods: Vec<Value>,
    made: usize,
    now: Timestamp,
    /// What becomes of the next pods.
    fate: fn(usize) -> &'static str,
}

impl World {
    fn new(spec: Value, fate: fn(usize) -> &'static str) -> Self {
        Self {
            job: json!({"metadata": {"name": "j", "uid": "j"}, "spec": spec}),
            pods: Vec::new(),
            made: 0,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            fate,
        }
    }

    fn step(&mut self) -> bool {
        let job: Job = object(self.job.clone());
        if job.status.is_finished() {
            return false;
        }
        let pods: Vec<Arc<Pod>> = self
            .pods
            .iter()
            .map(|pod| Arc::new(object(pod.clone())))
            .collect();
        let view = View {
            job: &job,
            pods: &pods,
            is_deleted: &|_| false,
            now: self.now,
        };
        let plan = plan(&view);
        let mut status = super::super::status_patch(&plan.status);
        status
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        let mut changed = self.job["status"] != status;
        self.job["status"] = status;
        // Released pods vanish, as if somebody tidied up at once.
        let before = self.pods.len();
        self.pods.retain(|pod| {
            !plan
                .counted
                .contains(pod["metadata"]["uid"].as_str().unwrap())
        });
        changed |= before != self.pods.len();
        for pod in &plan.delete {
            self.pods
                .retain(|it| it["metadata"]["uid"] != pod.metadata.uid.as_str());
            changed = true;
        }
        for wanted in plan.create {
            self.made += 1;
            let mut pod = json!({
                "metadata": {"uid": format!("p{}", self.made), "finalizers": [TRACKING]},
                "status": {"phase": (self.fate)(self.made)},
            });
            if let Some(index) = wanted.index {
                pod["metadata"]["annotations"][INDEX] = index.to_string().into();
            }
            if let Some(failures) = wanted.failures {
                pod["metadata"]["annotations"][INDEX_FAILURES] = failures.to_string().into();
            }
            self.pods.push(pod);
            changed = true;
        }
        // Time passes where the plan waits for it.
        if !changed && let Some(pause) = plan.look_again {
            self.now += pause;
            return true;
        }
        changed
    }

    fn settle(&mut self) -> &Value {
        for _ in 0..200 {
            if !self.step() {
                return &self.job["status"];
            }
        }
        panic!("the job does not settle: {:#}", self.job["status"]);
    }

    fn is(&self, kind: &str) -> bool {
        let conditions = self.job["status"]["conditions"].as_array();
        conditions.is_some_and(|it| {
            it.iter()
                .any(|it| it["type"] == kind && it["status"] == "True")
        })
    }
}

#[test]
fn completions_are_counted_once() {
    let spec = json!({"parallelism": 3, "completions": 7});
    let mut world = World::new(spec, |_| "Succeeded");
    let status = world.settle();
    assert_eq!(status["succeeded"], 7);
    assert_eq!(world.made, 7);
    assert!(world.is("SuccessCriteriaMet") && world.is("Complete"));
    assert!(world.job["status"]["completionTime"].is_string());
}

#[test]
fn failures_are_repeated_up_to_the_limit() {
    let spec = json!({"completions": 1, "backoffLimit": 2});
    let mut world = World::new(spec.clone(), |_| "Failed");
    assert_eq!(world.settle()["failed"], 3);
    assert!(world.is("FailureTarget") && world.is("Failed"));
    let mut world = World::new(spec, |n| if n == 3 { "Succeeded" } else { "Failed" });
    let status = world.settle();
    assert_eq!(
        (&status["failed"], &status["succeeded"]),
        (&json!(2), &json!(1))
    );
    assert!(world.is("Complete"));
}

#[test]
fn every_index_runs_to_its_own_end() {
    let spec = json!({
        "completions": 5, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1, "backoffLimit": 100,
    });
    // The third pod that is made fails, and so does its repetition.
    let mut world = World::new(spec, |n| if n == 3 { "Failed" } else { "Succeeded" });
    let status = world.settle();
    assert_eq!(status["completedIndexes"], "0-4");
    assert_eq!(status["failed"], 1);
    assert!(world.is("Complete"));
}

#[test]
fn an_index_that_keeps_failing_fails_the_job_in_the_end() {
    let spec = json!({
        "completions": 2, "parallelism": 1, "completionMode": "Indexed",
        "backoffLimitPerIndex": 0, "backoffLimit": 100,
    });
    let mut world = World::new(spec, |n| if n == 1 { "Failed" } else { "Succeeded" });
    let status = world.settle();
    assert_eq!(status["failedIndexes"], "0");
    assert_eq!(status["completedIndexes"], "1");
    assert!(world.is("Failed"));
}

#[test]
fn suspension_removes_pods_and_resumption_brings_them_back() {
    let mut world = World::new(json!({"parallelism": 2, "completions": 2}), |_| "Running");
    world.settle();
    assert_eq!(world.pods.len(), 2);
    world.job["spec"]["suspend"] = true.into();
    world.settle();
    assert!(world.pods.is_empty() && world.is("Suspended"));
    assert!(world.job["status"]["startTime"].is_null());
    world.job["spec"]["suspend"] = false.into();
    world.settle();
    assert_eq!(world.pods.len(), 2);
    assert!(!world.is("Suspended"));
}

#[test]
fn a_deadline_ends_the_job() {
    let spec = json!({"completions": 1, "activeDeadlineSeconds": 30});
    let mut world = World::new(spec, |_| "Running");
    world.settle();
    assert!(world.is("Failed") && world.pods.is_empty());
}

#[test]
fn parallelism_can_be_lowered() {
    let mut world = World::new(json!({"parallelism": 5, "completions": 9}), |_| "Running");
    world.settle();
    assert_eq!(world.pods.len(), 5);
    world.job["spec"]["parallelism"] = 2.into();
    world.settle();
    assert_eq!(world.pods.len(), 2);
}
