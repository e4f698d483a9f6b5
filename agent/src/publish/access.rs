//! What a sink's server wants to be shown: credentials from the environment, certificates from files.
//!
//! Both are read anew for each connection, so a certificate that was replaced is used without a restart, and what is
//! missing is an error of that sink alone.

use super::sink::SinkError;
use crate::config::Sink;
use crate::tls::{ClientFiles, TlsError};

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

/// What TLS to a sink consists of.
pub(super) fn files(sink: &Sink) -> ClientFiles {
    let Sink { ca_file, cert_file, key_file, .. } = sink.clone();
    ClientFiles { ca_file, cert_file, key_file }
}

impl From<TlsError> for SinkError {
    fn from(error: TlsError) -> Self {
        Self::Misconfigured(error.to_string())
    }
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
}
