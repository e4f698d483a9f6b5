//! The session alone: time is an argument, and nothing waits.

use std::time::Duration;

use crate::support::Heard;
use dormouse_qmp::session::Session;
use dormouse_qmp::{CloseReason, Config, QmpError};
use proptest::prelude::*;
use serde_json::{Value, json};

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}, \"package\": \"\"}, \
     \"capabilities\": [\"oob\"]}}\r\n";
const NEGOTIATED: &str = "{\"return\": {}, \"id\": 0}\r\n";
const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// A session with its clock, and everything it said.
struct Played {
    session: Session,
    now: Duration,
    heard: Heard,
}

impl Played {
    fn begin(config: &Config) -> Self {
        let session = Session::new(config, Duration::ZERO);
        Self { session, now: Duration::ZERO, heard: Heard::default() }
    }

    fn ready(config: &Config) -> Self {
        let mut played = Self::begin(config);
        played.receive(GREETING);
        played.receive(NEGOTIATED);
        played
    }

    fn receive(&mut self, text: impl AsRef<[u8]>) {
        self.session.receive(text.as_ref(), self.now);
        self.heard.take(&mut self.session);
    }

    fn submit(&mut self, command: &str) -> Result<u64, QmpError> {
        self.submit_with(command, Value::Null)
    }

    fn submit_with(&mut self, command: &str, arguments: Value) -> Result<u64, QmpError> {
        let id = self.session.submit(command, arguments, REPLY_DEADLINE, self.now);
        self.heard.take(&mut self.session);
        id
    }

    fn answer(&mut self, id: u64) {
        self.receive(format!("{{\"return\": {{\"to\": {id}}}, \"id\": {id}}}\n"));
    }

    /// Lets the time pass, deadline by deadline, as a shell would.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(deadline) = self.session.next_deadline().filter(|deadline| *deadline <= until) {
            assert!(deadline >= self.now, "a deadline that has been acted on is over");
            self.now = deadline;
            self.session.tick(self.now);
            self.heard.take(&mut self.session);
        }
        self.now = until;
    }

    fn written(&self, index: usize) -> Value {
        serde_json::from_str(&self.heard.written[index]).unwrap()
    }
}

#[test]
fn out_of_band_is_never_enabled() {
    let played = Played::ready(&Config::default());
    assert_eq!(played.written(0), json!({ "execute": "qmp_capabilities", "id": 0 }));
}

