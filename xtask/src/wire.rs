//! Makes the table of protobuf facts about the built-in API types that
//! `coracle-machinery` reads and writes protobuf bodies with.
//!
//! The source is a directory with the Go modules `api`, `apimachinery`,
//! `kube-aggregator` and `apiextensions-apiserver` of one Kubernetes release:
//! the tags of their struct fields say name, number, and what JSON leaves out.
//! The table holds no prose. Its form, before gzip, is one line a message:
//! `definition name TAB group/version/Kind TAB field;field;...`, the second
//! part empty but for kinds, a field `number:JSON name:flags:type`. Flags: `*`
//! pointer, `[` repeated, `{` map, `?` left out of JSON if empty, `^` its fields stand in the outer object. A type is the number of a
//! line or a letter (see `machinery::protobuf::table`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

type Error = Box<dyn std::error::Error>;

const TABLE: &str = "crates/machinery/data/protobuf.gz";

const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1";

/// Packages beside those of the module `api`: where they are, the import path.
const PACKAGES: &[(&str, &str)] = &[
    ("apimachinery/pkg/apis/meta/v1", META),
    (
        "apiextensions-apiserver/pkg/apis/apiextensions/v1",
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
    ),
    (
        "kube-aggregator/pkg/apis/apiregistration/v1",
        "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1",
    ),
];

/// Packages of the module `api` that no server offers as resources.
const NOT_SERVED: &[&str] = &[
    "admission",
    "apidiscovery",
    "extensions",
    "imagepolicy",
    "lifecycle",
];

/// Types whose protobuf form is not that of their Go struct, and their letter.
const SPECIAL: &[(&str, &str)] = &[
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Time", "z"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime", "Z"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1", "r"),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", "r"),
    (
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON",
        "r",
    ),
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", "q"),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", "x"),
    ("k8s.io/apimachinery/pkg/types.UID", "s"),
    ("k8s.io/apimachinery/pkg/types.NodeName", "s"),
    ("string", "s"),
    ("int32", "i"),
    ("int64", "l"),
    ("bool", "b"),
    ("float64", "d"),
];

/// The files of a package that declare types.
const SOURCES: &[&str] = &["types.go", "types_jsonschema.go", "group_version.go"];

#[derive(Default)]
struct Go {
    /// Full name to fields.
    structs: BTreeMap<String, Struct>,
    /// Full name to full type.
    others: BTreeMap<String, String>,
    /// Full names of lists that are messages of their own.
    wrapped: BTreeSet<String>,
}

#[derive(Default)]
struct Struct {
    kind: Option<String>,
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    json: String,
    inline: bool,
    omit_empty: bool,
    ty: String,
}

/// Writes the table from the modules below `source`.
pub fn generate(source: &Path) -> Result<(), Error> {
    let mut go = Go::default();
    for (path, import) in packages(source)? {
        let group = group_name(&path)?;
        for name in SOURCES {
            if let Ok(text) = fs::read_to_string(path.join(name)) {
                go.read(&text, &import, &group)?;
            }
        }
    }
    let names: Vec<&String> = go.structs.keys().collect();
    let lines: BTreeMap<&str, usize> = names
        .iter()
        .enumerate()
        .map(|(i, n)| (n.as_str(), i))
        .collect();
    let mut table = String::new();
    for (name, message) in &go.structs {
        let fields: Result<Vec<String>, Error> = message
            .fields
            .iter()
            .map(|field| {
                go.facts(field, &lines)
                    .map_err(|e| format!("{name}: {e}").into())
            })
            .collect();
        let kind = message.kind.as_deref().unwrap_or_default();
        table.push_str(&format!(
            "{}\t{kind}\t{}\n",
            definition(name),
            fields?.join(";")
        ));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(table.as_bytes())?;
    let packed = encoder.finish()?;
    fs::write(TABLE, &packed)?;
    println!(
        "{TABLE}: {} messages, {} bytes, {} packed",
        names.len(),
        table.len(),
        packed.len()
    );
    Ok(())
}

fn packages(source: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut found: Vec<(PathBuf, String)> = PACKAGES
        .iter()
        .map(|(path, import)| (source.join(path), (*import).to_owned()))
        .collect();
    let directories = |path: &Path| -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    };
    let api = source.join("api");
    for group in directories(&api)? {
        if NOT_SERVED.contains(&group.as_str()) {
            continue;
        }
        for version in directories(&api.join(&group))? {
            let path = api.join(&group).join(&version);
            if path.join("types.go").exists() {
                found.push((path, format!("k8s.io/api/{group}/{version}")));
            }
        }
    }
    Ok(found)
}

