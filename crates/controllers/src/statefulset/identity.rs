//! Names, labels and claims of numbered pods.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::Error;
use crate::objects::apps::StatefulSet;
use crate::objects::{Kind, controller_reference};
use crate::pods::from_template;
use crate::revisions::{HASH_LABEL, Revision};

/// The number in a pod's name, if it is one of this set's names.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits == "0" || !digits.starts_with('0');
    if plain && canonical {
        digits.parse().ok()
    } else {
        None
    }
}

/// Name of the claim that a template makes for a number.
pub(super) fn claim_name(template: &RawValue, set: &str, ordinal: i32) -> Result<String, Error> {
    let template = parse(template)?;
    let name = template["metadata"]["name"].as_str().unwrap_or_default();
    Ok(format!("{name}-{set}-{ordinal}"))
}

fn parse(template: &RawValue) -> Result<Value, Error> {
    serde_json::from_str(template.get()).map_err(|source| Error::Decode {
        what: "a claim template".to_owned(),
        source,
    })
}

/// The claims of one number.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Result<Vec<Value>, Error> {
    let meta = &set.metadata;
    let templates = set.spec.volume_claim_templates.iter();
    templates
        .map(|raw| {
            let template = parse(raw)?;
            let mut labels = template["metadata"]["labels"].clone();
            if !labels.is_object() {
                labels = json!({});
            }
            for (key, value) in set.spec.selector.match_labels.iter().flatten() {
                labels[key] = value.as_str().into();
            }
            let mut metadata = json!({
                "name": claim_name(raw, &meta.name, ordinal)?,
                "namespace": meta.namespace, "labels": labels,
            });
            if template["metadata"]["annotations"].is_object() {
                metadata["annotations"] = template["metadata"]["annotations"].clone();
            }
            Ok(json!({"metadata": metadata, "spec": template["spec"]}))
        })
        .collect()
}

/// The pod of one number.
pub(super) fn pod_body(
    set: &StatefulSet,
    ordinal: i32,
    revision: &Revision,
) -> Result<Value, Error> {
    let meta = &set.metadata;
    let owner = controller_reference(StatefulSet::RESOURCE, meta);
    let mut pod = from_template(&revision.template, &owner);
    let name = format!("{}-{ordinal}", meta.name);
    pod["metadata"]["name"] = name.as_str().into();
    pod["metadata"]["namespace"] = meta.namespace.as_str().into();
    let labels = &mut pod["metadata"]["labels"];
    labels["statefulset.kubernetes.io/pod-name"] = name.as_str().into();
    labels["apps.kubernetes.io/pod-index"] = ordinal.to_string().into();
    labels[HASH_LABEL] = revision.name.as_str().into();
    let spec = &mut pod["spec"];
    spec["hostname"] = name.into();
    if !set.spec.service_name.is_empty() {
        spec["subdomain"] = set.spec.service_name.as_str().into();
    }
    let mut volumes: Vec<Value> = Vec::new();
    for raw in &set.spec.volume_claim_templates {
        let template = parse(raw)?;
        volumes.push(json!({
            "name": template["metadata"]["name"],
            "persistentVolumeClaim": {"claimName": claim_name(raw, &meta.name, ordinal)?},
        }));
    }
    // A claim of the set wins over a volume of that name in the template.
    let others = spec["volumes"].as_array().cloned().unwrap_or_default();
    let taken: Vec<Value> = volumes
        .iter()
        .map(|volume| volume["name"].clone())
        .collect();
    volumes.extend(
        others
            .into_iter()
            .filter(|volume| !taken.contains(&volume["name"])),
    );
    if !volumes.is_empty() {
        spec["volumes"] = volumes.into();
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::object;

    #[test]
    fn ordinals() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-01", None),
            ("web-", None),
            ("web-+1", None),
            ("web-x-1", None),
            ("webb-1", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
    }

    #[test]
    fn a_pod_gets_its_name_and_claims() {
        let set: StatefulSet = object(json!({
            "metadata": {"name": "db", "namespace": "a", "uid": "s"},
            "spec": {
                "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "volumeClaimTemplates": [
                    {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
            },
        }));
        let revision = Revision {
            name: "db-x".to_owned(),
            uid: "r".to_owned(),
            number: 1,
            hash: "x".to_owned(),
            template: json!({
                "metadata": {"labels": {"app": "db"}},
                "spec": {"volumes": [{"name": "data"}, {"name": "other"}]},
            }),
        };
        let pod = pod_body(&set, 2, &revision).unwrap();
        assert_eq!(pod["metadata"]["name"], "db-2");
        assert_eq!(pod["metadata"]["labels"][HASH_LABEL], "db-x");
        assert_eq!(pod["spec"]["hostname"], "db-2");
        assert_eq!(pod["spec"]["subdomain"], "db");
        assert_eq!(
            pod["spec"]["volumes"],
            json!([
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2"}},
                {"name": "other"},
            ])
        );
        let claims = claims(&set, 2).unwrap();
        assert_eq!(claims[0]["metadata"]["name"], "data-db-2");
        assert_eq!(claims[0]["metadata"]["labels"], json!({"app": "db"}));
    }
}
