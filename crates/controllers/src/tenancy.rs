//! What every namespace holds from the start: its default service account and
//! the certificate authority to trust.

use std::sync::Arc;

use serde_json::json;

use crate::context::{Context, Task};
use crate::error::{Error, found};
use crate::informer::Change;
use crate::objects::Kind;
use crate::objects::core::{Namespace, RootCa, ServiceAccount};
use crate::queue::{Key, Next, Queue};

/// Namespaces furnished at once.
const WORKERS: usize = 8;
const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
/// Key within the ConfigMap.
const ROOT_CA_KEY: &str = "ca.crt";

/// Queues a namespace when it appears or changes, and when the object called
/// `name` in it changes.
fn queue_for<T: Kind>(context: &Context, name: &'static str) -> Arc<Queue> {
    let queue = Queue::new();
    let (of_namespace, of_object) = (queue.clone(), queue.clone());
    context.store::<Namespace>().subscribe(move |change| {
        of_namespace.add(change.latest().metadata.key());
    });
    context
        .store::<T>()
        .subscribe(move |change: Change<'_, T>| {
            let meta = change.latest().meta();
            if meta.name == name {
                of_object.add(Key::new("", meta.namespace.clone()));
            }
        });
    queue
}

/// The default service account of each namespace.
pub(crate) fn start_service_account(context: &Context) -> Task {
    let queue = queue_for::<ServiceAccount>(context, ACCOUNT);
    let namespaces = context.store::<Namespace>();
    let accounts = context.store::<ServiceAccount>();
    let api = context.api.clone();
    context.work("serviceaccount-controller", WORKERS, queue, move |key| {
        let (namespaces, accounts) = (namespaces.clone(), accounts.clone());
        let api = api.clone();
        async move {
            let namespace = namespaces.by_key(&key);
            if !namespace.is_some_and(|it| is_furnished(&it))
                || accounts.get(&key.name, ACCOUNT).is_some()
            {
                return Ok(Next::Wait);
            }
            let body = json!({"metadata": {"name": ACCOUNT, "namespace": key.name}});
            settle(
                api.create(ServiceAccount::RESOURCE, &key.name, body)
                    .await
                    .map(drop),
            )
        }
    })
}

/// The ConfigMap of each namespace that holds the cluster's CA.
pub(crate) fn start_root_ca(context: &Context) -> Task {
    let queue = queue_for::<RootCa>(context, ROOT_CA);
    let namespaces = context.store::<Namespace>();
    let maps = context.store::<RootCa>();
    let (api, options) = (context.api.clone(), context.options.clone());
    context.work(
        "root-ca-certificate-publisher",
        WORKERS,
        queue,
        move |key| {
            let (namespaces, maps) = (namespaces.clone(), maps.clone());
            let (api, options) = (api.clone(), options.clone());
            async move {
                let wanted = &options.cluster_ca_pem;
                let namespace = namespaces.by_key(&key);
                if wanted.is_empty() || !namespace.is_some_and(|it| is_furnished(&it)) {
                    return Ok(Next::Wait);
                }
                match maps.get(&key.name, ROOT_CA) {
                    None => {
                        let description = "Contains a CA bundle that can be used to verify the \
                        kube-apiserver when using internal endpoints such as the internal service \
                        IP or kubernetes.default.svc. No other usage is guaranteed across \
                        distributions of Kubernetes clusters.";
                        let body = json!({
                            "metadata": {
                                "name": ROOT_CA, "namespace": key.name,
                                "annotations": {"kubernetes.io/description": description},
                            },
                            "data": {ROOT_CA_KEY: wanted},
                        });
                        settle(
                            api.create(RootCa::RESOURCE, &key.name, body)
                                .await
                                .map(drop),
                        )
                    }
                    Some(map)
                        if map.data.len() == 1 && map.data.get(ROOT_CA_KEY) == Some(wanted) =>
                    {
                        Ok(Next::Wait)
                    }
                    Some(map) => {
                        let mut data = json!({});
                        for name in map.data.keys() {
                            data[name] = serde_json::Value::Null;
                        }
                        data[ROOT_CA_KEY] = wanted.as_str().into();
                        let patch = json!({"data": data});
                        let patched = api
                            .patch(RootCa::RESOURCE, &key.name, ROOT_CA, "", &patch)
                            .await;
                        settle(found(patched).map(drop))
                    }
                }
            }
        },
    )
}

fn is_furnished(namespace: &Namespace) -> bool {
    !namespace.metadata.is_deleting() && namespace.status.phase != "Terminating"
}

/// Somebody was quicker, or the namespace is going away: all is well.
fn settle(result: Result<(), Error>) -> Result<Next, Error> {
    match result {
        Ok(()) => Ok(Next::Wait),
        Err(error)
            if error.is_already_exists()
                || error.is_not_found()
                || error.is_namespace_terminating() =>
        {
            Ok(Next::Wait)
        }
        Err(error) => Err(error),
    }
}
