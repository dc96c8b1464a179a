//! The built-in API types, compiled one by one when they are first used.
//!
//! The table (made by `cargo xtask facts`) has one line a type:
//! `name TAB group/version/Kind,... TAB JSON`. The JSON abbreviates a schema:
//! a number is another type, a letter a scalar, an object has one of `a`
//! (array of), `m` (map of), `p` (properties) or `t` (one of the former) and
//! further facts: `q` required, `lt` list type, `k` list-map keys, `mt` map
//! type, `ps` patch strategy, `mk` patch merge key, `u` unions.

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

use serde_json::Value;

use super::{Handle, ListType, Node, PatchFacts, Property, Schema, Type};
use crate::gvk::{GroupVersionKind, Name};

const TABLE: &[u8] = include_bytes!("../../data/facts.gz");

/// The table's size is about 130 KiB; this guards the allocation alone.
const TABLE_MAX: u64 = 4 << 20;

/// The built-in types.
pub struct Builtin {
    types: Vec<Entry>,
    by_name: HashMap<&'static str, u16>,
    by_kind: HashMap<&'static str, u16>,
    text: Schema,
}

struct Entry {
    name: &'static str,
    kinds: &'static str,
    facts: &'static str,
    /// Apart, since most types are never used and a node is large.
    node: OnceLock<Box<Node>>,
}

/// The table of built-in types. The first call unpacks it, which takes about
/// a millisecond; types are compiled on use.
pub fn builtin() -> &'static Builtin {
    static BUILTIN: OnceLock<Builtin> = OnceLock::new();
    BUILTIN.get_or_init(Builtin::load)
}

impl Builtin {
    fn load() -> Self {
        let mut table = String::new();
        flate2::read::GzDecoder::new(TABLE)
            .take(TABLE_MAX)
            .read_to_string(&mut table)
            .expect("the table is part of the program and a test reads it");
        let table: &'static str = Box::leak(table.into_boxed_str());
        let mut types = Vec::new();
        let mut by_name = HashMap::new();
        let mut by_kind = HashMap::new();
        for (index, line) in (0_u16..).zip(table.lines()) {
            let mut parts = line.splitn(3, '\t');
            let mut part = || parts.next().unwrap_or_default();
            let entry = Entry {
                name: part(),
                kinds: part(),
                facts: part(),
                node: OnceLock::new(),
            };
            by_name.insert(entry.name, index);
            for kind in entry.kinds.split(',').filter(|k| !k.is_empty()) {
                by_kind.insert(kind, index);
            }
            types.push(entry);
        }
        Self {
            types,
            by_name,
            by_kind,
            text: scalar("s"),
        }
    }

    /// The schema of a kind. Some kinds that many groups share, such as
    /// `DeleteOptions`, are found under each.
    pub fn kind(&self, gvk: &GroupVersionKind) -> Option<Schema> {
        let key = format!("{}/{}/{}", gvk.group, gvk.version, gvk.kind);
        let index = self.by_kind.get(key.as_str())?;
        Some(Schema(Handle::Builtin(*index)))
    }

    /// The schema of a definition name, such as
    /// `io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta`.
    pub fn definition(&self, name: &str) -> Option<Schema> {
        let index = self.by_name.get(name)?;
        Some(Schema(Handle::Builtin(*index)))
    }

    /// All definition names, sorted.
    pub fn definition_names(&self) -> impl Iterator<Item = &'static str> {
        self.types.iter().map(|t| t.name)
    }

    /// The schema of `metadata`.
    pub fn object_meta(&self) -> Schema {
        self.definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .unwrap_or_else(|| self.text.clone())
    }

    pub(super) fn name(&self, index: u16) -> &'static str {
        self.types[usize::from(index)].name
    }

    pub(super) fn kinds_of(&self, index: u16) -> Vec<GroupVersionKind> {
        let kinds = self.types[usize::from(index)].kinds.split(',');
        let read = |kind: &'static str| {
            let mut parts = kind.split('/');
            Some(GroupVersionKind::new(
                parts.next()?,
                parts.next()?,
                parts.next()?,
            ))
        };
        kinds.filter_map(read).collect()
    }

    pub(super) fn node(&self, index: u16) -> &Node {
        let entry = &self.types[usize::from(index)];
        entry.node.get_or_init(|| {
            let facts: Value = serde_json::from_str(entry.facts)
                .expect("the table is part of the program and a test reads it all");
            let mut node = self.node_of(&facts);
            node.name = Some(entry.name);
            Box::new(node)
        })
    }

    fn schema_of(&self, facts: &Value) -> Schema {
        match facts {
            Value::Number(number) => {
                let index = number.as_u64().and_then(|n| u16::try_from(n).ok());
                Schema(Handle::Builtin(index.unwrap_or_default()))
            }
            Value::String(letter) if letter == "s" => self.text.clone(),
            Value::String(letter) => scalar(letter),
            // A reference with patch facts beside it: those are the
            // property's. What else stands there makes a node of its own.
            Value::Object(map) if map.get("t").is_some_and(Value::is_number) => {
                self.schema_of(&map["t"])
            }
            other => Schema::of(self.node_of(other)),
        }
    }

    fn node_of(&self, facts: &Value) -> Node {
        let text = |key: &str| facts.get(key).and_then(Value::as_str);
        let mut node = match facts {
            Value::String(letter) => return scalar_node(letter),
            _ => match text("t") {
                Some(letter) => scalar_node(letter),
                None => Node::default(),
            },
        };
        if let Some(items) = facts.get("a") {
            node.ty = Some(Type::Array);
            node.items = Some(self.schema_of(items));
        } else if let Some(values) = facts.get("m") {
            node.ty = Some(Type::Object);
            node.values = Some(self.schema_of(values));
        } else if let Some(properties) = facts.get("p").and_then(Value::as_object) {
            node.ty = Some(Type::Object);
            node.properties = properties
                .iter()
                .map(|(name, facts)| Property {
                    name: Name::Owned(name.clone()),
                    schema: self.schema_of(facts),
                    patch: patch_facts(facts),
                    granular: facts.get("mt").and_then(Value::as_str) == Some("granular"),
                })
                .collect();
            node.properties.sort_by(|a, b| a.name.cmp(&b.name));
        }
        node.preserve_unknown = facts.get("free").is_some();
        node.required = names(facts.get("q"));
        node.list_map_keys = names(facts.get("k"));
        node.list_type = text("lt").and_then(list_type);
        node.map_type = text("mt").map(|t| Name::Owned(t.to_owned()));
        node.default = facts.get("default").cloned();
        node.unions = facts.get("u").cloned();
        node
    }
}

