//! Signing what CertificateSigningRequests ask for: the controllers say what
//! may be signed, and the key stays with the control plane.

use std::time::Duration;

use coracle_controllers::{Asked, CertificateSigner};
use coracle_pki::{CertificateAuthority, CertificateRequest, Usages};

/// The cluster's authority as the controllers use it.
pub struct RequestSigner {
    /// The authority.
    pub authority: CertificateAuthority,
}

impl CertificateSigner for RequestSigner {
    fn read(&self, request: &[u8]) -> Result<Asked, String> {
        let request = CertificateRequest::from_pem(request).map_err(|e| e.to_string())?;
        Ok(Asked {
            dns_names: request.dns_names.len(),
            ip_addresses: request.ip_addresses.len(),
            emails: request.emails.len(),
            uris: request.uris.len(),
            common_name: request.common_name,
            organizations: request.organizations,
        })
    }

    fn sign(&self, request: &[u8], usages: &[String], valid: Duration) -> Result<String, String> {
        let request = CertificateRequest::from_pem(request).map_err(|e| e.to_string())?;
        let mut wanted = Usages::default();
        for usage in usages {
            match usage.as_str() {
                "digital signature" => {}
                "key encipherment" => wanted.key_encipherment = true,
                "client auth" => wanted.client_auth = true,
                "server auth" => wanted.server_auth = true,
                other => return Err(format!("certificates are not issued for {other}")),
            }
        }
        let signed = self.authority.sign_request(&request, wanted, valid);
        signed.map_err(|error| error.to_string())
    }
}
