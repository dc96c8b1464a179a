//! The table of what is served: one row for every version of every resource.
//! Built-in rows are added at start, rows of CustomResourceDefinitions come
//! and go at run time.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use coracle_machinery::schema::{self, Schema};
use coracle_machinery::{GroupResource, GroupVersion};
use serde_json::Value;
use tokio::sync::watch;

use crate::kind::{Kind, Scope, Strategy, Verb};
use crate::sync::{read, write};

/// One served version of one resource, with what the pipeline derives from
/// its row.
#[derive(Debug)]
pub struct Resource {
    /// The row.
    pub kind: Arc<Kind>,
    /// The row of the stored form: its strategy is the one that counts.
    pub stored_kind: Arc<Kind>,
    /// Group and plural name.
    pub group_resource: GroupResource,
    /// The `apiVersion` of its objects.
    pub api_version: String,
    /// The `apiVersion` of the stored form.
    pub stored_api_version: String,
    /// What all keys of its objects start with, ending in `/`.
    pub prefix: String,
    /// The group and plural name that its objects are stored under. Differs
    /// from `group_resource` where two groups serve the same objects (events).
    pub storage: GroupResource,
}

impl Resource {
    fn new(kind: Arc<Kind>, stored_kind: Arc<Kind>) -> Self {
        let storage = kind.stored_resource();
        Self {
            api_version: kind.gvk.api_version(),
            stored_api_version: stored_kind.gvk.api_version(),
            prefix: key_prefix(&storage),
            group_resource: kind.group_resource(),
            storage,
            kind,
            stored_kind,
        }
    }

    /// The schema of the served version; `None` for a kind that takes any
    /// fields.
    pub fn schema(&self) -> Option<Schema> {
        let own = self.kind.strategy.schema();
        own.or_else(|| schema::builtin().kind(&self.kind.gvk))
    }

    /// The schema of the stored form.
    pub fn stored_schema(&self) -> Option<Schema> {
        let own = self.stored_kind.strategy.schema();
        own.or_else(|| schema::builtin().kind(&self.stored_kind.gvk))
    }

    /// The rules of the stored form.
    pub fn strategy(&self) -> &dyn Strategy {
        &*self.stored_kind.strategy
    }

    /// True if the stored form differs in more than its `apiVersion`.
    pub fn converts(&self) -> bool {
        self.kind.stored_as.is_some()
    }

    /// From the served to the stored form.
    pub fn to_stored(&self, mut object: Value) -> Value {
        if let Some(stored) = &self.kind.stored_as {
            object = stored.conversion.to_stored(object);
        }
        if self.kind.converter.is_some() {
            return object; // Before it is written, somebody is asked.
        }
        object["apiVersion"] = self.stored_api_version.clone().into();
        object["kind"] = self.stored_kind.gvk.kind.clone().into();
        object
    }

    /// From the stored to the served form.
    pub fn to_served(&self, mut object: Value) -> Value {
        if let Some(stored) = &self.kind.stored_as {
            object = stored.conversion.to_served(object);
        }
        object["apiVersion"] = self.api_version.clone().into();
        object["kind"] = self.kind.gvk.kind.clone().into();
        object
    }

    /// True if objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.kind.scope == Scope::Namespaced
    }

    /// True if objects are kept (reviews are not).
    pub fn stored(&self) -> bool {
        self.kind.verbs.contains(&Verb::Get)
    }

    /// The key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced() {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// What the keys of a namespace (or, if that is empty, of the resource)
    /// start with.
    pub fn list_prefix(&self, namespace: &str) -> String {
        if self.namespaced() && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.clone()
        }
    }

    /// Namespace (empty for cluster-scoped kinds) and name out of a key.
    pub fn split_key<'k>(&self, key: &'k str) -> (&'k str, &'k str) {
        let rest = key.strip_prefix(self.prefix.as_str()).unwrap_or(key);
        if self.namespaced() {
            rest.split_once('/').unwrap_or(("", rest))
        } else {
            ("", rest)
        }
    }
}

/// `/registry/GROUP/RESOURCE/`, with `core` for the core group.
fn key_prefix(storage: &GroupResource) -> String {
    let group = if storage.group.is_empty() {
        "core"
    } else {
        &storage.group
    };
    format!("/registry/{group}/{}/", storage.resource)
}

