//! One mutation of a policy.

use coracle_machinery::apply::merge;
use coracle_machinery::cel::{Budget, Program, Val};
use coracle_machinery::object::text;
use coracle_machinery::patch::json_patch;
use serde_json::{Map, Value};

use crate::admission::conditions::{Scene, limited};
use crate::registry::Resource;

/// What an expression makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Fields that are merged into the object.
    Apply,
    /// A JSON patch.
    Patch,
}

pub(super) struct Mutation {
    form: Form,
    program: Result<Program, String>,
}

/// Reads a mutation.
pub(super) fn mutation(mutation: &Value, variables: &[&str]) -> Mutation {
    let (form, pointer) = match text(mutation, "/patchType") {
        "JSONPatch" => (Form::Patch, "/jsonPatch/expression"),
        _ => (Form::Apply, "/applyConfiguration/expression"),
    };
    Mutation {
        form,
        program: Program::compile(text(mutation, pointer), variables),
    }
}

impl Mutation {
    /// The object as the mutation leaves it.
    ///
    /// # Errors
    /// Why it cannot be changed.
    pub(super) fn apply<'s>(
        &'s self,
        scene: &Scene<'s>,
        object: &Value,
        resource: &Resource,
        budget: &mut Budget,
    ) -> Result<Value, String> {
        let program = self.program.as_ref().map_err(Clone::clone)?;
        let value = limited(budget, |b| program.evaluate(scene, b));
        let value = value.map_err(|error| error.to_string())?;
        let made = value.to_json().map_err(|error| error.to_string())?;
        match self.form {
            Form::Apply => {
                if !matches!(value, Val::Map(_)) {
                    return Err(format!(
                        "type mismatch: want Object but got {}",
                        value.type_name()
                    ));
                }
                for field in ["apiVersion", "kind", "metadata"] {
                    let bad = match (field, made.get(field)) {
                        ("metadata", Some(metadata)) => ["name", "namespace", "generateName"]
                            .into_iter()
                            .any(|f| metadata.get(f).is_some()),
                        (_, given) => given.is_some(),
                    };
                    if bad {
                        return Err(format!(
                            "{field} may not be changed by an apply configuration"
                        ));
                    }
                }
                Ok(merge(object, &made, resource.schema().as_ref()))
            }
            Form::Patch => {
                let operations = operations(made)?;
                let text = Value::Array(operations).to_string();
                json_patch(object, text.as_bytes()).map_err(|error| error.message)
            }
        }
    }
}

/// The operations of a patch, without the mark that they were written as such.
fn operations(made: Value) -> Result<Vec<Value>, String> {
    let Value::Array(made) = made else {
        return Err("a list of JSONPatch is wanted".to_owned());
    };
    let clean = |operation: Value| match operation {
        Value::Object(map) => {
            let known = |(key, _): &(String, Value)| {
                matches!(key.as_str(), "op" | "path" | "from" | "value")
            };
            Ok(Value::Object(
                map.into_iter().filter(known).collect::<Map<_, _>>(),
            ))
        }
        _ => Err("a list of JSONPatch is wanted".to_owned()),
    };
    made.into_iter().map(clean).collect()
}
