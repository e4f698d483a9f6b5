//! What a sandbox holds and in which state, taken apart into the components that observations speak of.

use std::cmp::min;

use crate::{BillingState, Change, OpenSlice, Shape};

/// A set of components, one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Components(u8);

impl Components {
    pub(crate) const NONE: Self = Self(0);
    const STATE: Self = Self(1);
    const VCPUS: Self = Self(1 << 1);
    const BASE: Self = Self(1 << 2);
    const PLUGGED: Self = Self(1 << 3);
    const REQUESTED: Self = Self(1 << 4);
    const DISK: Self = Self(1 << 5);
    const SUPPRESSED: Self = Self(1 << 6);
    /// All that QEMU can be asked for.
    const ASKED: Self = Self((1 << 6) - 1);

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    const fn when(self, holds: bool) -> Self {
        if holds { self } else { Self::NONE }
    }

    /// The components of which a change says something.
    pub(crate) const fn spoken_of(change: &Change) -> Self {
        match change {
            Change::Began(..) | Change::Holds(..) => Self::ASKED,
            Change::Plugged(_) => Self::PLUGGED,
            Change::Requested(_) => Self::REQUESTED,
            Change::Vcpus(_) => Self::VCPUS,
            Change::Disk(_) => Self::DISK,
            Change::State(_) => Self::STATE,
            Change::Suppressed(_) => Self::SUPPRESSED,
            Change::Mark | Change::Ended => Self::NONE,
        }
    }
}

/// A shape and a billing state, and whether the state is free by command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) shape: Shape,
    pub(crate) state: BillingState,
    pub(crate) suppressed: bool,
}

impl Holding {
    /// What an open slice holds.
    pub(crate) fn of(open: &OpenSlice) -> Self {
        Self {
            shape: open.shape,
            state: open.beneath.unwrap_or(open.state),
            suppressed: open.beneath.is_some(),
        }
    }

    /// What it is billed as. Time without proof of life is lost, and nothing hides that.
    pub(crate) fn billed(&self) -> BillingState {
        if self.suppressed && self.state != BillingState::Lost {
            BillingState::Suppressed
        } else {
            self.state
        }
    }

    /// The state that the suppression lies over, if there is one.
    pub(crate) fn beneath(&self) -> Option<BillingState> {
        self.suppressed.then_some(self.state)
    }

    /// What is held after a change.
    pub(crate) fn after(mut self, change: &Change) -> Self {
        change.apply(&mut self.shape, &mut self.state);
        if let Change::Suppressed(suppressed) = *change {
            self.suppressed = suppressed;
        }
        self
    }

    /// The components in which two holdings differ.
    pub(crate) fn differs(&self, other: &Self) -> Components {
        let (a, b) = (&self.shape, &other.shape);
        Components::STATE
            .when(self.state != other.state)
            .or(Components::VCPUS.when(a.vcpus_milli != b.vcpus_milli))
            .or(Components::BASE.when(a.memory_base_bytes != b.memory_base_bytes))
            .or(Components::PLUGGED.when(a.memory_plugged_bytes != b.memory_plugged_bytes))
            .or(Components::REQUESTED.when(a.memory_requested_bytes != b.memory_requested_bytes))
            .or(Components::DISK.when(a.disk_bytes != b.disk_bytes))
            .or(Components::SUPPRESSED.when(self.suppressed != other.suppressed))
    }

    /// The components in which two holdings differ on a bill: not the state beneath what hides it.
    pub(crate) fn shows_from(&self, other: &Self) -> Components {
        let hidden = Components::STATE.or(Components::SUPPRESSED).when(self.billed() == other.billed());
        self.differs(other).without(hidden)
    }

    /// The lesser of two holdings in each of the named components, and `self` in all others.
    ///
    /// Every basis of a bill grows with each component, so no basis bills the result higher than either.
    pub(crate) fn least(mut self, other: &Self, among: Components) -> Self {
        let (a, b) = (&mut self.shape, &other.shape);
        if among.has(Components::VCPUS) {
            a.vcpus_milli = min(a.vcpus_milli, b.vcpus_milli);
        }
        if among.has(Components::BASE) {
            a.memory_base_bytes = min(a.memory_base_bytes, b.memory_base_bytes);
        }
        if among.has(Components::PLUGGED) {
            a.memory_plugged_bytes = min(a.memory_plugged_bytes, b.memory_plugged_bytes);
        }
        if among.has(Components::REQUESTED) {
            a.memory_requested_bytes = min(a.memory_requested_bytes, b.memory_requested_bytes);
        }
        if among.has(Components::DISK) {
            a.disk_bytes = min(a.disk_bytes, b.disk_bytes);
        }
        if among.has(Components::STATE) && billed_rank(other.state) < billed_rank(self.state) {
            self.state = other.state;
        }
        if among.has(Components::SUPPRESSED) {
            self.suppressed |= other.suppressed;
        }
        self
    }
}

/// How much of a sandbox the default policy bills in a state: the meter knows no other policy.
const fn billed_rank(state: BillingState) -> u8 {
    match state {
        BillingState::Lost => 0,
        BillingState::Paused
        | BillingState::Hibernating
        | BillingState::Hibernated
        | BillingState::Waking
        | BillingState::Faulted(_)
        | BillingState::Suppressed => 1,
        BillingState::Running => 2,
    }
}
