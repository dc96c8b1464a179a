//! Patches: the paths they are written with, and what they may be about.

use std::collections::BTreeSet;

use coracle_machinery::cel;

use crate::marks;
use crate::model::{Config, Patch, PatchReference, custom};

/// The variables of an expression.
pub const VARIABLES: &[&str] = &["value", "context"];

/// Steps of one path: as deep as Kubernetes' own types go, and some.
const MAX_STEPS: usize = 32;
/// Patches of one kind: each is tried on every object that changes.
const MAX_PATCHES: usize = 50;

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a map.
    Key(String),
    /// An item of a list.
    Index(usize),
    /// All keys of a map, or all items of a list.
    All,
}

/// Reads a path: `spec.items[*].name`, `metadata.labels["a.b/c"]`.
///
/// # Errors
/// What is wrong with it.
pub fn path(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (step, after) = bracket(inner)
                .ok_or_else(|| format!("{text:?}: expected [*], [0] or [\"key\"] at {rest:?}"))?;
            steps.push(step);
            rest = after;
            continue;
        }
        let named = match rest.strip_prefix('.') {
            Some(named) if !steps.is_empty() => named,
            None if steps.is_empty() => rest,
            _ => return Err(format!("{text:?}: expected a dot before {rest:?}")),
        };
        let end = named.find(['.', '[', ']']).unwrap_or(named.len());
        let (key, after) = named.split_at(end);
        if key.is_empty() {
            return Err(format!("{text:?}: a key is missing before {named:?}"));
        }
        steps.push(if key == "*" {
            Step::All
        } else {
            Step::Key(key.to_owned())
        });
        rest = after;
    }
    if steps.is_empty() || steps.len() > MAX_STEPS {
        return Err(format!("expected the path of a field, found {text:?}"));
    }
    Ok(steps)
}

/// What stands in brackets, and what follows them.
fn bracket(inner: &str) -> Option<(Step, &str)> {
    if let Some(after) = inner.strip_prefix("*]") {
        return Some((Step::All, after));
    }
    for quote in ['"', '\''] {
        if let Some(quoted) = inner.strip_prefix(quote) {
            let (key, after) = quoted.split_once(quote)?;
            let after = after.strip_prefix(']')?;
            return (!key.is_empty()).then(|| (Step::Key(key.to_owned()), after));
        }
    }
    let (number, after) = inner.split_once(']')?;
    Some((Step::Index(number.parse().ok()?), after))
}

/// Which way patches work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Objects of a built-in kind go to the host.
    ToHost,
    /// Custom objects go to the host, and their status comes back.
    CustomToHost,
    /// Objects are shown inside, by `expression`.
    Shown,
    /// Objects are shown inside, by `reverseExpression`.
    ShownReverse,
}

/// Reports what is wrong with the patches at a place of the values.
pub(crate) fn check(
    config: &Config,
    place: &str,
    patches: &[Patch],
    way: Way,
    problem: &mut impl FnMut(&str, String),
) {
    if patches.len() > MAX_PATCHES {
        problem(place, format!("more than {MAX_PATCHES} patches"));
        return;
    }
    let mut paths = BTreeSet::new();
    for (at, patch) in patches.iter().enumerate() {
        let here = format!("{place}[{at}]");
        if !paths.insert(&patch.path) {
            problem(&here, format!("a second patch of {:?}", patch.path));
        }
        match path(&patch.path).and_then(|steps| may_be_patched(&steps, way).map(|()| steps)) {
            Err(message) => problem(&format!("{here}.path"), message),
            Ok(steps) => modes(config, &here, patch, &steps, way, problem),
        }
    }
}

/// The fields that no patch is about: what an object is, whose it is, and how
/// it is found again.
fn may_be_patched(steps: &[Step], way: Way) -> Result<(), String> {
    let key = |at: usize| match steps.get(at) {
        Some(Step::Key(key)) => key.as_str(),
        _ => "",
    };
    match key(0) {
        "" => Err("expected a path that begins with the name of a field".into()),
        "apiVersion" | "kind" => Err("what an object is cannot be patched".into()),
        "metadata" => {
            let texts = matches!(key(1), "labels" | "annotations") && steps.len() == 3;
            if !texts {
                return Err(
                    "of the metadata, labels and annotations can be patched, one by one or \
                            all by [*]"
                        .into(),
                );
            }
            if marks::is_reserved(key(2)) {
                return Err(format!("{:?} tells what the object belongs to", key(2)));
            }
            Ok(())
        }
        "status" if way == Way::ToHost => {
            Err("the status of this kind is made by the host and comes back as it is".into())
        }
        _ => Ok(()),
    }
}

