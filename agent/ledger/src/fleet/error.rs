//! What can go wrong with the fleet's ledger.

use thiserror::Error;
use tokio_postgres::error::{DbError, Severity};

/// Why the fleet's ledger could not do what it was asked. [`FleetError::reason`] is its stable code.
#[derive(Debug, Error)]
pub enum FleetError {
    /// `FLEET_DATABASE`: PostgreSQL refused or failed, or the connection broke. Nothing was stored.
    #[error("PostgreSQL: {}", described(.0))]
    Database(#[from] tokio_postgres::Error),
    /// `FLEET_DATABASE`: PostgreSQL cannot be reached.
    #[error("PostgreSQL cannot be reached: {why}")]
    Unreachable {
        /// Why.
        why: String,
    },
    /// `FLEET_NEWER`: a newer version of Dormouse has migrated the database.
    #[error(
        "the fleet's ledger has schema version {found}, this version knows {known}: install a newer dormouse"
    )]
    Newer {
        /// The version of the database.
        found: i32,
        /// The newest version known.
        known: i32,
    },
    /// `FLEET_OLDER`: the database must be migrated before it can be used.
    #[error("the fleet's ledger has schema version {found}, not {known}: run `dormouse ledger migrate`")]
    Older {
        /// The version of the database.
        found: i32,
        /// The version needed.
        known: i32,
    },
    /// `FLEET_MIGRATION_CHANGED`: a migration that was applied is not the one that this program knows.
    #[error(
        "migration {number} was applied in another form than this version's: install the dormouse that did it"
    )]
    MigrationChanged {
        /// Which.
        number: i32,
    },
    /// `FLEET_CORRUPT`: the database answered with what it cannot hold.
    #[error("the fleet's ledger is damaged: {what}")]
    Corrupt {
        /// What was found.
        what: String,
    },
}

impl FleetError {
    /// The stable code of this kind of error.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Database(_) | Self::Unreachable { .. } => "FLEET_DATABASE",
            Self::Newer { .. } => "FLEET_NEWER",
            Self::Older { .. } => "FLEET_OLDER",
            Self::MigrationChanged { .. } => "FLEET_MIGRATION_CHANGED",
            Self::Corrupt { .. } => "FLEET_CORRUPT",
        }
    }

    /// Whether the connection is gone: nothing works on it any more, and another one may.
    pub fn is_disconnected(&self) -> bool {
        let Self::Database(error) = self else { return false };
        // What PostgreSQL calls FATAL ends the connection; what it does not say itself is the connection's own failure.
        let said = error.as_db_error().map(DbError::parsed_severity);
        said.is_none_or(|severity| matches!(severity, Some(Severity::Fatal | Severity::Panic)))
    }
}

/// What PostgreSQL said: the crate's own text leaves out all but its kind.
fn described(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => {
            let constraint =
                said.constraint().map(|name| format!(" (constraint {name})")).unwrap_or_default();
            format!("{} [{}]{constraint}", said.message(), said.code().code())
        }
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}
