//! Requests for the tests of admission rules.

use std::borrow::Cow;
use std::sync::Arc;

use coracle_machinery::{ApiError, GroupVersionKind, object};
use serde_json::{Value, json};

use crate::access::UserInfo;
use crate::hooks::{Admission, AdmissionRequest, Operation, Reinvocation};
use crate::kind::{Kind, Scope};
use crate::registry::{Registry, Resource};

const CLUSTER_SCOPED: &[&str] = &[
    "namespaces",
    "nodes",
    "persistentvolumes",
    "priorityclasses",
    "csinodes",
];

/// The row of `group/plural` or of `plural` in the core group, as `v1`.
pub(super) fn row(name: &str) -> Arc<Resource> {
    let (group, plural) = name.split_once('/').unwrap_or(("", name));
    let kind = match plural {
        "ingresses" => "Ingress".to_owned(),
        "priorityclasses" => "PriorityClass".to_owned(),
        plural => {
            let singular = plural.trim_end_matches('s');
            singular[..1].to_uppercase() + &singular[1..]
        }
    };
    let gvk = GroupVersionKind {
        group: Cow::Owned(group.to_owned()),
        version: Cow::Borrowed("v1"),
        kind: Cow::Owned(kind),
    };
    let mut row = Kind::plain(gvk, plural.to_owned());
    if CLUSTER_SCOPED.contains(&plural) {
        row.scope = Scope::Cluster;
    }
    Registry::new(vec![row])
        .lookup(group, "v1", plural)
        .unwrap()
}

/// A write by an ordinary user, put through one rule.
pub(super) struct Try<'a> {
    pub(super) rule: &'a dyn Admission,
    pub(super) user: UserInfo,
    pub(super) operation: Operation,
    pub(super) resource: &'a str,
    pub(super) subresource: &'a str,
    pub(super) dry_run: bool,
}

impl<'a> Try<'a> {
    pub(super) fn create(rule: &'a dyn Admission, resource: &'a str) -> Self {
        Self {
            rule,
            user: UserInfo::authenticated("ann", &[]),
            operation: Operation::Create,
            resource,
            subresource: "",
            dry_run: false,
        }
    }

    /// The object after both phases.
    pub(super) async fn run(
        &self,
        object: Option<Value>,
        old: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let row = row(self.resource);
        let either = object.as_ref().or(old).cloned().unwrap_or_default();
        let options = json!({});
        let mut request = AdmissionRequest {
            operation: self.operation,
            user: &self.user,
            resource: &row,
            subresource: self.subresource,
            namespace: object::namespace(&either),
            name: object::name(&either),
            object,
            old,
            dry_run: self.dry_run,
            options: &options,
            warnings: Vec::new(),
            reinvocation: Reinvocation::default(),
        };
        if self.rule.handles(self.operation, &row, self.subresource) {
            self.rule.mutate(&mut request).await?;
            self.rule.validate(&mut request).await?;
        }
        Ok(request.object.unwrap_or_default())
    }

    pub(super) async fn pass(&self, object: Value) -> Result<Value, ApiError> {
        self.run(Some(object), None).await
    }
}
