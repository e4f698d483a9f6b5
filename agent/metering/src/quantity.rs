//! Byte-nanoseconds and milli-vCPU-nanoseconds: what slices amount to, in integers.

use std::cmp::{max, min};
use std::ops::Range;

use crate::{BillingState, Policy, Shape, Slice};

/// Which of the two sizes of a virtio-mem device is billed on top of base memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Basis {
    /// What the guest really has.
    #[default]
    Plugged,
    /// What was asked for it.
    Requested,
    /// The greater of the two.
    Greater,
    /// The lesser of the two.
    Lesser,
}

impl Basis {
    /// Every basis.
    pub const ALL: [Self; 4] = [Self::Plugged, Self::Requested, Self::Greater, Self::Lesser];

    /// The stable name of the basis.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plugged => "plugged",
            Self::Requested => "requested",
            Self::Greater => "greater",
            Self::Lesser => "lesser",
        }
    }

    /// The memory that is billed of a shape, base memory included, in bytes.
    pub fn memory_bytes(self, shape: &Shape) -> u128 {
        let (plugged, requested) = (shape.memory_plugged_bytes, shape.memory_requested_bytes);
        let pluggable_bytes = match self {
            Self::Plugged => plugged,
            Self::Requested => requested,
            Self::Greater => max(plugged, requested),
            Self::Lesser => min(plugged, requested),
        };
        u128::from(shape.memory_base_bytes) + u128::from(pluggable_bytes)
    }
}

/// Amounts held for a time. Sums are exact: nothing is rounded before rating.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Quantities {
    /// Memory, in bytes times nanoseconds.
    pub memory_byte_ns: i128,
    /// vCPUs, in thousandths times nanoseconds.
    pub vcpu_milli_ns: i128,
    /// Disk, in bytes times nanoseconds.
    pub disk_byte_ns: i128,
    /// Of the disk, what lies above the free allowance, in bytes times nanoseconds.
    pub disk_overage_byte_ns: i128,
}

impl Quantities {
    /// What a shape in a billing state amounts to over a time; `None` where an `i128` cannot hold it.
    pub fn of(
        state: BillingState,
        shape: &Shape,
        duration_ns: u64,
        policy: &Policy,
        basis: Basis,
        free_disk_bytes: u64,
    ) -> Option<Self> {
        let billed = policy.billed(state);
        let held = |billed: bool, amount: u128| {
            if !billed {
                return Some(0);
            }
            i128::try_from(amount.checked_mul(u128::from(duration_ns))?).ok()
        };
        let overage_bytes = shape.disk_bytes.saturating_sub(free_disk_bytes);
        Some(Self {
            memory_byte_ns: held(billed.memory, basis.memory_bytes(shape))?,
            vcpu_milli_ns: held(billed.vcpu, u128::from(shape.vcpus_milli))?,
            disk_byte_ns: held(billed.disk, u128::from(shape.disk_bytes))?,
            disk_overage_byte_ns: held(billed.disk, u128::from(overage_bytes))?,
        })
    }

    /// The sum; `None` where an `i128` cannot hold it.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            memory_byte_ns: self.memory_byte_ns.checked_add(other.memory_byte_ns)?,
            vcpu_milli_ns: self.vcpu_milli_ns.checked_add(other.vcpu_milli_ns)?,
            disk_byte_ns: self.disk_byte_ns.checked_add(other.disk_byte_ns)?,
            disk_overage_byte_ns: self.disk_overage_byte_ns.checked_add(other.disk_overage_byte_ns)?,
        })
    }
}

/// How much of a slice's duration lies in a half-open window of wall time, in nanoseconds.
///
/// Windows that tile the time share the whole duration among them, whatever the clock did: an ordinary slice
/// gives its overlap, one that bridges a step forward has nothing to give, and one that stands at a single
/// wall time gives all to the window with that time in it.
pub fn clip(slice: &Slice, window: &Range<i64>) -> u64 {
    clip_interval(&(slice.start.unix_ns..slice.end.unix_ns), slice.duration_ns, window)
}

/// [`clip`] of a slice of which only its place and its duration are known, all in nanoseconds.
pub fn clip_interval(place: &Range<i64>, duration_ns: u64, window: &Range<i64>) -> u64 {
    if place.start == place.end {
        return if window.contains(&place.start) { duration_ns } else { 0 };
    }
    if duration_ns == 0 {
        return 0;
    }
    let (from_ns, to_ns) = (max(place.start, window.start), min(place.end, window.end));
    if from_ns < to_ns { to_ns.abs_diff(from_ns) } else { 0 }
}
