//! What can go wrong, each with a stable code.

use std::io;
use std::path::PathBuf;

use qapi_spec::ErrorClass;

use crate::session::CloseReason;

/// Why a connection could not be made or a command did not succeed.
///
/// [`QmpError::reason`] is stable across releases; the text is for people and is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// The socket could not be connected to: no such file, not a socket, nobody listening, no permission.
    #[error("cannot connect to the QMP socket {path}", path = path.display())]
    Connect {
        /// The socket's path, as given.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// QEMU answered the command with an error: it was not carried out.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command's name.
        command: String,
        /// QEMU's class; one that QEMU may yet invent is read as `GenericError`, as QEMU advises.
        class: ErrorClass,
        /// QEMU's words.
        desc: String,
    },
    /// No reply by the deadline: the command may have been carried out, or may yet be.
    #[error("QEMU did not answer {command} in time: its outcome is unknown")]
    OutcomeUnknown {
        /// The command's name.
        command: String,
    },
    /// The command waited for its turn until the deadline and was never written: nothing happened.
    #[error("{command} was not sent: QEMU is still busy with an earlier command")]
    NotSent {
        /// The command's name.
        command: String,
    },
    /// As many commands wait as [`crate::Config::queue_length`] allows: this one was never written.
    #[error("{command} was not sent: too many commands wait for this QEMU")]
    QueueFull {
        /// The command's name.
        command: String,
    },
    /// The session ended. A command that was in flight has an unknown outcome, as `in_flight` says.
    #[error("the QMP session is closed: {close}")]
    Closed {
        /// Why it ended.
        close: CloseReason,
        /// Whether the command had been written, so that it may have been carried out.
        in_flight: bool,
    },
    /// The command's arguments could not be written as JSON: it was never sent.
    #[error("the arguments of {command} cannot be written as JSON")]
    Arguments {
        /// The command's name.
        command: String,
        /// What the serializer said.
        source: serde_json::Error,
    },
    /// The command was carried out, and what it returned is not of the expected shape.
    #[error("QEMU returned something unexpected for {command}")]
    UnexpectedReturn {
        /// The command's name.
        command: String,
        /// What the deserializer said.
        source: serde_json::Error,
    },
}

impl QmpError {
    /// A stable code for programs, metrics and API errors.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "qmp_connect_failed",
            Self::Refused { .. } => "qmp_refused",
            Self::OutcomeUnknown { .. } => "qmp_outcome_unknown",
            Self::NotSent { .. } => "qmp_not_sent",
            Self::QueueFull { .. } => "qmp_queue_full",
            Self::Closed { close, .. } => close.reason(),
            Self::Arguments { .. } => "qmp_arguments",
            Self::UnexpectedReturn { .. } => "qmp_unexpected_return",
        }
    }

    /// Whether QEMU may have carried the command out although this error was returned.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::OutcomeUnknown { .. } | Self::UnexpectedReturn { .. } => true,
            Self::Closed { in_flight, .. } => *in_flight,
            Self::Connect { .. }
            | Self::Refused { .. }
            | Self::NotSent { .. }
            | Self::QueueFull { .. }
            | Self::Arguments { .. } => false,
        }
    }

    /// Whether another client has the socket: worth trying again later, and no sign that QEMU is dead.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Closed { close: CloseReason::Busy, .. })
    }
}
