//! What a sandbox's slices amount to, before anyone says what it costs.
//!
//! Kept apart are the billing states, because a policy bills each by itself, and the sizes of the disk, because a free
//! allowance is taken off each by itself. Everything else adds up: of memory the four sums of which every basis is
//! made. So one row answers for any policy, basis and allowance, exactly.

use std::ops::Range;

use dormouse_metering::{BillingState, Fault, Quantities, Shape, Slice, clip_interval};
use rusqlite::Row;

use super::{Amount, Rules};
use crate::LedgerError;
use crate::encode::{bad, text, uint};

/// The states as rollups number them. A policy bills every fault alike.
const STATES: [BillingState; 8] = [
    BillingState::Running,
    BillingState::Paused,
    BillingState::Hibernating,
    BillingState::Hibernated,
    BillingState::Waking,
    BillingState::Faulted(Fault::IoError),
    BillingState::Lost,
    BillingState::Suppressed,
];

/// What of a slice counts.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    state: u8,
    shape: Shape,
    duration_ns: u64,
    pub(crate) place: Range<i64>,
}

/// The columns of a [`Piece`], in the order in which it is read.
macro_rules! piece_columns {
    () => {
        "x.state, x.vcpus_milli, x.memory_base_bytes, x.memory_plugged_bytes, x.memory_requested_bytes, \
         x.disk_bytes, x.duration_ns, x.start_unix_ns, x.end_unix_ns"
    };
}
pub(crate) use piece_columns;

/// The number of a state, by its name.
pub(crate) fn number_of(state_name: &str) -> Option<u8> {
    STATES.iter().position(|state| state.name() == state_name).and_then(|at| u8::try_from(at).ok())
}

impl Piece {
    /// Reads the columns of `piece_columns!`.
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            state: number_of(text(row, 0)?).ok_or_else(|| bad(0, "no billing state"))?,
            shape: Shape {
                vcpus_milli: row.get(1)?,
                memory_base_bytes: uint(row, 2)?,
                memory_plugged_bytes: uint(row, 3)?,
                memory_requested_bytes: uint(row, 4)?,
                disk_bytes: uint(row, 5)?,
            },
            duration_ns: uint(row, 6)?,
            place: row.get(7)?..row.get(8)?,
        })
    }

    /// What counts of a slice; `None` if there is no such state.
    pub(crate) fn new(state: &str, shape: Shape, duration_ns: u64, place: Range<i64>) -> Option<Self> {
        Some(Self { state: number_of(state)?, shape, duration_ns, place })
    }

    /// What counts of a slice.
    pub(crate) fn of(slice: &Slice) -> Self {
        Self {
            state: number_of(slice.state.name()).unwrap_or_default(),
            shape: slice.shape,
            duration_ns: slice.duration_ns,
            place: slice.start.unix_ns..slice.end.unix_ns,
        }
    }

    /// How much of it lies in a window, in nanoseconds.
    pub(crate) fn clip_ns(&self, window: &Range<i64>) -> u64 {
        clip_interval(&self.place, self.duration_ns, window)
    }

    /// What it amounts to in a window.
    pub(crate) fn amount(&self, window: &Range<i64>, rules: &Rules) -> Result<Amount, LedgerError> {
        let duration_ns = self.clip_ns(window);
        if duration_ns == 0 {
            return Ok(Amount::default());
        }
        let state = STATES[usize::from(self.state)];
        let Rules { policy, basis, free_disk_bytes } = rules;
        Quantities::of(state, &self.shape, duration_ns, policy, *basis, *free_disk_bytes)
            .map(|quantities| Amount { duration_ns: duration_ns.into(), quantities })
            .ok_or_else(Amount::overflow)
    }
}

/// The time spent in one state with one size of disk, and what was held meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) state: u8,
    pub(crate) disk_bytes: u64,
    pub(crate) duration_ns: u128,
    pub(crate) vcpu_milli_ns: u128,
    pub(crate) base_byte_ns: u128,
    pub(crate) plugged_byte_ns: u128,
    pub(crate) requested_byte_ns: u128,
    /// Of the greater of plugged and requested, at each instant. The lesser is the sum of the two less this.
    pub(crate) greater_byte_ns: u128,
}

/// What slices amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals(Vec<Held>);

impl Totals {
    /// How many states and sizes of disk are kept apart.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what lies of a piece in a window. `None` where 128 bits cannot hold a sum.
    pub(crate) fn add(&mut self, piece: &Piece, window: &Range<i64>) -> Option<()> {
        let duration_ns = u128::from(piece.clip_ns(window));
        if duration_ns == 0 {
            return Some(());
        }
        let (state, disk_bytes) = (piece.state, piece.shape.disk_bytes);
        let (held, shape) = (self.held(state, disk_bytes), &piece.shape);
        let (plugged, requested) = (shape.memory_plugged_bytes, shape.memory_requested_bytes);
        for (sum, amount) in [
            (&mut held.duration_ns, 1),
            (&mut held.vcpu_milli_ns, u64::from(shape.vcpus_milli)),
            (&mut held.base_byte_ns, shape.memory_base_bytes),
            (&mut held.plugged_byte_ns, plugged),
            (&mut held.requested_byte_ns, requested),
            (&mut held.greater_byte_ns, plugged.max(requested)),
        ] {
            *sum = sum.checked_add(duration_ns.checked_mul(amount.into())?)?;
        }
        Some(())
    }

