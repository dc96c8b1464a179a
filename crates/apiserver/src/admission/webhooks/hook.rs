//! One webhook: whether it is for a request, the call, and its answer.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::cel::Budget;
use coracle_machinery::object::{items, text};
use coracle_machinery::patch::json_patch;
use coracle_machinery::{ApiError, Reason};
use serde_json::{Value, json};

use crate::admission::conditions::{CONDITION_VARIABLES, Conditions, Facts, Scene};
use crate::admission::matching::{Matcher, Version};
use crate::admission::review::{from_version, review_request, to_version};
use crate::admission::{Extensions, forbidden};
use crate::hooks::AdmissionRequest;
use crate::registry::Resource;
use crate::write::meta::new_uid;

/// Seconds that a webhook has where its configuration does not say.
const DEFAULT_TIMEOUT: u64 = 10;
/// The most seconds that a configuration may ask for.
const MAX_TIMEOUT: u64 = 30;

/// A webhook of a configuration.
pub(super) struct Hook {
    pub(super) name: String,
    /// Called again if others changed the object after it.
    pub(super) reinvoked: bool,
    matcher: Matcher,
    conditions: Conditions,
    client: Value,
    /// `v1` or `v1beta1`.
    review_version: &'static str,
    timeout: Duration,
    fails_open: bool,
    /// It does nothing beside answering, so that dry runs may call it.
    without_effects: bool,
}

/// Why a mutating webhook did not do its work.
pub(super) enum Failure {
    /// It could not be called: its failure policy decides.
    Call(String),
    /// It was called, and the request is refused.
    Refused(ApiError),
}

impl Hook {
    pub(super) fn new(webhook: &Value) -> Self {
        let versions = items(webhook, "/admissionReviewVersions");
        let seconds = webhook["timeoutSeconds"].as_u64();
        let seconds = seconds.unwrap_or(DEFAULT_TIMEOUT).clamp(1, MAX_TIMEOUT);
        Self {
            name: text(webhook, "/name").to_owned(),
            reinvoked: text(webhook, "/reinvocationPolicy") == "IfNeeded",
            matcher: Matcher::of_webhook(webhook),
            conditions: Conditions::of(webhook, CONDITION_VARIABLES),
            client: webhook["clientConfig"].clone(),
            review_version: match versions.iter().find_map(Value::as_str) {
                Some("v1beta1") => "v1beta1",
                _ => "v1",
            },
            timeout: Duration::from_secs(seconds),
            fails_open: text(webhook, "/failurePolicy") == "Ignore",
            without_effects: matches!(text(webhook, "/sideEffects"), "None" | "NoneOnDryRun"),
        }
    }

