//! Certificate requests: what they ask for, and signing them.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SubjectPublicKeyInfo,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::authority::{CertificateAuthority, ORGANIZATION_OID, certificate_error, params};
use crate::{PkiError, certificate_end};

/// Attributes of a subject, and names of a request, that are read.
const MAX_NAMES: usize = 100;

/// What a certificate request asks for. Its sender holds the key.
#[derive(Clone, Debug, Default)]
pub struct CertificateRequest {
    /// The common name: the user, or the server.
    pub common_name: String,
    /// The organisations: groups.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ip_addresses: Vec<IpAddr>,
    /// Addresses of mail.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// Other attributes of the subject, by their numbers.
    others: Vec<(Vec<u64>, String)>,
    public_key: Vec<u8>,
}

/// What a certificate is to be used for, beside signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    /// Encrypting keys, as with RSA.
    pub key_encipherment: bool,
    /// Being a client.
    pub client_auth: bool,
    /// Being a server.
    pub server_auth: bool,
}

impl CertificateRequest {
    /// Reads the first request of a PEM text.
    ///
    /// # Errors
    /// If there is none that can be read, if its sender does not hold its key,
    /// or if it asks for what cannot be written into a certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(unreadable)?;
        let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(unreadable)?;
        request.verify_signature().map_err(unreadable)?;
        let info = &request.certification_request_info;
        let mut read = Self {
            public_key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for attribute in info.subject.iter_attributes().take(MAX_NAMES + 1) {
            let text = attribute.as_str().map_err(unreadable)?.to_owned();
            let oid: Vec<u64> = attribute.attr_type().iter().into_iter().flatten().collect();
            if oid == COMMON_NAME_OID {
                if !read.common_name.is_empty() {
                    return Err(refused("more than one common name"));
                }
                read.common_name = text;
            } else if oid == ORGANIZATION_OID {
                read.organizations.push(text);
            } else if read.others.iter().any(|(other, _)| *other == oid) {
                return Err(refused("an attribute of the subject twice"));
            } else {
                read.others.push((oid, text));
            }
        }
        let names = request.requested_extensions().into_iter().flatten();
        for extension in names {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in names.general_names.iter().take(MAX_NAMES + 1) {
                read.add_name(name)?;
            }
        }
        let names = read.dns_names.len() + read.ip_addresses.len();
        let names = names + read.emails.len() + read.uris.len();
        let subject = read.organizations.len() + read.others.len();
        if names > MAX_NAMES || subject > MAX_NAMES {
            return Err(refused("too many names"));
        }
        Ok(read)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), PkiError> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => IpAddr::from(v4),
                    (_, Ok(v6)) => IpAddr::from(v6),
                    _ => return Err(refused("an address of another length")),
                };
                self.ip_addresses.push(address);
            }
            _ => return Err(refused("names of another kind")),
        }
        Ok(())
    }

    fn subject(&self) -> Result<DistinguishedName, PkiError> {
        let mut name = DistinguishedName::new();
        for (oid, text) in &self.others {
            name.push(DnType::CustomDnType(oid.clone()), text);
        }
        for (index, organization) in self.organizations.iter().enumerate() {
            let attribute = match index {
                0 => DnType::OrganizationName,
                1 => DnType::CustomDnType(ORGANIZATION_OID.to_vec()),
                _ => return Err(refused("more than two organizations")),
            };
            name.push(attribute, organization);
        }
        if !self.common_name.is_empty() {
            name.push(DnType::CommonName, &self.common_name);
        }
        Ok(name)
    }

    fn names(&self) -> Result<Vec<SanType>, PkiError> {
        let mut all = Vec::new();
        for name in &self.dns_names {
            all.push(SanType::DnsName(
                name.as_str().try_into().map_err(certificate_error)?,
            ));
        }
        for name in &self.emails {
            all.push(SanType::Rfc822Name(
                name.as_str().try_into().map_err(certificate_error)?,
            ));
        }
        for name in &self.uris {
            all.push(SanType::URI(
                name.as_str().try_into().map_err(certificate_error)?,
            ));
        }
        all.extend(self.ip_addresses.iter().copied().map(SanType::IpAddress));
        Ok(all)
    }
}

