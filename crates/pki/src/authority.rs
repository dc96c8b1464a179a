//! A certificate authority and what it issues.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::PkiError;

/// How long an authority is valid: ten years, as kubeadm's are. What it issues
/// lives far shorter and is renewed.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates are valid from a little before now, for clocks that differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// `organizationName`, for the second group of a subject: rcgen holds one
/// value for each of its named attribute types.
pub(crate) const ORGANIZATION_OID: [u64; 4] = [2, 5, 4, 10];

/// A certificate with its private key, both as PEM.
#[derive(Clone)]
pub struct KeyCert {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
}

/// A self-signed authority.
pub struct CertificateAuthority {
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// If the system has no randomness or the name cannot be encoded.
    pub fn generate(common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(certificate_error)?;
        let mut params = params(&[], CA_VALIDITY)?;
        params.distinguished_name = subject(common_name, &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let cert_pem = params.self_signed(&key).map_err(certificate_error)?.pem();
        let key_pem = key.serialize_pem();
        Self::from_pem(&cert_pem, &key_pem)
    }

    /// Reads an authority.
    ///
    /// # Errors
    /// If either text is not what it should be.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| PkiError::Key(e.to_string()))?;
        let issuer = Issuer::from_ca_cert_pem(cert_pem, key).map_err(certificate_error)?;
        Ok(Self {
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            issuer,
        })
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Issues a client certificate: the user is the common name, the groups
    /// are organisations.
    ///
    /// # Errors
    /// With more than two groups, which this encoder cannot write.
    pub fn issue_client(
        &self,
        user: &str,
        groups: &[&str],
        valid: Duration,
    ) -> Result<KeyCert, PkiError> {
        let mut params = params(&[], valid)?;
        params.distinguished_name = subject(user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    /// Issues a server certificate for DNS names and IP addresses.
    ///
    /// # Errors
    /// If a name is not ASCII.
    pub fn issue_server(
        &self,
        name: &str,
        sans: &[String],
        valid: Duration,
    ) -> Result<KeyCert, PkiError> {
        let mut params = params(sans, valid)?;
        params.distinguished_name = subject(name, &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> Result<KeyCert, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(certificate_error)?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(certificate_error)?;
        Ok(KeyCert {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

pub(crate) fn params(sans: &[String], valid: Duration) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    for san in sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(san.as_str().try_into().map_err(certificate_error)?),
        });
    }
    let now = std::time::SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + valid).into();
    // Random and positive, so that no two certificates of one authority agree.
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn subject(common_name: &str, groups: &[&str]) -> Result<DistinguishedName, PkiError> {
    let mut name = DistinguishedName::new();
    for (index, group) in groups.iter().enumerate() {
        let attribute = match index {
            0 => DnType::OrganizationName,
            1 => DnType::CustomDnType(ORGANIZATION_OID.to_vec()),
            _ => return Err(PkiError::Certificate("more than two groups".into())),
        };
        name.push(attribute, *group);
    }
    name.push(DnType::CommonName, common_name);
    Ok(name)
}

pub(crate) fn certificate_error(error: rcgen::Error) -> PkiError {
    PkiError::Certificate(error.to_string())
}

/// The common name and organisations of a certificate: user and groups.
///
/// # Errors
/// If the certificate cannot be parsed or has no common name.
pub fn certificate_subject(der: &[u8]) -> Result<(String, Vec<String>), PkiError> {
    let der = CertificateDer::from_slice(der);
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| PkiError::Certificate(e.to_string()))?;
    let subject = certificate.subject();
    let common_name = subject
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok())
        .ok_or_else(|| PkiError::Certificate("no common name".into()))?;
    let organizations = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect();
    Ok((common_name.to_owned(), organizations))
}

/// The organisations that a certificate request asks for: groups.
///
/// # Errors
/// If the text holds no request that can be parsed.
pub fn requested_organizations(pem: &[u8]) -> Result<Vec<String>, PkiError> {
    let unreadable = |e: String| PkiError::Certificate(e);
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| unreadable(e.to_string()))?;
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|e| unreadable(e.to_string()))?;
    let subject = &request.certification_request_info.subject;
    Ok(subject
        .iter_organization()
        .map(|name| String::from_utf8_lossy(name.as_slice()).into_owned())
        .collect())
}

/// The end of the validity of the first certificate in a PEM text, in seconds
/// since 1970.
///
/// # Errors
/// If there is no certificate that can be parsed.
pub fn certificate_end(pem: &[u8]) -> Result<i64, PkiError> {
    let der =
        CertificateDer::from_pem_slice(pem).map_err(|e| PkiError::Certificate(e.to_string()))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der)
        .map_err(|e| PkiError::Certificate(e.to_string()))?;
    Ok(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_client_certificate_names_user_and_groups() {
        let authority = CertificateAuthority::generate("test-ca").unwrap();
        let pair = authority
            .issue_client("jane", &["system:masters", "dev"], HOUR)
            .unwrap();
        let der = CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap();
        let (user, mut groups) = certificate_subject(&der).unwrap();
        groups.sort();
        assert_eq!(
            (user.as_str(), groups),
            ("jane", vec!["dev".into(), "system:masters".into()])
        );
        assert!(
            authority
                .issue_client("jane", &["a", "b", "c"], HOUR)
                .is_err()
        );
    }

    #[test]
    fn an_authority_survives_its_own_pem() {
        let first = CertificateAuthority::generate("test-ca").unwrap();
        let second = CertificateAuthority::from_pem(first.cert_pem(), first.key_pem()).unwrap();
        let sans = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let pair = second.issue_server("server", &sans, HOUR).unwrap();
        assert!(crate::tls::server_config(&pair.cert_pem, &pair.key_pem, None, &[]).is_ok());
        assert!(CertificateAuthority::from_pem("x", first.key_pem()).is_err());
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(certificate_subject(b"").is_err());
        assert!(requested_organizations(b"").is_err());
        assert!(certificate_subject(&[0x30; 64]).is_err());
    }
}
