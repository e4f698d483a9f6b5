//! One thing learned about a sandbox.

use crate::{BillingState, Cause, CommandId, Shape, Stamp};

/// One thing learned about a sandbox, with the moment and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it happened.
    pub at: Stamp,
    /// What was learned.
    pub change: Change,
    /// Why it happened.
    pub cause: Cause,
    /// The command that made it happen, if one did.
    pub command: Option<CommandId>,
}

/// What an observation says. Everything that it does not name stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The sandbox's life begins, holding this.
    Began(Shape, BillingState),
    /// The whole of what it holds, as a query has answered.
    Holds(Shape, BillingState),
    /// The plugged memory, in bytes.
    Plugged(u64),
    /// The requested memory, in bytes.
    Requested(u64),
    /// The vCPUs, in thousandths.
    Vcpus(u32),
    /// The disks, in bytes.
    Disk(u64),
    /// The billing state.
    State(BillingState),
    /// Whether its time is free by command, whatever its state: the state goes on to be known beneath.
    Suppressed(bool),
    /// Nothing but the passing of a mark in time: an hour, a tick, a step of the clock. Always a cut.
    Mark,
    /// The sandbox's life ends.
    Ended,
}

impl Change {
    /// Makes of what was held what is held after it. Suppression is nothing that is held: it lies over the state.
    pub fn apply(&self, shape: &mut Shape, state: &mut BillingState) {
        match *self {
            Self::Began(held, in_state) | Self::Holds(held, in_state) => (*shape, *state) = (held, in_state),
            Self::Plugged(bytes) => shape.memory_plugged_bytes = bytes,
            Self::Requested(bytes) => shape.memory_requested_bytes = bytes,
            Self::Vcpus(milli) => shape.vcpus_milli = milli,
            Self::Disk(bytes) => shape.disk_bytes = bytes,
            Self::State(changed) => *state = changed,
            Self::Suppressed(_) | Self::Mark | Self::Ended => {}
        }
    }
}
