//! The conversion webhook of a CustomResourceDefinition.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_machinery::ApiError;
use coracle_machinery::object::{self, items, metadata_mut, text};
use serde_json::{Value, json};

use super::Converter;
use crate::callout::Callouts;
use crate::write::meta;

/// How long a webhook has, as upstream gives it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Versions of `ConversionReview` that are spoken.
const REVIEWS: &[&str] = &["v1", "v1beta1"];

/// The converter of a definition, if it names a webhook.
pub fn converter_of(crd: &Value, callouts: &Arc<Callouts>) -> Option<Arc<dyn Converter>> {
    if text(crd, "/spec/conversion/strategy") != "Webhook" {
        return None;
    }
    let webhook = crd.pointer("/spec/conversion/webhook")?;
    let review = items(webhook, "/conversionReviewVersions")
        .iter()
        .filter_map(Value::as_str)
        .find_map(|wanted| REVIEWS.iter().find(|known| **known == wanted))?;
    Some(Arc::new(Webhook {
        callouts: callouts.clone(),
        client_config: webhook.get("clientConfig").cloned().unwrap_or_default(),
        review: format!("apiextensions.k8s.io/{review}"),
    }))
}

struct Webhook {
    callouts: Arc<Callouts>,
    client_config: Value,
    /// The `apiVersion` of the documents.
    review: String,
}

#[async_trait]
impl Converter for Webhook {
    async fn convert(
        &self,
        objects: Vec<Value>,
        api_version: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let Some(first) = objects.first() else {
            return Ok(objects);
        };
        let gvk = format!(
            "{}, Kind={}",
            text(first, "/apiVersion"),
            text(first, "/kind")
        );
        let converted = self.ask(&objects, api_version).await;
        converted.map_err(|why| {
            ApiError::internal(format!("conversion webhook for {gvk} failed: {why}"))
        })
    }
}

impl Webhook {
    async fn ask(&self, objects: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
        let uid = meta::new_uid();
        let document = json!({
            "kind": "ConversionReview",
            "apiVersion": self.review,
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let call = self.callouts.post(&self.client_config, &document, TIMEOUT);
        let mut answer = call.await.map_err(|error| error.to_string())?;
        let mut response = answer
            .get_mut("response")
            .map(Value::take)
            .filter(Value::is_object)
            .ok_or("webhook response was absent")?;
        if text(&response, "/uid") != uid {
            return Err(format!(
                "expected response.uid=\"{uid}\", got \"{}\"",
                text(&response, "/uid")
            ));
        }
        if text(&response, "/result/status") != "Success" {
            let why = text(&response, "/result/message");
            return Err(if why.is_empty() {
                "response failed without a message".to_owned()
            } else {
                why.to_owned()
            });
        }
        let converted = match response.get_mut("convertedObjects").map(Value::take) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        if converted.len() != objects.len() {
            return Err(format!(
                "webhook returned {} objects, expected {}",
                converted.len(),
                objects.len()
            ));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(index, (asked, object))| {
                accepted(asked, object, api_version)
                    .map_err(|why| format!("invalid converted object at index {index}: {why}"))
            })
            .collect()
    }
}

/// The converted object with the metadata that a webhook may not change.
fn accepted(asked: &Value, mut object: Value, api_version: &str) -> Result<Value, String> {
    if !object.is_object() {
        return Err("it is no object".into());
    }
    for (what, expected, found) in [
        ("apiVersion", api_version, text(&object, "/apiVersion")),
        ("kind", text(asked, "/kind"), text(&object, "/kind")),
        ("metadata.name", object::name(asked), object::name(&object)),
        (
            "metadata.namespace",
            object::namespace(asked),
            object::namespace(&object),
        ),
        ("metadata.uid", object::uid(asked), object::uid(&object)),
    ] {
        if expected != found {
            return Err(format!("{what} must be \"{expected}\", but is \"{found}\""));
        }
    }
    let mut metadata = asked.get("metadata").cloned().unwrap_or_default();
    if let Some(kept) = metadata.as_object_mut() {
        let sent = metadata_mut(&mut object);
        for field in ["labels", "annotations"] {
            match sent.remove(field) {
                Some(value) => kept.insert(field.to_owned(), value),
                None => kept.remove(field),
            };
        }
    }
    object["metadata"] = metadata;
    Ok(object)
}
