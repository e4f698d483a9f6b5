//! How a command fails: what is wrong, the reason code, what to do next, and the exit code.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use dormouse_ledger::LedgerError;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::advice::advice;
use super::exit::Exit;
use crate::config::ConfigError;
use crate::control::{ERROR_DOMAIN, code_name};
use crate::sandbox::refusal::Reason;

/// What to do where the sandbox is no more.
const OF_WHAT_ENDED: &str = "`dormouse slices ID` shows what it was billed for";

/// Why a command did not do what it was asked. Its JSON is what `--json` prints on standard error.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// What is wrong.
    message: String,
    /// The stable reason code, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The gRPC status code, where the agent answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Facts for a program.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
    #[serde(skip)]
    exit: Exit,
}

impl Failure {
    /// Something on this side failed.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            reason: None,
            code: None,
            next: None,
            metadata: BTreeMap::new(),
            exit: Exit::Failed,
        }
    }

    /// It failed for a reason that has a stable code.
    pub(super) fn with_reason(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::new(message) }
    }

    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, next: Some("`dormouse --help` says more".to_owned()), ..Self::new(message) }
    }

    /// Nobody answers on the control socket.
    pub(super) fn unreachable(socket: &Path, error: &tonic::transport::Error) -> Self {
        let cause = innermost(error);
        Self {
            exit: Exit::Unreachable,
            next: Some(
                "start it with `dormouse agent` or `systemctl start dormouse`, or give its --socket"
                    .to_owned(),
            ),
            ..Self::new(format!("no agent answers on {}: {cause}", socket.display()))
        }
    }

    /// The agent, or the transport, answered with an error.
    pub(super) fn of_status(status: &Status) -> Self {
        let code = Some(code_name(status.code()));
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let Some(info) = info else {
            // Every answer of the agent carries a reason: this one comes from the connection.
            // It has a source where it was made on this side, of a connection that broke.
            let broken = status.code() == Code::Unavailable || std::error::Error::source(status).is_some();
            let exit = if broken { Exit::Unreachable } else { Exit::Failed };
            let next = Some("see whether the agent still runs, and try again".to_owned());
            return Self { code, next, exit, ..Self::new(status.message()) };
        };
        let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == info.reason);
        let of_what_ended = info.metadata.contains_key("ended_by").then_some(OF_WHAT_ENDED);
        Self {
            code,
            next: of_what_ended.or(reason.map(advice)).map(str::to_owned),
            reason: Some(info.reason),
            metadata: info.metadata.into_iter().collect(),
            ..Self::new(status.message())
        }
    }

    /// Adds the request id, with which the command can be repeated without doing anything twice.
    pub(super) fn of_request(mut self, request_id: &str) -> Self {
        self.metadata.entry("request_id".to_owned()).or_insert_with(|| request_id.to_owned());
        self
    }

    /// How the program ends.
    pub(super) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dormouse: {}", self.message)?;
        if let Some(reason) = &self.reason {
            write!(f, " [{reason}]")?;
        }
        if let Some(request_id) = self.metadata.get("request_id") {
            write!(f, "\n  request id: {request_id}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Config, ..Self::new(error.to_string()) }
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::with_reason(error.reason(), error.to_string())
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status_of;
    use crate::sandbox::refusal::Refusal;

    #[test]
    fn a_refusal_is_told_with_its_reason_and_what_to_do_next() {
        let status = status_of(Refusal::new(Reason::SandboxNotFound, "no sandbox default/x is attached"));
        let failure = Failure::of_status(&status);
        assert_eq!(
            failure.to_string(),
            "dormouse: no sandbox default/x is attached [SANDBOX_NOT_FOUND]\n  next: `dormouse ls` shows what is attached"
        );
        assert_eq!(failure.exit(), Exit::Failed);
        let json = serde_json::to_value(&failure).expect("JSON");
        assert_eq!((&json["reason"], &json["code"]), (&"SANDBOX_NOT_FOUND".into(), &"NOT_FOUND".into()));
    }

    #[test]
    fn a_broken_connection_is_an_agent_that_cannot_be_reached() {
        assert_eq!(Failure::of_status(&Status::unavailable("broken pipe")).exit(), Exit::Unreachable);
        assert_eq!(Failure::of_status(&Status::internal("h2")).exit(), Exit::Failed);
    }

    #[test]
    fn a_wrong_configuration_has_its_own_exit() {
        let error = crate::config::Config::load(Path::new("/nowhere")).unwrap_err();
        assert_eq!(Failure::from(error).exit(), Exit::Config);
    }
}
