//! Writes a [`Kind`] as a short row.

use std::sync::Arc;

use coracle_machinery::GroupVersionKind;
use coracle_machinery::gvk::Name;

use crate::kind::{Conversion, Kind, NoRules, Scope, StoredAs, Strategy, Subresource, Verb};
use crate::kinds::columns;

const GET: &[Verb] = &[Verb::Get];
const CREATE: &[Verb] = &[Verb::Create];
const UPDATE: &[Verb] = &[Verb::Update];
/// Subresources that are a view of the object, such as `status`.
const GET_PATCH_UPDATE: &[Verb] = &[Verb::Get, Verb::Patch, Verb::Update];
/// Streams: WebSocket opens them with GET, SPDY with POST.
const CONNECT_STREAM: &[Verb] = &[Verb::Create, Verb::Get];
/// Proxies pass on every HTTP method.
const CONNECT_PROXY: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::Get,
    Verb::Patch,
    Verb::Update,
];

/// A kind that is being described.
pub(super) struct Row(Kind);

/// Starts the row of a namespaced kind.
pub(super) fn namespaced(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Row {
    Row::new(group, version, kind, plural, Scope::Namespaced)
}

/// Starts the row of a cluster-scoped kind.
pub(super) fn cluster(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Row {
    Row::new(group, version, kind, plural, Scope::Cluster)
}

impl Row {
    fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        scope: Scope,
    ) -> Self {
        Self(Kind {
            gvk: GroupVersionKind::new(group, version, kind),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            verbs: Verb::ALL,
            subresources: Vec::new(),
            ttl_seconds: None,
            stored_as: None,
            converter: None,
            strategy: Arc::new(NoRules),
            table: columns::default_table(),
            deprecation: None,
        })
    }

    pub(super) fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = names.iter().map(|n| Name::from(*n)).collect();
        self
    }

    pub(super) fn category(mut self, name: &'static str) -> Self {
        self.0.categories.push(name.into());
        self
    }

    pub(super) fn verbs(mut self, verbs: &'static [Verb]) -> Self {
        self.0.verbs = verbs;
        self
    }

    pub(super) fn ttl(mut self, seconds: u64) -> Self {
        self.0.ttl_seconds = Some(seconds);
        self
    }

    pub(super) fn deprecated(mut self, warning: &'static str) -> Self {
        self.0.deprecation = Some(warning.into());
        self
    }

    pub(super) fn stored_as(
        mut self,
        group: &'static str,
        version: &'static str,
        conversion: impl Conversion,
    ) -> Self {
        self.0.stored_as = Some(StoredAs {
            gvk: GroupVersionKind::new(group, version, self.0.gvk.kind.clone()),
            conversion: Arc::new(conversion),
        });
        self
    }

    pub(super) fn rules(mut self, strategy: impl Strategy) -> Self {
        self.0.strategy = Arc::new(strategy);
        self
    }

    pub(super) fn status(self) -> Self {
        self.view("status")
    }

    /// A subresource with the body of the parent.
    pub(super) fn view(self, name: &'static str) -> Self {
        self.subresource(name, None, GET_PATCH_UPDATE)
    }

    /// A subresource that can only be put, with the body of the parent.
    pub(super) fn put_only(self, name: &'static str) -> Self {
        self.subresource(name, None, UPDATE)
    }

    /// A subresource that can only be read.
    pub(super) fn get_only(self, name: &'static str) -> Self {
        self.subresource(name, None, GET)
    }

    pub(super) fn scale(self) -> Self {
        let scale = GroupVersionKind::new("autoscaling", "v1", "Scale");
        self.subresource("scale", Some(scale), GET_PATCH_UPDATE)
    }

    /// A subresource that takes a body of another kind.
    pub(super) fn action(
        self,
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Self {
        let gvk = GroupVersionKind::new(group, version, kind);
        self.subresource(name, Some(gvk), CREATE)
    }

    /// A subresource that becomes a stream to the node.
    pub(super) fn stream(self, name: &'static str, options: &'static str) -> Self {
        let gvk = GroupVersionKind::new("", "v1", options);
        self.subresource(name, Some(gvk), CONNECT_STREAM)
    }

    /// The `proxy` subresource.
    pub(super) fn proxy(self, options: &'static str) -> Self {
        let gvk = GroupVersionKind::new("", "v1", options);
        self.subresource("proxy", Some(gvk), CONNECT_PROXY)
    }

    fn subresource(
        mut self,
        name: &'static str,
        kind: Option<GroupVersionKind>,
        verbs: &'static [Verb],
    ) -> Self {
        self.0.subresources.push(Subresource { name, kind, verbs });
        self
    }

    pub(super) fn done(mut self) -> Kind {
        self.0.table = columns::of(&self.0);
        self.0
    }
}
