//! The connection of a sandbox to its QEMU: one command in flight, everything in order, nothing kept.

use std::collections::VecDeque;

use dormouse::sandbox::machine::{Answer, Input, Phase, QemuEvent, Token};
use dormouse::sandbox::refusal::Reason;
use dormouse_metering::Stamp;
use serde_json::Value;

use crate::agent::failed;
use crate::known::Of;
use crate::qemu::{Effects, MS};
use crate::world::{Ask, Event, World};

const REPLY_NS: u64 = 1_000 * MS;
const GREETING_NS: u64 = 500 * MS;
const COMMANDS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) number: u64,
    /// Whether the first survey is through.
    ready: bool,
    since: Stamp,
    /// When the last thing sent arrives: nothing overtakes it.
    arrives: u64,
    queue: VecDeque<(Token, Ask)>,
    /// What QEMU told while it was surveyed for the first time: handed on after that.
    early: Vec<Event>,
    in_flight: Option<Token>,
}

impl World {
    /// When something sent now arrives on a connection.
    pub(crate) fn arrives(&mut self, seat: usize, epoch: u64, number: u64, takes_ns: u64) -> u64 {
        let mut at = self.now + takes_ns;
        if epoch == self.epoch
            && let Some(link) = self.seat(seat).and_then(|seat| seat.link.as_mut())
            && link.number == number
        {
            at = at.max(link.arrives + 1);
            link.arrives = at;
        }
        at
    }

    /// QEMU tells whoever is connected.
    pub(crate) fn tell(
        &mut self,
        guest: usize,
        name: &'static str,
        stamp_ns: i64,
        detail: Value,
        known: Vec<(Of, u64)>,
    ) {
        let late = if self.random.chance(900) { 300_000 } else { 20 * MS };
        let late = self.random.range(20_000, late);
        let Some(qemu) = self.guests[guest].qemu.as_mut() else { return };
        let Some((epoch, link)) = qemu.client else { return };
        let lost = qemu.loses > 0;
        qemu.loses = qemu.loses.saturating_sub(1);
        let at = self.arrives(guest, epoch, link, late);
        if lost {
            return self.at(at, Event::Gap { epoch, seat: guest, link });
        }
        self.at(at, Event::Told { epoch, seat: guest, link, name, stamp_ns, detail, known });
    }

    /// What is told before the first survey is through waits for that.
    pub(crate) fn not_too_early(&mut self, event: Event) -> Option<Event> {
        if let Event::Told { seat, link, .. } | Event::Gap { seat, link, .. } = &event
            && let Some(open) = self.seat(*seat).and_then(|seat| seat.link.as_mut())
            && open.number == *link
            && !open.ready
        {
            open.early.push(event);
            return None;
        }
        Some(event)
    }

    pub(crate) fn told(
        &mut self,
        seat: usize,
        number: u64,
        (name, stamp_ns, detail): (&str, i64, Value),
        known: &[(Of, u64)],
    ) {
        let arrival = self.clock.now();
        let Some(link) = self.seat(seat).and_then(|seat| seat.link.as_ref()) else { return };
        if link.number != number {
            return;
        }
        let since = link.since;
        let at = self.clock.from_qemu(Some(stamp_ns), since, arrival);
        self.feed(seat, Input::Event(QemuEvent { name: name.to_owned(), at, detail }));
        match self.seat(seat).filter(|seat| seat.machine.core().phase == Phase::New) {
            Some(unborn) => unborn.early.extend(known),
            None => self.learn(seat, known),
        }
    }

    pub(crate) fn connect(&mut self, number: usize, token: Token, after_ms: u64) {
        self.drop_link(number);
        let takes = self.random.range(MS / 10, 2 * MS);
        let epoch = self.epoch;
        let Some(seat) = self.seat(number) else { return };
        seat.attempt += 1;
        let attempt = seat.attempt;
        self.after(after_ms * MS + takes, Event::Connects { epoch, seat: number, attempt, token });
    }

