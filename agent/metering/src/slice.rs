//! A stretch of one sandbox's life at one shape and in one billing state.

use crate::{BillingState, BootId, Cause, CommandId, Shape, Stamp};

/// One edge of a slice: where it is placed, and why it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Nanoseconds since the Unix epoch.
    pub unix_ns: i64,
    /// How far from the truth the boundary may be placed, in nanoseconds.
    pub uncertainty_ns: u64,
    /// Why the boundary is there.
    pub cause: Cause,
    /// The command that put it there, if one did.
    pub command: Option<CommandId>,
}

/// A closed, final slice: the half-open interval `[start, end)`.
///
/// `end.unix_ns - start.unix_ns` is `duration_ns`, with two exceptions, both made by a stepped wall clock:
/// a slice with a duration of 0 bridges the wall time that a forward step skipped, and a slice that starts
/// and ends at one wall time holds the duration that passed while the wall clock, set back, caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Contiguous from 1 within a generation of the sandbox.
    pub seq: u64,
    /// The billing state throughout.
    pub state: BillingState,
    /// What the sandbox held throughout.
    pub shape: Shape,
    /// How long it lasted by `CLOCK_BOOTTIME`, in nanoseconds.
    pub duration_ns: u64,
    /// Where it begins: the boundary that closed its predecessor.
    pub start: Boundary,
    /// Where it ends: the boundary that opens its successor, if there is one.
    pub end: Boundary,
}

/// A slice that is not closed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSlice {
    /// The number that the slice will have once closed.
    pub seq: u64,
    /// The billing state since `start`.
    pub state: BillingState,
    /// While its time is free by command: what it would be billed as otherwise.
    pub beneath: Option<BillingState>,
    /// What the sandbox holds since `start`.
    pub shape: Shape,
    /// Where it begins.
    pub start: Boundary,
    /// The boot of the host in which it begins.
    pub boot: BootId,
    /// `CLOCK_BOOTTIME` at `start`, in nanoseconds, in that boot.
    pub start_boottime_ns: u64,
}

impl OpenSlice {
    /// When it began, by its own word: exact, whatever its boundary's uncertainty.
    pub fn began(&self) -> Stamp {
        Stamp {
            boot: self.boot,
            boottime_ns: self.start_boottime_ns,
            wall_ns: self.start.unix_ns,
            uncertainty_ns: 0,
        }
    }
}
