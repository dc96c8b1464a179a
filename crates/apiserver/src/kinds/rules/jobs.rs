//! The rules of Jobs and CronJobs.

use coracle_machinery::object::{child_map, name, uid};
use coracle_machinery::selector::LabelSelector;
use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Map, Value, json};

use super::workloads::pod_template;
use super::{
    Errors, default_field, each_mut, immutable, job_policies, map_mut, non_negative, one_of,
    pod_defaults, selectors, spec_mut, str_at,
};
use crate::kind::{Propagation, Strategy};

/// Longest name of a CronJob: its jobs append eleven characters.
const CRON_JOB_NAME_MAX: usize = 52;

/// The rules of Jobs.
pub(in crate::kinds) struct Job;
/// The rules of CronJobs.
pub(in crate::kinds) struct CronJob;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if let Some(spec) = spec_mut(object) {
            job_defaults(spec);
            if let Some(template) = spec.get_mut("template") {
                pod_defaults::template(template);
            }
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
            && labels.as_object().is_some_and(|l| !l.is_empty())
        {
            default_field(metadata, "labels", labels);
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if object["spec"]["manualSelector"] != true {
            generate_selector(object);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        selector(&mut errors, &object["spec"], &path);
        job_spec(&mut errors, &object["spec"], &path);
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let (new_spec, old_spec) = (&object["spec"], &old["spec"]);
        for key in [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ] {
            immutable(&mut errors, new_spec, old_spec, key, &path);
        }
        let elastic = new_spec["completionMode"] == "Indexed"
            && new_spec["completions"] == new_spec["parallelism"];
        if !elastic {
            immutable(&mut errors, new_spec, old_spec, "completions", &path);
        }
        let waiting = old_spec["suspend"] == true && old["status"]["startTime"].is_null();
        let fixed = |spec: &Value| {
            let mut template = spec["template"].clone();
            if waiting {
                strip_scheduling(&mut template);
            }
            json!({ "template": template })
        };
        if fixed(new_spec) != fixed(old_spec) {
            let value = new_spec["template"].clone();
            errors.push(FieldError::invalid(
                &path.child("template"),
                value,
                "field is immutable",
            ));
        }
        errors
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["status.successful"]
    }

    fn selectable_field(&self, object: &Value, _path: &str) -> String {
        object["status"]["succeeded"]
            .as_i64()
            .unwrap_or(0)
            .to_string()
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

/// Removes what a suspended job that never ran may still change.
fn strip_scheduling(template: &mut Value) {
    if let Some(metadata) = map_mut_of(template, "metadata") {
        metadata.remove("labels");
        metadata.remove("annotations");
    }
    if let Some(spec) = map_mut_of(template, "spec") {
        for key in ["nodeSelector", "tolerations", "schedulingGates", "affinity"] {
            spec.remove(key);
        }
    }
}

fn map_mut_of<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    value.get_mut(key)?.as_object_mut()
}

fn job_defaults(spec: &mut Map<String, Value>) {
    let absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        default_field(spec, "completions", 1);
    }
    default_field(spec, "parallelism", 1);
    let limit = if absent(spec, "backoffLimitPerIndex") {
        6
    } else {
        i32::MAX
    };
    default_field(spec, "backoffLimit", limit);
    default_field(spec, "completionMode", "NonIndexed");
    default_field(spec, "suspend", false);
    let replacement = if absent(spec, "podFailurePolicy") {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    default_field(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = map_mut(spec, "podFailurePolicy") {
        for rule in each_mut(policy, "rules") {
            for condition in each_mut(rule, "onPodConditions") {
                default_field(condition, "status", "True");
            }
        }
    }
}

/// The selector and labels by which a job finds exactly its own pods.
fn generate_selector(object: &mut Value) {
    let uid = uid(object).to_owned();
    let name = name(object).to_owned();
    let Some(spec) = spec_mut(object) else {
        return;
    };
    let template = spec.entry("template").or_insert(Value::Null);
    child_map(template, "metadata");
    let labels = child_map(&mut template["metadata"], "labels");
    for (key, value) in [
        ("controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.insert(key.into(), value.as_str().into());
    }
    let selector = spec.entry("selector").or_insert(Value::Null);
    child_map(selector, "matchLabels").insert(
        "batch.kubernetes.io/controller-uid".into(),
        uid.as_str().into(),
    );
}

/// A job that did not find its own pods would make new ones without end.
fn selector(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let at = path.child("selector");
    let selector = &spec["selector"];
    if !selector.is_object() {
        errors.push(FieldError::required(&at, ""));
        return;
    }
    selectors::label_selector(errors, selector, &at);
    let labels = &spec["template"]["metadata"]["labels"];
    if LabelSelector::from_value(selector).is_ok_and(|s| !s.matches(labels)) {
        errors.push(FieldError::invalid(
            &path.child("template").child("metadata").child("labels"),
            labels.clone(),
            "`selector` does not match template `labels`",
        ));
    }
}

fn job_spec(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(errors, spec, key, path);
    }
    one_of(
        errors,
        spec,
        "completionMode",
        path,
        &["Indexed", "NonIndexed"],
    );
    if spec["completionMode"] == "Indexed" && spec["completions"].is_null() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(&path.child("completions"), detail));
    }
    job_policies::policies(errors, spec, path);
    let template = &spec["template"];
    pod_template(errors, template, &path.child("template"));
    let at = path.child("template").child("spec").child("restartPolicy");
    let restart = str_at(&template["spec"], "restartPolicy");
    match restart {
        "OnFailure" | "Never" => {}
        "" | "Always" => {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            errors.push(FieldError::required(&at, detail));
        }
        other => {
            let allowed = ["OnFailure", "Never"];
            errors.push(FieldError::not_supported(&at, other, &allowed));
        }
    }
    if !spec["podFailurePolicy"].is_null() && restart != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(&at, restart, detail));
    }
}

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        let Some(spec) = spec_mut(object) else {
            return;
        };
        default_field(spec, "concurrencyPolicy", "Allow");
        default_field(spec, "suspend", false);
        default_field(spec, "successfulJobsHistoryLimit", 3);
        default_field(spec, "failedJobsHistoryLimit", 1);
        if let Some(template) = map_mut(spec, "jobTemplate")
            .and_then(|t| map_mut(t, "spec"))
            .and_then(|s| s.get_mut("template"))
        {
            pod_defaults::template(template);
        }
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let name = name(object);
        if name.len() > CRON_JOB_NAME_MAX {
            let at = FieldPath::new("metadata").child("name");
            let detail = format!("must be no more than {CRON_JOB_NAME_MAX} characters");
            errors.push(FieldError::invalid(&at, name, detail));
        }
        let schedule = str_at(spec, "schedule");
        let at = path.child("schedule");
        if schedule.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if let Err(why) = check_schedule(schedule) {
            errors.push(FieldError::invalid(&at, schedule, why));
        }
        for key in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            non_negative(&mut errors, spec, key, &path);
        }
        one_of(
            &mut errors,
            spec,
            "concurrencyPolicy",
            &path,
            &["Allow", "Forbid", "Replace"],
        );
        let at = path.child("jobTemplate").child("spec");
        job_spec(&mut errors, &spec["jobTemplate"]["spec"], &at);
        if spec["jobTemplate"]["spec"]["manualSelector"] == true {
            let detail = "must be one of: , false";
            errors.push(FieldError::invalid(
                &at.child("manualSelector"),
                true,
                detail,
            ));
        }
        errors
    }
}

