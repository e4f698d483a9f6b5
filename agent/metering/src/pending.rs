//! The observations that are not final yet, in order.

use crate::sweep::window_start_ns;
use crate::{BillingState, Change, Observation, OpenSlice, Placed, Refused, Stamp};

/// Observations in order of their stamps; those of an older boot come before those of a newer one.
///
/// Of equal stamps, the exact one comes before the uncertain one, whose window it ends; but where everything that came
/// too late was clamped to, the more uncertain comes first, for what was clamped is uncertainty. `lost` comes behind
/// those, and the end, of which there is one at the most, is the last. The rest is in order of arrival. Why a guest
/// stands, told for the very stamp at which it stopped, takes the place of that it stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending(Vec<Observation>);

impl Pending {
    pub(crate) fn as_slice(&self) -> &[Observation] {
        &self.0
    }

    /// Takes the first `count` observations out.
    pub(crate) fn drop_first(&mut self, count: usize) {
        self.0.drain(..count);
    }

    /// Puts an observation where its stamp belongs, but not before the start of the open slice.
    pub(crate) fn insert(&mut self, mut new: Observation, open: &OpenSlice) -> Result<Placed, Refused> {
        let clamped_ns = clamp(&mut new.at, open);
        let placed = if clamped_ns > 0 { Placed::Clamped { by_ns: clamped_ns } } else { Placed::AsStamped };
        let index = self.position(&new, open);
        if let Some(known) = index.checked_sub(1).and_then(|before| self.0.get_mut(before))
            && explains(&new, known)
        {
            *known = new;
            return Ok(Placed::Repeated);
        }
        if new.change == Change::Ended {
            return self
                .insert_end(index, new)
                .map(|repeated| if repeated { Placed::Repeated } else { placed });
        }
        let behind_end = index == self.0.len();
        match self.0.last().filter(|last| behind_end && last.change == Change::Ended) {
            None => self.0.insert(index, new),
            Some(end) if same_instant(&end.at, &new.at) => self.0.insert(index - 1, new),
            Some(_) => return Err(Refused::Ended),
        }
        Ok(placed)
    }

    /// Puts an end in, and says whether it repeats the one that is there.
    ///
    /// The earliest end is the true one. Whatever is stamped after it did not happen in this life.
    fn insert_end(&mut self, index: usize, mut new: Observation) -> Result<bool, Refused> {
        let behind = index == self.0.len();
        if let Some(end) = self.0.last_mut().filter(|last| last.change == Change::Ended) {
            if behind {
                if !covers(&new, end) {
                    return Err(Refused::Ended);
                }
                adopt_name(end, new);
                return Ok(true);
            }
            if covers(end, &new) {
                adopt_name(&mut new, end.clone());
            }
        }
        self.0.truncate(index);
        self.0.push(new);
        Ok(false)
    }

    /// Where an observation belongs: behind everything of its boot that is not later. A boot that is not known
    /// here is the newest.
    fn position(&self, new: &Observation, open: &OpenSlice) -> usize {
        let boot = new.at.boot;
        let Some(last) = self.0.iter().rposition(|pending| pending.at.boot == boot) else {
            return if boot == open.boot { 0 } else { self.0.len() };
        };
        self.0[..=last]
            .iter()
            .rposition(|pending| pending.at.boot != boot || order(pending, open) <= order(new, open))
            .map_or(0, |before| before + 1)
    }
}

/// The order within one boot.
fn order(observation: &Observation, open: &OpenSlice) -> (u64, u8, u64) {
    let at = &observation.at;
    let clamped = at.boot == open.boot && at.boottime_ns == open.start_boottime_ns;
    let uncertain_ns = if clamped { u64::MAX - at.uncertainty_ns } else { at.uncertainty_ns };
    match observation.change {
        Change::Ended => (at.boottime_ns, 2, 0),
        Change::State(BillingState::Lost) => (at.boottime_ns, 1, uncertain_ns),
        _ => (at.boottime_ns, 0, uncertain_ns),
    }
}

/// Moves a stamp before the last final cut onto it, and says by how much. What was clamped is uncertainty.
fn clamp(at: &mut Stamp, open: &OpenSlice) -> u64 {
    if at.boot != open.boot || at.boottime_ns >= open.start_boottime_ns {
        return 0;
    }
    let by_ns = open.start_boottime_ns - at.boottime_ns;
    *at = Stamp {
        boot: open.boot,
        boottime_ns: open.start_boottime_ns,
        wall_ns: open.start.unix_ns,
        uncertainty_ns: at.uncertainty_ns.saturating_add(by_ns),
    };
    by_ns
}

fn same_instant(a: &Stamp, b: &Stamp) -> bool {
    a.boot == b.boot && a.boottime_ns == b.boottime_ns
}

/// Whether `early` lies in the window of `late`.
fn covers(late: &Observation, early: &Observation) -> bool {
    late.at.boot == early.at.boot
        && window_start_ns(late) <= early.at.boottime_ns
        && early.at.boottime_ns <= late.at.boottime_ns
}

/// Whether an observation says of the very same stop why it was: a guest that stands is asked after its state.
fn explains(new: &Observation, known: &Observation) -> bool {
    let stands = |observation: &Observation| match observation.change {
        Change::State(state) => !matches!(state, BillingState::Running | BillingState::Lost),
        _ => false,
    };
    new.at == known.at && known.command.is_none() && stands(known) && stands(new)
}

/// Lets an end that no command names take the name of one that says the same.
fn adopt_name(end: &mut Observation, named: Observation) {
    if end.command.is_none() && named.command.is_some() {
        end.cause = named.cause;
        end.command = named.command;
    }
}