/// `group/version` of a package.
fn group_name(path: &Path) -> Result<String, Error> {
    let version = path.file_name().unwrap_or_default().to_string_lossy();
    for name in ["register.go", "../register.go"] {
        let Ok(text) = fs::read_to_string(path.join(name)) else {
            continue;
        };
        if let Some((_, rest)) = text.split_once("const GroupName = \"") {
            let group = rest.split('"').next().unwrap_or_default();
            return Ok(format!("{group}/{version}"));
        }
    }
    Err(format!("{}: no GroupName", path.display()).into())
}

/// The OpenAPI definition name of a Go type.
fn definition(name: &str) -> String {
    name.replacen("k8s.io/", "io.k8s.", 1).replace('/', ".")
}

impl Go {
    fn read(&mut self, text: &str, import: &str, group: &str) -> Result<(), Error> {
        let mut imports: BTreeMap<String, String> = BTreeMap::new();
        let mut open: Option<(String, Struct)> = None;
        let mut nullable = false;
        for line in text.lines() {
            if let Some((name, mut message)) = open.take() {
                if line.starts_with('}') {
                    self.structs.insert(name, message);
                    continue;
                }
                if is_type_meta(line) {
                    let kind = name.rsplit('.').next().unwrap_or_default();
                    message.kind = Some(format!("{group}/{kind}"));
                } else if let Some(field) = field(line, import, &imports)? {
                    message.fields.push(field);
                }
                open = Some((name, message));
                continue;
            }
            if line.starts_with("// +protobuf.nullable=true") {
                nullable = true;
            } else if let Some(rest) = line.strip_prefix("type ") {
                let words: Vec<&str> = rest.split_whitespace().filter(|w| *w != "=").collect();
                let [name, ty, ..] = words.as_slice() else {
                    continue;
                };
                let name = format!("{import}.{name}");
                if ty.starts_with("struct{}") {
                    self.structs.insert(name, Struct::default());
                } else if *ty == "struct" {
                    open = Some((name, Struct::default()));
                } else if !ty.starts_with("interface") {
                    if nullable {
                        self.wrapped.insert(name.clone());
                    }
                    self.others.insert(name, full(ty, import, &imports)?);
                }
                nullable = false;
            } else if let Some((alias, path)) = import_line(line) {
                imports.insert(alias, path);
            }
        }
        Ok(())
    }

    fn facts(&self, field: &Field, lines: &BTreeMap<&str, usize>) -> Result<String, Error> {
        let mut flags = String::new();
        let mut ty = field.ty.as_str();
        if let Some(rest) = ty.strip_prefix('*') {
            flags.push('*');
            ty = rest;
        }
        let letter = loop {
            if let Some((_, letter)) = SPECIAL.iter().find(|(name, _)| *name == ty) {
                break (*letter).to_owned();
            }
            if let Some(line) = lines.get(ty) {
                break line.to_string();
            }
            if self.wrapped.contains(ty) {
                break "v".to_owned();
            }
            if ty == "[]byte" {
                break "y".to_owned();
            }
            if let Some(items) = ty.strip_prefix("[]") {
                flags.push('[');
                ty = items.trim_start_matches('*');
            } else if let Some((key, value)) = ty
                .strip_prefix("map[")
                .and_then(|rest| rest.split_once(']'))
            {
                let key = self.others.get(key).map_or(key, String::as_str);
                if key != "string" {
                    return Err(format!("a map with keys {key}").into());
                }
                flags.push('{');
                ty = value;
            } else if let Some(other) = self.others.get(ty) {
                ty = other;
            } else {
                return Err(format!("unknown type {ty}").into());
            }
        };
        for (flag, holds) in [('?', field.omit_empty), ('^', field.inline)] {
            if holds {
                flags.push(flag);
            }
        }
        Ok(format!("{}:{}:{flags}:{letter}", field.number, field.json))
    }
}

