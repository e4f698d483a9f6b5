//! What a sink's server wants to be shown: credentials from the environment, certificates from files.
//!
//! Both are read anew for each connection, so a certificate that was replaced is used without a restart, and what is
//! missing is an error of that sink alone.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::sink::SinkError;
use crate::config::Sink;

/// Who the agent is to a sink.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Anyone.
    None,
    /// A user, where the password alone does not say which (Redis), and a password.
    Password(Option<String>, String),
    /// The bearer of a token.
    Token(String),
}

/// The credentials in the environment variables that the configuration names.
pub(super) fn credentials(sink: &Sink) -> Result<Credentials, SinkError> {
    credentials_from(sink, |name| std::env::var(name).ok())
}

fn credentials_from(
    sink: &Sink,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Credentials, SinkError> {
    let value = |name: &String| {
        let missing = || SinkError::Misconfigured(format!("the environment variable {name} is not set"));
        variable(name).ok_or_else(missing)
    };
    match (&sink.token_env, &sink.password_env) {
        (Some(token), _) => Ok(Credentials::Token(value(token)?)),
        (None, Some(password)) => {
            let user = sink.user_env.as_ref().map(value).transpose()?;
            Ok(Credentials::Password(user, value(password)?))
        }
        (None, None) => Ok(Credentials::None),
    }
}

/// A file that the configuration names.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, SinkError> {
    fs::read(path).map_err(|error| SinkError::Misconfigured(format!("{}: {error}", path.display())))
}

/// How TLS is spoken to a sink.
pub(super) fn tls(sink: &Sink) -> Result<ClientConfig, SinkError> {
    let wrong = |error: rustls::Error| SinkError::Misconfigured(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(authorities(sink.ca_file.as_deref())?);
    match (&sink.cert_file, &sink.key_file) {
        (Some(cert), Some(key)) => {
            let unreadable = |error| SinkError::Misconfigured(format!("{}: {error}", key.display()));
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(wrong)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn authorities(path: Option<&Path>) -> Result<RootCertStore, SinkError> {
    let mut store = RootCertStore::empty();
    let certificates = match path {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        let place = path.map_or("the system".into(), Path::to_string_lossy);
        return Err(SinkError::Misconfigured(format!("{place} has no certificate of an authority")));
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SinkError> {
    let unreadable = |error| SinkError::Misconfigured(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_variables_that_are_named_and_a_missing_one_is_named() {
        let of = |sink: &Sink| {
            credentials_from(sink, |name| (name != "MISSING").then(|| format!("value of {name}")))
        };
        let named = |name: &str| Some(name.to_owned());
        let sink = Sink { user_env: named("U"), password_env: named("P"), ..Sink::default() };
        let expected = Credentials::Password(named("value of U"), "value of P".to_owned());
        assert_eq!(of(&sink).expect("both are set"), expected);
        let sink = Sink { token_env: named("MISSING"), ..Sink::default() };
        assert!(of(&sink).expect_err("it is missing").to_string().contains("MISSING is not set"));
        assert_eq!(of(&Sink::default()).expect("none is named"), Credentials::None);
    }

    #[test]
    fn a_certificate_that_is_not_there_is_named_and_is_an_error_of_its_sink() {
        let sink = Sink { ca_file: Some("/nowhere/ca.pem".into()), ..Sink::default() };
        let error = tls(&sink).expect_err("there is no file");
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}