    pub(crate) fn connects(&mut self, number: usize, attempt: u64, token: Token) {
        if self.seat(number).is_none_or(|seat| seat.attempt != attempt) {
            return;
        }
        let (now, epoch) = (self.now, self.epoch);
        let busy = now < self.guests[number].busy_until;
        let takes = self.random.range(MS / 10, 2 * MS);
        let Some(qemu) = self.guests[number].qemu.as_mut().filter(|qemu| !qemu.leaving) else {
            return self.answer(number, 0, token, failed(Reason::QmpUnreachable, "nobody listens"));
        };
        if busy || qemu.hangs_until > now + GREETING_NS {
            return self.answer(number, GREETING_NS, token, failed(Reason::QmpBusy, "no greeting"));
        }
        let at = (now + takes).max(qemu.hangs_until);
        let status = (qemu.status, now);
        // What happens from here on is told once the survey is through.
        qemu.client = Some((epoch, attempt));
        self.at(at, Event::Surveys { epoch, seat: number, attempt, token, status, link: None });
        let since = self.clock.now();
        if let Some(seat) = self.seat(number) {
            let link = Link {
                number: attempt,
                ready: false,
                since,
                arrives: at + 2,
                queue: VecDeque::new(),
                early: Vec::new(),
                in_flight: Some(token),
            };
            seat.link = Some(link);
        }
    }

    /// The survey's memory is read, and all of it arrives.
    pub(crate) fn surveys(
        &mut self,
        number: usize,
        attempt: u64,
        token: Token,
        (status, asked): (&str, u64),
        link: Option<u64>,
    ) {
        let now = self.now;
        let epoch = self.epoch;
        let found = self.guests[number].qemu.as_ref().filter(|qemu| qemu.client == Some((epoch, attempt)));
        let Some(qemu) = found.filter(|qemu| !qemu.leaving) else {
            if link.is_none() && self.seat(number).is_some_and(|seat| seat.attempt == attempt) {
                self.drop_link(number);
                self.answer(number, 0, token, failed(Reason::QmpUnreachable, "it is gone"));
            }
            return;
        };
        // What was not read before in a life cannot count as it was.
        let is_news = qemu.limit_is_news
            || self.seat(number).is_none_or(|seat| seat.machine.core().phase == Phase::New);
        let may_fail = self.knobs.boots && !is_news;
        let is_read = !(may_fail && self.random.chance(100));
        let Some(qemu) = self.guests[number].qemu.as_mut() else { return };
        let limit = if is_read { Ok(qemu.limit_milli) } else { Err("cannot be read".to_owned()) };
        qemu.limit_is_news &= !is_read;
        let answer = Answer::Surveyed(Box::new(qemu.survey(status, limit)), qemu.identity);
        let qemu_devices = qemu.memory.len();
        let takes = self.random.range(MS / 10, MS);
        let at = self.arrives(number, epoch, attempt, takes);
        // What changes in this very instant, and has not yet, changes behind it.
        let has_changed = self.guests[number].truth.last().is_some_and(|truth| truth.at == now);
        let read = if has_changed { now } else { now.saturating_sub(1) };
        let sizes = (0..qemu_devices).map(|device| (Of::Size(device), read));
        let limit = is_read.then_some((Of::Vcpus, now));
        let known = sizes.chain([(Of::State, asked)]).chain(limit).collect();
        self.at(at.max(now), Event::Reply { epoch, seat: number, link: attempt, token, answer, known });
    }

    pub(crate) fn ask(&mut self, number: usize, token: Token, ask: Ask) {
        let open = self.seat(number).and_then(|seat| seat.link.as_mut());
        let Some(link) = open.filter(|link| link.ready && link.queue.len() < COMMANDS_MAX) else {
            return self.answer(number, 1_000, token, failed(Reason::QmpUnreachable, "no connection"));
        };
        link.queue.push_back((token, ask));
        self.pump(number);
    }

    fn pump(&mut self, number: usize) {
        let takes = self.random.range(10_000, MS / 2);
        let (epoch, now) = (self.epoch, self.now);
        let hangs_until = self.guests[number].qemu.as_ref().map_or(0, |qemu| qemu.hangs_until);
        let Some(link) = self.seat(number).and_then(|seat| seat.link.as_mut()) else { return };
        if link.in_flight.is_some() {
            return;
        }
        let Some((token, ask)) = link.queue.pop_front() else { return };
        link.in_flight = Some(token);
        let link = link.number;
        self.at((now + takes).max(hangs_until), Event::Takes { epoch, seat: number, link, token, ask });
        self.after(REPLY_NS, Event::Overdue { epoch, seat: number, link, token });
    }

