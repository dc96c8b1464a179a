//! The messages of the built-in types: field numbers, types and JSON names.
//!
//! The table (made by `cargo xtask wire`) has one line a message:
//! `definition name TAB group/version/Kind TAB field;field;...`, each field
//! `number:JSON name:flags:type`. A type is the number of a line or one of the
//! letters of [`Type`].

use std::collections::HashMap;
use std::io::Read;
use std::sync::OnceLock;

const TABLE: &[u8] = include_bytes!("../../data/protobuf.gz");

/// The table's size is about 130 KiB; this guards the allocation alone.
const TABLE_MAX: u64 = 4 << 20;

/// The group of the kinds that every group shares, such as `DeleteOptions`.
const SHARED: &str = "meta.k8s.io/v1";

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// `s`
    Text,
    /// `y`: base64 in JSON.
    Bytes,
    /// `i`
    Int32,
    /// `l`
    Int64,
    /// `b`
    Bool,
    /// `d`
    Double,
    /// `z`: seconds and nanoseconds; the latter are cut off.
    Time,
    /// `Z`: the same with microseconds.
    MicroTime,
    /// `q`: a text in a message.
    Quantity,
    /// `x`
    IntOrString,
    /// `r`: JSON (or another protobuf body) in a message.
    Raw,
    /// `v`: a list of texts in a message.
    Texts,
    /// A line of the table.
    Message(u16),
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurs {
    Once,
    List,
    Map,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub number: u32,
    /// The name in JSON.
    pub name: &'static str,
    pub ty: Type,
    pub occurs: Occurs,
    /// Set on the wire only if set in Go.
    pub pointer: bool,
    /// Left out of JSON if empty.
    pub omit_empty: bool,
    /// Its fields stand in the outer object.
    pub inline: bool,
}

/// A message.
pub(super) struct Message {
    /// The name of the OpenAPI definition.
    pub name: &'static str,
    kind: &'static str,
    text: &'static str,
    fields: OnceLock<Vec<Field>>,
}

impl Message {
    /// The fields, ordered by number.
    pub fn fields(&self) -> &[Field] {
        self.fields.get_or_init(|| {
            let texts = self.text.split(';').filter(|t| !t.is_empty());
            let mut fields: Vec<Field> = texts
                .map(|text| {
                    field(text).expect("the table is part of the program and a test reads it all")
                })
                .collect();
            fields.sort_by_key(|f| f.number);
            fields
        })
    }

    /// The field of a number.
    pub fn field(&self, number: u32) -> Option<&Field> {
        let fields = self.fields();
        let index = fields.binary_search_by_key(&number, |f| f.number).ok()?;
        fields.get(index)
    }

    /// True for the three types of a JSON schema that are either a schema or
    /// something else.
    pub fn is_union(&self) -> bool {
        self.name.contains("JSONSchemaPropsOr")
    }
}

/// All messages.
pub(super) struct Table {
    messages: Vec<Message>,
    by_kind: HashMap<&'static str, u16>,
}

/// The table. The first call unpacks it, which takes about a millisecond;
/// fields are read on use.
pub(super) fn table() -> &'static Table {
    static LOADED: OnceLock<Table> = OnceLock::new();
    LOADED.get_or_init(Table::load)
}

impl Table {
    fn load() -> Self {
        let mut table = String::new();
        flate2::read::GzDecoder::new(TABLE)
            .take(TABLE_MAX)
            .read_to_string(&mut table)
            .expect("the table is part of the program and a test reads it");
        table.shrink_to_fit();
        let table: &'static str = Box::leak(table.into_boxed_str());
        let mut messages = Vec::new();
        let mut by_kind = HashMap::new();
        for (index, line) in (0_u16..).zip(table.lines()) {
            let mut parts = line.splitn(3, '\t');
            let mut part = || parts.next().unwrap_or_default();
            let message = Message {
                name: part(),
                kind: part(),
                text: part(),
                fields: OnceLock::new(),
            };
            if !message.kind.is_empty() {
                by_kind.insert(message.kind, index);
            }
            messages.push(message);
        }
        Self { messages, by_kind }
    }

    /// The message of a kind, and its index. `api_version` has no slash in the
    /// core group.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<u16> {
        let slash = if api_version.contains('/') { "" } else { "/" };
        self.by_kind
            .get(format!("{slash}{api_version}/{kind}").as_str())
            .or_else(|| self.by_kind.get(format!("{SHARED}/{kind}").as_str()))
            .copied()
    }

    /// A message by its index, which comes from the table.
    pub fn message(&self, index: u16) -> &Message {
        &self.messages[usize::from(index)]
    }
}

fn field(text: &'static str) -> Option<Field> {
    let mut parts = text.split(':');
    let (number, name, flags, ty) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let occurs = match flags {
        f if f.contains('[') => Occurs::List,
        f if f.contains('{') => Occurs::Map,
        _ => Occurs::Once,
    };
    let ty = match ty {
        "s" => Type::Text,
        "y" => Type::Bytes,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "b" => Type::Bool,
        "d" => Type::Double,
        "z" => Type::Time,
        "Z" => Type::MicroTime,
        "q" => Type::Quantity,
        "x" => Type::IntOrString,
        "r" => Type::Raw,
        "v" => Type::Texts,
        line => Type::Message(line.parse().ok()?),
    };
    Some(Field {
        number: number.parse().ok()?,
        name,
        ty,
        occurs,
        pointer: flags.contains('*'),
        omit_empty: flags.contains('?'),
        inline: flags.contains('^'),
    })
}