fn modes(
    config: &Config,
    here: &str,
    patch: &Patch,
    steps: &[Step],
    way: Way,
    problem: &mut impl FnMut(&str, String),
) {
    let (forth, back) = (&patch.expression, &patch.reverse_expression);
    let reference = patch.reference != PatchReference::default();
    let expressions = !forth.is_empty() || !back.is_empty();
    let modes = [expressions, reference, patch.labels.is_some()];
    if modes.iter().filter(|mode| **mode).count() != 1 {
        let message = "expected one of expression with reverseExpression, reference, and labels";
        problem(here, message.into());
        return;
    }
    for (key, text) in [("expression", forth), ("reverseExpression", back)] {
        if let Some(Err(why)) = (!text.is_empty()).then(|| cel::Program::compile(text, VARIABLES)) {
            // The first line tells where; the others draw it.
            let why = why.lines().next().unwrap_or_default();
            let why = why.strip_prefix("ERROR: <input>:").unwrap_or(why);
            let message = format!("no CEL expression of value and context: {why}");
            problem(&format!("{here}.{key}"), message);
        }
    }
    let shown = matches!(way, Way::Shown | Way::ShownReverse);
    let status = matches!(steps.first(), Some(Step::Key(key)) if key == "status");
    let wrong = match way {
        Way::CustomToHost if status && !forth.is_empty() => Some((
            "expression",
            "the status comes from the host: reverseExpression is for that",
        )),
        Way::Shown if !back.is_empty() => Some((
            "reverseExpression",
            "what is shown of the host is patched by expression here",
        )),
        Way::ShownReverse if !forth.is_empty() => Some((
            "expression",
            "what is shown of the host is patched by reverseExpression here",
        )),
        _ => None,
    };
    if let Some((key, message)) = wrong {
        problem(&format!("{here}.{key}"), message.into());
    }
    if reference && (shown || status) {
        let message = "only names that go to the host are translated";
        problem(&format!("{here}.reference"), message.into());
    } else if reference {
        reference_fits(config, here, &patch.reference, problem);
    }
    if let Some(labels) = &patch.labels {
        if way != Way::CustomToHost || status {
            let message = "selectors are translated in custom resources on their way to the host; those of \
                           built-in kinds are without a patch";
            problem(&format!("{here}.labels"), message.into());
        } else if !labels.is_empty() {
            problem(&format!("{here}.labels"), "expected {}".into());
        }
    }
}

fn reference_fits(
    config: &Config,
    here: &str,
    reference: &PatchReference,
    problem: &mut impl FnMut(&str, String),
) {
    let relative = [
        ("apiVersionPath", &reference.api_version_path),
        ("kindPath", &reference.kind_path),
        ("namePath", &reference.name_path),
        ("namespacePath", &reference.namespace_path),
    ];
    for (key, text) in relative {
        if text.is_empty() {
            continue;
        }
        match path(text) {
            Err(message) => problem(&format!("{here}.reference.{key}"), message),
            Ok(steps) if steps.contains(&Step::All) => {
                let message = "expected the path of one field, without [*]";
                problem(&format!("{here}.reference.{key}"), message.into());
            }
            Ok(_) if reference.name_path.is_empty() => {
                let message = format!("namePath is needed with {key}");
                problem(&format!("{here}.reference"), message);
            }
            Ok(_) => {}
        }
    }
    if let Err(message) = flows(config, &reference.api_version, &reference.kind) {
        problem(&format!("{here}.reference"), message);
    }
}