/// Lowest and highest value of the five fields of a schedule.
const SCHEDULE_FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (
        1,
        12,
        &[
            "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
        ],
    ),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Checks a schedule in the five fields of cron or as `@daily` and the like.
fn check_schedule(text: &str) -> Result<(), String> {
    if text.contains("TZ") {
        return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
    }
    if let Some(word) = text.strip_prefix('@') {
        let known = [
            "yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly",
        ];
        let every = word
            .strip_prefix("every ")
            .is_some_and(|d| !d.trim().is_empty());
        return if known.contains(&word) || every {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {text}"))
        };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != SCHEDULE_FIELDS.len() {
        let (count, fields) = (
            fields.len(),
            text.split_whitespace().collect::<Vec<_>>().join(" "),
        );
        return Err(format!(
            "expected exactly 5 fields, found {count}: [{fields}]"
        ));
    }
    for (field, (low, high, names)) in fields.iter().zip(SCHEDULE_FIELDS) {
        for part in field.split(',') {
            check_schedule_part(part, low, high, names)?;
        }
    }
    Ok(())
}

fn check_schedule_part(part: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        if let Some(at) = names.iter().position(|n| text.eq_ignore_ascii_case(n)) {
            return Ok(low + u32::try_from(at).unwrap_or_default());
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}"))
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if matches!(range, "*" | "?") {
        return Ok(());
    }
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if first < low {
        return Err(format!(
            "beginning of range ({first}) below minimum ({low}): {part}"
        ));
    }
    if last > high {
        return Err(format!(
            "end of range ({last}) above maximum ({high}): {part}"
        ));
    }
    if first > last {
        return Err(format!(
            "beginning of range ({first}) beyond end of range ({last}): {part}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-3 1,2 jan mon-fri",
            "@daily",
            "@every 1h",
            "0 0 * * 0",
        ] {
            assert_eq!(check_schedule(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "a * * * *",
            "*/0 * * * *",
            "@x",
            "TZ=UTC * * * * *",
        ] {
            assert!(check_schedule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_gets_a_selector_of_its_own() {
        let mut job = json!({
            "metadata": {"name": "j", "uid": "u"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        });
        Job.default(&mut job);
        Job.prepare_for_create(&mut job);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"]["job-name"],
            "j"
        );
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert!(Job.validate(&job).is_empty(), "{:?}", Job.validate(&job));
        // What the user adds to the selector has to be on the pods.
        let mut other = job.clone();
        other["spec"]["selector"]["matchLabels"]["a"] = json!("b");
        let errors = Job.validate(&other);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0]
                .to_string()
                .ends_with("`selector` does not match template `labels`")
        );
        let mut changed = job.clone();
        changed["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        assert_eq!(Job.validate_update(&changed, &job).len(), 1);
    }
}
