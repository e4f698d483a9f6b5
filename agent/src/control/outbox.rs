//! The outbox in the words of the wire.

use dormouse_ledger::{OutboxRow, OutboxStanding, SinkStanding};

use crate::proto;

/// Where the outbox and its sinks stand, `now_unix_ns` by the wall clock.
pub(crate) fn outbox(standing: OutboxStanding, now_unix_ns: i64) -> proto::OutboxReply {
    proto::OutboxReply {
        retained_after_seq: standing.retained_after_seq,
        last_seq: standing.last_seq,
        sinks: standing.sinks.into_iter().map(|it| sink(it, now_unix_ns)).collect(),
    }
}

fn sink(sink: SinkStanding, now_unix_ns: i64) -> proto::Sink {
    let age_ns = |since_unix_ns: i64| u64::try_from(now_unix_ns.saturating_sub(since_unix_ns)).unwrap_or(0);
    proto::Sink {
        name: sink.name,
        acknowledged_seq: sink.acknowledged_seq,
        lag_events: sink.lag_events,
        lag_age_ns: sink.oldest_unix_ns.map_or(0, age_ns),
        since_unix_ns: sink.since_unix_ns,
        error: sink.error.unwrap_or_default(),
        error_unix_ns: sink.error_unix_ns.unwrap_or_default(),
    }
}

/// An event, byte for byte.
pub(crate) fn event(event: OutboxRow) -> proto::Event {
    proto::Event { host_seq: event.host_seq, payload: event.payload }
}