    /// The version of the resource that the webhook is called with, if it is
    /// for the request.
    pub(super) async fn matches<'r>(
        &self,
        request: &AdmissionRequest<'r>,
        with: &Extensions,
    ) -> Result<Option<Version<'r>>, ApiError> {
        let Some(version) = self.matcher.version(request, &with.registry) else {
            return Ok(None);
        };
        if !self.matcher.selects(request, &*with.objects).await? {
            return Ok(None);
        }
        if self.conditions.is_empty() {
            return Ok(Some(version));
        }
        let facts = Facts::new(request, &version);
        let mut budget = Budget::new(Budget::TOTAL);
        match self.conditions.hold(&Scene::new(&facts), &mut budget) {
            Ok(holds) => Ok(holds.then_some(version)),
            Err(_) if self.fails_open => Ok(None),
            Err(why) => Err(forbidden(request, &why)),
        }
    }

    /// Asks the webhook about a request.
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) async fn call(
        &self,
        request: &AdmissionRequest<'_>,
        resource: &Resource,
        with: &Extensions,
    ) -> Result<Answer, String> {
        if request.dry_run && !self.without_effects {
            return Err("the webhook does not support dry run".to_owned());
        }
        let uid = new_uid();
        let api_version = format!("admission.k8s.io/{}", self.review_version);
        let review = json!({
            "kind": "AdmissionReview",
            "apiVersion": api_version,
            "request": review_request(request, resource, &uid),
        });
        let answer = with.callouts.post(&self.client, &review, self.timeout);
        let mut answer = answer
            .await
            .map_err(|error| format!("failed to call webhook: {error}"))?;
        let response = answer["response"].take();
        let found = (text(&answer, "/kind"), text(&answer, "/apiVersion"));
        if found != ("AdmissionReview", api_version.as_str()) {
            return Err(format!(
                "received invalid webhook response: expected webhook response of {api_version}, \
                 Kind=AdmissionReview, got {}, Kind={}",
                found.1, found.0
            ));
        }
        if !response.is_object() {
            return Err("received invalid webhook response: webhook response was absent".into());
        }
        if text(&response, "/uid") != uid {
            return Err(format!(
                "received invalid webhook response: expected response.uid=\"{uid}\", got \"{}\"",
                text(&response, "/uid")
            ));
        }
        Ok(Answer(response))
    }

    /// Asks the webhook, and changes the object as it says.
    pub(super) async fn mutate(
        &self,
        request: &mut AdmissionRequest<'_>,
        resource: &Resource,
        with: &Extensions,
    ) -> Result<(), Failure> {
        let answer = self.call(request, resource, with).await;
        let answer = answer.map_err(Failure::Call)?;
        request.warnings.extend(answer.warnings());
        answer.allowed(self).map_err(Failure::Refused)?;
        let Some(patch) = answer.patch().map_err(Failure::Call)? else {
            return Ok(());
        };
        let Some(object) = &request.object else {
            return Ok(());
        };
        let refuse = |error: ApiError| Failure::Refused(ApiError::internal(error));
        let seen = to_version(object, resource, request.subresource);
        let changed = json_patch(&seen, &patch).map_err(refuse)?;
        let changed =
            from_version(changed, object, resource, request.subresource).map_err(refuse)?;
        request.object = Some(changed);
        Ok(())
    }

    /// Lets a failure pass or not, as the failure policy says.
    pub(super) fn settle(&self, failure: Failure) -> Result<(), ApiError> {
        match failure {
            Failure::Refused(error) => Err(error),
            Failure::Call(why) if self.fails_open => {
                tracing::warn!(webhook = %self.name, why, "a webhook failed and is ignored");
                Ok(())
            }
            Failure::Call(why) => {
                let name = &self.name;
                let why = format!("failed calling webhook \"{name}\": {why}");
                Err(ApiError::internal(why))
            }
        }
    }
}

/// The `response` of a review.
pub(super) struct Answer(Value);

impl Answer {
    /// Texts for `Warning` headers.
    pub(super) fn warnings(&self) -> Vec<String> {
        let texts = items(&self.0, "/warnings").iter();
        texts.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The refusal, if it is one.
    pub(super) fn allowed(&self, hook: &Hook) -> Result<(), ApiError> {
        if self.0["allowed"] == true {
            return Ok(());
        }
        let status = &self.0["status"];
        let denied = format!("admission webhook \"{}\" denied the request", hook.name);
        let message = match (text(status, "/message"), text(status, "/reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", why) | (why, _) => format!("{denied}: {why}"),
        };
        let code = status["code"].as_u64().unwrap_or(0);
        Err(ApiError {
            reason: Reason::of_refusal(text(status, "/reason"), code),
            message,
            details: status["details"].clone(),
        })
    }

    /// The JSON patch, if there is one.
    fn patch(&self) -> Result<Option<Vec<u8>>, String> {
        let patch = text(&self.0, "/patch");
        let kind = text(&self.0, "/patchType");
        if patch.is_empty() {
            return Ok(None);
        }
        if kind != "JSONPatch" {
            return Err(format!("unsupported patch type \"{kind}\""));
        }
        let bytes = STANDARD.decode(patch);
        bytes
            .map(Some)
            .map_err(|error| format!("the patch is not base64: {error}"))
    }
}
