//! Writing and reading the few kinds of host objects that the commands use.

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// The field manager of everything that the commands write.
pub const FIELD_MANAGER: &str = "coracle";

/// Applies an object server-side and returns what is there now.
///
/// # Errors
/// As the API server answers.
pub async fn apply(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (group, version) = match text("/apiVersion").split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), text("/apiVersion")),
    };
    let gvk = GroupVersionKind {
        group,
        version,
        kind: text("/kind"),
    };
    let resource = ApiResource::from_gvk(&gvk);
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        none if none.is_empty() => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&text("/metadata/name"), &parameters, &Patch::Apply(object))
        .await
}

/// True for the answer that an object does not exist.
pub fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// True for the answer that the caller may not do that.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
