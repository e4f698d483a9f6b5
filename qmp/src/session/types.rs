//! What a session says: its outputs, its anomalies, and why it ended.

use std::io;

use serde_json::Value;

use crate::codec::BadLine;
use crate::error::QmpError;
use crate::event::Event;
use crate::version::Version;

/// One thing that a [`super::Session`] asks for or tells.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes to QEMU.
    Write(Vec<u8>),
    /// Negotiated: this is the QEMU, and commands go out from now on.
    Ready(Version),
    /// A command is over.
    Reply {
        /// As returned by [`super::Session::submit`].
        id: u64,
        /// What QEMU returned, or why it did not.
        reply: Result<Value, QmpError>,
    },
    /// Something happened in QEMU.
    Event(Event),
    /// Something was wrong, and the session goes on.
    Anomaly(Anomaly),
    /// The session ended. This is the last output.
    Closed(CloseReason),
}

/// Something that should not be, and that the session survived. An event or a reply may have been lost in it, so
/// that asking QEMU for its state is wise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Anomaly {
    /// A line that is no message.
    #[error("bad line: {0}")]
    BadLine(BadLine),
    /// The reply to a command whose caller had given up, or a second reply to it: dropped.
    #[error("late reply to command {id}")]
    LateReply {
        /// The command's id.
        id: u64,
    },
    /// The reply to a command that was never sent: dropped.
    #[error("reply to a command that was never sent: {id:?}")]
    UnmatchedReply {
        /// The id that it bears, if it is a number.
        id: Option<u64>,
    },
    /// A greeting in the middle of a session.
    #[error("a second greeting")]
    StrayGreeting,
}

/// How often each [`Anomaly`] was seen since the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnomalyCounts {
    /// See [`Anomaly::BadLine`].
    pub bad_lines: u64,
    /// See [`Anomaly::LateReply`].
    pub late_replies: u64,
    /// See [`Anomaly::UnmatchedReply`].
    pub unmatched_replies: u64,
    /// See [`Anomaly::StrayGreeting`].
    pub stray_greetings: u64,
}

impl AnomalyCounts {
    pub(super) fn count(&mut self, anomaly: &Anomaly) {
        *match anomaly {
            Anomaly::BadLine(_) => &mut self.bad_lines,
            Anomaly::LateReply { .. } => &mut self.late_replies,
            Anomaly::UnmatchedReply { .. } => &mut self.unmatched_replies,
            Anomaly::StrayGreeting => &mut self.stray_greetings,
        } += 1;
    }
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// QEMU closed the connection: it quit, was killed, or dropped this client. Its pid says which.
    #[error("QEMU closed the connection")]
    Eof,
    /// No greeting by the deadline: another client has the socket. QEMU serves one at a time.
    #[error("no greeting: another client has the socket")]
    Busy,
    /// Bytes came, but no greeting: this is something other than QMP.
    #[error("what answers on the socket does not speak QMP")]
    NotQmp,
    /// QEMU did not answer `qmp_capabilities`, or did not take what was written, by the deadline.
    #[error("QEMU stopped answering")]
    Unresponsive,
    /// QEMU refused `qmp_capabilities`.
    #[error("QEMU refused to negotiate: {desc}")]
    Refused {
        /// QEMU's words.
        desc: String,
    },
    /// The socket failed.
    #[error("the socket failed: {kind}")]
    Io {
        /// What the operating system said.
        kind: io::ErrorKind,
    },
    /// This side let go: every [`crate::Client`] and the [`crate::EventStream`] were dropped.
    #[error("this side let go")]
    Released,
}

impl CloseReason {
    /// A stable code for programs, metrics and API errors.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Eof => "qmp_eof",
            Self::Busy => "qmp_busy",
            Self::NotQmp => "qmp_not_qmp",
            Self::Unresponsive => "qmp_unresponsive",
            Self::Refused { .. } => "qmp_negotiation_refused",
            Self::Io { .. } => "qmp_io",
            Self::Released => "qmp_released",
        }
    }
}
