//! How servers are spoken to by TLS: who they must be, and who we are to them.
//!
//! A server's certificate is always checked, name and authority. Files are read anew for each connection, so that one
//! that was replaced is used without a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::{ClientTlsConfig, TlsCertificates};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The files that a client's TLS consists of, all in PEM.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// The authorities that servers' certificates are checked against. Not set: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate, with its chain, that servers are shown, if any.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

impl ClientFiles {
    /// For what takes rustls as it is.
    pub fn config(&self) -> Result<ClientConfig, TlsError> {
        let wrong = |error: rustls::Error| TlsError(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(authorities(self.ca_file.as_deref())?);
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let unreadable = |error| TlsError(format!("{}: {error}", key.display()));
                let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
                builder.with_client_auth_cert(certificates(cert)?, key).map_err(wrong)
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    /// For Redis.
    pub fn redis(&self) -> Result<TlsCertificates, TlsError> {
        let file = |path: &Option<PathBuf>| path.as_deref().map(file).transpose();
        let client_tls = match (file(&self.cert_file)?, file(&self.key_file)?) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            _ => None,
        };
        Ok(TlsCertificates { client_tls, root_cert: file(&self.ca_file)? })
    }
}

fn file(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError(format!("{}: {error}", path.display())))
}

fn authorities(path: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let certificates = match path {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        let place = path.map_or("the system".into(), Path::to_string_lossy);
        return Err(TlsError(format!("{place} has no certificate of an authority")));
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error| TlsError(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_there_is_named() {
        let files = ClientFiles { ca_file: Some("/nowhere/ca.pem".into()), ..ClientFiles::default() };
        for error in [files.config().expect_err("no file"), files.redis().expect_err("no file")] {
            assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
        }
    }
}
