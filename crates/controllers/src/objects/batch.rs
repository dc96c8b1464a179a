//! Jobs, cron jobs and disruption budgets.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{PodFailurePolicy, SuccessPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Condition, Meta, condition, kind, nullable};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Job {
    pub metadata: Meta,
    pub spec: JobSpec,
    pub status: JobStatus,
}
kind!(Job, "batch", "v1", "Job", "jobs", true);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobSpec {
    pub parallelism: Option<i32>,
    pub completions: Option<i32>,
    pub active_deadline_seconds: Option<i64>,
    pub backoff_limit: Option<i32>,
    pub backoff_limit_per_index: Option<i32>,
    pub max_failed_indexes: Option<i32>,
    pub completion_mode: Option<String>,
    pub suspend: bool,
    pub selector: LabelSelector,
    pub template: Option<Box<RawValue>>,
    pub ttl_seconds_after_finished: Option<i64>,
    pub pod_failure_policy: Option<PodFailurePolicy>,
    pub success_policy: Option<SuccessPolicy>,
    pub pod_replacement_policy: Option<String>,
    pub managed_by: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobStatus {
    pub active: i32,
    pub succeeded: i32,
    pub failed: i32,
    pub ready: Option<i32>,
    pub terminating: Option<i32>,
    pub start_time: Option<Timestamp>,
    pub completion_time: Option<Timestamp>,
    pub completed_indexes: String,
    pub failed_indexes: Option<String>,
    pub uncounted_terminated_pods: Option<Uncounted>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}

/// Pods that ended and still hold the finalizer, by uid.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Uncounted {
    #[serde(deserialize_with = "nullable")]
    pub succeeded: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub failed: Vec<String>,
}

impl JobStatus {
    pub(crate) fn has(&self, kind: &str) -> bool {
        condition(&self.conditions, kind).is_some_and(Condition::is_true)
    }

    /// Complete or failed, for good.
    pub(crate) fn is_finished(&self) -> bool {
        self.has("Complete") || self.has("Failed")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CronJob {
    pub metadata: Meta,
    pub spec: CronJobSpec,
    pub status: CronJobStatus,
}
kind!(CronJob, "batch", "v1", "CronJob", "cronjobs", true);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CronJobSpec {
    pub schedule: String,
    pub time_zone: Option<String>,
    pub starting_deadline_seconds: Option<i64>,
    pub concurrency_policy: String,
    pub suspend: bool,
    pub job_template: Option<Box<RawValue>>,
    pub successful_jobs_history_limit: Option<i32>,
    pub failed_jobs_history_limit: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CronJobStatus {
    #[serde(deserialize_with = "nullable")]
    pub active: Vec<ActiveJob>,
    pub last_schedule_time: Option<Timestamp>,
    pub last_successful_time: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct ActiveJob {
    pub name: String,
    pub uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DisruptionBudget {
    pub metadata: Meta,
    pub spec: DisruptionBudgetSpec,
    pub status: DisruptionBudgetStatus,
}
kind!(
    DisruptionBudget,
    "policy",
    "v1",
    "PodDisruptionBudget",
    "poddisruptionbudgets",
    true
);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DisruptionBudgetSpec {
    pub min_available: Option<IntOrString>,
    pub max_unavailable: Option<IntOrString>,
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DisruptionBudgetStatus {
    pub observed_generation: i64,
    pub current_healthy: i32,
    pub desired_healthy: i32,
    pub expected_pods: i32,
    pub disruptions_allowed: i32,
    #[serde(deserialize_with = "nullable")]
    pub disrupted_pods: BTreeMap<String, Timestamp>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
}
