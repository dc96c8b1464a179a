//! Patches of the values: single fields that become something else on their
//! way. They come last, over what the rules of a kind have made, so that the
//! user's word counts; what an object is and whose it is they cannot reach.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use coracle_config::model::{KindPatches, Patch};
use coracle_config::patch::{self, Step, VARIABLES};
use coracle_config::{Config, marks};
use coracle_machinery::cel::{Activation, Budget, Key, Program, Val};
use coracle_machinery::object;
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::data::DataKind;
use crate::metadata::reapplied;
use crate::names::{Translator, VirtualName};
use crate::refs::Reference;

/// Bytes of what the expressions of one object make: as much as all annotations of an object
/// may have.
const MAX_RESULT: usize = 256 << 10;
/// Fields that the patches of one object change: more would be an object that
/// the host does not take either.
const MAX_FIELDS: usize = 10_000;

/// Why an object cannot be patched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the patch of {path}: {why}")]
pub struct PatchError {
    /// The path, as in the values.
    pub path: String,
    /// Why not.
    pub why: String,
}

/// What is done to a field.
#[derive(Debug)]
enum Mode {
    /// Nothing but that it stays behind.
    Drop,
    /// An expression of it.
    Expression(Program),
    /// The name of another object is translated.
    Reference(Named),
    /// The labels of a selector are.
    Labels,
}

/// Where the parts of a reference are, below the field.
#[derive(Debug)]
struct Named {
    api_version: String,
    kind: String,
    api_version_path: Vec<Step>,
    kind_path: Vec<Step>,
    name_path: Vec<Step>,
    namespace_path: Vec<Step>,
}

#[derive(Debug)]
struct Compiled {
    text: String,
    steps: Vec<Step>,
    mode: Mode,
}

/// The patches of one kind, ready for use. Those that the values' check has let
/// pass compile.
#[derive(Clone, Debug, Default)]
pub struct Patches {
    /// On the way that the section is about.
    forth: Arc<Vec<Compiled>>,
    /// On the way back.
    back: Arc<Vec<Compiled>>,
}

impl Patches {
    /// Of a kind whose objects go to the host.
    pub fn to_host(patches: &[Patch]) -> Self {
        let forth = patches.iter().filter_map(|patch| {
            let steps = patch::path(&patch.path).ok()?;
            if is_status(&steps) {
                return None;
            }
            let mode = if !patch.expression.is_empty() {
                Mode::Expression(Program::compile(&patch.expression, VARIABLES).ok()?)
            } else if !patch.reverse_expression.is_empty() {
                Mode::Drop
            } else if patch.labels.is_some() {
                Mode::Labels
            } else {
                Mode::Reference(Named::of(patch)?)
            };
            Some(Compiled {
                text: patch.path.clone(),
                steps,
                mode,
            })
        });
        let back = patches
            .iter()
            .filter_map(Self::back)
            .filter(|p| is_status(&p.steps));
        Self {
            forth: Arc::new(forth.collect()),
            back: Arc::new(back.collect()),
        }
    }

    /// Of a kind of whose objects those of the host are shown inside.
    pub fn from_host(patches: &[Patch]) -> Self {
        Self {
            forth: Arc::default(),
            back: Arc::new(patches.iter().filter_map(Self::back).collect()),
        }
    }

    fn back(patch: &Patch) -> Option<Compiled> {
        // Where kinds are only shown, some have the other name for it.
        let text = if patch.reverse_expression.is_empty() {
            &patch.expression
        } else {
            &patch.reverse_expression
        };
        Some(Compiled {
            text: patch.path.clone(),
            steps: patch::path(&patch.path).ok()?,
            mode: Mode::Expression(Program::compile(text, VARIABLES).ok()?),
        })
    }

    /// True if there is nothing to do to objects on the way back.
    pub fn has_none_back(&self) -> bool {
        self.back.is_empty()
    }

