//! `metadata.managedFields`: the managers and their fields.

use std::fmt;

use serde_json::{Value, json};

use super::fields::FieldSet;

/// The most entries for updates; the oldest are then joined into one.
/// Upstream's limit.
const MAX_UPDATERS: usize = 10;

/// The name of the entry that the oldest updates are joined into.
const ANCIENT: &str = "ancient-changes";

/// Who owns fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ManagerId {
    name: String,
    applies: bool,
    /// Of updates only: an applier is the same in all versions.
    api_version: String,
    subresource: String,
}

impl ManagerId {
    pub(super) fn apply(name: &str, subresource: &str) -> Self {
        Self {
            name: name.to_owned(),
            applies: true,
            api_version: String::new(),
            subresource: subresource.to_owned(),
        }
    }

    pub(super) fn update(name: &str, api_version: &str, subresource: &str) -> Self {
        Self {
            name: name.to_owned(),
            applies: false,
            api_version: api_version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }
}

impl fmt::Display for ManagerId {
    /// As in conflicts: `"kubectl" using apps/v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if !self.applies {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Entry {
    id: ManagerId,
    api_version: String,
    time: String,
    fields: FieldSet,
}

/// The entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// Reads entries; those that cannot be read are dropped.
    pub(super) fn read(entries: &[Value]) -> Self {
        let mut managers = Self::default();
        for entry in entries.iter().filter_map(read_entry) {
            match managers.0.iter_mut().find(|e| e.id == entry.id) {
                Some(present) => present.fields = present.fields.union(&entry.fields),
                None => managers.0.push(entry),
            }
        }
        managers
    }

    /// True if there are entries and all can be read.
    pub(super) fn readable(entries: &[Value]) -> bool {
        !entries.is_empty() && entries.iter().all(|e| read_entry(e).is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn fields_of(&self, id: &ManagerId) -> Option<&FieldSet> {
        self.0.iter().find(|e| e.id == *id).map(|e| &e.fields)
    }

    /// The fields of all managers but one.
    pub(super) fn all_but(&self, id: &ManagerId) -> FieldSet {
        let others = self.0.iter().filter(|e| e.id != *id);
        others.fold(FieldSet::default(), |all, e| all.union(&e.fields))
    }

    /// The other managers that own some of these fields, and which.
    pub(super) fn owners_of(
        &self,
        fields: &FieldSet,
        but: &ManagerId,
    ) -> Vec<(ManagerId, FieldSet)> {
        let mut owners: Vec<(ManagerId, FieldSet)> = self
            .0
            .iter()
            .filter(|e| e.id != *but)
            .map(|e| (e.id.clone(), e.fields.intersection(fields)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        owners.sort_by_key(|(id, _)| id.to_string());
        owners
    }

    /// Takes fields from all managers but one.
    pub(super) fn take_away(&mut self, fields: &FieldSet, but: &ManagerId) {
        for entry in self.0.iter_mut().filter(|e| e.id != *but) {
            let left = entry.fields.difference(fields);
            if left != entry.fields {
                entry.fields = left;
            }
        }
        self.0.retain(|e| !e.fields.is_empty());
    }

    /// Sets the fields of a manager that updates.
    pub(super) fn set(&mut self, id: ManagerId, fields: FieldSet, now: &str) {
        let api_version = id.api_version.clone();
        self.put(id, &api_version, fields, now);
    }

    /// Sets the fields of a manager that applies.
    pub(super) fn set_applied(
        &mut self,
        id: ManagerId,
        api_version: &str,
        fields: FieldSet,
        now: &str,
    ) {
        self.put(id, api_version, fields, now);
    }

    /// Takes some fields from a manager and gives it others; its time changes
    /// only if it is given any.
    pub(super) fn replace(&mut self, id: ManagerId, lost: &FieldSet, gained: &FieldSet, now: &str) {
        match self.0.iter_mut().find(|e| e.id == id) {
            Some(entry) => {
                entry.fields = entry.fields.difference(lost).union(gained);
                if !gained.is_empty() {
                    entry.time = now.to_owned();
                }
            }
            None => self.set(id, gained.clone(), now),
        }
        self.0.retain(|e| !e.fields.is_empty());
        self.cap();
    }

    fn put(&mut self, id: ManagerId, api_version: &str, fields: FieldSet, now: &str) {
        self.0.retain(|e| e.id != id);
        if !fields.is_empty() {
            self.0.push(Entry {
                id,
                api_version: api_version.to_owned(),
                time: now.to_owned(),
                fields,
            });
        }
    }

    /// Joins the oldest updates of each version if there are too many.
    fn cap(&mut self) {
        let is_update = |e: &&Entry| !e.id.applies;
        while self.0.iter().filter(is_update).count() > MAX_UPDATERS {
            let mut updates: Vec<usize> = (0..self.0.len())
                .filter(|i| !self.0[*i].id.applies)
                .collect();
            updates.sort_by(|a, b| self.0[*a].time.cmp(&self.0[*b].time));
            let Some(oldest) = updates.first().map(|i| self.0.remove(*i)) else {
                return;
            };
            let id = ManagerId::update(ANCIENT, &oldest.api_version, "");
            match self.0.iter_mut().find(|e| e.id == id) {
                Some(ancient) => {
                    ancient.fields = ancient.fields.union(&oldest.fields);
                    ancient.time = ancient.time.clone().max(oldest.time);
                }
                // The second oldest joins it in the next round.
                None => self.0.push(Entry { id, ..oldest }),
            }
        }
    }

    /// The entries as they stand in the object.
    pub(super) fn write(mut self) -> Vec<Value> {
        self.0.retain(|e| !e.fields.is_empty());
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| {
                (
                    !e.id.applies,
                    e.time.clone(),
                    e.id.name.clone(),
                    e.api_version.clone(),
                    e.id.subresource.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        self.0.iter().map(write_entry).collect()
    }
}

fn read_entry(entry: &Value) -> Option<Entry> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let applies = match text("operation") {
        "Apply" => true,
        "Update" => false,
        _ => return None,
    };
    if !matches!(text("fieldsType"), "" | "FieldsV1") || text("manager").len() > super::MANAGER_MAX
    {
        return None;
    }
    let name = text("manager");
    let (api_version, subresource) = (text("apiVersion"), text("subresource"));
    let id = if applies {
        ManagerId::apply(name, subresource)
    } else {
        ManagerId::update(name, api_version, subresource)
    };
    Some(Entry {
        id,
        api_version: api_version.to_owned(),
        time: text("time").to_owned(),
        fields: match entry.get("fieldsV1") {
            Some(fields) => FieldSet::parse(fields)?,
            None => FieldSet::default(),
        },
    })
}

fn write_entry(entry: &Entry) -> Value {
    let mut value = json!({
        "manager": entry.id.name,
        "operation": if entry.id.applies { "Apply" } else { "Update" },
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.fields.to_value(),
    });
    for (name, text) in [
        ("time", &entry.time),
        ("subresource", &entry.id.subresource),
    ] {
        if !text.is_empty() {
            value[name] = Value::String(text.clone());
        }
    }
    value
}
