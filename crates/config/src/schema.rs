//! The JSON schema of values files, for editors. It is made from the shape that
//! files are checked by, so that it cannot say anything else.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value, json};

use crate::model::{Config, Documented as _, Toggle};
use crate::refused::REFUSED;
use crate::shape::{self, MAX_NUMBER, Shape};

/// The schema (draft 2020-12) of a values file in today's keys.
pub fn schema() -> Value {
    let mut meanings = BTreeMap::new();
    Config::document("", &mut meanings);
    let defaults = shape::defaults();
    let mut root = of(&Shape::of("", &defaults), "", &defaults, &meanings);
    for refused in REFUSED {
        refuse(&mut root, refused.path, refused.as_is, refused.reason);
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Values of a virtual cluster");
    root["$defs"] = json!({"nothing": nothing()});
    root
}

/// Switched off or empty, as a key that is not carried out may be.
fn nothing() -> Value {
    json!({"anyOf": [
        {"enum": [null, false, 0, ""]},
        {"type": "array", "maxItems": 0},
        {"type": "object", "required": ["enabled"],
         "properties": {"enabled": {"enum": [false, Toggle::AUTO]}}},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/nothing"}},
    ]})
}

fn of(shape: &Shape, path: &str, default: &Value, meanings: &BTreeMap<String, String>) -> Value {
    let mut schema = match shape {
        Shape::Section(known) => {
            let properties: Map<String, Value> = known
                .iter()
                .map(|(key, default)| {
                    let path = shape::join(path, key);
                    let inner = of(&Shape::of(&path, default), &path, default, meanings);
                    (key.clone(), inner)
                })
                .collect();
            json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false})
        }
        Shape::Named(known) => {
            let each = &Shape::Section(known.clone());
            let each = of(each, &format!("{path}[]"), &Value::Null, meanings);
            json!({"type": ["object", "null"], "additionalProperties": each})
        }
        Shape::Texts => {
            json!({"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}})
        }
        Shape::Free => json!({"type": ["object", "null"]}),
        Shape::List(item) => {
            let mut inner = of(item, &format!("{path}[]"), &Value::Null, meanings);
            // Only a whole list goes back to its default.
            if **item != Shape::PlainText {
                inner["type"] = json!("object");
            }
            json!({"type": ["array", "null"], "items": inner})
        }
        Shape::Switch => json!({"type": ["boolean", "null"]}),
        Shape::Toggle => json!({"enum": [true, false, Toggle::AUTO, null]}),
        Shape::Text => json!({"type": ["string", "number", "null"]}),
        Shape::PlainText => json!({"type": "string"}),
        Shape::Choice { of, open } => {
            let mut all: Vec<Value> = of.iter().map(|text| Value::from(*text)).collect();
            // A version may be written as a number.
            let number = |text: &&str| serde_json::from_str::<Number>(text).ok();
            all.extend(of.iter().filter_map(number).map(Value::Number));
            if *open {
                all.push("".into());
            }
            all.push(Value::Null);
            json!({"enum": all})
        }
        Shape::Number => json!({"type": ["integer", "null"], "minimum": 0, "maximum": MAX_NUMBER}),
    };
    if let Some(meaning) = meanings.get(path) {
        schema["description"] = json!(meaning);
    }
    let leaf = !matches!(shape, Shape::Section(_));
    if leaf && !path.ends_with("[]") && !default.is_null() {
        schema["default"] = default.clone();
    }
    schema
}

/// Adds a key that is not carried out, with the sections that lead to it.
fn refuse(schema: &mut Value, path: &str, as_is: &str, reason: &str) {
    let (head, rest) = match path.split_once('.') {
        Some((head, rest)) => (head, Some(rest)),
        None => (path, None),
    };
    let Some(properties) = schema["properties"].as_object_mut() else {
        return;
    };
    match rest {
        Some(rest) => {
            let section = properties.entry(head).or_insert_with(
                || json!({"type": ["object", "null"], "properties": {}, "additionalProperties": false}),
            );
            refuse(section, rest, as_is, reason);
        }
        None => {
            let mut allowed = vec![json!({"$ref": "#/$defs/nothing"})];
            if let Ok(as_is) = serde_json::from_str::<Value>(as_is) {
                allowed.push(json!({"const": as_is}));
            }
            properties.insert(
                head.to_owned(),
                json!({"description": format!("Not supported: {reason}."), "deprecated": true,
                       "anyOf": allowed}),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The few words of JSON schema that ours is written in.
    fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
        let is = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{other}"),
        };
        for (word, wanted) in schema.as_object().unwrap() {
            let holds = match word.as_str() {
                "type" => match wanted {
                    Value::String(name) => is(name),
                    names => names
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|n| is(n.as_str().unwrap())),
                },
                "enum" => wanted.as_array().unwrap().contains(value),
                "const" => wanted == value,
                "anyOf" => wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|s| fits(root, s, value)),
                "$ref" => {
                    let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                    fits(root, root.pointer(pointer).unwrap(), value)
                }
                "items" => value
                    .as_array()
                    .is_none_or(|all| all.iter().all(|item| fits(root, wanted, item))),
                "maxItems" => value.as_array().is_none_or(Vec::is_empty),
                "minimum" => value.as_i64().is_none_or(|n| n >= 0),
                "maximum" => value.as_u64().is_none_or(|n| n <= wanted.as_u64().unwrap()),
                "required" => value
                    .as_object()
                    .is_none_or(|map| map.contains_key("enabled")),
                "properties" => value.as_object().is_none_or(|map| {
                    map.iter().all(|(key, value)| match wanted.get(key) {
                        Some(schema) => fits(root, schema, value),
                        None => true,
                    })
                }),
                "additionalProperties" => value.as_object().is_none_or(|map| {
                    map.iter().all(|(key, value)| {
                        let known = schema
                            .get("properties")
                            .is_some_and(|p| p.get(key).is_some());
                        known || (wanted.is_object() && fits(root, wanted, value))
                    })
                }),
                "description" | "default" | "deprecated" | "title" | "$schema" | "$defs" => true,
                other => panic!("{other}"),
            };
            if !holds {
                return false;
            }
        }
        true
    }

    fn agree(cases: &[(&str, bool)]) {
        let schema = schema();
        for (text, right) in cases {
            let value: Value = serde_saphyr::from_str(text).unwrap();
            assert_eq!(fits(&schema, &schema, &value), *right, "schema: {text}");
            let loaded = Config::from_yaml(&[("v", text)]);
            assert_eq!(loaded.is_ok(), *right, "check: {text}: {loaded:?}");
        }
    }

    #[test]
    fn they_agree_about_custom_resources() {
        agree(&[
            (
                "sync: {toHost: {customResources: {boats.sea.example.com: {enabled: true}, a.b.c/v1: null}}}",
                true,
            ),
            (
                "sync: {fromHost: {customResources: {a.b.c: {enabled: true, scope: Namespaced, \
                 mappings: {byName: {a/b: c/d}}}, b.c.d: {enabled: false, scope: ''}}}}",
                true,
            ),
            (
                "sync: {fromHost: {customResources: {a.b.c: {enabled: false, mappings: {byNames: {}}}}}}",
                false,
            ),
            (
                "sync: {toHost: {pods: {patches: [{path: a, expression: value}]}, \
                 customResources: {a.b.c: {patches: [{path: a, labels: {}}]}}}}",
                true,
            ),
            (
                "sync: {toHost: {pods: {patches: [{path: a, expresion: value}]}}}",
                false,
            ),
            (
                "sync: {toHost: {pods: {patches: [{path: [a], expression: value}]}}}",
                false,
            ),
            (
                "sync: {fromHost: {events: {patches: [{path: a, expression: value}]}}}",
                false,
            ),
            (
                "sync: {toHost: {customResources: {boats.sea.example.com: {enable: true}}}}",
                false,
            ),
            (
                "sync: {toHost: {customResources: {boats.sea.example.com: {scope: Global}}}}",
                false,
            ),
            (
                "sync: {toHost: {customResources: {boats.sea.example.com: true}}}",
                false,
            ),
        ]);
    }

    #[test]
    fn the_schema_and_the_check_agree() {
        let cases = [
            ("{}", true),
            ("sync: null", true),
            ("sync: {toHost: {pods: {enabled: 1}}}", false),
            (
                "sync: {toHost: {pods: {enabled: true, translateImage: {a: b}}}}",
                true,
            ),
            ("sync: {toHost: {pods: {translateImage: {a: 1}}}}", false),
            ("sync: {toHost: {pod: {enabled: true}}}", false),
            ("sync: {toHost: {namespaces: {enabled: true}}}", false),
            (
                "sync: {toHost: {namespaces: {enabled: false, mappingsOnly: true}}}",
                true,
            ),
            ("sync: {fromHost: {storageClasses: {enabled: auto}}}", true),
            (
                "sync: {fromHost: {storageClasses: {enabled: maybe}}}",
                false,
            ),
            ("sync: {fromHost: {csiNodes: {enabled: auto}}}", true),
            ("controlPlane: {proxy: {extraSANs: [a.b]}}", true),
            ("controlPlane: {proxy: {extraSANs: [1]}}", false),
            ("controlPlane: {proxy: {port: 8443}}", true),
            ("controlPlane: {proxy: {port: 443}}", false),
            ("controlPlane: {distro: {k8s: {version: 1.36}}}", true),
            ("controlPlane: {distro: {k8s: {version: v1.36.2}}}", true),
            ("controlPlane: {distro: {k8s: {version: '1.20'}}}", false),
            ("controlPlane: {distro: {k3s: {enabled: true}}}", false),
            (
                "controlPlane: {service: {spec: {type: NodePort}, httpsNodePort: 30443}}",
                true,
            ),
            ("controlPlane: {service: {httpsNodePort: 70000}}", false),
            ("controlPlane: {service: {httpsNodePort: high}}", false),
            (
                "controlPlane: {statefulSet: {image: {tag: 1.5}, env: [{name: a}]}}",
                true,
            ),
            ("controlPlane: {statefulSet: {env: [a]}}", false),
            (
                "controlPlane: {statefulSet: {imagePullPolicy: Sometimes}}",
                false,
            ),
            ("controlPlane: {statefulSet: {imagePullPolicy: ''}}", true),
            (
                "controlPlane: {statefulSet: {persistence: {volumeClaim: {retentionPolicy: ''}}}}",
                false,
            ),
            (
                "networking: {replicateServices: {toHost: [{from: a/b, to: c}]}}",
                true,
            ),
            (
                "networking: {replicateServices: {toHost: [{fro: a/b, to: c}]}}",
                false,
            ),
            ("networking: {replicateServices: {toHost: [a]}}", false),
            (
                "exportKubeConfig: {additionalSecrets: [{name: a, insecure: true}]}",
                true,
            ),
            (
                "exportKubeConfig: {additionalSecrets: [{name: a, insecure: b}]}",
                false,
            ),
            (
                "policies: {resourceQuota: {quota: {any: {thing: 1}}}}",
                true,
            ),
            ("policies: {podSecurityStandard: strict}", false),
            ("rbac: {role: {enabled: true}}", true),
            ("rbac: {role: {extraRules: [a]}}", false),
            ("telemetry: {enabled: true}", false),
            ("plugins: {}", true),
            ("nope: 1", false),
            (
                "controlPlane: {ingress: {annotations: {nginx.ingress.kubernetes.io/ssl-redirect: null, a: b}}}",
                true,
            ),
            ("controlPlane: {ingress: {annotations: {a: 1}}}", false),
            (
                "controlPlane: {ingress: {enabled: true, host: a.b, spec: {any: [1]}}}",
                true,
            ),
            (
                "controlPlane: {advanced: {serviceAccount: {imagePullSecrets: [{name: a}]}}}",
                true,
            ),
        ];
        agree(&cases);
        let schema = schema();
        let complete = serde_json::to_value(Config::default()).unwrap();
        assert!(fits(&schema, &schema, &complete));
    }

    #[test]
    fn every_key_says_what_it_means() {
        fn look(schema: &Value, path: &str, mute: &mut Vec<String>) {
            for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
                let path = shape::join(path, key);
                let leads = inner["description"].is_null() && inner["properties"].is_object();
                if inner["description"].is_null() && !(leads && crate::refused::leads_on(&path)) {
                    mute.push(path.clone());
                }
                look(inner, &path, mute);
                look(&inner["items"], &format!("{path}[]"), mute);
                look(&inner["additionalProperties"], &format!("{path}[]"), mute);
            }
        }
        let mut mute = Vec::new();
        look(&schema(), "", &mut mute);
        assert!(mute.is_empty(), "{mute:?}");
        let port = &schema()["properties"]["controlPlane"]["properties"]["service"]["properties"]["httpsNodePort"];
        assert!(
            port["description"]
                .as_str()
                .unwrap()
                .starts_with("The port on every host node")
        );
        assert_eq!(port["default"], 0);
    }
}