    /// True if objects may name others, which then go to the host as well.
    pub fn refer(&self) -> bool {
        let refers = |patch: &Compiled| matches!(patch.mode, Mode::Reference(_));
        self.forth.iter().any(refers)
    }

    /// The ConfigMaps and Secrets that an object names by these patches.
    pub fn references(&self, inside: &Value) -> BTreeSet<Reference> {
        let mut found = BTreeSet::new();
        for patch in self.forth.iter() {
            let Mode::Reference(named) = &patch.mode else {
                continue;
            };
            let mut copy = inside.clone();
            // Too many of them are an error where they are translated.
            let _ = each(&mut copy, patch, &mut |_, field| {
                let (api_version, kind) = named.what(field);
                let data = match (api_version.as_str(), kind.as_str()) {
                    ("v1", "Secret") => DataKind::Secret,
                    ("v1", "ConfigMap") => DataKind::ConfigMap,
                    _ => return Ok(None),
                };
                if let Some(name) = named.whose(field, object::namespace(inside)) {
                    found.insert(Reference {
                        kind: data,
                        namespace: name.namespace,
                        name: name.name,
                    });
                }
                Ok(None)
            });
        }
        found
    }
}

fn is_status(steps: &[Step]) -> bool {
    matches!(steps.first(), Some(Step::Key(key)) if key == "status")
}

impl Named {
    fn of(patch: &Patch) -> Option<Self> {
        let relative = |text: &str| match text {
            "" => Some(Vec::new()),
            text => patch::path(text).ok(),
        };
        let reference = &patch.reference;
        Some(Self {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
            api_version_path: relative(&reference.api_version_path)?,
            kind_path: relative(&reference.kind_path)?,
            name_path: relative(&reference.name_path)?,
            namespace_path: relative(&reference.namespace_path)?,
        })
    }

    /// Version and kind of what the field names.
    fn what(&self, field: &Value) -> (String, String) {
        let told = |steps: &[Step], otherwise: &str| match steps {
            [] => otherwise.to_owned(),
            // An empty text is none: whoever reads it takes a default.
            steps => text_at(field, steps)
                .filter(|text| !text.is_empty())
                .unwrap_or(otherwise)
                .to_owned(),
        };
        (
            told(&self.api_version_path, &self.api_version),
            told(&self.kind_path, &self.kind),
        )
    }

    /// Its namespace and name, if it has one.
    fn whose(&self, field: &Value, own: &str) -> Option<VirtualName> {
        let name = text_at(field, &self.name_path).filter(|name| !name.is_empty())?;
        let namespace = match self.namespace_path.as_slice() {
            [] => own,
            steps => text_at(field, steps)
                .filter(|n| !n.is_empty())
                .unwrap_or(own),
        };
        Some(VirtualName::new(namespace, name))
    }
}

fn at<'a>(mut value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    for step in steps {
        value = match step {
            Step::Key(key) => value.get(key)?,
            Step::Index(index) => value.get(index)?,
            Step::All => return None,
        };
    }
    Some(value)
}

fn text_at<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a str> {
    at(value, steps)?.as_str()
}

fn put(mut value: &mut Value, steps: &[Step], text: String) {
    for step in steps {
        let next = match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
            Step::All => None,
        };
        let Some(next) = next else { return };
        value = next;
    }
    *value = text.into();
}

impl Translator {
    /// The host object with the patches of its kind over it.
    ///
    /// # Errors
    /// If one of them has no value for it: then it does not go to the host.
    pub fn patched(
        &self,
        patches: &Patches,
        inside: &Value,
        desired: Value,
    ) -> Result<Value, PatchError> {
        if patches.forth.is_empty() {
            return Ok(desired);
        }
        let mut changes = Vec::new();
        let mut patched = desired;
        let mut work = Work::new(self.context(inside, &Value::Null));
        for patch in patches.forth.iter() {
            each(&mut patched, patch, &mut |path, field| {
                let new = match &patch.mode {
                    Mode::Drop => Some(Value::Null),
                    Mode::Labels => Some(self.selected(field, object::namespace(inside))),
                    Mode::Reference(named) => self.named(named, field, object::namespace(inside)),
                    Mode::Expression(program) => Some(work.evaluate(program, path, field)?),
                };
                changes.extend(new.as_ref().map(|new| json!([path, new])));
                Ok(new)
            })?;
        }
        if changes.is_empty() {
            return Ok(patched);
        }
        Ok(reapplied(patched, &Value::Array(changes)))
    }

