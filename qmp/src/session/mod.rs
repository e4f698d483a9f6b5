//! The QMP session, without IO: bytes, commands and time go in; bytes to write, replies and events come out.
//!
//! ```text
//!               greeting              {} to qmp_capabilities
//! AwaitGreeting ────────► Negotiating ──────────────────────► Ready
//!       │                      │                                │
//!       │ deadline, in silence:│ deadline: Unresponsive         │ end of file: Eof
//!       │   Busy               │ refusal: Refused               │ write deadline: Unresponsive
//!       │ deadline, after      │                                │ socket error: Io
//!       │   other bytes: NotQmp│                                │
//!       └──────────────────────┴───────────────┬────────────────┘
//!                                              ▼
//!                                         Closed(reason)
//! ```
//!
//! In every state but Closed, end of file and socket errors close the session, a line that is no message is an
//! [`Anomaly`] and the session goes on, and events are handed on.
//!
//! One command is on the wire at a time; the others wait in a bounded queue. A command that passes its reply
//! deadline is reported as of unknown outcome, and the wire stays its own until QEMU answers: what is sent to a
//! QEMU that hangs would all be carried out when it wakes, long after its callers gave up. The one exception is a
//! reply that may have been lost in a bad line: then the wire is free at the deadline.
//!
//! This module never reads a clock and never enables out-of-band execution: only four commands may use it, and
//! none of them is worth replies that overtake each other. The socket is [`crate::Connection`]'s.

mod types;

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use crate::codec::{BadLine, LineCodec};
use crate::config::Config;
use crate::error::QmpError;
use crate::message::{Message, encode_command};
use crate::version::Version;

pub use types::{Anomaly, AnomalyCounts, CloseReason, Output};

/// The id of `qmp_capabilities`; commands are counted from 1.
const NEGOTIATION_ID: u64 = 0;

/// One connection's conversation with QEMU. All times are monotonic, since any origin, the same for all.
#[derive(Debug)]
pub struct Session {
    codec: LineCodec,
    phase: Phase,
    in_flight: Option<InFlight>,
    waiting: VecDeque<Waiting>,
    next_id: u64,
    outputs: VecDeque<Output>,
    counts: AnomalyCounts,
    negotiate_deadline: Duration,
    queue_length: usize,
}

#[derive(Debug)]
enum Phase {
    AwaitGreeting { deadline: Duration, heard_bytes: bool },
    Negotiating { deadline: Duration, version: Version },
    Ready,
    Closed(CloseReason),
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    command: String,
    /// `None` once it has passed.
    deadline: Option<Duration>,
    /// Whether someone still waits for the reply.
    wanted: bool,
    reply_may_be_lost: bool,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    command: String,
    line: Vec<u8>,
    reply_deadline: Duration,
    expires_at: Duration,
}

impl Session {
    /// A session on a connection made at `now`.
    pub fn new(config: &Config, now: Duration) -> Self {
        Self {
            codec: LineCodec::new(config.line_limit_bytes),
            phase: Phase::AwaitGreeting { deadline: now + config.greeting_deadline, heard_bytes: false },
            in_flight: None,
            waiting: VecDeque::new(),
            next_id: NEGOTIATION_ID + 1,
            outputs: VecDeque::new(),
            counts: AnomalyCounts::default(),
            negotiate_deadline: config.negotiate_deadline,
            queue_length: config.queue_length,
        }
    }

