//! Through when QEMU is known: the one place that says since when anything that is learned of it may be so.
//!
//! ```text
//!              a gap, the connection's end, a restart of the agent
//!   Heard ─────────────────────────────────────────────────────────▶ Missed { known }
//!     ▲  every word moves `contact` on                                  │  stays what it was when the first was missed
//!     └─────────────────────────────────────────────────────────────────┘
//!              all was asked for and answered, and nothing more missed
//! ```
//!
//! What it never does: say what QEMU is. That is in `contact`, and sizes by device are in `memory`.

use dormouse_metering::{BillingState, Cause, Change, Observation, Stamp};

use super::Action;
use super::core::{Core, Link, Phase};
use crate::metering::accounts::Sight;

/// For how long after a size event's stamp QEMU may hold the next one back: an event a second for each device, and
/// what was held back is told up to a second after its stamp.
pub(super) const HELD_BACK_NS: u64 = 2_200_000_000;

/// For how long QEMU holds a size event back, and its way. That is also for how long after one has arrived the next may be
/// held back, or after something was missed: its timer runs a second from whatever it told last, seen or not, and what it
/// tells as that ends would be seen.
pub(super) const TOLD_LATE_NS: u64 = 1_100_000_000;

/// How long after a connection's end it may be seen.
const END_SEEN_NS: u64 = 50_000_000;

/// Through when QEMU was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// All that it told without delay.
    pub(super) all: Stamp,
    /// Its sizes, the last of which it may have held back.
    pub(super) sizes: Stamp,
}

impl Core {
    /// Whether all that becomes of it is heard, and through when it was. `None` where there is no life.
    pub fn sight(&self) -> Option<(Sight, Stamp)> {
        let sight = match (self.phase, self.link) {
            (Phase::New | Phase::Ended, _) => return None,
            // What was missed is missed for good, should the agent be killed before it is asked for.
            (Phase::Attached, Link::Up) if self.resync.is_some() => Sight::Lost,
            (Phase::Attached, Link::Up) if self.is_unsettled() => Sight::Behind,
            (Phase::Hibernated, _) | (Phase::Attached, Link::Up) => Sight::Clear,
            (Phase::Attached, _) => Sight::Lost,
        };
        Some((sight, self.contact.or(self.now)?))
    }

    /// Everything that QEMU told until then has arrived.
    pub(super) fn heard(&mut self, until: Stamp) {
        let newer = |had: Stamp| had.boot != until.boot || had.boottime_ns < until.boottime_ns;
        if self.contact.is_none_or(newer) {
            self.contact = Some(until);
        }
        if self.spoke.is_none_or(newer) {
            self.spoke = Some(until);
        }
    }

    /// The connection has ended in order: all that QEMU told over it has arrived.
    pub(super) fn heard_to_the_end(&mut self, now: Stamp) {
        if self.link == Link::Up {
            let spoke = self.spoke;
            let just_now =
                |noticed: &Stamp| now.boottime_ns.saturating_sub(noticed.boottime_ns) < END_SEEN_NS;
            let slept_ns = self.slept.filter(|(noticed, _)| just_now(noticed)).map_or(0, |(_, ns)| ns);
            self.heard(now.earlier_by(END_SEEN_NS.saturating_add(slept_ns)));
            self.spoke = spoke;
        }
    }

    /// While the host slept, QEMU's clock stood too: by as much longer may QEMU hold back what it did before, and what is
    /// seen now may have come before that.
    pub(super) fn slept(&mut self, now: Stamp, ns: u64) {
        self.slept = Some((now, ns));
        self.memory_told = self.memory_told.map(|told| told.later_by(ns));
        self.sizes.slept(ns);
    }

    /// From here on QEMU may have told something that never arrives.
    pub(super) fn miss(&mut self, now: Stamp) {
        let known = self.known(now);
        if self.missed.replace(known).is_none()
            && let Some(survey) = &self.survey
        {
            self.sizes.unseen(known.sizes, now, &survey.memory_devices);
        }
    }

    /// Through when QEMU is known.
    pub(super) fn known(&self, now: Stamp) -> Known {
        let of_boot = |stamp: Option<Stamp>| stamp.filter(|stamp| stamp.boot == now.boot);
        let missed = self.missed.filter(|known| known.all.boot == now.boot);
        missed.unwrap_or_else(|| {
            let all = of_boot(self.contact).unwrap_or_else(|| now.earlier_by(now.boottime_ns));
            Known { all, sizes: self.sizes_known(all) }
        })
    }

