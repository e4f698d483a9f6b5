//! Transcripts of real QEMUs, and a session that is driven by hand.

use std::time::Duration;

use dormouse_qmp::session::{Output, Session};
use dormouse_qmp::{AnomalyCounts, CloseReason, Config, Event, QmpError};
use serde_json::Value;

pub(crate) const BOTH: [&str; 2] = ["10.0.2", "7.2.22"];

/// One line of a transcript: what was sent (`-> `), what QEMU sent (`<- `), or that it left (`EOF`).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    Sent(String),
    Received(String),
    Eof,
}

pub(crate) fn transcript(name: &str, version: &str) -> Vec<Line> {
    let path = format!("{}/tests/transcripts/{name}-{version}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().filter(|line| !line.starts_with('#')).map(Line::parse).collect()
}

impl Line {
    fn parse(line: &str) -> Self {
        match line.split_at_checked(3) {
            Some(("-> ", sent)) => Self::Sent(sent.to_owned()),
            Some(("<- ", received)) => Self::Received(received.to_owned()),
            Some(("EOF", "")) => Self::Eof,
            _ => panic!("not a line of a transcript: {line}"),
        }
    }
}

/// What a session said, by kind.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) replies: Vec<(u64, Result<Value, QmpError>)>,
    pub(crate) events: Vec<Event>,
    pub(crate) counts: AnomalyCounts,
    pub(crate) written: Vec<String>,
    pub(crate) close: Option<CloseReason>,
}

impl Heard {
    pub(crate) fn take(&mut self, session: &mut Session) {
        while let Some(output) = session.next_output() {
            match output {
                Output::Write(bytes) => self.written.push(String::from_utf8(bytes).unwrap()),
                Output::Reply { id, reply } => self.replies.push((id, reply)),
                Output::Event(event) => self.events.push(event),
                Output::Closed(close) => self.close = Some(close),
                Output::Ready(_) | Output::Anomaly(_) => {}
            }
        }
        self.counts = session.anomaly_counts();
    }

    pub(crate) fn event_names(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.name.as_str()).collect()
    }

    /// What the session answered to the command with this id.
    pub(crate) fn reply(&self, id: u64) -> &Result<Value, QmpError> {
        &self.replies.iter().find(|reply| reply.0 == id).unwrap_or_else(|| panic!("no reply to {id}")).1
    }

    /// The reason codes of the replies, in order; `ok` for a return.
    pub(crate) fn outcomes(&self) -> Vec<(u64, &'static str)> {
        let code = |reply: &Result<Value, QmpError>| reply.as_ref().map_or_else(QmpError::reason, |_| "ok");
        self.replies.iter().map(|(id, reply)| (*id, code(reply))).collect()
    }
}

/// Plays a transcript into a session. Its ids are the session's own, for both count from the negotiation.
pub(crate) fn replay(transcript: &[Line]) -> Heard {
    let now = Duration::ZERO;
    let mut session = Session::new(&Config::default(), now);
    let mut heard = Heard::default();
    for line in transcript {
        match line {
            Line::Sent(sent) => submit(&mut session, sent, now),
            Line::Received(received) => session.receive(format!("{received}\r\n").as_bytes(), now),
            Line::Eof => session.close(CloseReason::Eof),
        }
        heard.take(&mut session);
    }
    heard
}

fn submit(session: &mut Session, sent: &str, now: Duration) {
    // What is not a command of ours was sent past the session: only its answers matter.
    let Ok(sent) = serde_json::from_str::<Value>(sent) else { return };
    let (Some(command), Some(id)) = (sent["execute"].as_str(), sent["id"].as_u64()) else { return };
    if command != "qmp_capabilities" {
        let submitted = session.submit(command, sent["arguments"].clone(), Duration::from_secs(30), now);
        assert_eq!(submitted.unwrap(), id, "{sent}");
    }
}
