//! Lets go of events that every sink has and that are old enough.

use std::time::Duration;

use dormouse_ledger::{Class, LedgerError, Reader, Record, Writer};
use tokio::sync::watch;

use crate::clock::Clock;

/// How often it is looked whether events may go.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Between units of deletions, so that a long backlog of them leaves the disk to metering.
const PAUSE: Duration = Duration::from_millis(20);

/// Lets events go until the agent ends.
pub(super) async fn run(
    reader: Reader,
    writer: Writer,
    clock: Clock,
    retention: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let retention_ns = i64::try_from(retention.as_nanos()).unwrap_or(i64::MAX);
    let mut reader = Some(reader);
    while let Some(mut taken) = reader.take() {
        let at_unix_ns = clock.now().wall_ns;
        let retain = Record::Retain { before_unix_ns: at_unix_ns.saturating_sub(retention_ns), at_unix_ns };
        let writer = writer.clone();
        let round = tokio::task::spawn_blocking(move || {
            let has_more = let_go(&taken, &writer, retain).unwrap_or_else(|error| {
                tracing::warn!(%error, reason = error.reason(), "events that every sink has stay for now");
                false
            });
            (taken, has_more)
        });
        let Ok((returned, has_more)) = round.await else { return };
        taken = returned;
        let pause = if has_more { PAUSE } else { LOOK_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => reader = Some(taken),
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }
}

/// Lets one unit of events go. Whether there may be more.
fn let_go(reader: &Reader, writer: &Writer, retain: Record) -> Result<bool, LedgerError> {
    let kept_from = reader.outbox_standing()?.retained_after_seq;
    writer.write(Class::Fact, vec![retain])?;
    Ok(reader.outbox_standing()?.retained_after_seq > kept_from)
}