fn is_type_meta(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let embedded = words.next().unwrap_or_default();
    matches!(embedded, "metav1.TypeMeta" | "TypeMeta") && !line.contains("protobuf:")
}

fn import_line(line: &str) -> Option<(String, String)> {
    let (before, rest) = line.split_once("\"k8s.io/")?;
    let before = before.trim().trim_start_matches("import").trim();
    let path = format!("k8s.io/{}", rest.split('"').next()?);
    let alias = if before.is_empty() {
        path.rsplit('/').next()?.to_owned()
    } else {
        before.to_owned()
    };
    let plain = alias.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then_some((alias, path))
}

/// A field of a struct; none if the line is another or has no protobuf tag.
fn field(
    line: &str,
    import: &str,
    imports: &BTreeMap<String, String>,
) -> Result<Option<Field>, Error> {
    let line = line.trim();
    let Some((declared, tags)) = line.split_once('`') else {
        return Ok(None);
    };
    if line.starts_with("//") {
        return Ok(None);
    }
    let tag = |name: &str| -> Option<&str> {
        let (_, rest) = tags.split_once(&format!("{name}:\""))?;
        rest.split('"').next()
    };
    let Some(wire) = tag("protobuf") else {
        return Ok(None);
    };
    if wire == "-" {
        return Ok(None);
    }
    let words: Vec<&str> = declared.split_whitespace().collect();
    let (go_name, ty, embedded) = match words.as_slice() {
        [ty] => (ty.rsplit('.').next().unwrap_or_default(), *ty, true),
        [name, ty] => (*name, *ty, false),
        _ => return Err(format!("strange field {line}").into()),
    };
    let number = wire.split(',').nth(1).ok_or("a tag without a number")?;
    let mut json = tag("json").unwrap_or_default().split(',');
    let name = json.next().unwrap_or_default();
    let options: Vec<&str> = json.collect();
    Ok(Some(Field {
        number: number.parse()?,
        json: if name.is_empty() || name == "-" {
            go_name.to_owned()
        } else {
            name.to_owned()
        },
        inline: options.contains(&"inline") || (embedded && name.is_empty()),
        omit_empty: options.contains(&"omitempty"),
        ty: full(ty, import, imports)?,
    }))
}

/// A type with its package's import path in place of the alias.
fn full(ty: &str, import: &str, imports: &BTreeMap<String, String>) -> Result<String, Error> {
    for prefix in ["*", "[]"] {
        if let Some(rest) = ty.strip_prefix(prefix) {
            return Ok(format!("{prefix}{}", full(rest, import, imports)?));
        }
    }
    if let Some((key, value)) = ty.strip_prefix("map[").and_then(|r| r.split_once(']')) {
        let (key, value) = (full(key, import, imports)?, full(value, import, imports)?);
        return Ok(format!("map[{key}]{value}"));
    }
    if let Some((alias, name)) = ty.split_once('.') {
        let path = imports.get(alias).ok_or(format!("no import {alias}"));
        return Ok(format!("{}.{name}", path?));
    }
    let basic = ty.starts_with(|c: char| c.is_ascii_lowercase());
    Ok(if basic {
        ty.to_owned()
    } else {
        format!("{import}.{ty}")
    })
}
