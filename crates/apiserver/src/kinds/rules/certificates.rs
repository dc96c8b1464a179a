//! The rules of CertificateSigningRequests.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_machinery::names::{NameRule, dns1123_label_errors, dns1123_subdomain_errors};
use coracle_machinery::{FieldError, FieldPath};
use serde_json::Value;

use super::{Errors, list, str_at};
use crate::kind::Strategy;

/// The shortest life that may be asked for, in seconds.
const MIN_SECONDS: i64 = 600;
const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_TYPE: &str = "CERTIFICATE REQUEST-----";
const PEM_END: &str = "-----END CERTIFICATE REQUEST-----";

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The rules of CertificateSigningRequests.
pub(in crate::kinds) struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn tracks_generation(&self, _object: &Value) -> bool {
        false
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn validate(&self, object: &Value) -> Errors {
        let mut errors = Vec::new();
        let path = FieldPath::new("spec");
        let spec = &object["spec"];
        let request = str_at(spec, "request");
        if !is_request(request) {
            let detail = "PEM block type must be CERTIFICATE REQUEST";
            errors.push(FieldError::invalid(&path.child("request"), request, detail));
        }
        let usages = list(spec, "usages");
        let at = path.child("usages");
        if usages.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        let mut seen = BTreeSet::new();
        for (index, usage) in usages.iter().enumerate() {
            let (usage, at) = (usage.as_str().unwrap_or_default(), at.index(index));
            if !USAGES.contains(&usage) {
                errors.push(FieldError::not_supported(&at, usage, USAGES));
            }
            if !seen.insert(usage) {
                errors.push(FieldError::duplicate(&at, usage));
            }
        }
        signer_name(
            &mut errors,
            str_at(spec, "signerName"),
            &path.child("signerName"),
        );
        if let Some(seconds) = spec["expirationSeconds"]
            .as_i64()
            .filter(|s| *s < MIN_SECONDS)
        {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            let at = path.child("expirationSeconds");
            errors.push(FieldError::invalid(&at, seconds, detail));
        }
        errors
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value) {
        if let Some(map) = object.as_object_mut()
            && let Some(spec) = old.get("spec")
        {
            map.insert("spec".into(), spec.clone());
        }
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &["spec.signerName"]
    }
}

/// True if the first PEM block is a request. Whether it is well made is for
/// the signer to find out.
fn is_request(request: &str) -> bool {
    let text = STANDARD.decode(request).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.split_once(PEM_BEGIN)
        .and_then(|(_, block)| block.strip_prefix(PEM_TYPE))
        .and_then(|block| block.split_once(PEM_END))
        .is_some_and(|(body, _)| {
            let body: String = body.split_whitespace().collect();
            STANDARD.decode(body).is_ok_and(|der| !der.is_empty())
        })
}

/// A name such as `example.com/signer`.
fn signer_name(errors: &mut Errors, name: &str, path: &FieldPath) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let parts = name.split_once('/').filter(|(_, rest)| !rest.contains('/'));
    let Some((domain, rest)) = parts else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, detail));
        return;
    };
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    for (text, rule) in [
        (domain, dns1123_label_errors as super::text::Check),
        (rest, dns1123_subdomain_errors),
    ] {
        for label in text.split('.') {
            for why in rule(label) {
                let detail = format!("validating label \"{label}\": {why}");
                errors.push(FieldError::invalid(path, text, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(request: &str, usages: Value, signer: &str) -> Vec<String> {
        let request = STANDARD.encode(request);
        let spec = json!({"request": request, "usages": usages, "signerName": signer});
        let errors = CertificateSigningRequest.validate(&json!({"spec": spec}));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests_are_told_all_that_is_wrong() {
        let request =
            "x\n-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
        let usages = json!(["client auth", "digital signature"]);
        assert!(texts(request, usages, "kubernetes.io/kube-apiserver-client").is_empty());
        assert_eq!(
            texts("x", json!([]), "example.com"),
            [
                "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"example.com\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
            ]
        );
        let found = texts(request, json!(["x", "any", "any"]), "example/s");
        assert!(
            found[0]
                .starts_with("spec.usages[0]: Unsupported value: \"x\": supported values: \"any\"")
        );
        assert_eq!(found[1], "spec.usages[2]: Duplicate value: \"any\"");
        assert_eq!(
            found[2],
            "spec.signerName: Invalid value: \"example\": should be a domain with at least two segments separated by dots"
        );
    }
}
