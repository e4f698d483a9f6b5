//! Whom the ledger speaks of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The host that a ledger belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// The cell (a failure domain of the fleet) that the host is part of.
    pub cell: String,
    /// The host's own name, unique within the cell.
    pub host: String,
}

impl HostName {
    /// The `source` of the host's events.
    pub fn source(&self) -> String {
        format!("//dormouse/{}/{}", self.cell, self.host)
    }
}

/// One generation of one sandbox. Sandbox ids are unique within an org only, so every key carries both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The org id.
    pub org: String,
    /// The sandbox id.
    pub sandbox: String,
    /// UnixNano stamped when the ledger first saw this generation; see
    /// [`Reader::next_generation`](crate::Reader::next_generation).
    pub generation: i64,
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (generation {})", self.org, self.sandbox, self.generation)
    }
}
