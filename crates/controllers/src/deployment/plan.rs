//! What to do about a deployment: pure, from what was observed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::Error;
use crate::hash;
use crate::objects::apps::{Deployment, DeploymentStatus, ReplicaSet, created, template};
use crate::objects::{Condition, Kind, Meta, condition, controller_reference};

use super::history::{DESIRED, MAX, missing_annotations, revision, surplus};
use super::{rollout, status};

/// Label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// A replica set with the size it is to have.
pub(super) struct Set<'a> {
    pub object: Cow<'a, ReplicaSet>,
    pub replicas: i32,
}

impl<'a> Set<'a> {
    fn observed(object: &'a ReplicaSet) -> Self {
        Self {
            object: Cow::Borrowed(object),
            replicas: object.spec.replicas.unwrap_or(1),
        }
    }

    fn name(&self) -> &str {
        &self.object.metadata.name
    }
}

/// One write to a replica set; `message` goes into an event.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Create {
        name: String,
        body: Value,
        message: Option<String>,
    },
    Patch {
        name: String,
        patch: Value,
        message: Option<String>,
    },
    Delete {
        name: String,
        uid: String,
    },
}

/// What to write, in this order: steps, revision, status.
pub(super) struct Plan {
    pub steps: Vec<Step>,
    /// The revision that the deployment is at.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub look_again: Option<Duration>,
}

impl Plan {
    /// Shows that the new replica set could not be created.
    pub(super) fn fail(&mut self, message: &str, now: Timestamp) {
        let message = format!("Failed to create new replica set: {message}");
        let reason = "ReplicaSetCreateError";
        status::set(
            &mut self.status,
            "Progressing",
            "False",
            reason,
            message,
            now,
        );
    }
}

/// Whether two templates are the same, but for the label that tells them apart.
pub(super) fn same_template(a: &Value, b: &Value) -> bool {
    without_hash(a) == without_hash(b)
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH_LABEL);
    }
    // An absent time and a null one are the same template.
    if let Some(metadata) = template["metadata"].as_object_mut()
        && metadata
            .get("creationTimestamp")
            .is_some_and(Value::is_null)
    {
        metadata.remove("creationTimestamp");
    }
    template
}

/// Decides the next writes.
pub(super) fn plan(
    deployment: &Deployment,
    wanted: &Value,
    sets: &[Arc<ReplicaSet>],
    now: Timestamp,
) -> Result<Plan, Error> {
    let mut all: Vec<Set<'_>> = sets.iter().map(|set| Set::observed(set)).collect();
    all.sort_by(|a, b| {
        let key = |set: &Set<'_>| (created(&set.object.metadata), set.name().to_owned());
        key(a).cmp(&key(b))
    });
    let mut position = None;
    for (n, set) in all.iter().enumerate() {
        if same_template(&template(set.object.spec.template.as_deref())?, wanted) {
            position = Some(n);
            break;
        }
    }
    let new = position.map(|n| all.remove(n));
    let mut planner = Planner {
        deployment,
        wanted,
        now,
        new,
        old: all,
        plan: empty(deployment),
    };
    planner.run();
    Ok(planner.plan)
}

fn empty(deployment: &Deployment) -> Plan {
    Plan {
        steps: Vec::new(),
        revision: None,
        status: deployment.status.clone(),
        look_again: None,
    }
}

struct Planner<'a> {
    deployment: &'a Deployment,
    wanted: &'a Value,
    now: Timestamp,
    new: Option<Set<'a>>,
    old: Vec<Set<'a>>,
    plan: Plan,
}

