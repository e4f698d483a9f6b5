//! What can go wrong with the ledger.

use std::path::PathBuf;

use rusqlite::ErrorCode;
use thiserror::Error;

use crate::SandboxKey;
use crate::fleet::FleetError;

/// Why the ledger could not do what it was asked. [`LedgerError::reason`] is its stable code.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// `LEDGER_NO_FOLDER`: the folder of the ledger does not exist.
    #[error("the folder {folder} does not exist: create it, or configure another path for the ledger")]
    NoFolder {
        /// The missing folder.
        folder: PathBuf,
    },
    /// `LEDGER_MISSING`: there is no ledger to read.
    #[error("there is no ledger at {path}: check the path, or start the agent once to create it")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// `LEDGER_LOCKED`: another agent has the ledger open.
    #[error(
        "another agent (process {holder}) has the ledger {path}: stop it, or configure another for this one"
    )]
    Locked {
        /// The ledger.
        path: PathBuf,
        /// The process that holds it, as its lock file tells.
        holder: String,
    },
    /// `LEDGER_NEWER`: a newer version of Dormouse has written the ledger.
    #[error("the ledger has schema version {found}, this version knows {known}: install a newer dormouse")]
    Newer {
        /// The version of the file.
        found: i64,
        /// The newest version known.
        known: i64,
    },
    /// `LEDGER_OLDER`: the ledger must be migrated before it can be read.
    #[error("the ledger has schema version {found}, not {known}: start the agent once to migrate it")]
    Older {
        /// The version of the file.
        found: i64,
        /// The version needed.
        known: i64,
    },
    /// `LEDGER_OTHER_HOST`: the ledger was made for another host.
    #[error("the ledger belongs to {found}, not to {given}: configure the cell and host that it belongs to")]
    OtherHost {
        /// The event source that the ledger was made for.
        found: String,
        /// The event source of this agent.
        given: String,
    },
    /// `LEDGER_LOST`: an agent had a ledger here, and the file is gone or empty.
    #[error(
        "the ledger {path} was there before and is gone or empty: restore a backup, or, to begin anew, remove {path}.lock"
    )]
    Lost {
        /// Where it was.
        path: PathBuf,
    },
    /// `LEDGER_CORRUPT`: the file does not hold what a ledger holds.
    #[error("the ledger is damaged: {what}; keep the file, and restore a backup beside it")]
    Corrupt {
        /// What was found.
        what: String,
        /// What SQLite said.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// `LEDGER_UNWRITABLE`: the disk is full, read-only, failing or busy. Nothing was changed.
    #[error("the ledger cannot be written ({why}): free space on its disk, or make it writable")]
    Unwritable {
        /// What SQLite said.
        why: String,
    },
    /// `LEDGER_UNREADABLE`: the file cannot be opened or read.
    #[error("the ledger cannot be read ({why}): check that {path} and the folder around it are accessible")]
    Unreadable {
        /// The ledger.
        path: PathBuf,
        /// What SQLite or the system said.
        why: String,
    },
    /// `REQUEST_ID_REUSED`: the request id is known with another payload.
    #[error("request id {request_id} was used before for another command: choose a new one")]
    RequestIdReused {
        /// The org that asked.
        org: String,
        /// The id.
        request_id: String,
    },
    /// `UNKNOWN_SANDBOX`: the ledger has no such generation of a sandbox.
    #[error("the ledger has no sandbox {0}")]
    UnknownSandbox(SandboxKey),
    /// `UNKNOWN_COMMAND`: an outcome names a command whose intent was never recorded.
    #[error("the ledger has no intent for request id {request_id} of {org}")]
    UnknownCommand {
        /// The org.
        org: String,
        /// The id.
        request_id: String,
    },
    /// `LEDGER_CONFLICT`: the ledger already holds something else in this place.
    #[error("the ledger already holds another {what}")]
    Conflict {
        /// Of what.
        what: String,
    },
    /// `LEDGER_REJECTED`: a constraint of the schema refused the unit. Nothing of it was written.
    #[error("the ledger refused a record: {why}")]
    Rejected {
        /// The constraint's message.
        why: String,
        /// What SQLite said.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// `OUT_OF_RANGE`: a number is too large to be stored.
    #[error("{field} is {value}: the ledger stores at most {}", i64::MAX)]
    OutOfRange {
        /// The number's name.
        field: &'static str,
        /// The number.
        value: u64,
    },
    /// `INVALID_TAG`: a tag breaks a rule.
    #[error("tag {key:?}: {why}")]
    InvalidTag {
        /// The key.
        key: String,
        /// The rule.
        why: &'static str,
    },
    /// `LEDGER_BUSY`: too much waits for the ledger.
    #[error("{waiting} units wait for the ledger: try again")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// `LEDGER_CLOSED`: the ledger was closed.
    #[error("the ledger is closed: the agent is stopping")]
    Closed,
    /// `QUERY_CANCELLED`: the question was cancelled before it was answered.
    #[error("the question was cancelled before it was answered")]
    Cancelled,
    /// The reason of the fleet's ledger, in PostgreSQL: it could not do what it was asked.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// `LEDGER_OVERFLOW`: a sum is too large.
    #[error("the sum of {what} overflows")]
    Overflow {
        /// Of what.
        what: String,
    },
}

impl LedgerError {
    /// The stable code of this kind of error.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoFolder { .. } => "LEDGER_NO_FOLDER",
            Self::Missing { .. } => "LEDGER_MISSING",
            Self::Locked { .. } => "LEDGER_LOCKED",
            Self::Newer { .. } => "LEDGER_NEWER",
            Self::Older { .. } => "LEDGER_OLDER",
            Self::OtherHost { .. } => "LEDGER_OTHER_HOST",
            Self::Lost { .. } => "LEDGER_LOST",
            Self::Corrupt { .. } => "LEDGER_CORRUPT",
            Self::Unwritable { .. } => "LEDGER_UNWRITABLE",
            Self::Unreadable { .. } => "LEDGER_UNREADABLE",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::UnknownSandbox(_) => "UNKNOWN_SANDBOX",
            Self::UnknownCommand { .. } => "UNKNOWN_COMMAND",
            Self::Conflict { .. } => "LEDGER_CONFLICT",
            Self::Rejected { .. } => "LEDGER_REJECTED",
            Self::OutOfRange { .. } => "OUT_OF_RANGE",
            Self::InvalidTag { .. } => "INVALID_TAG",
            Self::QueueFull { .. } => "LEDGER_BUSY",
            Self::Closed => "LEDGER_CLOSED",
            Self::Cancelled => "QUERY_CANCELLED",
            Self::Fleet(error) => error.reason(),
            Self::Overflow { .. } => "LEDGER_OVERFLOW",
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), source: None }
    }

    pub(crate) fn rejected(why: impl Into<String>) -> Self {
        Self::Rejected { why: why.into(), source: None }
    }

    /// Whether waiting may help: the surroundings failed, not what was asked.
    pub(crate) const fn is_environmental(&self) -> bool {
        matches!(self, Self::Unwritable { .. })
    }
}

impl From<rusqlite::Error> for LedgerError {
    /// Tells apart what SQLite reports: the disk failed, the file is damaged, or a constraint refused.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let code = error.sqlite_error_code();
        match (code, &error) {
            (
                Some(
                    ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::ReadOnly
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
                    | ErrorCode::OutOfMemory
                    | ErrorCode::PermissionDenied
                    | ErrorCode::FileLockingProtocolFailed,
                ),
                _,
            ) => Self::Unwritable { why: error.to_string() },
            (Some(ErrorCode::OperationInterrupted), _) => Self::Cancelled,
            (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _)
            | (
                None,
                E::FromSqlConversionFailure(..)
                | E::InvalidColumnType(..)
                | E::IntegralValueOutOfRange(..)
                | E::Utf8Error(..)
                | E::QueryReturnedNoRows,
            ) => Self::Corrupt { what: error.to_string(), source: Some(error) },
            _ => Self::Rejected { why: error.to_string(), source: Some(error) },
        }
    }
}
