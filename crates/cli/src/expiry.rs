//! When copied credentials run out.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_openapi::jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

/// How long before their end credentials are worth a word.
const SOON_DAYS: i64 = 30;

/// The end of a certificate in PEM.
pub fn of_pem(pem: &[u8]) -> Option<Timestamp> {
    let seconds = coracle_pki::certificate_end(pem).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The end of the client certificate or token of a kubeconfig's `user` entry.
pub fn of_user(user: &Value) -> Option<Timestamp> {
    if let Some(token) = user.get("token") {
        return of_token(token.as_str()?);
    }
    let encoded = user.get("client-certificate-data")?.as_str()?;
    of_pem(&STANDARD.decode(encoded).ok()?)
}

/// The end of a token, as it says itself: nobody is let in by this.
pub fn of_token(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
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
    fn tokens_tell_their_end() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"exp": 1893456000}"#);
        let user = serde_json::json!({"token": format!("h.{claims}.s")});
        let end = of_user(&user).unwrap();
        assert_eq!(end.to_string(), "2030-01-01T00:00:00Z");
        for other in ["opaque", "h.x.s"] {
            assert_eq!(of_user(&serde_json::json!({"token": other})), None);
        }
    }

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
