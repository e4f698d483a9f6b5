//! Losing and finding QEMU: connection, resync, death.

use dormouse_metering::{BillingState, Cause, Change, CommandId, RunState, Shape, Stamp};

use super::core::{Core, Limiting, Link, Phase, Resync};
use super::sight::reaching_back;
use super::sizes::bytes_of;
use super::{Action, Announcement, Answer, Notice, Token};
use crate::process::ProcessIdentity;
use crate::sandbox::facts::Survey;
use crate::sandbox::refusal::Reason;

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
        if self.memory_awaited.take_if(|awaited| *awaited == token).is_some() {
            if self.memory_asked.is_some() {
                self.tell_sizes_known(now, actions);
            }
            return false;
        }
        if self.memory_asked == Some(token) {
            if !matches!(answer, Answer::Returned(_)) {
                self.unsettled(now, actions);
            }
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
        self.miss(now);
        if self.phase == Phase::Attached && self.process.is_some() {
            self.connect(0, actions);
        } else {
            self.link = Link::None;
        }
    }

    /// Asks QEMU for everything, because events were missed. The connection stands, and commands go on. What is missed
    /// while the answers are on their way makes it ask again.
    pub(super) fn resync(&mut self, now: Stamp, actions: &mut Vec<Action>) {
        self.miss(now);
        match &mut self.resync {
            Some(resync) => resync.again = true,
            None if self.link == Link::Up => {
                let token = self.token();
                self.resync = Some(Resync { token, again: false });
                actions.push(Action::Survey(token));
            }
            None => {}
        }
    }

    fn resynced(&mut self, now: Stamp, resync: Resync, answer: &Answer, actions: &mut Vec<Action>) {
        match answer {
            Answer::Surveyed(survey, process) if self.process == Some(*process) => {
                let missed = self.missed;
                let overtaken = self.told_since_asked();
                self.holds(now, survey, *process, actions);
                self.settle(now, actions);
                // An event that was sent before QEMU was asked may have come after that, and the one behind it be lost.
                let differs = survey.folded().map(RunState::billing_state) != Some(self.state);
                if resync.again || overtaken && differs {
                    self.missed = missed;
                    self.resync(now, actions);
                } else {
                    self.announce_found(survey, *process, actions);
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
        self.holds(now, survey, process, actions);
        self.settle(now, actions);
        self.announce_found(survey, process, actions);
        true
    }

    /// The ledger is to know that it is heard again.
    fn announce_found(&mut self, survey: &Survey, process: ProcessIdentity, actions: &mut Vec<Action>) {
        let token = self.token();
        let announcement = Announcement::Reattached(Box::new(survey.clone()), process);
        actions.push(Action::Announce(token, announcement));
    }

    /// What QEMU says of everything, after a time in which it was not heard.
    fn holds(&mut self, now: Stamp, survey: &Survey, process: ProcessIdentity, actions: &mut Vec<Action>) {
        // While a state is being saved or loaded, what QEMU calls it is no news, but that a guest runs that is saved.
        let is_news = |reported: &BillingState| match self.state {
            _ if self.told_since_asked() => false,
            BillingState::Waking => false,
            // By `save-vm` it stands, and its save is the one that is under way.
            BillingState::Hibernating => *reported == BillingState::Running && survey.run_state != "save-vm",
            _ => true,
        };
        let state = survey.folded().map(RunState::billing_state).filter(is_news).unwrap_or(self.state);
        let known = self.known(now);
        if self.state == BillingState::Waking && survey.run_state == "running" {
            self.continued = self.continued.or(Some(known.all));
        }
        let least = self.sizes.least(reaching_back(now, known.sizes), &bytes_of(&survey.memory_devices));
        let (vcpus_at, limiting) = (self.limit_may_be_since(now), self.limiting.clone());
        self.found(now, survey.clone(), process);
        self.missed = None;
        let cause = (Cause::Resync, None);
        self.observe(reaching_back(now, known.all), Change::State(state), cause.clone(), actions);
        // A size event that QEMU held back when the contact was lost is older than that.
        self.sizes.unseen(known.sizes, self.answered.unwrap_or(now), &survey.memory_devices);
        // Each by itself: what it says of the one must not say again of the other what may be older than an event that is
        // still on its way.
        let (at, shape) = (reaching_back(now, known.sizes), survey.shape());
        self.observe_least(least, cause.clone(), actions);
        for change in shape_changes(&shape, &self.shape, state) {
            let (at, cause) = match (change, &limiting) {
                (Change::Vcpus(milli), Some(asked)) if milli == asked.milli => (vcpus_at, asked.cause()),
                (Change::Vcpus(_), _) => (vcpus_at, cause.clone()),
                _ => (at, cause.clone()),
            };
            self.observe(at, change, cause, actions);
        }
        actions.push(Action::Publish(Notice::Changed("resync")));
    }

    /// This moment, uncertain since its CPU time may be limited as it is now: by another hand, or by the agent's, which was
    /// killed before it knew. An agent that has not read the limit before does not know of any moment.
    fn limit_may_be_since(&self, now: Stamp) -> Stamp {
        let known = self.vcpus_known.filter(|known| known.boot == now.boot);
        reaching_back(now, known.unwrap_or_else(|| now.earlier_by(now.boottime_ns)))
    }

    /// At the end of a life: a limit that the kernel may have taken, and did not live to say.
    pub(super) fn observe_unseen_limit(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        self.observe_limit_in_flight(at, actions);
        self.limiting = None;
    }

    /// A limit that the kernel is being told, and may have taken by then. Of more the bill knows nothing, and says since when.
    pub(super) fn observe_limit_in_flight(&mut self, at: Stamp, actions: &mut Vec<Action>) {
        if let Some(limiting) = &self.limiting {
            let milli = limiting.milli;
            let change = if milli > self.shape.vcpus_milli { Change::Mark } else { Change::Vcpus(milli) };
            let (at, cause) = (reaching_back(at, limiting.asked), limiting.cause());
            self.observe(at, change, cause, actions);
        }
    }

    /// QMP answers, and this is what it said.
    pub(super) fn found(&mut self, now: Stamp, survey: Survey, process: ProcessIdentity) {
        self.link = Link::Up;
        self.process = Some(process);
        self.sizes.answered(now, self.answered.unwrap_or(now), &survey.memory_devices);
        self.survey = Some(survey);
        self.memory_known = self.answered.or(Some(now));
        self.disks_known = self.memory_known;
        if let Some(known) = self.vcpus_surveyed.take() {
            (self.vcpus_known, self.limiting) = (Some(known), None);
        }
        // What it told while it was being connected to may have been missed, and it holds the next one back for a second.
        self.memory_told = Some(now);
        self.heard(self.answered.unwrap_or(now));
        self.shutdown = None;
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
        self.observe_unseen_limit(at, actions);
        self.observe_unseen_memory(at, self.memory_cause.clone(), actions);
        self.observe(at, Change::Ended, (cause, None), actions);
        self.phase = Phase::Ended;
    }

    fn learn_status(&mut self, at: Stamp, answer: &Answer, actions: &mut Vec<Action>) {
        let Answer::Returned(value) = answer else { return };
        let Some(state) = super::operations::status_of(value) else { return };
        let cause = match state {
            BillingState::Faulted(_) => Cause::Fault,
            BillingState::Running => Cause::Continue,
            _ => Cause::Stop,
        };
        // One that runs was continued at some time since it stopped, however long ago that was told.
        let since_it_stood =
            self.now.filter(|_| state == BillingState::Running).map(|now| reaching_back(now, at));
        self.observe(since_it_stood.unwrap_or(at), Change::State(state), (cause, None), actions);
        actions.push(Action::Publish(Notice::Changed(cause.as_str())));
    }
}

impl Limiting {
    /// The scale that asks for it, as a cause.
    fn cause(&self) -> (Cause, Option<CommandId>) {
        (Cause::Scale, Some(self.command.clone()))
    }
}

/// What is to be told of a shape, where another one is known.
fn shape_changes(shape: &Shape, known: &Shape, state: BillingState) -> Vec<Change> {
    if shape.memory_base_bytes != known.memory_base_bytes {
        return vec![Change::Holds(*shape, state)];
    }
    vec![
        Change::Vcpus(shape.vcpus_milli),
        Change::Requested(shape.memory_requested_bytes),
        Change::Plugged(shape.memory_plugged_bytes),
        Change::Disk(shape.disk_bytes),
    ]
}
