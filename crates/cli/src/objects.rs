//! Writing and reading the few kinds of host objects that the commands use.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
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
    let api = api_of(client, object);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let name = text(object, "/metadata/name");
    api.patch(&name, &parameters, &Patch::Apply(object)).await
}

/// Removes the object of that type and name, if it is there with the same
/// labels.
///
/// # Errors
/// As the API server answers; its absence is fine.
pub async fn remove_own(client: &Client, object: &Value) -> kube::Result<()> {
    let api = api_of(client, object);
    let name = text(object, "/metadata/name");
    let found = match api.get_metadata_opt(&name).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(()),
        // What may not be read was not made with these rights either.
        Err(error) if is_forbidden(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let labels = found.metadata.labels.unwrap_or_default();
    let wanted = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let ours = wanted.is_some_and(|wanted| {
        wanted
            .iter()
            .all(|(key, value)| labels.get(key).is_some_and(|found| value == found))
    });
    if !ours {
        return Ok(());
    }
    let parameters = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.metadata.uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}

fn text(object: &Value, pointer: &str) -> String {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let version = text(object, "/apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = text(object, "/kind");
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    match text(object, "/metadata/namespace") {
        none if none.is_empty() => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), &namespace, &resource),
    }
}

/// True for the answer that an object does not exist.
pub fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// True for the answer that the caller may not do that.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
