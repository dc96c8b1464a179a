use super::*;

fn kinds() -> Vec<Arc<Kind>> {
    crate::kinds::builtin().into_iter().map(Arc::new).collect()
}

/// Every reference in a document must lead somewhere.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "$ref" => {
                        let name = text.rsplit('/').next().unwrap_or_default();
                        found.insert(name.to_owned());
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn every_reference_is_defined() {
    let kinds = kinds();
    let mut documents = vec![v2(&kinds, &builtin_schema)];
    let index = v3_index(&kinds, &[], &builtin_schema);
    for path in index["paths"].as_object().unwrap().keys() {
        let gv = parse_v3_path(path).unwrap();
        documents.push(v3(&kinds, &builtin_schema, &gv).unwrap());
    }
    assert!(documents.len() > 20);
    for document in documents {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        let schemas = document
            .get("definitions")
            .unwrap_or_else(|| &document["components"]["schemas"]);
        for name in found {
            assert!(schemas.get(&name).is_some(), "{name}");
        }
    }
}

#[test]
fn every_kind_has_a_schema_but_the_options_of_streams() {
    for kind in kinds() {
        assert!(builtin_schema(&kind).is_some(), "{kind:?}");
    }
}

#[test]
fn kubectl_finds_field_validation_and_strategic_merge() {
    let document = v3(&kinds(), &builtin_schema, &GroupVersion::new("apps", "v1")).unwrap();
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(
        parameters
            .iter()
            .any(|p| p["name"] == "fieldValidation" && p["in"] == "query")
    );
    let content = &patch["requestBody"]["content"];
    assert!(content["application/strategic-merge-patch+json"].is_object());
    let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(spec["required"], json!(["selector", "template"]));
}

#[test]
fn custom_kinds_are_described() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cron": {"type": "string", "description": "When."},
    }}}});
    let schema = Schema::from_crd(&schema).unwrap();
    let gvk = GroupVersionKind::new("stable.example.com", "v1", "CronTab");
    let kinds = vec![Arc::new(Kind::plain(gvk, "crontabs"))];
    let schema_of = |_: &Kind| Some(schema.clone());
    let gv = GroupVersion::new("stable.example.com", "v1");
    let document = v3(&kinds, &schema_of, &gv).unwrap();
    let body = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        body["properties"]["spec"]["properties"]["cron"]["description"],
        "When."
    );
    let base = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs";
    let operation = &document["paths"][base]["post"];
    assert_eq!(
        operation["operationId"],
        "createStableExampleComV1NamespacedCronTab"
    );
    assert!(
        document["paths"][format!("{base}/{{name}}")]["patch"]["requestBody"]["content"]
            .get("application/strategic-merge-patch+json")
            .is_none()
    );
    let index = v3_index(&kinds, &[], &schema_of);
    let url = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    assert!(url.starts_with("/openapi/v3/apis/stable.example.com/v1?hash="));
}

#[test]
fn kubectl_is_not_told_the_fields_of_kinds_that_take_any() {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"spec": {"type": "object"}}});
    let schema = Schema::from_crd(&schema).unwrap();
    let gvk = GroupVersionKind::new("stable.example.com", "v1", "CronTab");
    let kinds = vec![Arc::new(Kind::plain(gvk, "crontabs"))];
    let schema_of = |_: &Kind| Some(schema.clone());
    let gvk = json!([{"group": "stable.example.com", "version": "v1", "kind": "CronTab"}]);
    assert_eq!(
        v2(&kinds, &schema_of)["definitions"]["com.example.stable.v1.CronTab"],
        json!({"type": "object", "x-kubernetes-group-version-kind": gvk})
    );
}

#[test]
fn operations_are_those_of_the_reference_cluster() {
    let Some(dir) = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|dir| dir.join("shared/kubernetes"))
        .find(|dir| dir.is_dir())
    else {
        return;
    };
    let bytes = std::fs::read(dir.join("openapi-v2.json")).unwrap();
    let expected: Value = serde_json::from_slice(&bytes).unwrap();
    let ours = v2(&kinds(), &builtin_schema);
    let mut wrong = Vec::new();
    let methods = ["get", "put", "post", "delete", "patch"];
    for (path, entry) in expected["paths"].as_object().unwrap() {
        // Discovery, deprecated watches, free proxy paths and logs stay out.
        let skipped = path.ends_with('/')
            || path.contains("/watch/")
            || path.ends_with("{path}")
            || path.starts_with("/logs")
            || path.starts_with("/version")
            || path.starts_with("/openid");
        if skipped {
            continue;
        }
        for method in methods {
            let (theirs, ours) = (&entry[method], &ours["paths"][path][method]);
            if theirs.is_null() != ours.is_null() {
                wrong.push(format!("{method} {path}"));
                continue;
            }
            for key in [
                "operationId",
                "x-kubernetes-action",
                "x-kubernetes-group-version-kind",
            ] {
                if theirs[key] != ours[key] {
                    wrong.push(format!("{method} {path}: {} {}", theirs[key], ours[key]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let definitions = expected["definitions"].as_object().unwrap();
    let missing: Vec<&String> = definitions
        .keys()
        .filter(|name| ours["definitions"].get(name.as_str()).is_none())
        .collect();
    assert!(missing.len() < 12, "{missing:?}");
}

/// Collects the definition and fields without a description.
fn undescribed(name: &str, definition: &Value, missing: &mut Vec<String>) {
    if definition["description"].as_str().is_none_or(str::is_empty) {
        missing.push(name.to_owned());
    }
    let properties = definition["properties"].as_object();
    for (field, property) in properties.into_iter().flatten() {
        undescribed(&format!("{name}.{field}"), property, missing);
    }
}

/// Of these, upstream says nothing either, or nothing that helps.
const UNTOLD: [&str; 6] = [
    "List",
    ".WatchEvent",
    ".JSONSchemaProps",
    ".ExternalDocumentation",
    ".CertificateSigningRequest.metadata",
    ".IngressRule.http",
];

#[test]
fn every_kind_and_field_says_what_it_means() {
    let kinds = kinds();
    let index = v3_index(&kinds, &[], &builtin_schema);
    let untold = |name: &str| UNTOLD.iter().any(|end| name.ends_with(end));
    let mut missing = Vec::new();
    for path in index["paths"].as_object().unwrap().keys() {
        let gv = parse_v3_path(path).unwrap();
        let document = v3(&kinds, &builtin_schema, &gv).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for (name, definition) in schemas.iter().filter(|(name, _)| !untold(name)) {
            undescribed(name, definition, &mut missing);
        }
    }
    missing.retain(|field| !untold(field));
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_described_reference_stands_alone_in_version_3() {
    let gv = GroupVersion::new("apps", "v1");
    let document = v3(&kinds(), &builtin_schema, &gv).unwrap();
    let spec =
        &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
    assert!(spec.get("$ref").is_none());
    assert_eq!(
        spec["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    assert!(spec["description"].as_str().unwrap().contains("desired"));
}
