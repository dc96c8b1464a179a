//! Service-account tokens: JSON Web Tokens signed with ES256.
//!
//! Only this one algorithm is ever signed or accepted, so that a token cannot
//! choose how it is verified.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::PkiError;

/// The longest token that is looked at, in bytes. Tokens issued here have
/// about 1 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Signs and verifies tokens of one issuer.
pub struct TokenSigner {
    pem: String,
    key_id: String,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl TokenSigner {
    /// Makes a new key.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        let pair = rcgen::KeyPair::generate().map_err(|e| PkiError::Key(e.to_string()))?;
        Self::from_pem(&pair.serialize_pem())
    }

    /// Reads a key (PKCS#8, P-256).
    ///
    /// # Errors
    /// If it is anything else.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| PkiError::Key(e.to_string()))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|e| PkiError::Key(e.to_string()))?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self {
            pem: pem.to_owned(),
            key_id,
            key,
            random,
        })
    }

    /// The private key.
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Signs a set of claims.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, PkiError> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let mut token = encode(&header);
        token.push('.');
        token.push_str(&encode(claims));
        let signature = self
            .key
            .sign(&self.random, token.as_bytes())
            .map_err(|_| PkiError::Key("signing failed".into()))?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }

    /// The claims of a token with a good signature. Times, issuer and audience
    /// are the caller's to check.
    ///
    /// # Errors
    /// If the token is malformed, has another algorithm, or was not signed
    /// with this key.
    pub fn verify(&self, token: &str) -> Result<Value, PkiError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(PkiError::Token("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(PkiError::Token("not a JWT"))?;
        let (header, claims) = signed.split_once('.').ok_or(PkiError::Token("not a JWT"))?;
        if decode(header)?.get("alg").and_then(Value::as_str) != Some("ES256") {
            return Err(PkiError::Token("algorithm is not ES256"));
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| PkiError::Token("not a JWT"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| PkiError::Token("wrong signature"))?;
        decode(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.key_id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn decode(part: &str) -> Result<Value, PkiError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| PkiError::Token("not a JWT"))?;
    serde_json::from_slice(&bytes).map_err(|_| PkiError::Token("not a JWT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_token_is_verified_with_the_same_key_only() {
        let signer = TokenSigner::generate().unwrap();
        let claims = json!({"sub": "system:serviceaccount:a:b", "exp": 1});
        let token = signer.sign(&claims).unwrap();
        assert_eq!(signer.verify(&token).unwrap(), claims);
        let again = TokenSigner::from_pem(signer.to_pem()).unwrap();
        assert_eq!(again.verify(&token).unwrap(), claims);
        assert!(TokenSigner::generate().unwrap().verify(&token).is_err());
    }

    #[test]
    fn forged_tokens_are_refused() {
        let signer = TokenSigner::generate().unwrap();
        let token = signer.sign(&json!({"sub": "a"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"b"}"#);
        for forged in [
            String::new(),
            "a.b".into(),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{other}.{}", parts[0], parts[2]),
            "x".repeat(MAX_TOKEN_BYTES + 1),
        ] {
            assert!(signer.verify(&forged).is_err(), "{forged}");
        }
    }

    #[test]
    fn the_key_set_holds_one_point() {
        let keys = TokenSigner::generate().unwrap().jwks();
        assert_eq!(keys["keys"][0]["x"].as_str().unwrap().len(), 43);
    }
}