    /// The row of a state and a size of the disk.
    fn held(&mut self, state: u8, disk_bytes: u64) -> &mut Held {
        let known = self.0.iter().position(|held| held.state == state && held.disk_bytes == disk_bytes);
        let at = known.unwrap_or_else(|| {
            self.0.push(Held { state, disk_bytes, ..Held::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Adds others. `None` where 128 bits cannot hold a sum.
    pub(crate) fn merge(&mut self, others: &Self) -> Option<()> {
        for other in &others.0 {
            let held = self.held(other.state, other.disk_bytes);
            for (sum, more) in [
                (&mut held.duration_ns, other.duration_ns),
                (&mut held.vcpu_milli_ns, other.vcpu_milli_ns),
                (&mut held.base_byte_ns, other.base_byte_ns),
                (&mut held.plugged_byte_ns, other.plugged_byte_ns),
                (&mut held.requested_byte_ns, other.requested_byte_ns),
                (&mut held.greater_byte_ns, other.greater_byte_ns),
            ] {
                *sum = sum.checked_add(more)?;
            }
        }
        Some(())
    }

    /// How long it was in some states. `None` where 128 bits cannot hold it.
    pub(crate) fn duration_ns(&self, of: impl Fn(BillingState) -> bool) -> Option<u128> {
        let held = self.0.iter().filter(|held| of(STATES[usize::from(held.state)]));
        held.map(|held| held.duration_ns).try_fold(0_u128, u128::checked_add)
    }

    /// What it all amounts to by some rules.
    pub(crate) fn amount(&self, rules: &Rules) -> Result<Amount, LedgerError> {
        self.0.iter().try_fold(Amount::default(), |sum, held| {
            held.amount(rules).and_then(|amount| sum.checked_add(amount)).ok_or_else(Amount::overflow)
        })
    }

    /// As they are stored: eight numbers for each, in LEB128.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 64);
        for held in &self.0 {
            for number in [
                u128::from(held.state),
                u128::from(held.disk_bytes),
                held.duration_ns,
                held.vcpu_milli_ns,
                held.base_byte_ns,
                held.plugged_byte_ns,
                held.requested_byte_ns,
                held.greater_byte_ns,
            ] {
                write_leb128(&mut bytes, number);
            }
        }
        bytes
    }

    /// Reads what `encode` wrote. `None` if it did not.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut totals = Self::default();
        while !bytes.is_empty() {
            let state = u8::try_from(read_leb128(&mut bytes)?).ok()?;
            if usize::from(state) >= STATES.len() {
                return None;
            }
            totals.0.push(Held {
                state,
                disk_bytes: u64::try_from(read_leb128(&mut bytes)?).ok()?,
                duration_ns: read_leb128(&mut bytes)?,
                vcpu_milli_ns: read_leb128(&mut bytes)?,
                base_byte_ns: read_leb128(&mut bytes)?,
                plugged_byte_ns: read_leb128(&mut bytes)?,
                requested_byte_ns: read_leb128(&mut bytes)?,
                greater_byte_ns: read_leb128(&mut bytes)?,
            });
        }
        Some(totals)
    }
}

impl Held {
    /// What it amounts to by some rules. `None` where 128 bits cannot hold it.
    pub(crate) fn amount(&self, rules: &Rules) -> Option<Amount> {
        use dormouse_metering::Basis;
        let billed = rules.policy.billed(STATES[usize::from(self.state)]);
        let (plugged, requested, greater) =
            (self.plugged_byte_ns, self.requested_byte_ns, self.greater_byte_ns);
        let pluggable = match rules.basis {
            Basis::Plugged => plugged,
            Basis::Requested => requested,
            Basis::Greater => greater,
            Basis::Lesser => plugged.checked_sub(greater.checked_sub(requested)?)?,
        };
        let disk = |bytes: u64| self.duration_ns.checked_mul(bytes.into());
        let signed = |billed: bool, sum: u128| if billed { i128::try_from(sum).ok() } else { Some(0) };
        Some(Amount {
            duration_ns: self.duration_ns.try_into().ok()?,
            quantities: Quantities {
                memory_byte_ns: signed(billed.memory, self.base_byte_ns.checked_add(pluggable)?)?,
                vcpu_milli_ns: signed(billed.vcpu, self.vcpu_milli_ns)?,
                disk_byte_ns: signed(billed.disk, disk(self.disk_bytes)?)?,
                disk_overage_byte_ns: signed(
                    billed.disk,
                    disk(self.disk_bytes.saturating_sub(rules.free_disk_bytes))?,
                )?,
            },
        })
    }
}

fn write_leb128(bytes: &mut Vec<u8>, mut number: u128) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn read_leb128(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0_u128;
    for shift in (0..128).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u128::from(first & 0x7f);
        if low.leading_zeros() < shift {
            return None;
        }
        number |= low << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back_and_what_is_not_is_refused() {
        for number in [0, 1, 127, 128, u128::from(u64::MAX), u128::MAX] {
            let mut bytes = Vec::new();
            write_leb128(&mut bytes, number);
            let mut rest = bytes.as_slice();
            assert_eq!((read_leb128(&mut rest), rest.len()), (Some(number), 0));
        }
        let held = Held { state: 7, disk_bytes: u64::MAX, base_byte_ns: u128::MAX, ..Held::default() };
        let totals = Totals(vec![held, Held::default()]);
        let bytes = totals.encode();
        assert_eq!(Totals::decode(&bytes), Some(totals));
        assert_eq!(Totals::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Totals::decode(&[8, 0, 0, 0, 0, 0, 0, 0]), None, "there is no state 8");
        assert_eq!(Totals::decode(&[0xff; 19]), None);
    }
}
