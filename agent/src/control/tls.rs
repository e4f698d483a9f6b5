//! Mutual TLS: the agent's own certificate, the authorities of its callers, and what a caller's certificate says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_parser::certificate::{TbsCertificate, Validity};
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
    /// The agent's own certificate is expired, or of the future.
    #[error("the certificate in {path} is valid from {from} to {until}, and not now")]
    NotValidNow {
        /// The file.
        path: PathBuf,
        /// Since when it is.
        from: String,
        /// Through when it is.
        until: String,
    },
    /// The files do not belong together, or cannot be used.
    #[error("the files of [control.tls] cannot be used: {0}")]
    Unusable(String),
}

/// The files of a listener, all in PEM.
pub(super) struct Files {
    /// The agent's own certificate, and those between it and its authority.
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// The authorities whose certificates callers may show.
    pub(super) client_ca: PathBuf,
}

/// What was read of them.
pub(super) struct Read {
    /// What makes TLS out of a TCP connection. A caller may show no certificate, so that it can be told what it lacks; one
    /// that is not signed by an authority of `client_ca`, or is not valid now, ends the connection.
    pub(super) acceptor: TlsAcceptor,
    /// When the agent's own certificate is valid.
    pub(super) validity: Validity,
}

impl Read {
    /// Whether the agent's own certificate is valid then, in nanoseconds since the Unix epoch.
    pub(super) fn is_valid_at(&self, unix_ns: i64) -> bool {
        let seconds = unix_ns.div_euclid(1_000_000_000);
        (self.validity.not_before.timestamp()..=self.validity.not_after.timestamp()).contains(&seconds)
    }
}

impl Files {
    /// Reads them, and sees that they belong together. A certificate that is not valid now is no error.
    pub(super) fn read(&self) -> Result<Read, TlsError> {
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| TlsError::Pem {
            path: self.key.clone(),
            what: "private key",
            why: error.to_string(),
        })?;
        let validity = chain.first().map(validity).transpose();
        let validity =
            validity.map_err(|error| unusable(&error))?.ok_or_else(|| unusable(&"no certificate"))?;
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.client_ca)? {
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
        Ok(Read { acceptor: TlsAcceptor::from(Arc::new(config)), validity })
    }
}

fn validity(certificate: &CertificateDer<'_>) -> io::Result<Validity> {
    Ok(parsed(certificate)?.validity)
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
    let certificate = parsed(certificate)?;
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

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> io::Result<TbsCertificate<'a>> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, certificate) =
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(certificate.tbs_certificate)
}

/// Whether a handshake failed because of the certificate that the caller showed.
pub(super) fn is_of_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