impl CertificateAuthority {
    /// Issues what was asked for, valid for that long and no longer than the
    /// authority itself; the certificate as PEM. Whether it may be had is for
    /// the caller to know.
    ///
    /// # Errors
    /// If the key or the names cannot be written into a certificate.
    pub fn sign_request(
        &self,
        request: &CertificateRequest,
        usages: Usages,
        valid: Duration,
    ) -> Result<String, PkiError> {
        let end = certificate_end(self.cert_pem().as_bytes())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let left = u64::try_from(end).unwrap_or(0).saturating_sub(now);
        let mut params: CertificateParams = params(&[], valid.min(Duration::from_secs(left)))?;
        params.distinguished_name = request.subject()?;
        params.subject_alt_names = request.names()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if usages.key_encipherment {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        for (wanted, purpose) in [
            (usages.client_auth, ExtendedKeyUsagePurpose::ClientAuth),
            (usages.server_auth, ExtendedKeyUsagePurpose::ServerAuth),
        ] {
            if wanted {
                params.extended_key_usages.push(purpose);
            }
        }
        params.use_authority_key_identifier_extension = true;
        let key = SubjectPublicKeyInfo::from_der(&request.public_key).map_err(certificate_error)?;
        let certificate = params.signed_by(&key, self.issuer());
        Ok(certificate.map_err(certificate_error)?.pem())
    }
}

/// `commonName`.
const COMMON_NAME_OID: [u64; 4] = [2, 5, 4, 3];

fn unreadable(error: impl std::fmt::Display) -> PkiError {
    PkiError::Certificate(error.to_string())
}

fn refused(what: &str) -> PkiError {
    PkiError::Certificate(format!("the request asks for {what}"))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use rcgen::KeyPair;
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;
    use crate::certificate_subject;

    fn request(
        groups: &[&str],
        names: &[&str],
        algorithm: &'static rcgen::SignatureAlgorithm,
    ) -> String {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let mut subject = DistinguishedName::new();
        for (index, group) in groups.iter().enumerate() {
            let attribute = match index {
                0 => DnType::OrganizationName,
                _ => DnType::CustomDnType(ORGANIZATION_OID.to_vec()),
            };
            subject.push(attribute, *group);
        }
        subject.push(DnType::CommonName, "jane");
        subject.push(DnType::OrganizationalUnitName, "unit");
        params.distinguished_name = subject;
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn what_is_asked_for_is_issued() {
        let authority = CertificateAuthority::generate("ca").unwrap();
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let pem = request(&["dev", "ops"], &["a.example.com", "10.0.0.1"], algorithm);
            let request = CertificateRequest::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(request.common_name, "jane");
            assert_eq!(request.organizations, ["dev", "ops"]);
            assert_eq!(request.dns_names, ["a.example.com"]);
            assert_eq!(
                request.ip_addresses,
                ["10.0.0.1".parse::<IpAddr>().unwrap()]
            );
            let usages = Usages {
                client_auth: true,
                ..Usages::default()
            };
            let hour = Duration::from_secs(3600);
            let issued = authority.sign_request(&request, usages, hour).unwrap();
            let der = CertificateDer::from_pem_slice(issued.as_bytes()).unwrap();
            let (user, mut groups) = certificate_subject(&der).unwrap();
            groups.sort();
            assert_eq!(
                (user.as_str(), groups),
                ("jane", vec!["dev".into(), "ops".into()])
            );
            let clients = crate::tls::ClientAuthority::new(authority.cert_pem()).unwrap();
            assert!(clients.vouches_for(&[der]));
        }
    }

    #[test]
    fn nothing_outlives_the_authority() {
        let authority = CertificateAuthority::generate("ca").unwrap();
        let pem = request(&[], &[], &rcgen::PKCS_ECDSA_P256_SHA256);
        let request = CertificateRequest::from_pem(pem.as_bytes()).unwrap();
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        let issued = authority
            .sign_request(&request, Usages::default(), century)
            .unwrap();
        let end = certificate_end(issued.as_bytes()).unwrap();
        assert!(end <= certificate_end(authority.cert_pem().as_bytes()).unwrap());
    }

    #[test]
    fn whoever_does_not_hold_the_key_gets_nothing() {
        let pem = request(&["dev"], &[], &rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = parsed.contents.clone();
        let at = der.windows(4).position(|bytes| bytes == b"jane").unwrap();
        der[at..at + 4].copy_from_slice(b"root");
        let body = base64::engine::general_purpose::STANDARD.encode(&der);
        let text = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        );
        assert!(CertificateRequest::from_pem(text.as_bytes()).is_err());
        assert!(CertificateRequest::from_pem(b"").is_err());
    }
}