    /// As `patched`, with the patches of a built-in kind.
    ///
    /// # Errors
    /// As for `patched`.
    pub fn patched_kind(
        &self,
        kind: &str,
        inside: &Value,
        desired: Value,
    ) -> Result<Value, PatchError> {
        match self.patches.to_host(kind) {
            Some(patches) => self.patched(patches, inside, desired),
            None => Ok(desired),
        }
    }

    /// As `patched_back`, with the patches of a built-in kind.
    ///
    /// # Errors
    /// As for `patched`.
    pub fn shown_kind(&self, kind: &str, host: &Value, shown: Value) -> Result<Value, PatchError> {
        match self.patches.from_host(kind) {
            Some(patches) => self.patched_back(patches, host, &Value::Null, shown),
            None => Ok(shown),
        }
    }

    /// An object, or the part of it that is given, as it is shown inside: with
    /// the patches of the way back over it.
    ///
    /// # Errors
    /// As for `patched`.
    pub fn patched_back(
        &self,
        patches: &Patches,
        host: &Value,
        inside: &Value,
        shown: Value,
    ) -> Result<Value, PatchError> {
        if patches.back.is_empty() {
            return Ok(shown);
        }
        let mut changes = Vec::new();
        let mut patched = shown;
        let mut work = Work::new(self.context(inside, host));
        for patch in patches.back.iter() {
            each(&mut patched, patch, &mut |path, field| {
                let Mode::Expression(program) = &patch.mode else {
                    return Ok(None);
                };
                let new = work.evaluate(program, path, field)?;
                changes.push(json!([path, new]));
                Ok(Some(new))
            })?;
        }
        if changes.is_empty() || object::annotation(&patched, marks::APPLIED).is_none() {
            return Ok(patched);
        }
        Ok(reapplied(patched, &Value::Array(changes)))
    }

    /// What expressions know besides their field; its path is put in for each.
    fn context(&self, inside: &Value, host: &Value) -> Value {
        json!({
            "vcluster": {"name": self.vc, "namespace": self.host_namespace},
            "virtualObject": inside, "hostObject": host,
        })
    }

    /// The field with the name in it translated; as it is if it names nothing,
    /// or what does not flow.
    fn named(&self, named: &Named, field: &Value, own: &str) -> Option<Value> {
        let (api_version, kind) = named.what(field);
        // Of Kubernetes' own kinds, what does not flow must not be had by its
        // name on the host; of others, the values let it be named.
        if patch::flows(&self.config, &api_version, &kind).is_err() && api_version != "v1" {
            return None;
        }
        let name = named.whose(field, own)?;
        let mut translated = field.clone();
        put(
            &mut translated,
            &named.name_path,
            self.host_name(&kind, &name),
        );
        if text_at(field, &named.namespace_path).is_some() && !named.namespace_path.is_empty() {
            put(
                &mut translated,
                &named.namespace_path,
                self.host_namespace.clone(),
            );
        }
        Some(translated)
    }

    /// A selector, or the map of labels in one, of objects that flow.
    fn selected(&self, field: &Value, namespace: &str) -> Value {
        let is_selector = ["matchLabels", "matchExpressions"]
            .iter()
            .any(|key| field.get(key).is_some_and(|value| !value.is_string()));
        if is_selector {
            self.selector_in(field, namespace)
        } else {
            self.map_selector(field, namespace)
        }
    }
}

