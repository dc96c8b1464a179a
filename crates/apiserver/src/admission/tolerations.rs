//! DefaultTolerationSeconds: a pod stays five minutes on a node that fails,
//! unless it says otherwise.

use async_trait::async_trait;
use coracle_machinery::{ApiError, object};
use serde_json::{Value, json};

use super::is;
use crate::hooks::{Admission, AdmissionRequest, Operation};
use crate::registry::Resource;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn handles(&self, operation: Operation, resource: &Resource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && is(resource, "", "pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        for taint in TAINTS {
            let tolerated = object::items(pod, "/spec/tolerations").iter().any(|t| {
                ["", taint].contains(&object::text(t, "/key"))
                    && ["", "NoExecute"].contains(&object::text(t, "/effect"))
            });
            if tolerated {
                continue;
            }
            let toleration = json!({"key": taint, "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": SECONDS});
            let spec = object::child_map(pod, "spec");
            match spec.get_mut("tolerations") {
                Some(Value::Array(list)) => list.push(toleration),
                _ => {
                    spec.insert("tolerations".into(), json!([toleration]));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Try;

    #[tokio::test]
    async fn what_is_not_tolerated_is_added() {
        let run = |tolerations: Value| async move {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"tolerations": tolerations}});
            let got = Try::create(&DefaultTolerationSeconds, "pods")
                .pass(pod)
                .await
                .unwrap();
            got["spec"]["tolerations"].clone()
        };
        let both = run(Value::Null).await;
        assert_eq!(both.as_array().unwrap().len(), 2);
        assert_eq!(
            both[1],
            json!({"key": TAINTS[1], "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 300})
        );
        let own = json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}]);
        assert_eq!(run(own).await.as_array().unwrap().len(), 2);
        let all = json!([{"operator": "Exists"}]);
        assert_eq!(run(all.clone()).await, all);
    }
}
