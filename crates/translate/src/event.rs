//! Events of the host about synced objects, told inside.

use coracle_machinery::object;
use serde_json::{Value, json};

use crate::json::{copy_key, text};
use crate::names::Translator;

impl Translator {
    /// The virtual event of a host event about `host`, which stands for
    /// `virtual_object`. Names in the message are those inside.
    pub fn event_to_virtual(&self, event: &Value, host: &Value, virtual_object: &Value) -> Value {
        let host_name = object::name(host);
        let (name, namespace) = (
            object::name(virtual_object),
            object::namespace(virtual_object),
        );
        let suffix = object::name(event)
            .strip_prefix(host_name)
            .unwrap_or_default()
            .trim_start_matches('.');
        let suffix = if suffix.is_empty() {
            object::uid(event)
        } else {
            suffix
        };
        let mut told = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{suffix}"), "namespace": namespace},
            "involvedObject": {
                "apiVersion": virtual_object.get("apiVersion"),
                "kind": virtual_object.get("kind"),
                "name": name, "namespace": namespace,
                "uid": object::uid(virtual_object),
                "resourceVersion": object::resource_version(virtual_object),
            },
            "message": self.message_inside(text(event, "message"), host_name, name, namespace),
        });
        copy_key(
            &event["involvedObject"],
            &mut told["involvedObject"],
            "fieldPath",
        );
        for field in [
            "reason",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "series",
            "action",
            "reportingComponent",
            "reportingInstance",
        ] {
            copy_key(event, &mut told, field);
        }
        told
    }

    fn message_inside(
        &self,
        message: &str,
        host_name: &str,
        name: &str,
        namespace: &str,
    ) -> String {
        let host_path = format!("{}/{host_name}", self.host_namespace);
        message
            .replace(&host_path, &format!("{namespace}/{name}"))
            .replace(host_name, name)
            // Other objects of the same namespace, such as volumes' sources.
            .replace(&format!("-x-{namespace}-x-{}", self.vc), "")
    }
}
