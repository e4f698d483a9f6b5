//! Losing and finding QEMU: connection, resync, death.

use dormouse_metering::{BillingState, Cause, Change, RunState, Stamp};

use super::core::{Core, Link, Phase, Resync};
use super::{Action, Announcement, Answer, Notice, Token};
use crate::process::ProcessIdentity;
use crate::sandbox::facts::Survey;
use crate::sandbox::refusal::Reason;

/// How long after a connection's end it may be seen.
const END_SEEN_NS: u64 = 50_000_000;

impl Core {
    /// Takes the answers that no command waits for. True when QMP answers again.
    pub(super) fn answer(
        &mut self,
        now: Stamp,
        token: Token,
        answer: &Answer,
        actions: &mut Vec<Action>,
    ) -> bool {
        if matches!(answer, Answer::Returned(_) | Answer::Surveyed(..)) {
            self.silence_ns = self.contact_gap_ns(now);
            // Whatever QEMU told before it read the question has arrived.
            self.heard(self.answered.unwrap_or(now));
        }
        if let Some((asked, at)) = self.status_asked
            && asked == token
        {
            self.status_asked = None;
            self.learn_status(at, answer, actions);
            return false;
        }
        if let Some(resync) = self.resync.take_if(|resync| resync.token == token) {
            self.resynced(now, resync, answer, actions);
            return false;
        }
        if self.settling == Some(token) {
            self.settling = None;
            self.settle(now, actions);
            return false;
        }
        if self.memory_asked == Some(token) {
            self.memory_asked = None;
            if let Answer::Returned(devices) = answer {
                self.learn_memory(now, devices, actions);
            }
            return false;
        }
        match self.link {
            Link::Connecting(attempt, failed) if attempt == token => {
                if let Answer::Surveyed(survey, process) = answer {
                    return self.reconnected(now, survey, *process, actions);
                }
                let busy = matches!(answer, Answer::Failed(refusal) if refusal.reason == Reason::QmpBusy);
                self.connect(failed + 1, actions);
                self.busy = busy;
                false
            }
            _ => false,
        }
    }

    /// Tries to connect once more, later the more attempts have failed.
    pub(super) fn connect(&mut self, failed: u32, actions: &mut Vec<Action>) {
        let token = self.token();
        self.busy = false;
        self.resync = None;
        let doubled = self.settings.reconnect_min_ms.saturating_mul(1 << failed.min(16));
        self.link = Link::Connecting(token, failed);
        actions.push(Action::Connect(token, doubled.min(self.settings.reconnect_max_ms)));
    }

    /// The connection is gone. The process may live: only its exit ends the sandbox.
    pub(super) fn disconnected(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        self.heard_to_the_end(now);
        if self.phase == Phase::Attached && self.process.is_some() {
            self.connect(0, actions);
        } else {
            self.link = Link::None;
        }
    }

    /// Asks QEMU for everything, because events were missed. The connection stands, and commands go on. What is missed
    /// while the answers are on their way makes it ask again.
    pub(super) fn resync(&mut self, actions: &mut Vec<Action>) {
        match &mut self.resync {
            Some(resync) => resync.again = true,
            None if self.link == Link::Up => {
                let token = self.token();
                self.resync = Some(Resync { token, known: self.contact, again: false });
                actions.push(Action::Survey(token));
            }
            None => {}
        }
    }

    fn resynced(&mut self, now: Stamp, resync: Resync, answer: &Answer, actions: &mut Vec<Action>) {
        match answer {
            Answer::Surveyed(survey, process) if self.process == Some(*process) => {
                let known = resync.known.map_or(now.boottime_ns, |known| known.boottime_ns);
                let unknown_ns = now.boottime_ns.saturating_sub(known);
                self.holds(now.uncertain_by(unknown_ns), survey, *process, actions);
                self.settle(now, actions);
                if resync.again {
                    self.resync(actions);
                    self.resync = self.resync.take().map(|again| Resync { known: resync.known, ..again });
                }
            }
            // A lost connection is made again, and asks then.
            _ if self.link != Link::Up => {}
            _ => self.connect(0, actions),
        }
    }

