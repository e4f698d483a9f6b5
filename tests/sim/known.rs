//! What of the truth has reached the agent: the moments of which it was told what was so then. What came and went
//! between two of them is known to nobody.

use dormouse::sandbox::machine::Phase;
use dormouse_metering::Change;

use crate::qemu::{BASE, DEVICES_MAX};
use crate::world::{Guest, Truth, World};

/// Of what the agent was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    State,
    Size(usize),
    Vcpus,
}

/// A moment of which the agent was told what was so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    of: Of,
    pub(crate) at: u64,
    /// The last unit that the ledger had been given of this once it was told: what it made of it is in that one.
    units: u64,
}

/// The most and the least that may be billed at a time, without a word on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) runs_most: bool,
    pub(crate) runs_least: bool,
    pub(crate) plugged_most: u64,
    pub(crate) plugged_least: u64,
    vcpus_most: u32,
    vcpus_least: u32,
}

impl Bounds {
    /// What is so, and nothing else.
    pub(crate) fn exactly(truth: &Truth) -> Self {
        let (runs, plugged, vcpus) = (truth.runs, truth.plugged(), truth.vcpus_milli);
        Self {
            runs_most: runs,
            runs_least: runs,
            plugged_most: plugged,
            plugged_least: plugged,
            vcpus_most: vcpus,
            vcpus_least: vcpus,
        }
    }

    pub(crate) fn memory_most(&self) -> u64 {
        if self.runs_most { BASE + self.plugged_most } else { 0 }
    }

    pub(crate) fn memory_least(&self) -> u64 {
        if self.runs_least { BASE + self.plugged_least } else { 0 }
    }

    pub(crate) fn vcpus_most(&self) -> u32 {
        if self.runs_most { self.vcpus_most } else { 0 }
    }

    pub(crate) fn vcpus_least(&self) -> u32 {
        if self.runs_least { self.vcpus_least } else { 0 }
    }
}

impl World {
    /// The agent was told what was so at some moments, and has made of it what it could.
    pub(crate) fn learn(&mut self, guest: usize, moments: &[(Of, u64)]) {
        let Guest { known, of_state, of_memory, of_vcpus, .. } = &mut self.guests[guest];
        known.extend(moments.iter().map(|(of, at)| {
            let units = match of {
                Of::State => *of_state,
                Of::Size(_) => *of_memory,
                Of::Vcpus => *of_vcpus,
            };
            Known { of: *of, at: *at, units }
        }));
    }

    /// What was told before a life was durable its machine has made something of, once it is.
    pub(crate) fn learn_early(&mut self, guest: usize) {
        let begun = self.seat(guest).filter(|seat| seat.machine.core().phase != Phase::New);
        let early = begun.map(|seat| std::mem::take(&mut seat.early)).unwrap_or_default();
        if !early.is_empty() {
            self.learn(guest, &early);
        }
    }

    /// The ledger is given an observation, in the last unit.
    pub(crate) fn note_unit(&mut self, guest: usize, change: &Change) {
        let units = self.units;
        let guest = &mut self.guests[guest];
        match change {
            Change::Began(..) | Change::Holds(..) => {
                (guest.of_state, guest.of_memory, guest.of_vcpus) = (units, units, units);
            }
            Change::Vcpus(_) => guest.of_vcpus = units,
            Change::State(_) => guest.of_state = units,
            Change::Plugged(_) => guest.of_memory = units,
            _ => {}
        }
    }

    /// What was made of it in this unit or a later one has not become durable, and goes with the agent.
    pub(crate) fn unlearn(&mut self, lost: u64) {
        for guest in &mut self.guests {
            guest.known.retain(|known| known.units < lost);
        }
    }

    /// What may be billed while a truth holds, up to `until`: what lies between two moments that are known is known
    /// to nobody, so that what was so at both of them may be billed.
    pub(crate) fn bounds(&self, guest: usize, truth: &Truth, from: u64, until: u64) -> Bounds {
        let ends = |of| self.ends(guest, of, truth, from, until);
        let (ran, will_run) = ends(Of::State).map_or((truth.runs, truth.runs), |(a, b)| (a.runs, b.runs));
        let mut bounds = Bounds {
            runs_most: truth.runs || (ran && will_run),
            runs_least: truth.runs && (ran || will_run),
            ..Bounds::default()
        };
        let now = truth.vcpus_milli;
        let (had, has) = ends(Of::Vcpus).map_or((now, now), |(a, b)| (a.vcpus_milli, b.vcpus_milli));
        bounds.vcpus_most = now.max(had.min(has));
        bounds.vcpus_least = now.min(had.max(has));
        for device in 0..DEVICES_MAX {
            let now = truth.sizes[device];
            let (had, has) =
                ends(Of::Size(device)).map_or((now, now), |(a, b)| (a.sizes[device], b.sizes[device]));
            bounds.plugged_most += now.max(had.min(has));
            bounds.plugged_least += now.min(had.max(has));
        }
        bounds
    }

    /// What was true at the last moment known before an interval, and at the first one after, of the same process.
    fn ends(&self, guest: usize, of: Of, truth: &Truth, from: u64, until: u64) -> Option<(&Truth, &Truth)> {
        let guest = &self.guests[guest];
        let moments = || guest.known.iter().filter(|known| known.of == of).map(|known| known.at);
        let before = truth_at(&guest.truth, moments().filter(|at| *at <= from).max()?)?;
        let after = truth_at(&guest.truth, moments().filter(|at| *at >= until).min()?)?;
        (before.process == truth.process && after.process == truth.process).then_some((before, after))
    }
}

fn truth_at(truths: &[Truth], at: u64) -> Option<&Truth> {
    truths.get(truths.partition_point(|truth| truth.at <= at).checked_sub(1)?)
}