/// The variables of an expression.
struct Variables<'a> {
    value: &'a Value,
    context: &'a Value,
}

impl<'a> Activation<'a> for Variables<'a> {
    fn variable(&self, name: &str) -> Option<Val<'a>> {
        match name {
            "value" => Some(Val::json(self.value)),
            "context" => Some(Val::json(self.context)),
            _ => None,
        }
    }
}

/// The expressions of one object: what they know, and what is left to them all.
struct Work {
    context: Value,
    budget: Budget,
    /// Bytes of results.
    left: usize,
}

impl Work {
    fn new(context: Value) -> Self {
        Self {
            context,
            budget: Budget::new(Budget::TOTAL),
            left: MAX_RESULT,
        }
    }

    fn evaluate(&mut self, program: &Program, path: &str, value: &Value) -> Result<Value, String> {
        self.context["path"] = path.into();
        let variables = Variables {
            value,
            context: &self.context,
        };
        let mut own = Budget::new(Budget::PER_CALL.min(self.budget.left()));
        let before = own.left();
        // The program outlives the values that it is asked about.
        let result = program
            .evaluate(&variables, &mut own)
            .map_err(|e| e.to_string());
        let spent = usize::try_from(before - own.left()).unwrap_or(usize::MAX);
        self.budget.spend(spent).map_err(|e| e.to_string())?;
        written(&result?, &mut self.left)
    }
}

/// The value as JSON, as far as its size may go.
fn written(value: &Val<'_>, left: &mut usize) -> Result<Value, String> {
    Ok(match value {
        Val::List(items) => {
            let items: Result<Vec<Value>, String> =
                items.iter().map(|item| written(item, left)).collect();
            Value::Array(items?)
        }
        Val::Map(map) => {
            let mut written_map = Map::new();
            for (key, value) in map.iter() {
                let Key::Text(key) = key else {
                    return Err("expected texts as keys".into());
                };
                take(left, key.len())?;
                written_map.insert(key.clone(), written(value, left)?);
            }
            Value::Object(written_map)
        }
        Val::Json(json, _) => {
            let mut counted = Counted { left: *left };
            serde_json::to_writer(&mut counted, json).map_err(|_| too_large())?;
            *left = counted.left;
            (*json).clone()
        }
        Val::Optional(Some(value)) => written(value, left)?,
        other => {
            let json = other.to_json().map_err(|e| e.to_string())?;
            take(left, json.as_str().map_or(1, str::len))?;
            json
        }
    })
}

fn too_large() -> String {
    format!("the results for this object are larger than {MAX_RESULT} bytes")
}

fn take(left: &mut usize, bytes: usize) -> Result<(), String> {
    *left = left.checked_sub(bytes + 1).ok_or_else(too_large)?;
    Ok(())
}

