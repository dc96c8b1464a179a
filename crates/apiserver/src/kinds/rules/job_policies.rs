//! What a Job says about the failure and success of its pods.

use std::collections::BTreeSet;

use coracle_machinery::names::qualified_name_errors;
use coracle_machinery::{FieldError, FieldErrorKind, FieldPath};
use serde_json::Value;

use super::text::{check, domain_prefixed_path};
use super::{Errors, given, list, non_negative, str_at, too_many};

/// Upstream's bounds for the parts of policies.
const MAX_RULES: usize = 20;
const MAX_CONDITIONS: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_INDEXES_TEXT: usize = 64 * 1024;
/// Longest name of who manages a job.
const MAX_MANAGED_BY: usize = 63;
/// Most pods at a time, and most failed indexes, of an indexed job.
const MAX_INDEXED: i64 = 100_000;
/// The same for indexed jobs with more completions than `MAX_INDEXED`.
const MAX_INDEXED_OF_MANY: i64 = 10_000;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];

/// `podFailurePolicy`, `successPolicy`, `podReplacementPolicy` and what goes
/// with them in the spec of a Job at `path`.
pub(super) fn policies(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    if let Some(manager) = spec["managedBy"].as_str() {
        let at = path.child("managedBy");
        domain_prefixed_path(errors, &at, manager);
        if manager.len() > MAX_MANAGED_BY {
            errors.push(too_long(&at, MAX_MANAGED_BY));
        }
    }
    if spec["completionMode"] == "Indexed" {
        indexed(errors, spec, path);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if given(spec, key) {
                let detail = "requires indexed completion mode";
                let value = spec[key].clone();
                errors.push(FieldError::invalid(&path.child(key), value, detail));
            }
        }
    }
    if given(spec, "maxFailedIndexes") && !given(spec, "backoffLimitPerIndex") {
        let at = path.child("backoffLimitPerIndex");
        errors.push(FieldError::required(
            &at,
            "when maxFailedIndexes is specified",
        ));
    }
    if given(spec, "podFailurePolicy") {
        failure_policy(errors, spec, &path.child("podFailurePolicy"));
    }
    let replacement = str_at(spec, "podReplacementPolicy");
    let allowed: &[&str] = match given(spec, "podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    if given(spec, "podReplacementPolicy") && !allowed.contains(&replacement) {
        let at = path.child("podReplacementPolicy");
        errors.push(FieldError::not_supported(&at, replacement, allowed));
    }
}

fn too_long(path: &FieldPath, most: usize) -> FieldError {
    FieldError {
        kind: FieldErrorKind::TooLong,
        path: path.clone(),
        value: None,
        detail: format!("may not be more than {most} bytes"),
    }
}

fn indexed(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let number = |key: &str| spec[key].as_i64();
    let completions = number("completions");
    let mut at_most = |key: &str, most: i64, behind: &str| {
        if let Some(value) = number(key).filter(|value| *value > most) {
            let detail = format!("must be less than or equal to {most}{behind}");
            errors.push(FieldError::invalid(&path.child(key), value, detail));
        }
    };
    at_most(
        "parallelism",
        MAX_INDEXED,
        " when completion mode is Indexed",
    );
    at_most("maxFailedIndexes", MAX_INDEXED, "");
    let many = completions.is_some_and(|c| c > MAX_INDEXED) && given(spec, "backoffLimitPerIndex");
    if many {
        let behind = format!(
            " when completions are above {MAX_INDEXED} and used with backoff limit per index"
        );
        at_most("parallelism", MAX_INDEXED_OF_MANY, &behind);
        at_most("maxFailedIndexes", MAX_INDEXED_OF_MANY, &behind);
    }
    let at = path.child("maxFailedIndexes");
    if many && !given(spec, "maxFailedIndexes") {
        let detail = format!("must be specified when completions is above {MAX_INDEXED}");
        errors.push(FieldError::required(&at, detail));
    }
    if let (Some(failed), Some(completions)) = (number("maxFailedIndexes"), completions)
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(&at, failed, detail));
    }
    if given(spec, "successPolicy") {
        let at = path.child("successPolicy").child("rules");
        let rules = list(&spec["successPolicy"], "rules");
        if rules.is_empty() {
            let detail = "at least one rules must be specified when the successPolicy is specified";
            errors.push(FieldError::required(&at, detail));
        }
        too_many(errors, rules, MAX_RULES, &at);
        for (index, rule) in rules.iter().enumerate() {
            success_rule(errors, rule, completions.unwrap_or(0), &at.index(index));
        }
    }
}

fn success_rule(errors: &mut Errors, rule: &Value, completions: i64, path: &FieldPath) {
    let (count, indexes) = (
        rule["succeededCount"].as_i64(),
        rule["succeededIndexes"].as_str(),
    );
    if count.is_none() && indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = None;
    if let Some(text) = indexes {
        let at = path.child("succeededIndexes");
        if text.len() > MAX_INDEXES_TEXT {
            errors.push(too_long(&at, MAX_INDEXES_TEXT));
            return;
        }
        match count_indexes(text, completions) {
            Ok(number) => total = Some(number),
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(&at, text, detail));
                total = Some(0);
            }
        }
    }
    non_negative(errors, rule, "succeededCount", path);
    let Some(count) = count else {
        return;
    };
    for (most, what) in [
        (Some(completions), "the number of specified completions"),
        (
            total,
            "the number of indexes in the specified succeededIndexes field",
        ),
    ] {
        if let Some(most) = most.filter(|most| count > *most) {
            let detail = format!("must be less than or equal to {most} ({what})");
            let at = path.child("succeededCount");
            errors.push(FieldError::invalid(&at, count, detail));
        }
    }
}

