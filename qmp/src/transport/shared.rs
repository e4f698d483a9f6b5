//! What the driver tells the client and the events beside their channels.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::session::{AnomalyCounts, CloseReason};

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Set once, by the driver, when the session ends.
    pub(super) close: OnceLock<CloseReason>,
    pub(super) anomaly_counts: CountsCell,
}

/// The latest counts. A copy in a mutex: no holder can leave it half written.
#[derive(Debug, Default)]
pub(super) struct CountsCell(Mutex<AnomalyCounts>);

impl CountsCell {
    pub(super) fn store(&self, counts: AnomalyCounts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    pub(super) fn load(&self) -> AnomalyCounts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
