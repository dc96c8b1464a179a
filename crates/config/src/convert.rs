//! Values of 0.15 as values of today.

use serde_json::Value;

use crate::load::{ConfigError, Hint, Problem, automatic_claim, parse};
use crate::shape::{self, Shape};
use crate::{Config, legacy, refused, semantics};

/// A values file in today's keys: those that it sets, and no others.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The keys.
    pub values: Value,
    /// What was moved, and what was left out with the reason.
    pub hints: Vec<Hint>,
}

/// Moves the keys of 0.15 in a values file to their places of today. What is
/// not carried out is left out, with a hint.
///
/// # Errors
/// If a key is unknown to both, or has a value that does not fit.
pub fn convert(source: &str, text: &str) -> Result<Converted, ConfigError> {
    let problem = |path: String, message: String| Problem {
        source: source.to_owned(),
        path,
        message,
    };
    let failed = |problems: Vec<Problem>| ConfigError { problems };
    let mut values = parse(text).map_err(|why| failed(vec![problem(String::new(), why)]))?;
    let mut hints = legacy::translate(source, &mut values);
    hints.extend(refused::take(&mut values).into_iter().map(|left| Hint {
        source: source.to_owned(),
        message: format!("{} is left out: {}", left.path, left.reason),
    }));
    automatic_claim(&mut values);
    let defaults = shape::defaults();
    let mut found = Vec::new();
    Shape::of("", &defaults).check(&values, "", &mut found);
    let mut problems: Vec<Problem> = found
        .into_iter()
        .map(|(path, message)| problem(path, message))
        .collect();
    if problems.is_empty() {
        let mut merged = defaults.clone();
        shape::merge(&mut merged, &defaults, values.clone(), "");
        match serde_json::from_value::<Config>(merged) {
            Ok(config) => semantics::check(&config, &mut problems),
            Err(error) => problems.push(problem(String::new(), error.to_string())),
        }
    }
    if problems.is_empty() {
        Ok(Converted { values, hints })
    } else {
        Err(failed(problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn today_means_the_same_as_the_past_did() {
        let past = "
sync:
  ingresses: {enabled: true}
  nodes: {enabled: true, nodeSelector: 'env=dev'}
isolation: {enabled: true}
service: {type: LoadBalancer}
storage: {size: 2Gi}
";
        let converted = convert("v", past).unwrap();
        let today = serde_saphyr::to_string(&converted.values).unwrap();
        let (from_today, hints) = Config::from_yaml(&[("t", &today)]).unwrap();
        assert!(hints.is_empty(), "{hints:?}");
        assert_eq!(from_today, Config::from_yaml(&[("v", past)]).unwrap().0);
    }

    #[test]
    fn what_is_not_carried_out_is_left_out_and_told() {
        let past = "vcluster: {image: rancher/k3s:v1.25}\nfallbackHostDns: true\ntelemetry: {disabled: false}";
        let converted = convert("v", past).unwrap();
        assert_eq!(
            converted.values,
            json!({"networking": {"advanced": {"fallbackHostCluster": true}}})
        );
        let told: Vec<String> = converted.hints.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].starts_with("v: vcluster is left out: "), "{told:?}");
        let error = convert("v", "fallbackHostDnss: true").unwrap_err();
        assert!(error.to_string().contains("unknown key"), "{error}");
    }
}
