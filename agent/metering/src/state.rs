//! The billing states.

use std::fmt;
use std::str::FromStr;

/// What a stretch of a sandbox's life is for the bill. Unbilled time has a state too: there are no gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BillingState {
    /// The guest runs.
    Running,
    /// The guest was stopped by command.
    Paused,
    /// Its state is being written to disk; the guest does not run.
    Hibernating,
    /// Its state is on disk and there is no QEMU.
    Hibernated,
    /// QEMU is loading the state; the guest does not run yet.
    Waking,
    /// QEMU stopped the guest because of a fault.
    Faulted(Fault),
    /// There is no proof that the sandbox's QEMU existed.
    Lost,
    /// The platform asked for this time not to be billed: a move that it makes for itself. It lies over every other
    /// state but [`BillingState::Lost`].
    Suppressed,
}

/// Why QEMU stopped a guest by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A disk failed (`io-error`).
    IoError,
    /// KVM or QEMU failed (`internal-error`).
    InternalError,
    /// The guest's kernel panicked (`guest-panicked`).
    GuestPanicked,
    /// The guest's watchdog expired (`watchdog`).
    Watchdog,
}

impl Fault {
    /// The fault's name: QEMU's own name for the run state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoError => "io-error",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
            Self::Watchdog => "watchdog",
        }
    }
}

impl BillingState {
    /// Every state, faults included.
    pub const ALL: [Self; 11] = [
        Self::Running,
        Self::Paused,
        Self::Hibernating,
        Self::Hibernated,
        Self::Waking,
        Self::Faulted(Fault::IoError),
        Self::Faulted(Fault::InternalError),
        Self::Faulted(Fault::GuestPanicked),
        Self::Faulted(Fault::Watchdog),
        Self::Lost,
        Self::Suppressed,
    ];

    /// The state's name on the wire and in the ledger, without the fault.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Hibernating => "hibernating",
            Self::Hibernated => "hibernated",
            Self::Waking => "waking",
            Self::Faulted(_) => "faulted",
            Self::Lost => "lost",
            Self::Suppressed => "suppressed",
        }
    }

    /// The fault, where the state is [`BillingState::Faulted`].
    pub const fn fault(self) -> Option<Fault> {
        match self {
            Self::Faulted(fault) => Some(fault),
            _ => None,
        }
    }
}

impl fmt::Display for BillingState {
    /// Writes the name, and after a colon the fault: `running`, `faulted:io-error`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.fault().map_or(Ok(()), |fault| write!(f, ":{}", fault.as_str()))
    }
}

impl FromStr for BillingState {
    type Err = UnknownState;

    /// Reads what [`Display`](fmt::Display) wrote.
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| match state.fault() {
                None => text == state.name(),
                Some(fault) => text.strip_prefix("faulted:") == Some(fault.as_str()),
            })
            .ok_or(UnknownState)
    }
}

/// The text names no billing state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text names no billing state")
    }
}

impl std::error::Error for UnknownState {}
