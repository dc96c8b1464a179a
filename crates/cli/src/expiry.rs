//! When copied credentials run out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

/// How long before their end credentials are worth a word.
const SOON_DAYS: i64 = 30;

/// The end of a certificate in PEM.
pub fn of_pem(pem: &[u8]) -> Option<Timestamp> {
    let seconds = coracle_pki::certificate_end(pem).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The end of the client certificate of a kubeconfig's `user` entry.
pub fn of_user(user: &Value) -> Option<Timestamp> {
    let encoded = user.get("client-certificate-data")?.as_str()?;
    of_pem(&STANDARD.decode(encoded).ok()?)
}

/// What to tell of credentials that end at `end`, if that is past or soon.
pub fn warning(context: &str, end: Timestamp, now: Timestamp) -> Option<String> {
    if end <= now {
        return Some(format!(
            "the credentials of context {context} ran out on {end}"
        ));
    }
    let soon = now.checked_add((SOON_DAYS * 24).hours()).ok()?;
    (end < soon).then(|| format!("the credentials of context {context} run out on {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_ends_soon_is_told() {
        let authority = coracle_pki::CertificateAuthority::generate("ca").unwrap();
        let day = 24 * 3600;
        let pair = authority
            .issue_client("admin", &[], Duration::from_secs(40 * day))
            .unwrap();
        let user = serde_json::json!({
            "client-certificate-data": STANDARD.encode(pair.cert_pem.as_bytes()),
        });
        let end = of_user(&user).unwrap();
        let at = |days: i64| Timestamp::now().checked_add((days * 24).hours()).unwrap();
        assert_eq!(warning("c", end, at(0)), None);
        assert!(warning("c", end, at(15)).unwrap().contains("run out"));
        assert!(warning("c", end, at(41)).unwrap().contains("ran out"));
    }
}