impl Planner<'_> {
    fn run(&mut self) {
        if self.deployment.metadata.is_deleting() {
            return self.finish(false);
        }
        let scaled = self
            .new
            .iter()
            .chain(&self.old)
            .any(|set| rollout::was_scaled(self.deployment, set));
        if self.deployment.spec.paused || scaled {
            if self.new.is_some() {
                self.adopt_new();
            }
            self.scale();
            self.emit_sizes();
            if self.deployment.spec.paused {
                self.forget();
            }
            return self.finish(false);
        }
        if rollout::is_recreate(self.deployment) {
            self.recreate();
        } else {
            self.roll();
        }
        self.finish(true);
    }

    /// Brings the newest set's annotations and revision up to date.
    fn adopt_new(&mut self) {
        let Some(new) = &self.new else { return };
        let newest = self.next_revision();
        let missing = missing_annotations(
            self.deployment,
            Some(&new.object.metadata),
            newest,
            self.annotated_sizes(),
        );
        let current = revision(&new.object.metadata);
        self.plan.revision = Some(newest.max(current).to_string());
        let ready_differs =
            new.object.spec.min_ready_seconds != self.deployment.spec.min_ready_seconds;
        if missing.is_empty() && !ready_differs {
            return;
        }
        let patch = json!({
            "metadata": {"annotations": missing},
            "spec": {"minReadySeconds": self.deployment.spec.min_ready_seconds},
        });
        let patch = preconditioned(patch, &new.object.metadata);
        self.plan.steps.push(Step::Patch {
            name: new.name().to_owned(),
            patch,
            message: None,
        });
    }

    fn next_revision(&self) -> i64 {
        self.old
            .iter()
            .map(|set| revision(&set.object.metadata))
            .max()
            .unwrap_or(0)
            + 1
    }

    fn annotated_sizes(&self) -> (i32, i32) {
        let desired = rollout::replicas(self.deployment);
        (
            desired,
            desired.saturating_add(rollout::limits(self.deployment).surge),
        )
    }

    fn create_new(&mut self) {
        let collisions = self.deployment.status.collision_count.unwrap_or(0);
        let hash = hash::name(&without_hash(self.wanted), collisions);
        let name = format!("{}-{hash}", self.deployment.metadata.name);
        let mut template = self.wanted.clone();
        template["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
        let mut selector =
            serde_json::to_value(&self.deployment.spec.selector).unwrap_or_else(|_| json!({}));
        selector["matchLabels"][HASH_LABEL] = hash.as_str().into();
        let old_total = self
            .old
            .iter()
            .map(|set| set.replicas)
            .fold(0, i32::saturating_add);
        let replicas = rollout::new_replicas(self.deployment, old_total, 0);
        let revision = self.next_revision();
        let annotations =
            missing_annotations(self.deployment, None, revision, self.annotated_sizes());
        let owner = controller_reference(Deployment::RESOURCE, &self.deployment.metadata);
        let body = json!({
            "metadata": {
                "name": name, "namespace": self.deployment.metadata.namespace,
                "labels": template["metadata"]["labels"], "annotations": annotations,
                "ownerReferences": [owner.to_value()],
            },
            "spec": {
                "replicas": replicas, "minReadySeconds": self.deployment.spec.min_ready_seconds,
                "selector": selector, "template": template,
            },
        });
        let message =
            (replicas > 0).then(|| format!("Scaled up replica set {name} from 0 to {replicas}"));
        let text = format!("Created new replica set \"{name}\"");
        status::set(
            &mut self.plan.status,
            "Progressing",
            "True",
            "NewReplicaSetCreated",
            text,
            self.now,
        );
        self.plan.revision = Some(revision.to_string());
        self.plan.steps.push(Step::Create {
            name: name.clone(),
            body,
            message,
        });
        // From here on it counts as there, with no pod yet.
        let object = ReplicaSet {
            metadata: Meta {
                name,
                ..Meta::default()
            },
            ..ReplicaSet::default()
        };
        self.new = Some(Set {
            object: Cow::Owned(object),
            replicas,
        });
    }

    fn ensure_new(&mut self) -> bool {
        if let Some(new) = &self.new {
            if condition(&self.plan.status.conditions, "Progressing").is_none() {
                let text = format!("Found new replica set \"{}\"", new.name());
                let reason = "FoundNewReplicaSet";
                status::set(
                    &mut self.plan.status,
                    "Progressing",
                    "True",
                    reason,
                    text,
                    self.now,
                );
            }
            self.adopt_new();
            return false;
        }
        self.create_new();
        true
    }

    fn roll(&mut self) {
        if self.ensure_new() {
            return;
        }
        let old_total = self
            .old
            .iter()
            .map(|set| set.replicas)
            .fold(0, i32::saturating_add);
        let Some(new) = &mut self.new else { return };
        let before = new.replicas;
        new.replicas = rollout::new_replicas(self.deployment, old_total, before);
        if new.replicas == before && !rollout::shrink_old(self.deployment, new, &mut self.old) {
            return self.complete();
        }
        self.emit_sizes();
    }

    fn recreate(&mut self) {
        if self.old.iter().any(|set| set.replicas > 0) {
            for set in &mut self.old {
                set.replicas = 0;
            }
            if self.new.is_some() {
                self.adopt_new();
            }
            return self.emit_sizes();
        }
        // Old pods must be gone, not only unwanted, before new ones start.
        let running = self.old.iter().any(|set| {
            let status = &set.object.status;
            status.replicas > 0 || status.terminating_replicas.unwrap_or(0) > 0
        });
        if running {
            return;
        }
        if self.ensure_new() {
            return;
        }
        let wanted = rollout::replicas(self.deployment);
        if let Some(new) = self.new.as_mut().filter(|new| new.replicas != wanted) {
            new.replicas = wanted;
            return self.emit_sizes();
        }
        self.complete();
    }

    /// Once the rollout is done, forgets what the history limit says.
    fn complete(&mut self) {
        let counted = status::count(self.deployment, self.new.as_ref(), &self.old, self.now);
        if status::is_complete(self.deployment, &counted) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        for set in surplus(self.deployment, &self.old) {
            self.plan.steps.push(Step::Delete {
                name: set.name().to_owned(),
                uid: set.object.metadata.uid.clone(),
            });
        }
    }

    /// Sizes replica sets after the deployment was scaled or while it pauses.
    fn scale(&mut self) {
        let wanted = rollout::replicas(self.deployment);
        let active = self
            .old
            .iter()
            .chain(&self.new)
            .filter(|set| set.replicas > 0)
            .count();
        if active <= 1 {
            let only = self
                .old
                .iter_mut()
                .chain(&mut self.new)
                .find(|set| set.replicas > 0);
            if let Some(set) = only {
                set.replicas = wanted;
            } else if let Some(new) = &mut self.new {
                new.replicas = wanted;
            } else if let Some(newest) = self.old.last_mut() {
                newest.replicas = wanted;
            }
            return;
        }
        if self
            .new
            .as_ref()
            .is_some_and(|new| rollout::is_saturated(self.deployment, new))
        {
            for set in &mut self.old {
                set.replicas = 0;
            }
            return;
        }
        if !rollout::is_recreate(self.deployment) {
            let newest_first = self.new.iter_mut().chain(self.old.iter_mut().rev());
            let mut sets: Vec<&mut Set<'_>> = newest_first.filter(|set| set.replicas > 0).collect();
            rollout::proportional(self.deployment, &mut sets);
        }
    }

    /// Turns changed sizes into patches, and notes the sizes they stem from.
    fn emit_sizes(&mut self) {
        let (desired, max) = self.annotated_sizes();
        for set in self.new.iter().chain(&self.old) {
            let meta = &set.object.metadata;
            let before = set.object.spec.replicas.unwrap_or(1);
            let noted = meta.annotation(DESIRED) == Some(&desired.to_string())
                && meta.annotation(MAX) == Some(&max.to_string());
            let unsized_but_used = set.replicas > 0 && !noted;
            if before == set.replicas && !unsized_but_used {
                continue;
            }
            let patch = json!({
                "metadata": {"annotations": {
                    DESIRED: desired.to_string(), MAX: max.to_string(),
                }},
                "spec": {"replicas": set.replicas},
            });
            let message = (before != set.replicas).then(|| {
                let direction = if set.replicas > before { "up" } else { "down" };
                format!(
                    "Scaled {direction} replica set {} from {before} to {}",
                    set.name(),
                    set.replicas
                )
            });
            let name = set.name().to_owned();
            merge_step(
                &mut self.plan.steps,
                name,
                preconditioned(patch, meta),
                message,
            );
        }
    }

    fn finish(&mut self, rolling: bool) {
        let progressing: Vec<Condition> = self.plan.status.conditions.clone();
        let mut counted = status::count(self.deployment, self.new.as_ref(), &self.old, self.now);
        // What was set on the way (a new replica set, say) stays.
        for condition in progressing
            .into_iter()
            .filter(|it| it.kind == "Progressing")
        {
            counted
                .conditions
                .retain(|other| other.kind != condition.kind);
            counted.conditions.push(condition);
        }
        status::pause(self.deployment, &mut counted, self.now);
        if rolling {
            status::inherit_failure(&mut counted, self.new.as_ref(), &self.old);
            let name = self.new.as_ref().map(|new| new.name().to_owned());
            self.plan.look_again =
                status::progress(self.deployment, &mut counted, name.as_deref(), self.now);
        }
        self.plan.status = counted;
    }
}

fn preconditioned(mut patch: Value, meta: &Meta) -> Value {
    patch["metadata"]["uid"] = meta.uid.as_str().into();
    patch["metadata"]["resourceVersion"] = meta.resource_version.as_str().into();
    patch
}

/// One patch per replica set: a second with the same precondition would fail.
fn merge_step(steps: &mut Vec<Step>, name: String, patch: Value, message: Option<String>) {
    for step in steps.iter_mut() {
        if let Step::Patch {
            name: other,
            patch: earlier,
            message: earlier_message,
        } = step
            && *other == name
        {
            if let (Some(into), Some(from)) = (
                earlier["metadata"]["annotations"].as_object_mut(),
                patch["metadata"]["annotations"].as_object(),
            ) {
                into.extend(from.clone());
            }
            earlier["spec"]["replicas"] = patch["spec"]["replicas"].clone();
            *earlier_message = message.or(earlier_message.take());
            return;
        }
    }
    steps.push(Step::Patch {
        name,
        patch,
        message,
    });
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
