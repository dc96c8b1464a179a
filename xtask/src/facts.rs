//! Makes the table of facts about the built-in API types that
//! `coracle-machinery` compiles its schemas from.
//!
//! The source is the PyPI package `kubernetes-validate` (a wheel, or the
//! directory that it unpacks to), which carries the OpenAPI definitions of
//! each Kubernetes release. The table holds no prose. Its form, before gzip:
//! one line a type, `name TAB group/version/Kind,... TAB JSON`, where the JSON
//! abbreviates an OpenAPI schema (see `machinery::schema::builtin`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// The release whose types are taken.
const DEFINITIONS: &str =
    "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";
const TABLE: &str = "crates/machinery/data/facts.gz";

/// Defaults of list-map keys: server-side apply needs them to tell items
/// apart. The package has no `default`s.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "TCP"),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "TCP"),
];

/// Go types whose JSON is free, whatever the definition says.
const FREE_OBJECTS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
];

/// Writes the table from the package at `source`.
pub fn generate(source: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let text = if source.is_dir() {
        fs::read(source.join(DEFINITIONS))?
    } else {
        read_from_zip(&fs::read(source)?, DEFINITIONS)?
    };
    let document: Value = serde_json::from_slice(&text)?;
    let definitions = document["$defs"].as_object().ok_or("no $defs")?;
    let indices: BTreeMap<&str, usize> = definitions
        .keys()
        .enumerate()
        .map(|(i, name)| (name.as_str(), i))
        .collect();
    let mut table = String::new();
    for name in indices.keys() {
        let definition = &definitions[*name];
        let facts = type_facts(name, definition, &indices);
        table.push_str(&format!("{name}\t{}\t{facts}\n", kinds(definition)));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(table.as_bytes())?;
    let packed = encoder.finish()?;
    fs::create_dir_all(Path::new(TABLE).parent().ok_or("no parent")?)?;
    fs::write(TABLE, &packed)?;
    let (types, bytes) = (indices.len(), table.len());
    println!(
        "{TABLE}: {types} types, {bytes} bytes, {} packed",
        packed.len()
    );
    Ok(())
}

fn kinds(definition: &Value) -> String {
    let list = definition["x-kubernetes-group-version-kind"].as_array();
    let names = list.into_iter().flatten().map(|kind| {
        let text = |key: &str| kind[key].as_str().unwrap_or_default();
        format!("{}/{}/{}", text("group"), text("version"), text("kind"))
    });
    names.collect::<Vec<_>>().join(",")
}

fn type_facts(name: &str, definition: &Value, indices: &BTreeMap<&str, usize>) -> Value {
    if name.ends_with(".resource.Quantity") {
        return json!("q");
    }
    if name.ends_with(".intstr.IntOrString") {
        return json!("x");
    }
    if FREE_OBJECTS.contains(&name) {
        return json!({"p": {}, "free": 1});
    }
    let mut facts = facts(definition, indices);
    for (_, property, default) in KEY_DEFAULTS.iter().filter(|(t, _, _)| *t == name) {
        let of = facts["p"][*property].take();
        facts["p"][*property] = json!({"t": of, "default": default});
    }
    facts
}

/// A schema in short: a number refers to another type, a letter is a scalar,
/// `a` an array, `m` a map, `p` an object with properties.
fn facts(schema: &Value, indices: &BTreeMap<&str, usize>) -> Value {
    let extra = extras(schema);
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.rsplit('/').next().unwrap_or_default();
        return with_extras("t", json!(indices[target]), extra);
    }
    let of_type = match &schema["type"] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        other => other.as_str(),
    };
    let format = schema["format"].as_str().unwrap_or_default();
    match of_type {
        Some("array") => {
            let mut map = extra;
            map.insert("a".into(), facts(&schema["items"], indices));
            Value::Object(map)
        }
        Some("object") if schema.get("additionalProperties").is_some() => {
            let mut map = extra;
            map.insert("m".into(), facts(&schema["additionalProperties"], indices));
            Value::Object(map)
        }
        Some("object") => {
            let mut map = extra;
            let properties = schema["properties"].as_object().into_iter().flatten();
            let properties: Map<String, Value> = properties
                .map(|(name, property)| (name.clone(), facts(property, indices)))
                .collect();
            map.insert("p".into(), Value::Object(properties));
            if let Some(required) = schema.get("required") {
                map.insert("q".into(), required.clone());
            }
            Value::Object(map)
        }
        scalar => {
            let letter = match (scalar, format) {
                (None, _) => "any",
                (Some("string"), "") => "s",
                (Some("string"), "byte") => "y",
                (Some("string"), "date-time") => "z",
                (Some("integer"), "int32") => "i",
                (Some("integer"), "int64") => "l",
                (Some("boolean"), "") => "b",
                (Some("number"), "double") => "d",
                (Some("number"), "") => "n",
                (scalar, format) => panic!("unknown scalar {scalar:?} {format:?}"),
            };
            with_extras("t", json!(letter), extra)
        }
    }
}

fn with_extras(key: &str, of: Value, mut extra: Map<String, Value>) -> Value {
    if extra.is_empty() {
        return of;
    }
    extra.insert(key.into(), of);
    Value::Object(extra)
}

fn extras(schema: &Value) -> Map<String, Value> {
    let mut extra = Map::new();
    for (long, short) in [
        ("x-kubernetes-list-type", "lt"),
        ("x-kubernetes-list-map-keys", "k"),
        ("x-kubernetes-map-type", "mt"),
        ("x-kubernetes-patch-strategy", "ps"),
        ("x-kubernetes-patch-merge-key", "mk"),
        ("x-kubernetes-unions", "u"),
    ] {
        if let Some(value) = schema.get(long) {
            extra.insert(short.into(), value.clone());
        }
    }
    extra
}

/// One file of a zip archive, found through the central directory.
fn read_from_zip(archive: &[u8], name: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let slice = archive.get(at..at + bytes)?;
        Some(slice.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    };
    let mut at = 0;
    while let Some(found) = archive[at..].windows(4).position(|w| w == b"PK\x01\x02") {
        at += found;
        let header = || -> Option<(usize, usize, usize, usize)> {
            Some((
                number(at + 10, 2)?,
                number(at + 20, 4)?,
                number(at + 28, 2)?,
                number(at + 42, 4)?,
            ))
        };
        let (method, size, name_length, local) = header().ok_or("archive is cut off")?;
        if archive.get(at + 46..at + 46 + name_length) == Some(name.as_bytes()) {
            let lengths = number(local + 26, 2).zip(number(local + 28, 2));
            let (name_length, extra) = lengths.ok_or("archive is cut off")?;
            let start = local + 30 + name_length + extra;
            let data = archive
                .get(start..start + size)
                .ok_or("archive is cut off")?;
            if method == 0 {
                return Ok(data.to_vec());
            }
            let mut text = Vec::new();
            flate2::read::DeflateDecoder::new(data).read_to_end(&mut text)?;
            return Ok(text);
        }
        at += 4;
    }
    Err(format!("no {name} in the archive").into())
}