/// Whether objects of a kind have names on the host that can be told.
///
/// # Errors
/// Why not.
pub fn flows(config: &Config, api_version: &str, kind: &str) -> Result<(), String> {
    let to_host = &config.sync.to_host;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let on = match (group, kind) {
        ("", "Secret") => to_host.secrets.enabled,
        ("", "ConfigMap") => to_host.config_maps.enabled,
        ("", "Pod") => to_host.pods.enabled,
        ("", "Service") => to_host.services.enabled,
        ("", "Endpoints") => to_host.endpoints.enabled,
        ("", "PersistentVolumeClaim") => to_host.persistent_volume_claims.enabled,
        ("", "ServiceAccount") => to_host.service_accounts.enabled,
        ("networking.k8s.io", "Ingress") => to_host.ingresses.enabled,
        ("networking.k8s.io", "NetworkPolicy") => to_host.network_policies.enabled,
        ("policy", "PodDisruptionBudget") => to_host.pod_disruption_budgets.enabled,
        // Custom resources are known by their plurals.
        _ => custom::to_host(&to_host.custom_resources)
            .iter()
            .any(|(name, _)| name.group == group && !kind.is_empty()),
    };
    if on {
        return Ok(());
    }
    Err(format!(
        "expected apiVersion and kind of objects that flow to the host, found {api_version:?} and {kind:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let key = |key: &str| Step::Key(key.to_owned());
        for (text, steps) in [
            ("spec", vec![key("spec")]),
            (
                "spec.a[*].b",
                vec![key("spec"), key("a"), Step::All, key("b")],
            ),
            (
                "spec.a.*.b",
                vec![key("spec"), key("a"), Step::All, key("b")],
            ),
            ("a[0][1]", vec![key("a"), Step::Index(0), Step::Index(1)]),
            (
                "metadata.annotations[\"x.y/z[]\"]",
                vec![key("metadata"), key("annotations"), key("x.y/z[]")],
            ),
            ("a['b.c'].d", vec![key("a"), key("b.c"), key("d")]),
        ] {
            assert_eq!(path(text), Ok(steps), "{text}");
        }
        for wrong in [
            "", ".a", "a.", "a..b", "a[", "a[]", "a[b]", "a[\"b\"", "a[*]b", "a]", "a[\"\"]",
        ] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
        assert!(path(&vec!["a"; MAX_STEPS + 1].join(".")).is_err());
    }

    const CUSTOM: &str = "customResources: {a.b.c: {enabled: true, patches: [PATCH]}}";
    const PODS: &str = "pods: {patches: [PATCH]}";

    /// Where a patch stands, the patch, and the beginning of what is said of it.
    const CASES: &[(&str, &str, &str)] = &[
        (PODS, "{path: spec.a, expression: value}", ""),
        (
            CUSTOM,
            "{path: spec.a, expression: 'value + 1', reverseExpression: 'value - 1'}",
            "",
        ),
        (CUSTOM, "{path: spec.selector, labels: {}}", ""),
        (CUSTOM, "{path: status.a, reverseExpression: 'value'}", ""),
        (
            CUSTOM,
            "{path: spec.a, reference: {apiVersion: v1, kind: Secret}}",
            "",
        ),
        (PODS, "{path: spec.a}", "[0]: expected one of"),
        (
            PODS,
            "{path: spec.a, expression: value, labels: {}}",
            "[0]: expected one of",
        ),
        (PODS, "{expression: value}", "[0].path: expected the path"),
        (
            PODS,
            "{path: metadata.name, expression: value}",
            "[0].path: of the metadata",
        ),
        (
            PODS,
            "{path: metadata.labels, expression: value}",
            "[0].path: of the metadata",
        ),
        (
            PODS,
            "{path: 'metadata.labels[\"coracle.dev/namespace\"]', expression: value}",
            "[0].path: \"coracle.dev/namespace\" tells",
        ),
        (
            PODS,
            "{path: kind, expression: value}",
            "[0].path: what an object is",
        ),
        (
            PODS,
            "{path: status.phase, reverseExpression: value}",
            "[0].path: the status",
        ),
        (
            PODS,
            "{path: spec.selector, labels: {}}",
            "[0].labels: selectors",
        ),
        (
            CUSTOM,
            "{path: spec.selector, labels: {a: b}}",
            "[0].labels: expected {}",
        ),
        (
            CUSTOM,
            "{path: spec.a, expression: 'value.replace(/a/, b)'}",
            "[0].expression: no CEL",
        ),
        (
            CUSTOM,
            "{path: spec.a, expression: 'values'}",
            "[0].expression: no CEL",
        ),
        (
            CUSTOM,
            "{path: status.a, expression: value}",
            "[0].expression: the status",
        ),
        (
            CUSTOM,
            "{path: spec.a, reference: {apiVersion: apps/v1, kind: Deployment}}",
            "[0].reference: expected apiVersion",
        ),
        (
            CUSTOM,
            "{path: spec.a, reference: {apiVersion: v1, kind: Secret, namespacePath: ns}}",
            "[0].reference: namePath is needed",
        ),
        (
            CUSTOM,
            "{path: spec.a, reference: {apiVersion: v1, kind: Secret, namePath: 'a[*]'}}",
            "[0].reference.namePath: expected",
        ),
        (
            CUSTOM,
            "{path: spec.a, expression: value}, {path: spec.a, expression: value}",
            "[1]: a second patch",
        ),
    ];

    #[test]
    fn what_is_wrong_with_a_patch_is_told_with_its_place() {
        for (kind, patch, expected) in CASES {
            let text = format!("sync: {{toHost: {{{}}}}}", kind.replace("PATCH", patch));
            let result = Config::from_yaml(&[("v", &text)]);
            match result {
                Ok(_) => assert_eq!(*expected, "", "{text}"),
                Err(error) => {
                    let error = error.to_string();
                    let said =
                        error.lines().count() == 1 && error.contains(&format!("patches{expected}"));
                    assert!(!expected.is_empty() && said, "{text}: {error}");
                }
            }
        }
    }
}
