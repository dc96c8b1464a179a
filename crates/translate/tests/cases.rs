//! Cases in `tests/cases`: `NAME.yaml` holds settings and a virtual object,
//! `NAME.host.yaml` the host object in full. With `UPDATE_EXPECT=1` in the
//! environment the latter are written anew, to be read before they are
//! committed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;

use coracle_config::Config;
use coracle_machinery::object;
use coracle_translate::{CustomKind, DataKind, Patches, PodContext, Translator, VirtualName};
use serde_json::{Value, json};

/// Annotations that are digests: they say nothing to a reader.
const DIGESTS: &[&str] = &["coracle.dev/applied", "coracle.dev/resources"];

fn host(case: &Value) -> Value {
    let settings = case
        .get("settings")
        .map(Value::to_string)
        .unwrap_or_default();
    let (config, _) = Config::from_yaml(&[("settings", &settings)]).unwrap();
    let mut t = Translator::new("vc", "demo", Arc::new(config));
    t.owner = Some(json!({"apiVersion": "v1", "kind": "Service", "name": "vc", "uid": "owner"}));
    object::text(case, "/image").clone_into(&mut t.image);
    let inside = &case["virtual"];
    let mut host = match object::text(inside, "/kind") {
        "Pod" => pod(&t, case),
        "Service" if t.is_dns(&VirtualName::of(inside)) => t.dns_service_to_host(inside),
        "Service" => t.service_to_host(inside),
        "Endpoints" => t.endpoints_to_host(inside),
        "EndpointSlice" => t.slice_to_host(inside).unwrap_or_default(),
        "ConfigMap" => t.data_to_host(DataKind::ConfigMap, inside),
        "Secret" => t.data_to_host(DataKind::Secret, inside),
        "PersistentVolumeClaim" => t.claim_to_host(inside),
        "Ingress" => t.ingress_to_host(inside),
        "NetworkPolicy" => t.network_policy_to_host(inside),
        "PodDisruptionBudget" => t.disruption_budget_to_host(inside),
        "ServiceAccount" => t.service_account_to_host(inside),
        "Boat" => boat(&t, inside),
        other => panic!("no translation of {other:?}"),
    };
    if let Some(patched) = kind_with_patches(&t, inside) {
        host = t.patched_kind(patched, inside, host).unwrap();
    }
    // Whatever was translated is recognised again.
    let found = host.get("spec").is_none()
        || t.ours(object::text(inside, "/kind"), &host) == Some(VirtualName::of(inside));
    assert!(found, "not ours: {host}");
    if let Some(annotations) = host
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        for key in DIGESTS {
            annotations.remove(*key);
        }
    }
    host
}

/// The kind, if the settings have patches of it.
fn kind_with_patches<'a>(t: &Translator, inside: &'a Value) -> Option<&'a str> {
    let kind = object::text(inside, "/kind");
    t.patches.to_host(kind).map(|_| kind)
}

/// A custom object, with the patches of the only custom resource there is.
fn boat(t: &Translator, inside: &Value) -> Value {
    let kind = CustomKind {
        api_version: "sea.example.com/v1".into(),
        plural: "boats".into(),
        kind: "Boat".into(),
        namespaced: true,
        status: true,
    };
    let choice = t
        .config
        .sync
        .to_host
        .custom_resources
        .values()
        .next()
        .unwrap();
    let patches = Patches::to_host(&choice.patches);
    let host = t
        .patched(&patches, inside, t.custom_to_host(&kind, inside))
        .unwrap();
    // Translated again it is the same, so nothing is written.
    let again = t
        .patched(&patches, inside, t.custom_to_host(&kind, inside))
        .unwrap();
    assert!(t.custom_update(&host, &again).is_none());
    host
}

fn pod(t: &Translator, case: &Value) -> Value {
    let services: Vec<Arc<Value>> = object::items(case, "/services")
        .iter()
        .cloned()
        .map(Arc::new)
        .collect();
    let context = PodContext {
        namespace: case.get("namespace"),
        services: &services,
        kubernetes_ip: "10.96.0.1",
        dns_ip: Some("10.96.0.53"),
    };
    let translated = t.pod_to_host(&case["virtual"], &context);
    let tokens: Vec<Value> = translated
        .tokens
        .iter()
        .map(|token| json!([token.key, token.audience, token.expiration_seconds]))
        .collect();
    let mut host = translated.pod;
    // Translating the same pod again changes nothing.
    assert!(
        t.pod_update(&host, &t.pod_to_host(&case["virtual"], &context).pod)
            .is_none()
    );
    assert!(t.resize_update(&host, &case["virtual"]).is_none());
    if !tokens.is_empty() {
        host["tokens"] = tokens.into();
    }
    host
}

#[test]
fn cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let stem = name.strip_suffix(".yaml")?;
            (!stem.ends_with(".host")).then(|| stem.to_owned())
        })
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let text = std::fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
        let case: Value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let actual = host(&case);
        let expected = directory.join(format!("{name}.host.yaml"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expected, serde_saphyr::to_string(&actual).unwrap()).unwrap();
        }
        let expected: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(&expected).unwrap()).unwrap();
        assert_eq!(
            actual,
            expected,
            "{name}:\n{}",
            serde_saphyr::to_string(&actual).unwrap()
        );
    }
}
