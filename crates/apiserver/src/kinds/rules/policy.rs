//! The rules of disruption budgets.

use coracle_machinery::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::workloads::count_or_percent;
use super::{Errors, given, selectors};
use crate::kind::Strategy;

/// The rules of PodDisruptionBudgets.
pub(in crate::kinds) struct DisruptionBudget;

impl Strategy for DisruptionBudget {
    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        if given(spec, "minAvailable") && given(spec, "maxUnavailable") {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&path, json!({}), detail));
        }
        for key in ["minAvailable", "maxUnavailable"] {
            let at = path.child(key);
            count_or_percent(&mut errors, &spec[key], &at);
            let percent = spec[key].as_str().and_then(|t| t.strip_suffix('%'));
            if percent
                .and_then(|p| p.parse::<u64>().ok())
                .is_some_and(|p| p > 100)
            {
                errors.push(FieldError::invalid(
                    &at,
                    spec[key].clone(),
                    "must not be greater than 100%",
                ));
            }
        }
        selectors::label_selector(&mut errors, &spec["selector"], &path.child("selector"));
        let policies = ["AlwaysAllow", "IfHealthyBudget"];
        super::one_of(
            &mut errors,
            spec,
            "unhealthyPodEvictionPolicy",
            &path,
            &policies,
        );
        errors
    }
}
