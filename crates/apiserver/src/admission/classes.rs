//! Default classes of claims and ingresses, and the finalizers that keep
//! storage in use from going away.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_machinery::{ApiError, GroupResource, object};
use serde_json::{Value, json};

use super::is;
use crate::auth::named;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::objects::Objects;
use crate::registry::Resource;

/// Group, resource and finalizer of what is protected while it is in use.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        "kubernetes.io/vac-protection",
    ),
];

/// Adds a finalizer that a controller takes off once nothing uses the object.
pub(super) struct StorageObjectInUseProtection;

fn protection(resource: &Resource) -> Option<&'static str> {
    let row = PROTECTED
        .iter()
        .find(|(group, plural, _)| is(resource, group, plural));
    row.map(|(_, _, finalizer)| *finalizer)
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && protection(resource).is_some()
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let finalizer = protection(request.resource);
        if let (Some(object), Some(finalizer)) = (request.object.as_mut(), finalizer) {
            let held = object::items(object, "/metadata/finalizers");
            if !held.iter().any(|f| f == finalizer) {
                let all: Vec<Value> = held.iter().cloned().chain([json!(finalizer)]).collect();
                object::metadata_mut(object).insert("finalizers".into(), json!(all));
            }
        }
        Ok(())
    }
}

const STORAGE_CLASSES: GroupResource = named("storage.k8s.io", "storageclasses");
const INGRESS_CLASSES: GroupResource = named("networking.k8s.io", "ingressclasses");

/// Gives a claim that names no class the default one.
pub(super) struct DefaultStorageClass {
    objects: Arc<dyn Objects>,
}

impl DefaultStorageClass {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Admission for DefaultStorageClass {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && is(resource, "", "persistentvolumeclaims")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let old_way = "volume.beta.kubernetes.io/storage-class";
        let mark = "storageclass.kubernetes.io/is-default-class";
        let field = "storageClassName";
        fill(
            &*self.objects,
            request,
            &STORAGE_CLASSES,
            field,
            old_way,
            mark,
        )
        .await
    }
}

/// Gives an ingress that names no class the default one.
pub(super) struct DefaultIngressClass {
    objects: Arc<dyn Objects>,
}

impl DefaultIngressClass {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }
}

#[async_trait]
impl Admission for DefaultIngressClass {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        operation == Operation::Create
            && subresource.is_empty()
            && is(resource, "networking.k8s.io", "ingresses")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let old_way = "kubernetes.io/ingress.class";
        let mark = "ingressclass.kubernetes.io/is-default-class";
        let field = "ingressClassName";
        fill(
            &*self.objects,
            request,
            &INGRESS_CLASSES,
            field,
            old_way,
            mark,
        )
        .await
    }
}

/// Sets `spec.FIELD` to the default class, unless it or the annotation of old
/// names one.
async fn fill(
    objects: &dyn Objects,
    request: &mut AdmissionRequest<'_>,
    classes: &GroupResource,
    field: &str,
    old_annotation: &str,
    mark: &str,
) -> Result<(), ApiError> {
    let Some(object) = request.object.as_mut() else {
        return Ok(());
    };
    let named = object
        .pointer("/spec")
        .and_then(|s| s.get(field))
        .is_some_and(|v| !v.is_null());
    if named || object::annotation(object, old_annotation).is_some() {
        return Ok(());
    }
    let all = objects.list(classes, "").await?;
    // Of several, the newest counts; then the first by name.
    let mut marked: Vec<&Arc<Value>> = all
        .iter()
        .filter(|class| object::annotation(class, mark) == Some("true"))
        .collect();
    marked.sort_by(|a, b| {
        let age = |class: &Value| object::text(class, "/metadata/creationTimestamp").to_owned();
        age(b)
            .cmp(&age(a))
            .then_with(|| object::name(a).cmp(object::name(b)))
    });
    if let Some(class) = marked.first() {
        let name = object::name(class);
        object::child_map(object, "spec").insert(field.to_owned(), json!(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;
    use crate::auth::fake::FakeObjects;

    #[tokio::test]
    async fn claims_are_protected_once() {
        let rule = StorageObjectInUseProtection;
        let create = Try::create(&rule, "persistentvolumeclaims");
        let once = create
            .pass(json!({"metadata": {"name": "c"}}))
            .await
            .unwrap();
        assert_eq!(
            once["metadata"]["finalizers"],
            json!(["kubernetes.io/pvc-protection"])
        );
        assert_eq!(create.pass(once.clone()).await.unwrap(), once);
    }

    #[tokio::test]
    async fn the_newest_default_class_counts() {
        let objects = FakeObjects::new();
        for (name, year, default) in [
            ("a", 2020, "true"),
            ("b", 2021, "true"),
            ("c", 2022, "false"),
        ] {
            objects.put(
                &STORAGE_CLASSES,
                json!({"metadata": {"name": name,
                "creationTimestamp": format!("{year}-01-01T00:00:00Z"),
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}}}),
            );
        }
        let rule = DefaultStorageClass::new(objects);
        let create = Try::create(&rule, "persistentvolumeclaims");
        let run = |spec: Value| create.pass(json!({"metadata": {"name": "c"}, "spec": spec}));
        assert_eq!(
            run(json!({})).await.unwrap()["spec"]["storageClassName"],
            "b"
        );
        assert_eq!(
            run(json!({"storageClassName": ""})).await.unwrap()["spec"]["storageClassName"],
            ""
        );
    }
}