    /// QEMU reads a command, as long as it is there and the connection is.
    pub(crate) fn takes(&mut self, number: usize, link: u64, token: Token, ask: Ask) {
        let (epoch, now) = (self.epoch, self.now);
        let Some(qemu) = self.guests[number].qemu.as_mut() else { return };
        if qemu.client != Some((epoch, link)) {
            return;
        }
        let takes = self.random.range(20_000, MS);
        let command = match ask {
            Ask::Survey => {
                let status = (qemu.status, now);
                let attempt = link;
                let event = Event::Surveys { epoch, seat: number, attempt, token, status, link: Some(link) };
                return self.after(takes, event);
            }
            Ask::Command(command) => command,
        };
        let mut effects = Effects::default();
        let devices = qemu.memory.len();
        let returned = qemu.take(&command, &mut self.random, &mut effects);
        self.trace(|| format!("qemu {number} takes {} {} -> {returned:?}", command.name, command.arguments));
        self.apply(number, effects);
        let known = match command.name {
            "query-status" => vec![(Of::State, now)],
            "query-memory-devices" => (0..devices).map(|device| (Of::Size(device), now)).collect(),
            _ => Vec::new(),
        };
        let answer = match returned {
            Ok(returned) => Answer::Returned(returned),
            Err(message) => failed(Reason::QemuFailed, message),
        };
        let at = self.arrives(number, epoch, link, takes);
        self.at(at, Event::Reply { epoch, seat: number, link, token, answer, known });
    }

    pub(crate) fn reply_arrives(
        &mut self,
        number: usize,
        link: u64,
        (token, answer): (Token, Answer),
        known: &[(Of, u64)],
    ) {
        let since = self.clock.now();
        let open = self.seat(number).and_then(|seat| seat.link.as_mut());
        let Some(open) = open.filter(|open| open.number == link && open.in_flight == Some(token)) else {
            return;
        };
        open.in_flight = None;
        if !open.ready {
            (open.ready, open.since) = (true, since);
        }
        let mut early = std::mem::take(&mut open.early);
        // The survey's are newer.
        early.retain(
            |event| !matches!(event, Event::Told { name, .. } if *name == "MEMORY_DEVICE_SIZE_CHANGE"),
        );
        if let Answer::Surveyed(_, process) = &answer {
            let process = *process;
            if let Some(seat) = self.seat(number) {
                seat.held = Some(process);
            }
            // One that ended while it was being surveyed is seen to be gone.
            if self.guests[number].qemu.as_ref().is_none_or(|qemu| qemu.identity != process) {
                let epoch = self.epoch;
                self.after(MS, Event::Exited { epoch, seat: number, process });
            }
        }
        self.feed(number, Input::Answer(token, answer));
        self.learn(number, known);
        for event in early {
            self.agent_event(event);
        }
        self.pump(number);
    }

    pub(crate) fn overdue(&mut self, number: usize, link: u64, token: Token) {
        let open = self.seat(number).and_then(|seat| seat.link.as_mut());
        let Some(open) = open.filter(|open| open.number == link && open.in_flight == Some(token)) else {
            return;
        };
        open.in_flight = None;
        self.feed(number, Input::Answer(token, failed(Reason::OutcomeUnknown, "no reply in time")));
        self.pump(number);
    }

    /// The other end has closed.
    pub(crate) fn closed(&mut self, number: usize, link: u64) {
        if self.seat(number).and_then(|seat| seat.link.as_ref()).is_none_or(|open| open.number != link) {
            return;
        }
        let (was_ready, waiting) = self.take_waiting(number);
        for (token, answer) in waiting {
            self.feed(number, Input::Answer(token, answer));
        }
        if was_ready {
            self.feed(number, Input::Disconnected);
        }
    }

    /// Lets go of the connection.
    pub(crate) fn drop_link(&mut self, number: usize) {
        let epoch = self.epoch;
        if let Some(qemu) = self.guests[number].qemu.as_mut()
            && qemu.client.is_some_and(|client| client.0 == epoch)
        {
            qemu.client = None;
        }
        if let Some(seat) = self.seat(number) {
            seat.attempt += 1;
        }
        let (was_ready, waiting) = self.take_waiting(number);
        for (token, answer) in waiting.into_iter().filter(|_| was_ready) {
            self.answer(number, 1_000, token, answer);
        }
    }

    /// Whoever waits for a reply of this connection has no more to wait for.
    fn take_waiting(&mut self, number: usize) -> (bool, Vec<(Token, Answer)>) {
        let Some(link) = self.seat(number).and_then(|seat| seat.link.take()) else {
            return (false, Vec::new());
        };
        let unknown = || failed(Reason::OutcomeUnknown, "the connection was lost");
        let unsent = || failed(Reason::QmpUnreachable, "the connection was lost");
        let in_flight = link.in_flight.into_iter().map(|token| (token, unknown()));
        let queued = link.queue.into_iter().map(|(token, _)| (token, unsent()));
        (link.ready, in_flight.chain(queued).collect())
    }
}