/// The row of the form in which a kind's objects are stored.
fn stored_kind(
    kind: &Arc<Kind>,
    versions: &[Arc<Kind>],
    fresh: &[(GroupResource, Vec<Arc<Kind>>)],
    table: &Table,
) -> Arc<Kind> {
    let Some(stored_as) = &kind.stored_as else {
        // Never empty: `kind` is one of them.
        return Arc::clone(versions.first().unwrap_or(kind));
    };
    let added = fresh.iter().flat_map(|(_, kinds)| kinds);
    let known = table.resources.values().flatten().map(|r| &r.kind);
    let mut candidates = added.chain(known);
    let found = candidates.find(|k| k.gvk == stored_as.gvk);
    Arc::clone(found.unwrap_or(kind))
}

/// All versions of one resource; the first is the one that is stored.
type Versions = Vec<Arc<Resource>>;

#[derive(Default)]
struct Table {
    resources: HashMap<GroupResource, Versions>,
    /// In the order of registration, for discovery.
    order: Vec<GroupResource>,
}

/// The table of resources. Readers copy one pointer.
pub struct Registry {
    table: RwLock<Arc<Table>>,
    changes: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Registry {
    /// A table with these rows. Several rows of one resource are versions of
    /// one storage; the first of them is the version that is stored.
    pub fn new(kinds: Vec<Kind>) -> Self {
        let registry = Self {
            table: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        registry.set(kinds);
        registry
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&read(&self.table))
    }

    /// Adds rows; the rows of a resource that is already there are replaced.
    /// The first row of each resource is the version that is stored, unless
    /// `stored_as` names another.
    pub fn set(&self, kinds: Vec<Kind>) {
        let mut fresh: Vec<(GroupResource, Vec<Arc<Kind>>)> = Vec::new();
        for kind in kinds {
            let key = kind.group_resource();
            let kind = Arc::new(kind);
            match fresh.iter_mut().find(|(k, _)| *k == key) {
                Some((_, versions)) => versions.push(kind),
                None => fresh.push((key, vec![kind])),
            }
        }
        self.change(|table| {
            let mut rows = Vec::new();
            for (key, versions) in &fresh {
                let resources: Versions = versions
                    .iter()
                    .map(|kind| {
                        let stored = stored_kind(kind, versions, &fresh, table);
                        Arc::new(Resource::new(Arc::clone(kind), stored))
                    })
                    .collect();
                rows.push((key.clone(), resources));
            }
            for (key, versions) in rows {
                if table.resources.insert(key.clone(), versions).is_none() {
                    table.order.push(key);
                }
            }
        });
    }

    /// Removes all versions of a resource.
    pub fn remove(&self, resource: &GroupResource) {
        self.change(|table| {
            table.resources.remove(resource);
            table.order.retain(|r| r != resource);
        });
    }

    fn change(&self, edit: impl FnOnce(&mut Table)) {
        let mut slot = write(&self.table);
        let mut table = Table {
            resources: slot.resources.clone(),
            order: slot.order.clone(),
        };
        edit(&mut table);
        *slot = Arc::new(table);
        drop(slot);
        self.changes.send_modify(|n| *n += 1);
    }

    /// The row of a resource at one version.
    pub fn lookup(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Resource>> {
        let table = self.table();
        let key = GroupResource::new(group.to_owned(), resource.to_owned());
        let versions = table.resources.get(&key)?;
        versions
            .iter()
            .find(|r| r.kind.gvk.version == version)
            .cloned()
    }

    /// The row of the version that is stored, or the one nearest to it.
    pub fn storage(&self, resource: &GroupResource) -> Option<Arc<Resource>> {
        let table = self.table();
        let versions = table.resources.get(resource)?;
        let plain = versions.iter().find(|r| !r.converts());
        plain.or_else(|| versions.first()).cloned()
    }

    /// Every row, in the order of registration, versions of a resource next
    /// to each other.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let table = self.table();
        table
            .order
            .iter()
            .filter_map(|key| table.resources.get(key))
            .flatten()
            .cloned()
            .collect()
    }

    /// The rows themselves, in the order of registration, for discovery.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        self.all().iter().map(|r| Arc::clone(&r.kind)).collect()
    }

    /// True if any resource is served at that group and version.
    pub fn has_group_version(&self, gv: &GroupVersion) -> bool {
        self.table()
            .resources
            .values()
            .flatten()
            .any(|r| r.kind.gvk.group == gv.group && r.kind.gvk.version == gv.version)
    }

    /// A counter of changes to the table, for caches derived from it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