/// How many indexes a text such as `1,3-5` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = |text: &str| -> Result<i64, String> {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: \"{text}\""))?;
        match index < completions {
            true => Ok(index),
            false => Err(format!("too large index: \"{text}\"")),
        }
    };
    let rising = |before: i64, index: i64| match before < index {
        true => Ok(()),
        false => Err(format!(
            "non-increasing order, previous: {before}, current: {index}"
        )),
    };
    let (mut total, mut last) = (0, None);
    for part in text.split(',') {
        let mut ends = part.split('-');
        let (first, end) = (ends.next().unwrap_or_default(), ends.next());
        if ends.next().is_some() {
            return Err(format!(
                "the fragment \"{part}\" violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = number(first)?;
        let end = match end {
            Some(end) => {
                let end = number(end)?;
                rising(first, end)?;
                end
            }
            None => first,
        };
        if let Some(last) = last {
            rising(last, first)?;
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn failure_policy(errors: &mut Errors, spec: &Value, path: &FieldPath) {
    let at = path.child("rules");
    let rules = list(&spec["podFailurePolicy"], "rules");
    too_many(errors, rules, MAX_RULES, &at);
    let pod = &spec["template"]["spec"];
    let containers: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|key| list(pod, key))
        .map(|container| str_at(container, "name"))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        match str_at(rule, "action") {
            "FailIndex" if !given(spec, "backoffLimitPerIndex") => {
                let detail = "requires the backoffLimitPerIndex to be set";
                errors.push(FieldError::invalid(
                    &at.child("action"),
                    "FailIndex",
                    detail,
                ));
            }
            action => needed_of(errors, action, ACTIONS, &at.child("action")),
        }
        let codes = &rule["onExitCodes"];
        let conditions = list(rule, "onPodConditions");
        if !codes.is_null() {
            exit_codes(errors, codes, &containers, &at.child("onExitCodes"));
        }
        pod_conditions(errors, conditions, &at.child("onPodConditions"));
        let detail = match (codes.is_null(), conditions.is_empty()) {
            (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError {
            value: None,
            ..FieldError::invalid(&at, Value::Null, detail)
        });
    }
}

/// An error unless the text is one of `allowed`.
fn needed_of(errors: &mut Errors, text: &str, allowed: &[&str], path: &FieldPath) {
    if text.is_empty() {
        let quoted: Vec<String> = allowed.iter().map(|v| format!("\"{v}\"")).collect();
        let detail = format!("valid values: [{}]", quoted.join(" "));
        errors.push(FieldError::required(path, detail));
    } else if !allowed.contains(&text) {
        errors.push(FieldError::not_supported(path, text, allowed));
    }
}

fn exit_codes(errors: &mut Errors, codes: &Value, names: &BTreeSet<&str>, path: &FieldPath) {
    let operator = str_at(codes, "operator");
    needed_of(errors, operator, OPERATORS, &path.child("operator"));
    if let Some(name) = codes["containerName"].as_str()
        && !names.contains(name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(
            &path.child("containerName"),
            name,
            detail,
        ));
    }
    let values = list(codes, "values");
    let path = path.child("values");
    if values.is_empty() {
        let detail = "at least one value is required";
        errors.push(FieldError::invalid(&path, values.to_vec(), detail));
    }
    too_many(errors, values, MAX_EXIT_CODES, &path);
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = BTreeSet::new();
    for (index, code) in numbers.iter().enumerate() {
        let at = path.index(index);
        if operator == "In" && *code == 0 {
            let detail = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(&at, 0, detail));
        }
        if !seen.insert(*code) {
            errors.push(FieldError::duplicate(&at, *code));
        }
    }
    if !numbers.is_sorted() {
        errors.push(FieldError::invalid(&path, numbers, "must be ordered"));
    }
}

fn pod_conditions(errors: &mut Errors, conditions: &[Value], path: &FieldPath) {
    too_many(errors, conditions, MAX_CONDITIONS, path);
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let kind = str_at(condition, "type");
        check(errors, &at.child("type"), kind, qualified_name_errors);
        needed_of(
            errors,
            str_at(condition, "status"),
            STATUSES,
            &at.child("status"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted() {
        for (text, expected) in [
            ("", Ok(0)),
            ("0", Ok(1)),
            ("1,3-5,9", Ok(5)),
            ("10", Err("too large index: \"10\"")),
            ("3-1", Err("non-increasing order, previous: 3, current: 1")),
            ("3,3", Err("non-increasing order, previous: 3, current: 3")),
            (
                "x",
                Err("cannot convert string to integer for index: \"x\""),
            ),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(count_indexes(text, 10), expected, "{text}");
        }
    }
}