    /// This moment, uncertain since another, or since something was missed before that.
    pub(super) fn since(&self, now: Stamp, since: Option<Stamp>) -> Stamp {
        let since = since.filter(|since| since.boot == now.boot);
        let missed = self.missed.map(|known| known.all).filter(|all| all.boot == now.boot);
        let oldest_ns = since.into_iter().chain(missed).map(|stamp| stamp.boottime_ns).min();
        now.uncertain_by(oldest_ns.map_or(0, |oldest_ns| now.boottime_ns.saturating_sub(oldest_ns)))
    }

    /// Whether QEMU may hold a size back: one that hangs does so for as long.
    pub(super) fn is_unsettled(&self) -> bool {
        self.settling.is_some() || self.memory_asked.is_some()
    }

    /// Whether an event has said since QEMU was asked whether the guest runs: what it answered may be older.
    pub(super) fn told_since_asked(&self) -> bool {
        let (Some(told), Some(asked)) = (self.ran_or_stood, self.answered) else { return false };
        told.boot == asked.boot && told.boottime_ns >= asked.boottime_ns
    }

    /// Tells the meter that the guest ran when what has been answered was asked, if it did: it is about to be told to stop.
    /// An agent that is killed before it hears of that knows then, when it is started again, through when the guest ran.
    pub(super) fn observe_still_running(&mut self, actions: &mut Vec<Action>) {
        let Some(at) = self.answered.filter(|_| self.state == BillingState::Running) else { return };
        // Since when it runs is known, and everything that QEMU told before the answer has arrived.
        let since = self.state_stamp.filter(|since| since.boot == at.boot);
        let is_older = since.is_none_or(|since| since.boottime_ns <= at.boottime_ns);
        if self.link == Link::Up && self.missed.is_none() && is_older && !self.told_since_asked() {
            self.state_stamp = Some(at);
            let (change, cause) = (Change::State(BillingState::Running), Cause::Resync);
            actions.push(Action::ObserveFirst(Observation { at, change, cause, command: None }));
        }
    }

    /// When the process ended: by QEMU's own word, else between its last sign of life and now.
    pub(super) fn end_of_process(&self, now: Stamp) -> Stamp {
        let known = self.known(now).all;
        match (self.shutdown, self.missed) {
            (Some(shutdown), None) => shutdown,
            (Some(shutdown), Some(_)) => reaching_back(shutdown, known),
            (None, _) => reaching_back(now, known),
        }
    }

    /// Through when its sizes are known, of a moment when all else is.
    pub(super) fn sizes_known(&self, at: Stamp) -> Stamp {
        let of_boot = |stamp: Option<Stamp>| stamp.filter(|stamp| stamp.boot == at.boot);
        if let Some(missed) = self.missed.filter(|missed| missed.sizes.boot == at.boot) {
            return at.earlier_by(at.boottime_ns.saturating_sub(missed.sizes.boottime_ns));
        }
        if self.survey.as_ref().is_some_and(|survey| survey.memory_devices.is_empty()) {
            // Where there is no device, none holds anything back, and a new one tells its first size at once.
            return at;
        }
        let known_ns = of_boot(self.memory_known).map_or(0, |known| known.boottime_ns);
        let unknown_ns = at.boottime_ns.saturating_sub(known_ns);
        // However long that takes: it may hang, or the host have slept.
        let held_back_ns = if self.is_unsettled() { unknown_ns } else { self.held_back_ns(at) };
        at.earlier_by(held_back_ns.min(unknown_ns))
    }

    /// For how long before a stamp QEMU may have held a size back.
    fn held_back_ns(&self, at: Stamp) -> u64 {
        let of_boot = |stamp: &Stamp| stamp.boot == at.boot;
        let Some(told) = self.memory_told.filter(of_boot) else { return 0 };
        // One that hangs holds them back for as long.
        let spoke = self.spoke.filter(of_boot);
        let spoke_ns = spoke.map_or(at.boottime_ns, |spoke| spoke.boottime_ns.min(at.boottime_ns));
        let since_ns = spoke_ns.saturating_sub(told.boottime_ns);
        if since_ns < TOLD_LATE_NS { at.boottime_ns - spoke_ns + since_ns } else { 0 }
    }
}

/// A stamp whose window reaches back to another, if it does not already.
pub(super) fn reaching_back(at: Stamp, since: Stamp) -> Stamp {
    let since_ns = if since.boot == at.boot { at.boottime_ns.saturating_sub(since.boottime_ns) } else { 0 };
    at.uncertain_by(at.uncertainty_ns.max(since_ns))
}