    fn reconnected(
        &mut self,
        now: Stamp,
        survey: &Survey,
        process: ProcessIdentity,
        actions: &mut Vec<Action>,
    ) -> bool {
        if self.process.is_some_and(|known| known != process) {
            // Another QEMU has taken the socket: this one's life is over, the other's is yet to begin.
            self.died(now, actions);
            actions.extend([Action::Disconnect, Action::Publish(Notice::Ended), Action::Retire]);
            return false;
        }
        self.holds(now.uncertain_by(self.silence_ns), survey, process, actions);
        self.settle(now, actions);
        let token = self.token();
        let announcement = Announcement::Reattached(Box::new(survey.clone()), process);
        actions.push(Action::Announce(token, announcement));
        true
    }

    /// What QEMU says of everything, after a time in which it was not heard: the uncertainty of the stamp.
    fn holds(&mut self, at: Stamp, survey: &Survey, process: ProcessIdentity, actions: &mut Vec<Action>) {
        // While a state is being saved or loaded, what QEMU calls it is no news.
        let owned = matches!(self.state, BillingState::Hibernating | BillingState::Waking);
        let reported = survey.folded().map(RunState::billing_state).filter(|_| !owned);
        let state = reported.unwrap_or(self.state);
        let held_back_ns = self.held_back_ns(at);
        self.found(at, survey.clone(), process);
        self.observe(at, Change::State(state), (Cause::Resync, None), actions);
        // A size event that QEMU held back when the contact was lost is older than that.
        let at = at.uncertain_by(at.uncertainty_ns.saturating_add(held_back_ns));
        let until = self.answered.unwrap_or(at.uncertain_by(0));
        self.sizes.unseen(at.earlier_by(at.uncertainty_ns), until, &survey.memory_devices);
        self.observe(at, Change::Holds(survey.shape(), state), (Cause::Resync, None), actions);
        actions.push(Action::Publish(Notice::Changed("resync")));
    }

    /// QMP answers, and this is what it said.
    pub(super) fn found(&mut self, now: Stamp, survey: Survey, process: ProcessIdentity) {
        self.link = Link::Up;
        self.process = Some(process);
        let asked = self.answered.unwrap_or(now);
        self.sizes.unseen(asked, asked, &survey.memory_devices);
        self.sizes.answered(now, asked, &survey.memory_devices);
        self.survey = Some(survey);
        self.memory_known = self.answered.or(Some(now));
        self.disks_known = self.memory_known;
        // Whether QEMU held an event back before it was asked is not known.
        self.memory_told = self.memory_known;
        self.heard(self.answered.unwrap_or(now));
        self.shutdown = None;
    }

    /// The connection has ended in order: all that QEMU told over it has arrived.
    pub(super) fn heard_to_the_end(&mut self, now: Stamp) {
        if self.link == Link::Up {
            let spoke = self.spoke;
            self.heard(now.earlier_by(END_SEEN_NS));
            self.spoke = spoke;
        }
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

    /// The process is gone, whatever that means for the sandbox.
    pub(super) fn process_gone(&mut self) {
        self.link = Link::None;
        self.process = None;
        self.status_asked = None;
    }

    /// The sandbox's life ends with its process.
    pub(super) fn died(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        if self.is_over() {
            // Detached, or dead already: there is nothing left to end.
            return;
        }
        if self.last_proof.is_some() {
            return self.died_unseen(now, (Cause::Death, None), actions);
        }
        let cause = if self.shutdown.is_some() { Cause::Shutdown } else { Cause::Death };
        let at = self.end_of_process(now);
        self.observe_unseen_memory(at, actions);
        self.observe(at, Change::Ended, (cause, None), actions);
        self.phase = Phase::Ended;
    }

    /// When the process ended: by QEMU's own word, else between its last sign of life and now.
    pub(super) fn end_of_process(&self, now: Stamp) -> Stamp {
        self.shutdown.unwrap_or_else(|| now.uncertain_by(self.contact_gap_ns(now)))
    }

    pub(super) fn contact_gap_ns(&self, now: Stamp) -> u64 {
        let contact = self.contact.filter(|contact| contact.boot == now.boot);
        contact.map_or(now.boottime_ns, |contact| now.boottime_ns.saturating_sub(contact.boottime_ns))
    }

    fn learn_status(&mut self, at: Stamp, answer: &Answer, actions: &mut Vec<Action>) {
        let Answer::Returned(value) = answer else { return };
        let Some(state) = super::operations::status_of(value) else { return };
        let cause = match state {
            BillingState::Faulted(_) => Cause::Fault,
            BillingState::Running => Cause::Continue,
            _ => Cause::Stop,
        };
        self.observe(at, Change::State(state), (cause, None), actions);
        actions.push(Action::Publish(Notice::Changed(cause.as_str())));
    }
}
