//! Mutual TLS: the agent's own certificate, the authorities of its callers, and what a caller's certificate says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::access::Credentials;

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds nothing that could be used.
    #[error("{path} has no {what} in PEM: {why}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The files do not belong together, or cannot be used.
    #[error("the files of [control.tls] cannot be used: {0}")]
    Unusable(String),
}

/// What makes TLS out of a TCP connection. A caller may show no certificate, so that it can be told what it lacks;
/// one that is not signed by an authority of `client_ca`, or is not valid now, ends the connection.
pub(super) fn acceptor(certificate: &Path, key: &Path, client_ca: &Path) -> Result<TlsAcceptor, TlsError> {
    let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Pem {
        path: key.to_owned(),
        what: "private key",
        why: error.to_string(),
    })?;
    let mut authorities = RootCertStore::empty();
    for authority in certificates(client_ca)? {
        authorities.add(authority).map_err(|error| unusable(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authorities.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |why: String| TlsError::Pem { path: path.to_owned(), what: "certificate", why };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is none".to_owned())) } else { Ok(found) }
}

/// What a certificate, which was checked, says of its owner.
pub(super) fn credentials(certificate: &CertificateDer<'_>) -> io::Result<Credentials> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let common_name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    Ok(Credentials::Certificate { uris: uris.collect(), common_name: common_name.map(str::to_owned) })
}

/// Whether a handshake failed because of the certificate that the caller showed.
pub(super) fn is_of_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
