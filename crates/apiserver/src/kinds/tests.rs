use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::builtin;
use crate::kind::{Kind, Scope};

/// Resources that the reference cluster serves and we do not.
const NOT_SERVED: &[&str] = &[];

/// Data of a reference cluster, if it lies beside the repository.
fn reference(file: &str) -> Option<Value> {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/kubernetes"))
        .find(|dir| dir.is_dir())?;
    let bytes = std::fs::read(dir.join(file)).expect("reference file is readable");
    Some(serde_json::from_slice(&bytes).expect("reference file is JSON"))
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|v| v.as_str().unwrap_or_default().to_owned())
        .collect()
}

/// One line of facts per resource and subresource.
fn facts_of_reference(document: &Value) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for group in document["items"].as_array().unwrap() {
        let group_name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in group["versions"].as_array().unwrap() {
            let at = format!("{group_name}/{}", version["version"].as_str().unwrap());
            for r in version["resources"].as_array().unwrap() {
                let key = format!("{at}/{}", r["resource"].as_str().unwrap());
                facts.insert(
                    key.clone(),
                    format!(
                        "{} {} {} {:?} {:?} {:?}",
                        r["responseKind"]["kind"],
                        r["scope"],
                        r["singularResource"],
                        strings(&r["verbs"]),
                        strings(&r["shortNames"]),
                        strings(&r["categories"]),
                    ),
                );
                for s in r["subresources"].as_array().into_iter().flatten() {
                    let k = &s["responseKind"];
                    facts.insert(
                        format!("{key}/{}", s["subresource"].as_str().unwrap()),
                        format!("{} {} {:?}", k["group"], k["kind"], strings(&s["verbs"])),
                    );
                }
            }
        }
    }
    facts
}

fn facts_of(kind: &Kind) -> Vec<(String, String)> {
    let gvk = &kind.gvk;
    let key = format!("{}/{}/{}", gvk.group, gvk.version, kind.plural);
    let names = |verbs: &[crate::kind::Verb]| -> Vec<String> {
        verbs.iter().map(|v| v.as_str().to_owned()).collect()
    };
    let scope = match kind.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let mut facts = vec![(
        key.clone(),
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            gvk.kind,
            scope,
            kind.singular,
            names(kind.verbs),
            kind.short_names,
            kind.categories,
        ),
    )];
    for s in &kind.subresources {
        let body = s.kind.as_ref().unwrap_or(gvk);
        let same = body.group == gvk.group && body.version == gvk.version;
        let group = if same { "" } else { body.group.as_ref() };
        facts.push((
            format!("{key}/{}", s.name),
            format!("{group:?} {:?} {:?}", body.kind, names(s.verbs)),
        ));
    }
    facts
}

#[test]
fn facts_are_those_of_the_reference_cluster() {
    let (Some(core), Some(groups)) = (
        reference("discovery-api.json"),
        reference("discovery-apis.json"),
    ) else {
        return;
    };
    let mut expected = facts_of_reference(&core);
    expected.extend(facts_of_reference(&groups));
    expected.retain(|key, _| !NOT_SERVED.contains(&key.as_str()));
    let ours: BTreeMap<_, _> = builtin().iter().flat_map(facts_of).collect();
    let keys: BTreeSet<_> = expected.keys().chain(ours.keys()).collect();
    for key in keys {
        assert_eq!(ours.get(key), expected.get(key), "{key}");
    }
}

#[test]
fn stored_forms_are_kinds_themselves() {
    let kinds = builtin();
    for kind in kinds.iter().filter(|k| k.stored_as.is_some()) {
        let stored = kind.stored_gvk();
        let found = kinds.iter().find(|k| k.gvk == *stored);
        let found = found.expect("stored form is served");
        assert!(found.stored_as.is_none());
        assert_eq!(found.plural, kind.plural);
    }
}
