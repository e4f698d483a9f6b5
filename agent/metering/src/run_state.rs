//! What QEMU reports, folded into billing states.

use crate::{BillingState, Fault};

/// QEMU's `RunState` (QAPI `run-state.json`), as far as billing tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunState(BillingState);

impl RunState {
    /// Folds the name that `query-status` reports, or `None` for a name this version does not know.
    ///
    /// The instants of save and restore that the guest does not notice (`finish-migrate`, `save-vm`,
    /// `restore-vm`, `colo`) count as running, as does a guest that sleeps by its own choice (`suspended`):
    /// the host still holds everything for it.
    pub fn parse(name: &str) -> Option<Self> {
        Some(Self(match name {
            "running" | "suspended" | "finish-migrate" | "save-vm" | "restore-vm" | "colo" => {
                BillingState::Running
            }
            "paused" | "prelaunch" | "shutdown" | "debug" | "postmigrate" => BillingState::Paused,
            "inmigrate" => BillingState::Waking,
            "io-error" => BillingState::Faulted(Fault::IoError),
            "internal-error" => BillingState::Faulted(Fault::InternalError),
            "guest-panicked" => BillingState::Faulted(Fault::GuestPanicked),
            "watchdog" => BillingState::Faulted(Fault::Watchdog),
            _ => return None,
        }))
    }

    /// The billing state in which a sandbox is whose QEMU reports this, when no operation is under way.
    pub const fn billing_state(self) -> BillingState {
        self.0
    }
}
