//! The Pod Security Standards: what pods of a level may not ask for.

mod baseline;
mod restricted;

use serde_json::Value;

use crate::object;

/// A level of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to reach beyond the pod.
    Baseline,
    /// What is good practice.
    Restricted,
}

impl Level {
    /// Reads the name of a level.
    pub fn parse(text: &str) -> Self {
        match text {
            "baseline" => Self::Baseline,
            "privileged" => Self::Privileged,
            // A level that nobody knows is refused when the label is written;
            // if it stands there all the same, the strictest is meant.
            _ => Self::Restricted,
        }
    }
}

/// What a check found: a short reason, and where.
struct Violation {
    reason: &'static str,
    detail: String,
}

type Check = fn(&Value) -> Option<Violation>;

/// What in a pod (or template) the level does not allow, as one text.
pub fn violations(pod: &Value, level: Level) -> Option<String> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    // In upstream's order: by name, and baseline before restricted.
    let mut checks: Vec<&(&str, Check)> = baseline::CHECKS.iter().collect();
    match level {
        Level::Privileged => return None,
        Level::Baseline => {
            checks.extend(baseline::ONLY_BASELINE);
            checks.sort_by_key(|(name, _)| *name);
        }
        Level::Restricted => checks.extend(restricted::CHECKS),
    }
    let found: Vec<String> = checks
        .iter()
        .filter_map(|(_, check)| check(spec))
        .chain(baseline::app_armor_annotations(pod))
        .map(|v| format!("{} ({})", v.reason, v.detail))
        .collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// All containers of a pod, of whatever sort.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["/initContainers", "/containers", "/ephemeralContainers"]
        .into_iter()
        .flat_map(|list| object::items(spec, list))
}

/// The names of the containers for which a condition holds, quoted.
fn named(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<String> {
    containers(spec)
        .filter(|c| bad(c))
        .map(|c| format!("{:?}", object::text(c, "/name")))
        .collect()
}

/// `container "a"` or `containers "a", "b"`.
fn plural(noun: &str, names: &[String]) -> String {
    let s = if names.len() == 1 { "" } else { "s" };
    format!("{noun}{s} {}", names.join(", "))
}

/// A violation by containers, if there are any.
fn by_containers(reason: &'static str, names: &[String], must: &str) -> Option<Violation> {
    (!names.is_empty()).then(|| Violation {
        reason,
        detail: format!("{} {must}", plural("container", names)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: Value, level: Level) -> String {
        violations(&json!({"spec": spec}), level).unwrap_or_default()
    }

    fn with(security: Value) -> Value {
        json!({"containers": [{"name": "c", "securityContext": security}]})
    }

    #[test]
    fn an_ordinary_pod_is_baseline_and_not_restricted() {
        let spec = json!({"containers": [{"name": "nginx"}]});
        assert_eq!(check(spec.clone(), Level::Baseline), "");
        assert_eq!(
            check(spec, Level::Restricted),
            "allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
    }

    #[test]
    fn a_careful_pod_is_restricted() {
        let mut spec = with(json!({"allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}));
        spec["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"}});
        spec["volumes"] = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {}}]);
        assert_eq!(check(spec, Level::Restricted), "");
    }

    #[test]
    fn baseline_finds_what_reaches_the_node() {
        let cases = [
            (
                json!({"hostNetwork": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                with(json!({"privileged": true})),
                "privileged (container \"c\" must not set securityContext.privileged=true)",
            ),
            (
                with(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
                "non-default capabilities (container \"c\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                json!({"volumes": [{"name": "a", "hostPath": {}}, {"name": "b", "hostPath": {}}]}),
                "hostPath volumes (volumes \"a\", \"b\")",
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}),
                "hostPort (container \"c\" uses hostPort 80)",
            ),
            (
                with(json!({"procMount": "Unmasked"})),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                with(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"c\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.ip_local_port_range"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                with(json!({"seLinuxOptions": {"type": "spc_t"}})),
                "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\")",
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (spec, text) in cases {
            assert_eq!(check(spec, Level::Baseline), text);
        }
        assert_eq!(check(json!({"hostNetwork": true}), Level::Privileged), "");
    }
}
