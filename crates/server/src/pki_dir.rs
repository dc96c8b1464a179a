//! The keys of one cluster on disk: made at the first start, read afterwards.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_pki::{CertificateAuthority, KeyCert, TokenSigner, kubeconfig};

use crate::Error;

/// How long serving and client certificates are valid by default. A control
/// plane issues new ones when it starts, and well before they end.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The name in the certificate that an API server shows to servers that extend
/// it.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// The keys of a cluster: one authority for clients and servers, and the key
/// that signs service-account tokens.
pub struct PkiDir {
    path: PathBuf,
    leaf_validity: Duration,
    /// The cluster's authority.
    pub ca: CertificateAuthority,
    /// Vouches for the API server towards servers that extend it, which take
    /// its word for who calls; apart, so that no other certificate does.
    pub front_proxy_ca: CertificateAuthority,
    /// Signs service-account tokens.
    pub tokens: TokenSigner,
}

impl PkiDir {
    /// Reads the keys in `path`, and makes those that are not there yet.
    ///
    /// # Errors
    /// If files cannot be read or written, or hold something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(Error::file(path))?;
        let ca = authority(path, "ca", "kubernetes")?;
        let front_proxy_ca = authority(path, "front-proxy-ca", "front-proxy-ca")?;
        let token_path = path.join("sa.key");
        let tokens = match read(&token_path)? {
            Some(pem) => TokenSigner::from_pem(&pem)?,
            None => {
                let signer = TokenSigner::generate()?;
                write_private(&token_path, signer.to_pem())?;
                signer
            }
        };
        Ok(Self {
            path: path.to_owned(),
            leaf_validity: LEAF_VALIDITY,
            ca,
            front_proxy_ca,
            tokens,
        })
    }

    /// The same, issuing certificates that are valid for `validity`.
    #[must_use]
    pub fn with_leaf_validity(mut self, validity: Duration) -> Self {
        self.leaf_validity = validity;
        self
    }

    /// Issues a server's certificate.
    ///
    /// # Errors
    /// If a name cannot be encoded.
    pub fn issue_server(&self, name: &str, sans: &[String]) -> Result<KeyCert, Error> {
        Ok(self.ca.issue_server(name, sans, self.leaf_validity)?)
    }

    /// Issues a client's certificate: the user and the groups it stands for.
    ///
    /// # Errors
    /// With more groups than a certificate here can name.
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<KeyCert, Error> {
        Ok(self.ca.issue_client(user, groups, self.leaf_validity)?)
    }

    /// Issues the certificate that an API server shows to servers that extend
    /// it.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn issue_front_proxy(&self) -> Result<KeyCert, Error> {
        let (authority, name) = (&self.front_proxy_ca, FRONT_PROXY);
        Ok(authority.issue_client(name, &[], self.leaf_validity)?)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Issues a client certificate and writes a kubeconfig with it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_kubeconfig(
        &self,
        file: &Path,
        context: &str,
        server: &str,
        user: &str,
        groups: &[&str],
    ) -> Result<(), Error> {
        let client = self.issue_client(user, groups)?;
        write_private(
            file,
            &kubeconfig::render(context, server, self.ca.cert_pem(), &client),
        )
    }
}

/// Writes `NAME.crt` and `NAME.key` below `directory`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_pair(directory: &Path, name: &str, pair: &KeyCert) -> Result<(), Error> {
    write_private(&directory.join(format!("{name}.key")), &pair.key_pem)?;
    write_private(&directory.join(format!("{name}.crt")), &pair.cert_pem)
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file(parent))?;
    }
    let incoming = path.with_extension(format!("{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&incoming)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&incoming, path)
    };
    write().map_err(Error::file(path))
}

/// Reads an authority, or makes it if it is not there yet.
fn authority(
    directory: &Path,
    file: &str,
    common_name: &str,
) -> Result<CertificateAuthority, Error> {
    let cert_path = directory.join(format!("{file}.crt"));
    let key_path = directory.join(format!("{file}.key"));
    match (read(&cert_path)?, read(&key_path)?) {
        (Some(cert), Some(key)) => Ok(CertificateAuthority::from_pem(&cert, &key)?),
        (Some(_), None) => Err(Error::Keys(directory.to_owned())),
        (None, Some(key)) if key.is_empty() => Err(Error::Keys(directory.to_owned())),
        // A key without certificate: a crash between the two writes, before
        // anything was issued.
        (None, _) => {
            let ca = CertificateAuthority::generate(common_name)?;
            // The key first: a certificate without its key is refused above.
            write_private(&key_path, ca.key_pem())?;
            write_private(&cert_path, ca.cert_pem())?;
            Ok(ca)
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_the_same_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let first = PkiDir::open(directory.path()).unwrap();
        let second = PkiDir::open(directory.path()).unwrap();
        assert_eq!(first.ca.cert_pem(), second.ca.cert_pem());
        assert_eq!(first.tokens.to_pem(), second.tokens.to_pem());
    }

    #[test]
    fn a_key_without_certificate_is_replaced_but_a_certificate_without_key_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        PkiDir::open(directory.path()).unwrap();
        fs::remove_file(directory.path().join("ca.crt")).unwrap();
        PkiDir::open(directory.path()).unwrap();
        fs::remove_file(directory.path().join("ca.key")).unwrap();
        assert!(PkiDir::open(directory.path()).is_err());
    }
}