#[test]
fn arguments_that_are_none_are_not_written_and_all_others_are() {
    let mut played = Played::ready(&Config::default());
    for (arguments, written) in [
        (Value::Null, ""),
        (json!({}), ""),
        (json!({ "name": null }), r#""arguments":{"name":null},"#),
        (json!({ "list": [], "of": {} }), r#""arguments":{"list":[],"of":{}},"#),
    ] {
        let id = played.submit_with("stop", arguments).unwrap();
        let expected = format!("{{{written}\"execute\":\"stop\",\"id\":{id}}}\n");
        assert_eq!(*played.heard.written.last().unwrap(), expected);
        played.answer(id);
    }
}

#[test]
fn no_greeting_by_the_deadline_means_busy_not_dead() {
    let mut played = Played::begin(&Config::default());
    played.pass(Duration::from_millis(4_999));
    assert_eq!(played.heard.close, None);
    played.pass(Duration::from_millis(1));
    assert_eq!(played.heard.close, Some(CloseReason::Busy));
}

#[test]
fn garbage_instead_of_a_greeting_is_not_qmp() {
    let mut played = Played::begin(&Config::default());
    played.receive("SSH-2.0-OpenSSH_9.2\r\n");
    played.pass(Duration::from_secs(5));
    assert_eq!(played.heard.close, Some(CloseReason::NotQmp));
    assert_eq!(played.heard.counts.bad_lines, 1);
}

#[test]
fn a_qemu_that_does_not_negotiate_is_unresponsive() {
    let mut played = Played::begin(&Config::default());
    played.receive(GREETING);
    played.pass(Duration::from_secs(5));
    assert_eq!(played.heard.close, Some(CloseReason::Unresponsive));
}

#[test]
fn a_qemu_that_refuses_to_negotiate_says_why() {
    let mut played = Played::begin(&Config::default());
    played.receive(GREETING);
    played.receive("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 0}\r\n");
    let Some(CloseReason::Refused { desc }) = played.heard.close else { panic!() };
    assert!(desc.ends_with("no"));
}

#[test]
fn commands_before_the_greeting_wait_for_the_negotiation() {
    let mut played = Played::begin(&Config::default());
    let id = played.submit("query-status").unwrap();
    played.receive(GREETING);
    assert_eq!(played.heard.written.len(), 1);
    played.receive(NEGOTIATED);
    assert_eq!(played.written(1), json!({ "execute": "query-status", "id": id }));
}

#[test]
fn one_command_is_in_flight_at_a_time() {
    let mut played = Played::ready(&Config::default());
    let (first, second) = (played.submit("stop").unwrap(), played.submit("cont").unwrap());
    assert_eq!(played.heard.written.len(), 2, "the negotiation and the first");
    played.answer(first);
    assert_eq!(played.written(2)["execute"], "cont");
    played.answer(second);
    assert_eq!(played.heard.outcomes(), [(first, "ok"), (second, "ok")]);
    assert_eq!(played.heard.reply(second).as_ref().unwrap()["to"], second);
}

#[test]
fn a_command_beyond_the_queue_is_refused_and_never_sent() {
    let mut played = Played::ready(&Config { queue_length: 2, ..Config::default() });
    let ids: Vec<_> = (0..3).map(|_| played.submit("stop").unwrap()).collect();
    assert_eq!(played.submit("quit").unwrap_err().reason(), "qmp_queue_full");
    for id in ids {
        played.answer(id);
    }
    assert_eq!(played.heard.replies.len(), 3);
    assert!(!played.heard.written.concat().contains("quit"));
}

#[test]
fn a_timed_out_command_has_an_unknown_outcome() {
    let mut played = Played::ready(&Config::default());
    let id = played.submit("stop").unwrap();
    played.pass(REPLY_DEADLINE);
    assert_eq!(played.heard.outcomes(), [(id, "qmp_outcome_unknown")]);
    assert!(played.heard.reply(id).as_ref().unwrap_err().may_have_happened());
    assert_eq!(played.heard.close, None, "the session goes on");
}

#[test]
fn a_late_reply_is_counted_and_dropped() {
    let mut played = Played::ready(&Config::default());
    let late = played.submit("stop").unwrap();
    played.pass(REPLY_DEADLINE);
    played.answer(late);
    played.answer(late);
    assert_eq!(played.heard.counts.late_replies, 2);
    let next = played.submit("cont").unwrap();
    played.answer(next);
    assert_eq!(played.heard.outcomes(), [(late, "qmp_outcome_unknown"), (next, "ok")]);
}

#[test]
fn what_waits_behind_a_hanging_command_is_never_sent_and_says_so() {
    let mut played = Played::ready(&Config::default());
    let hanging = played.submit("stop").unwrap();
    played.pass(Duration::from_secs(20));
    let waiting = played.submit("quit").unwrap();
    played.pass(Duration::from_mins(1));
    assert_eq!(played.heard.outcomes(), [(hanging, "qmp_outcome_unknown"), (waiting, "qmp_not_sent")]);
    assert!(!played.heard.reply(waiting).as_ref().unwrap_err().may_have_happened());
    played.answer(hanging);
    assert!(!played.heard.written.concat().contains("quit"));
}

#[test]
fn a_reply_lost_in_a_bad_line_holds_the_wire_until_its_deadline_only() {
    for bad_line_after_deadline in [false, true] {
        let mut played = Played::ready(&Config::default());
        let lost = played.submit("stop").unwrap();
        if !bad_line_after_deadline {
            played.receive("{\"return\": {}, \"id\":\n");
        }
        played.pass(REPLY_DEADLINE);
        if bad_line_after_deadline {
            played.receive("{\"return\": {}, \"id\":\n");
        }
        let next = played.submit("cont").unwrap();
        played.answer(next);
        assert_eq!(played.heard.outcomes(), [(lost, "qmp_outcome_unknown"), (next, "ok")]);
    }
}

#[test]
fn a_withdrawn_command_is_not_sent_and_one_in_flight_is_answered_to_nobody() {
    let mut played = Played::ready(&Config::default());
    let (in_flight, waiting) = (played.submit("stop").unwrap(), played.submit("quit").unwrap());
    played.session.withdraw(in_flight);
    played.session.withdraw(waiting);
    let next = played.submit("cont").unwrap();
    played.answer(in_flight);
    played.answer(next);
    assert_eq!(played.heard.outcomes(), [(next, "ok")]);
    assert_eq!(played.heard.counts.late_replies, 1);
    assert!(!played.heard.written.concat().contains("quit"));
}

#[test]
fn a_reply_to_a_command_nobody_sent_is_counted_and_dropped() {
    let mut played = Played::ready(&Config::default());
    let in_flight = played.submit("stop").unwrap();
    let waiting = played.submit("cont").unwrap();
    played.answer(waiting);
    played.answer(4_711);
    played.receive("{\"return\": {}}\n{\"return\": {}, \"id\": \"text\"}\n{\"return\": {}, \"id\": -1}\n");
    assert_eq!(played.heard.counts.unmatched_replies, 5);
    played.answer(in_flight);
    played.answer(waiting);
    assert_eq!(played.heard.outcomes(), [(in_flight, "ok"), (waiting, "ok")]);
}

#[test]
fn a_second_greeting_is_counted_and_changes_nothing() {
    let mut played = Played::ready(&Config::default());
    played.receive(GREETING);
    assert_eq!(played.heard.counts.stray_greetings, 1);
    let id = played.submit("stop").unwrap();
    played.answer(id);
    assert_eq!(played.heard.outcomes(), [(id, "ok")]);
}

#[test]
fn one_bad_line_never_ends_a_session() {
    let bad_lines: [&[u8]; 7] = [
        b"\xff\n",
        b"\xff{\"return\": {}, \"id\": 1}\r\n",
        b"not json\r\n",
        b"{\"return\": \n",
        b"[]\n",
        b"{}\n",
        b"{\"QMP\": {}}\n",
    ];
    let mut played = Played::ready(&Config::default());
    for bad_line in bad_lines {
        played.receive(bad_line);
    }
    played.receive("\n\r\n  \n");
    assert_eq!(played.heard.counts.bad_lines, 7, "blank lines are not bad");
    let id = played.submit("stop").unwrap();
    played.answer(id);
    assert_eq!(played.heard.outcomes(), [(id, "ok")]);
}

#[test]
fn the_end_answers_every_command_and_tells_those_that_may_have_happened() {
    let mut played = Played::ready(&Config::default());
    let (in_flight, waiting) = (played.submit("stop").unwrap(), played.submit("cont").unwrap());
    played.receive("{\"return\"");
    played.session.close(CloseReason::Eof);
    played.heard.take(&mut played.session);
    assert!(played.heard.reply(in_flight).as_ref().unwrap_err().may_have_happened());
    assert!(!played.heard.reply(waiting).as_ref().unwrap_err().may_have_happened());
    assert_eq!(played.heard.counts.bad_lines, 1, "the line that was cut off");
    assert_eq!(played.submit("stop").unwrap_err().reason(), "qmp_eof");
    assert_eq!(played.session.next_deadline(), None);
}

/// What may happen to a session, for the property below.
#[derive(Debug, Clone)]
enum Input {
    Submit,
    /// Answers the command with this id, sent or not.
    Answer(u64),
    Withdraw(u64),
    BadLine,
    Pass(u64),
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        3 => Just(Input::Submit),
        3 => (0..12_u64).prop_map(Input::Answer),
        1 => (0..12_u64).prop_map(Input::Withdraw),
        1 => Just(Input::BadLine),
        2 => (0..40_u64).prop_map(Input::Pass),
    ]
}

proptest! {
    #[test]
    fn ids_match_whatever_happens(inputs in prop::collection::vec(input(), 0..60)) {
        let mut played = Played::ready(&Config { queue_length: 3, ..Config::default() });
        let (mut submitted, mut withdrawn) = (Vec::new(), Vec::new());
        for input in inputs {
            match input {
                Input::Submit => submitted.extend(played.submit("stop").ok()),
                Input::Answer(id) => played.answer(id),
                Input::Withdraw(id) => {
                    played.session.withdraw(id);
                    withdrawn.push(id);
                }
                Input::BadLine => played.receive("?\n"),
                Input::Pass(seconds) => played.pass(Duration::from_secs(seconds)),
            }
        }
        played.session.close(CloseReason::Eof);
        played.heard.take(&mut played.session);

        let mut answered: Vec<u64> = played.heard.replies.iter().map(|reply| reply.0).collect();
        answered.sort_unstable();
        let once: Vec<u64> = submitted.iter().copied().filter(|id| answered.contains(id)).collect();
        prop_assert_eq!(&answered, &once, "each is answered once, and nothing else is");
        for id in &submitted {
            prop_assert!(answered.contains(id) || withdrawn.contains(id), "{} is owed an answer", id);
        }
        for (id, reply) in &played.heard.replies {
            if let Ok(value) = reply {
                prop_assert_eq!(&value["to"], &json!(id));
            }
        }
        let sent = (1..played.heard.written.len()).map(|index| played.written(index)["id"].as_u64().unwrap());
        prop_assert!(sent.is_sorted_by(|a, b| a < b), "in order, and none twice");
    }
}