    /// Takes bytes that QEMU sent.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) {
        if let Phase::AwaitGreeting { heard_bytes, .. } = &mut self.phase {
            *heard_bytes |= !bytes.is_empty();
        }
        let mut messages = Vec::new();
        self.codec.feed(bytes, |line| match line.and_then(Message::parse) {
            Ok(None) => {}
            Ok(Some(message)) => messages.push(Ok(message)),
            Err(bad_line) => messages.push(Err(bad_line)),
        });
        for message in messages {
            match message {
                _ if self.is_closed() => return,
                Ok(message) => self.on_message(message, now),
                Err(bad_line) => self.on_bad_line(bad_line, now),
            }
        }
    }

    /// Takes a command; its reply comes as an [`Output::Reply`] with the id returned here. It is written as
    /// soon as the session is ready and no other command is in flight.
    pub fn submit(
        &mut self,
        command: &str,
        arguments: Value,
        reply_deadline: Duration,
        now: Duration,
    ) -> Result<u64, QmpError> {
        if let Phase::Closed(close) = &self.phase {
            return Err(QmpError::Closed { close: close.clone(), in_flight: false });
        }
        // The queue is what waits behind the wire: a command that can go out at once does not count.
        let goes_out_now = matches!(self.phase, Phase::Ready) && self.in_flight.is_none();
        if !goes_out_now && self.waiting.len() >= self.queue_length {
            return Err(QmpError::QueueFull { command: command.to_owned() });
        }
        let id = self.next_id;
        self.next_id += 1;
        self.waiting.push_back(Waiting {
            id,
            command: command.to_owned(),
            line: encode_command(id, command, arguments),
            reply_deadline,
            expires_at: now + reply_deadline,
        });
        self.send_next(now);
        Ok(id)
    }

    /// Nobody waits for this command any more. It is not sent if it has not been; otherwise its reply will be
    /// counted as late and dropped.
    pub fn withdraw(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
        if let Some(in_flight) = self.in_flight.as_mut().filter(|in_flight| in_flight.id == id) {
            in_flight.wanted = false;
        }
    }

    /// Acts on every deadline that has passed by `now`.
    pub fn tick(&mut self, now: Duration) {
        match &self.phase {
            Phase::AwaitGreeting { deadline, heard_bytes } if *deadline <= now => {
                self.close(if *heard_bytes { CloseReason::NotQmp } else { CloseReason::Busy });
            }
            Phase::Negotiating { deadline, .. } if *deadline <= now => self.close(CloseReason::Unresponsive),
            _ => {}
        }
        self.expire_waiting(now);
        if let Some(in_flight) = self.in_flight.as_mut().filter(|f| f.deadline.is_some_and(|d| d <= now)) {
            in_flight.deadline = None;
            if std::mem::take(&mut in_flight.wanted) {
                let command = in_flight.command.clone();
                let reply = Err(QmpError::OutcomeUnknown { command });
                self.outputs.push_back(Output::Reply { id: in_flight.id, reply });
            }
            self.free_wire_if_reply_is_lost(now);
        }
    }

    /// When [`Session::tick`] is to be called next, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::AwaitGreeting { deadline, .. } | Phase::Negotiating { deadline, .. } => Some(*deadline),
            Phase::Ready | Phase::Closed(_) => None,
        };
        let in_flight = self.in_flight.as_ref().and_then(|in_flight| in_flight.deadline);
        let waiting = self.waiting.iter().map(|waiting| waiting.expires_at).min();
        [phase, in_flight, waiting].into_iter().flatten().min()
    }

    /// Ends the session, for instance at end of file: every command that is not answered yet is answered now.
    pub fn close(&mut self, close: CloseReason) {
        if self.is_closed() {
            return;
        }
        if let Some(bad_line) = self.codec.finish() {
            self.report(Anomaly::BadLine(bad_line));
        }
        let in_flight = self.in_flight.take().filter(|f| f.wanted).map(|f| (f.id, true));
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|waiting| (waiting.id, false));
        for (id, in_flight) in in_flight.into_iter().chain(waiting) {
            let reply = Err(QmpError::Closed { close: close.clone(), in_flight });
            self.outputs.push_back(Output::Reply { id, reply });
        }
        self.outputs.push_back(Output::Closed(close.clone()));
        self.phase = Phase::Closed(close);
    }

    /// The next thing to do. Call until `None` after every input.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gives back the memory of queues in which nothing waits.
    pub fn rest(&mut self) {
        if self.waiting.is_empty() && self.outputs.is_empty() {
            self.waiting.shrink_to_fit();
            self.outputs.shrink_to_fit();
        }
    }

    /// What went wrong so far, by kind.
    pub fn anomaly_counts(&self) -> AnomalyCounts {
        self.counts
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    fn expire_waiting(&mut self, now: Duration) {
        let (expired, waiting): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|waiting| waiting.expires_at <= now);
        self.waiting = waiting.into();
        for Waiting { id, command, .. } in expired {
            self.outputs.push_back(Output::Reply { id, reply: Err(QmpError::NotSent { command }) });
        }
    }

    fn on_message(&mut self, message: Message, now: Duration) {
        match message {
            Message::Event(event) => self.outputs.push_back(Output::Event(event)),
            Message::Greeting(version) => self.on_greeting(version, now),
            Message::Return { id, value } => self.on_reply(id, now, |_| Ok(value)),
            Message::Error { id, class, desc } => {
                self.on_reply(id, now, |command| Err(QmpError::Refused { command, class, desc }));
            }
        }
    }

    fn on_greeting(&mut self, version: Version, now: Duration) {
        if !matches!(self.phase, Phase::AwaitGreeting { .. }) {
            return self.report(Anomaly::StrayGreeting);
        }
        let line = encode_command(NEGOTIATION_ID, "qmp_capabilities", Value::Null);
        self.outputs.push_back(Output::Write(line));
        self.phase = Phase::Negotiating { deadline: now + self.negotiate_deadline, version };
    }

    fn on_reply(
        &mut self,
        id: Option<u64>,
        now: Duration,
        reply: impl FnOnce(String) -> Result<Value, QmpError>,
    ) {
        if id == Some(NEGOTIATION_ID)
            && let Phase::Negotiating { version, .. } = &self.phase
        {
            let version = version.clone();
            return self.on_negotiated(version, reply("qmp_capabilities".to_owned()), now);
        }
        if let Some(in_flight) = self.in_flight.take_if(|in_flight| Some(in_flight.id) == id) {
            if in_flight.wanted {
                let reply = reply(in_flight.command);
                self.outputs.push_back(Output::Reply { id: in_flight.id, reply });
            } else {
                self.report(Anomaly::LateReply { id: in_flight.id });
            }
            return self.send_next(now);
        }
        match id {
            Some(id) if self.was_sent(id) => self.report(Anomaly::LateReply { id }),
            _ => {
                self.report(Anomaly::UnmatchedReply { id });
                self.suspect_lost_reply(now);
            }
        }
    }

    fn on_negotiated(&mut self, version: Version, reply: Result<Value, QmpError>, now: Duration) {
        match reply {
            Ok(_) => {
                self.phase = Phase::Ready;
                self.outputs.push_back(Output::Ready(version));
                self.send_next(now);
            }
            Err(refusal) => self.close(CloseReason::Refused { desc: refusal.to_string() }),
        }
    }

    fn on_bad_line(&mut self, bad_line: BadLine, now: Duration) {
        self.report(Anomaly::BadLine(bad_line));
        self.suspect_lost_reply(now);
    }

    fn suspect_lost_reply(&mut self, now: Duration) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.reply_may_be_lost = true;
        }
        self.free_wire_if_reply_is_lost(now);
    }

    fn free_wire_if_reply_is_lost(&mut self, now: Duration) {
        self.in_flight.take_if(|in_flight| in_flight.deadline.is_none() && in_flight.reply_may_be_lost);
        self.send_next(now);
    }

    fn was_sent(&self, id: u64) -> bool {
        let waits = self.waiting.iter().any(|waiting| waiting.id == id);
        (NEGOTIATION_ID..self.next_id).contains(&id) && !waits
    }

    fn send_next(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Ready) || self.in_flight.is_some() {
            return;
        }
        if let Some(Waiting { id, command, line, reply_deadline, .. }) = self.waiting.pop_front() {
            let deadline = Some(now + reply_deadline);
            self.in_flight = Some(InFlight { id, command, deadline, wanted: true, reply_may_be_lost: false });
            self.outputs.push_back(Output::Write(line));
        }
    }

    fn report(&mut self, anomaly: Anomaly) {
        self.counts.count(&anomaly);
        self.outputs.push_back(Output::Anomaly(anomaly));
    }
}