/// Reads `x-kubernetes-list-type`.
pub(super) fn list_type(text: &str) -> Option<ListType> {
    match text {
        "atomic" => Some(ListType::Atomic),
        "set" => Some(ListType::Set),
        "map" => Some(ListType::Map),
        _ => None,
    }
}

/// The texts of a JSON array.
pub(super) fn names(list: Option<&Value>) -> Vec<Name> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|name| Some(Name::Owned(name.as_str()?.to_owned())))
        .collect()
}

fn patch_facts(facts: &Value) -> Option<PatchFacts> {
    let strategy = facts.get("ps")?.as_str()?;
    let has = |wanted: &str| strategy.split(',').any(|s| s == wanted);
    Some(PatchFacts {
        merge: has("merge"),
        replace: has("replace"),
        retain_keys: has("retainKeys"),
        merge_key: facts
            .get("mk")
            .and_then(Value::as_str)
            .map(|key| Name::Owned(key.to_owned())),
    })
}

fn scalar(letter: &str) -> Schema {
    Schema::of(scalar_node(letter))
}

fn scalar_node(letter: &str) -> Node {
    let (ty, format) = match letter {
        "s" => (Type::String, None),
        "y" => (Type::String, Some("byte")),
        "z" => (Type::String, Some("date-time")),
        "i" => (Type::Integer, Some("int32")),
        "l" => (Type::Integer, Some("int64")),
        "b" => (Type::Boolean, None),
        "d" => (Type::Number, Some("double")),
        "n" => (Type::Number, None),
        "q" => (Type::Quantity, None),
        "x" => (Type::IntOrString, None),
        _ => (Type::Any, None),
    };
    Node {
        ty: Some(ty),
        format: format.map(Name::Borrowed),
        ..Node::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_compiles() {
        let builtin = builtin();
        assert!(builtin.types.len() > 700);
        for index in 0..u16::try_from(builtin.types.len()).unwrap() {
            let node = builtin.node(index);
            for property in &node.properties {
                let _ = property.schema.kind();
            }
        }
    }

    #[test]
    fn facts_are_those_of_kubernetes() {
        let pod = builtin()
            .kind(&GroupVersionKind::new("", "v1", "Pod"))
            .unwrap();
        assert_eq!(pod.name(), Some("io.k8s.api.core.v1.Pod"));
        let spec = &pod.property("spec").unwrap().schema;
        let containers = spec.property("containers").unwrap();
        assert_eq!(containers.schema.list_type(), ListType::Map);
        assert_eq!(containers.schema.list_map_keys(), ["name"]);
        assert_eq!(
            containers.patch,
            Some(PatchFacts {
                merge: true,
                replace: false,
                retain_keys: false,
                merge_key: Some("name".into())
            })
        );
        let ports = containers
            .schema
            .items()
            .unwrap()
            .property("ports")
            .unwrap();
        assert_eq!(ports.schema.list_map_keys(), ["containerPort", "protocol"]);
        let protocol = ports.schema.items().unwrap().property("protocol").unwrap();
        assert_eq!(protocol.schema.default_value(), Some(&Value::from("TCP")));
        let volumes = spec.property("volumes").unwrap();
        assert!(volumes.patch.as_ref().unwrap().retain_keys);
        assert!(volumes.patch.as_ref().unwrap().merge);
        let deployment = builtin().kind(&GroupVersionKind::new("apps", "v1", "Deployment"));
        let spec = deployment.unwrap().property("spec").unwrap().schema.clone();
        assert_eq!(spec.required(), ["selector", "template"]);
        assert!(
            spec.property("strategy")
                .unwrap()
                .patch
                .as_ref()
                .unwrap()
                .retain_keys
        );
        assert!(spec.property("selector").unwrap().schema.is_atomic_map());
        assert!(
            builtin()
                .kind(&GroupVersionKind::new("", "v1", "Pads"))
                .is_none()
        );
    }
}
