//! Tokens that lie in secrets: of the type that names a service account.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, Delete};
use crate::context::{Context, Task, enqueue_self};
use crate::error::{Error, found};
use crate::objects::Kind;
use crate::objects::core::{ServiceAccount, TokenSecret};
use crate::queue::{Key, Next, Queue};

/// Secrets that are worked on at once.
const WORKERS: usize = 2;
/// The annotation with the account's name, from the user.
const NAME: &str = "kubernetes.io/service-account.name";
/// The annotation with the account's UID, from this controller.
const UID: &str = "kubernetes.io/service-account.uid";
/// How long a token lives, in seconds: as long as one may, since upstream's do
/// not end by themselves. It ends with the secret or the account.
const LIFETIME: i64 = 1 << 32;

/// Registers the controller that fills these secrets, and deletes those whose
/// account is gone.
pub(crate) fn start(context: &Context) -> Task {
    let queue = Queue::new();
    let secrets = context.store::<TokenSecret>();
    enqueue_self(&secrets, &queue);
    {
        let (secrets, queue) = (secrets.clone(), queue.clone());
        context.store::<ServiceAccount>().subscribe(move |change| {
            let account = &change.latest().metadata;
            for secret in secrets.in_namespace(&account.namespace) {
                if secret.metadata.annotations.get(NAME) == Some(&account.name) {
                    queue.add(secret.metadata.key());
                }
            }
        });
    }
    let api = context.api.clone();
    let authority: Arc<str> = context.options.cluster_ca_pem.as_str().into();
    context.work(
        "serviceaccount-token-controller",
        WORKERS,
        queue,
        move |key| {
            let (api, secrets, authority) = (api.clone(), secrets.clone(), authority.clone());
            async move {
                match secrets.by_key(&key) {
                    Some(secret) if !secret.metadata.is_deleting() => {
                        reconcile(&api, &secret, &key, &authority).await
                    }
                    _ => Ok(Next::Wait),
                }
            }
        },
    )
}

async fn reconcile(
    api: &Api,
    secret: &TokenSecret,
    key: &Key,
    authority: &str,
) -> Result<Next, Error> {
    let annotations = &secret.metadata.annotations;
    let Some(name) = annotations.get(NAME).filter(|name| !name.is_empty()) else {
        return Ok(Next::Wait);
    };
    // From the server: a cache may not have seen it yet.
    let account = api
        .get_metadata(ServiceAccount::RESOURCE, &key.namespace, name)
        .await;
    let uid = match account {
        Ok(account) => account["metadata"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        Err(error) if error.is_not_found() => String::new(),
        Err(error) => return Err(error),
    };
    let former = annotations.get(UID);
    if uid.is_empty() || former.is_some_and(|former| *former != uid) {
        let options = Delete::exactly(&secret.metadata.uid);
        let deleted = api.delete(TokenSecret::RESOURCE, &key.namespace, &key.name, &options);
        return found(deleted.await).map(|_| Next::Wait);
    }
    let lacks = |field: &str| secret.data.get(field).is_none_or(String::is_empty);
    let mut data = json!({});
    if lacks("token") {
        data["token"] = token(api, secret, key, name).await?;
    }
    if lacks("namespace") {
        data["namespace"] = key.namespace.as_str().into();
    }
    if lacks("ca.crt") && !authority.is_empty() {
        data["ca.crt"] = authority.into();
    }
    if data == json!({}) && former.is_some() {
        return Ok(Next::Wait);
    }
    let patch = json!({
        "metadata": {
            "uid": secret.metadata.uid, "resourceVersion": secret.metadata.resource_version,
            "annotations": {UID: uid},
        },
        "stringData": data,
    });
    let patched = api.patch(TokenSecret::RESOURCE, &key.namespace, &key.name, "", &patch);
    found(patched.await).map(|_| Next::Wait)
}

/// A new token, worth something as long as the secret and the account exist.
async fn token(api: &Api, secret: &TokenSecret, key: &Key, account: &str) -> Result<Value, Error> {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": LIFETIME,
            "boundObjectRef": {
                "apiVersion": "v1", "kind": "Secret",
                "name": secret.metadata.name, "uid": secret.metadata.uid,
            },
        },
    });
    let (resource, namespace) = (ServiceAccount::RESOURCE, &key.namespace);
    let answer = api
        .post(resource, namespace, account, "token", &request)
        .await?;
    Ok(answer["status"]["token"].clone())
}
