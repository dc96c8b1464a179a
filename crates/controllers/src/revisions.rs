//! Controller revisions: the history of templates of stateful and daemon sets.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use crate::api::{Api, Delete, Resource};
use crate::claim::claim;
use crate::context::Written;
use crate::error::{Error, found};
use crate::hash;
use crate::informer::Store;
use crate::objects::apps::ControllerRevision;
use crate::objects::{Kind, Meta, controller_reference};
use crate::queue::Key;
use crate::selector;

/// Label of pods and revisions that names the template they stem from.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// Revisions kept for rollbacks, if the workload does not say.
const DEFAULT_LIMIT: i32 = 10;

/// A revision as its workload uses it.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    pub name: String,
    pub uid: String,
    pub number: i64,
    /// Value of [`HASH_LABEL`].
    pub hash: String,
    pub template: Value,
}

impl Revision {
    fn read(name: &str, uid: &str, hash: &str, number: i64, data: &Value) -> Self {
        let mut template = data["spec"]["template"].clone();
        if let Some(template) = template.as_object_mut() {
            template.remove("$patch");
        }
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            number,
            hash: hash.to_owned(),
            template,
        }
    }

    fn cached(revision: &ControllerRevision) -> Self {
        let raw = revision.data.as_deref().map_or("null", |data| data.get());
        let data = serde_json::from_str(raw).unwrap_or(Value::Null);
        let meta = &revision.metadata;
        let hash = meta.label(HASH_LABEL).unwrap_or_default();
        Self::read(&meta.name, &meta.uid, hash, revision.revision, &data)
    }

    fn written(value: &Value) -> Self {
        let meta = &value["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self::read(
            &text(&meta["name"]),
            &text(&meta["uid"]),
            &text(&meta["labels"][HASH_LABEL]),
            value["revision"].as_i64().unwrap_or(0),
            &value["data"],
        )
    }
}

/// A workload that keeps revisions.
pub(crate) struct Subject<'a> {
    pub resource: &'a Resource,
    pub meta: &'a Meta,
    pub selector: &'a LabelSelector,
    pub template: &'a Value,
    pub limit: Option<i32>,
}

/// Access to revisions for one controller.
pub(crate) struct Revisions {
    api: Api,
    store: Arc<Store<ControllerRevision>>,
    written: Written<ControllerRevision>,
}

impl Revisions {
    pub(crate) fn new(api: Api, store: Arc<Store<ControllerRevision>>) -> Self {
        Self {
            api,
            written: Written::new(store.clone()),
            store,
        }
    }

    /// Whether the cache shows what was written for `key`.
    pub(crate) fn is_seen(&self, key: &Key) -> bool {
        self.written.is_seen(key)
    }

    /// All revisions, oldest first, and the one of the present template, which
    /// is made or moved to the front as needed.
    pub(crate) async fn sync(
        &self,
        key: &Key,
        subject: &Subject<'_>,
    ) -> Result<(Vec<Revision>, Revision), Error> {
        let owner = (subject.resource, subject.meta);
        let owned = claim(&self.api, owner, &self.store, |meta| {
            selector::matches(subject.selector, &meta.labels)
        })
        .await?;
        let mut all: Vec<Revision> = owned.iter().map(|it| Revision::cached(it)).collect();
        all.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
        let last = all.last().map_or(0, |it| it.number);
        let same = all.iter().rposition(|it| it.template == *subject.template);
        let Some(position) = same else {
            let made = self.create(key, subject, last + 1).await?;
            all.push(made.clone());
            return Ok((all, made));
        };
        if all[position].number == last {
            let current = all[position].clone();
            return Ok((all, current));
        }
        let mut moved = all.remove(position);
        moved.number = last + 1;
        let patch = json!({"metadata": {"uid": moved.uid}, "revision": moved.number});
        let namespace = &subject.meta.namespace;
        let answer = self
            .api
            .patch(
                ControllerRevision::RESOURCE,
                namespace,
                &moved.name,
                "",
                &patch,
            )
            .await?;
        self.written.note(key, &answer);
        all.push(moved.clone());
        Ok((all, moved))
    }

    async fn create(
        &self,
        key: &Key,
        subject: &Subject<'_>,
        number: i64,
    ) -> Result<Revision, Error> {
        let (meta, api) = (subject.meta, &self.api);
        let mut template = subject.template.clone();
        template["$patch"] = "replace".into();
        let data = json!({"spec": {"template": template}});
        // Names collide so seldom that a few attempts settle it.
        for collisions in 0..10 {
            let hash = hash::name(subject.template, collisions);
            let name = format!("{}-{hash}", meta.name);
            let mut labels = subject.template["metadata"]["labels"].clone();
            if !labels.is_object() {
                labels = json!({});
            }
            labels[HASH_LABEL] = hash.as_str().into();
            let owner = controller_reference(subject.resource, meta);
            let body = json!({
                "metadata": {
                    "name": name, "namespace": meta.namespace, "labels": labels,
                    "annotations": meta.annotations, "ownerReferences": [owner.to_value()],
                },
                "data": data, "revision": number,
            });
            match api
                .create(ControllerRevision::RESOURCE, &meta.namespace, body)
                .await
            {
                Ok(made) => {
                    self.written.note(key, &made);
                    return Ok(Revision::written(&made));
                }
                Err(error) if error.is_already_exists() => {
                    let live = api
                        .get(ControllerRevision::RESOURCE, &meta.namespace, &name)
                        .await;
                    if let Some(live) = found(live)? {
                        let revision = Revision::written(&live);
                        let owners = live["metadata"]["ownerReferences"].as_array();
                        let ours = owners.is_some_and(|owners| {
                            owners.iter().any(|owner| owner["uid"] == meta.uid.as_str())
                        });
                        if ours && revision.template == *subject.template {
                            return Ok(revision);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Invalid(format!(
            "no name is free for a revision of {}",
            meta.name
        )))
    }

    /// Deletes the oldest revisions beyond the limit, but for those in use.
    pub(crate) async fn truncate(
        &self,
        subject: &Subject<'_>,
        all: &[Revision],
        in_use: impl Fn(&Revision) -> bool,
    ) -> Result<(), Error> {
        let limit = usize::try_from(subject.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
        let idle: Vec<&Revision> = all.iter().filter(|it| !in_use(it)).collect();
        for revision in idle.iter().take(idle.len().saturating_sub(limit)) {
            let options = Delete::exactly(&revision.uid);
            let namespace = &subject.meta.namespace;
            let deletion = self.api.delete(
                ControllerRevision::RESOURCE,
                namespace,
                &revision.name,
                &options,
            );
            found(deletion.await)?;
        }
        Ok(())
    }
}
