// What the fuzz target does with its bytes, and what the test that replays the corpus does with the corpus.

use std::time::Duration;

use dormouse_qmp::Config;
use dormouse_qmp::session::{Output, Session};
use serde_json::Value;

const LINE_LIMIT_BYTES: usize = 4096;

/// A session that always has a command in flight hears these bytes, whole and byte by byte, and says the same.
pub(crate) fn session(bytes: &[u8]) {
    assert_eq!(heard([bytes]), heard(bytes.chunks(1)));
}

fn heard<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let config = Config { line_limit_bytes: LINE_LIMIT_BYTES, queue_length: 2, ..Config::default() };
    let now = Duration::ZERO;
    let mut session = Session::new(&config, now);
    for command in ["query-status", "stop"] {
        // Waits for the negotiation; the queue has room for both.
        session.submit(command, Value::Null, config.reply_deadline, now).unwrap();
    }
    let mut heard = Vec::new();
    for chunk in chunks {
        session.receive(chunk, now);
        while let Some(output) = session.next_output() {
            if let Output::Event(event) = &output {
                // However strange its data is.
                let _ = event.decode();
            }
            heard.push(format!("{output:?}"));
        }
    }
    session.tick(Duration::from_hours(1));
    heard.push(format!("{:?} {:?}", session.anomaly_counts(), session.next_deadline()));
    heard
}
