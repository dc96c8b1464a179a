//! Parts of the configuration: a struct, its default, and what its keys mean.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Fragment, Toggle};

/// What the keys of a part mean, in the words of its documentation.
pub(crate) trait Documented {
    /// Adds the meaning of every key below the dotted `path`; items of a list
    /// are `path[]`.
    fn document(path: &str, into: &mut BTreeMap<String, String>) {
        let _ = (path, into);
    }
}

impl Documented for bool {}
impl Documented for u16 {}
impl Documented for String {}
impl Documented for Value {}
impl Documented for Fragment {}
impl Documented for Toggle {}

/// Values under names of the user's choice are documented as items of a list.
impl<T: Documented> Documented for BTreeMap<String, T> {
    fn document(path: &str, into: &mut BTreeMap<String, String>) {
        T::document(&format!("{path}[]"), into);
    }
}

impl<T: Documented> Documented for Option<T> {
    fn document(path: &str, into: &mut BTreeMap<String, String>) {
        T::document(path, into);
    }
}

impl<T: Documented> Documented for Vec<T> {
    fn document(path: &str, into: &mut BTreeMap<String, String>) {
        T::document(&format!("{path}[]"), into);
    }
}

/// The key of a field, as serde has it.
pub(crate) fn camel_case(field: &str) -> String {
    let mut key = String::with_capacity(field.len());
    let mut raise = false;
    for c in field.chars() {
        match c {
            '_' => raise = true,
            c if raise => {
                key.extend(c.to_uppercase());
                raise = false;
            }
            c => key.push(c),
        }
    }
    key
}

/// The lines of a documentation comment as one paragraph.
pub(crate) fn paragraph(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident { $(
        $(#[doc = $doc:literal])+ $(#[serde(rename = $rename:literal)])?
        $field:ident : $type:ty = $default:expr
    ),* $(,)? }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde(rename = $rename)])? pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl crate::model::section::Documented for $name {
            fn document(path: &str, into: &mut std::collections::BTreeMap<String, String>) {
                use crate::model::section::{Documented, camel_case, paragraph};
                $(
                    let keys = [$($rename.to_owned(),)? camel_case(stringify!($field))];
                    let here = crate::shape::join(path, &keys[0]);
                    into.insert(here.clone(), paragraph(&[$($doc),+]));
                    <$type as Documented>::document(&here, into);
                )*
            }
        }
    };
}