/// Counts what is written, and fails beyond the limit.
struct Counted {
    left: usize,
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.left.checked_sub(bytes.len()) {
            Some(left) => self.left = left,
            None => return Err(io::ErrorKind::FileTooLarge.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is to become of a field: nothing else than it is, or this. Null takes
/// it away.
type Change<'f> = &'f mut dyn FnMut(&str, &Value) -> Result<Option<Value>, String>;

/// Changes each field that the path leads to.
fn each(object: &mut Value, patch: &Compiled, change: Change<'_>) -> Result<(), PatchError> {
    let is_text = matches!(patch.steps.first(), Some(Step::Key(key)) if key == "metadata");
    let mut walk = Walk {
        change,
        fields: 0,
        texts_only: is_text,
    };
    walk.follow(object, &patch.steps, &mut String::new())
        .map_err(|why| PatchError {
            path: patch.text.clone(),
            why,
        })
}

struct Walk<'f> {
    change: Change<'f>,
    fields: usize,
    /// Labels and annotations are.
    texts_only: bool,
}

impl Walk<'_> {
    /// Follows `steps` from `value`, which is at `path`.
    fn follow(
        &mut self,
        value: &mut Value,
        steps: &[Step],
        path: &mut String,
    ) -> Result<(), String> {
        let Some((step, rest)) = steps.split_first() else {
            return Ok(());
        };
        match (step, value) {
            (Step::Key(key), Value::Object(map)) => self.key(map, key, rest, path),
            (Step::All, Value::Object(map)) => {
                let keys: Vec<String> = map.keys().cloned().collect();
                for key in keys {
                    if !self.texts_only || !marks::is_reserved(&key) {
                        self.key(map, &key, rest, path)?;
                    }
                }
                Ok(())
            }
            (Step::Index(index), Value::Array(items)) => self.item(items, *index, rest, path),
            (Step::All, Value::Array(items)) => {
                (0..items.len()).try_for_each(|index| self.item(items, index, rest, path))
            }
            _ => Ok(()),
        }
    }

    fn key(
        &mut self,
        map: &mut Map<String, Value>,
        key: &str,
        rest: &[Step],
        path: &mut String,
    ) -> Result<(), String> {
        let Some(value) = map.get_mut(key) else {
            return Ok(());
        };
        let length = path.len();
        let plain = !key.contains(['.', '[', ']', '"']);
        let dot = if length == 0 { "" } else { "." };
        path.push_str(&if plain {
            format!("{dot}{key}")
        } else {
            format!("[{key:?}]")
        });
        let result = if rest.is_empty() {
            self.changed(path, value)
        } else {
            self.follow(value, rest, path).map(|()| None)
        };
        path.truncate(length);
        match result? {
            Some(Value::Null) => {
                map.remove(key);
            }
            Some(new) => *value = new,
            None => {}
        }
        Ok(())
    }

    fn item(
        &mut self,
        items: &mut [Value],
        index: usize,
        rest: &[Step],
        path: &mut String,
    ) -> Result<(), String> {
        let Some(value) = items.get_mut(index) else {
            return Ok(());
        };
        let length = path.len();
        path.push_str(&format!("[{index}]"));
        let result = if rest.is_empty() {
            self.changed(path, value).map(|new| {
                if let Some(new) = new {
                    *value = new;
                }
            })
        } else {
            self.follow(value, rest, path)
        };
        path.truncate(length);
        result
    }

    fn changed(&mut self, path: &str, value: &Value) -> Result<Option<Value>, String> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(format!("it is about more than {MAX_FIELDS} fields"));
        }
        let new = (self.change)(path, value).map_err(|why| format!("{path}: {why}"))?;
        match &new {
            Some(new) if self.texts_only && !new.is_string() && !new.is_null() => {
                Err(format!("{path}: expected a text"))
            }
            _ => Ok(new),
        }
    }
}

/// The patches of all built-in kinds, by kind.
#[derive(Clone, Debug, Default)]
pub struct AllPatches {
    to_host: BTreeMap<&'static str, Patches>,
    from_host: BTreeMap<&'static str, Patches>,
}

impl AllPatches {
    /// Those of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let sync = &config.sync;
        let some = |all: Vec<KindPatches<'_>>, ready: fn(&[Patch]) -> Patches| {
            let some = all.into_iter().filter(|(.., patches)| !patches.is_empty());
            some.map(|(_, kind, patches)| (kind, ready(patches)))
                .collect()
        };
        Self {
            to_host: some(sync.to_host.patches(), Patches::to_host),
            from_host: some(sync.from_host.patches(), Patches::from_host),
        }
    }

    /// Those of a kind that goes to the host, if it has any.
    pub fn to_host(&self, kind: &str) -> Option<&Patches> {
        self.to_host.get(kind)
    }

    /// Those of a kind that is shown of the host, if it has any.
    pub fn from_host(&self, kind: &str) -> Option<&Patches> {
        self.from_host.get(kind)
    }
}
