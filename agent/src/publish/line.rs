//! From the ledger's events to a sink: one batch at a time, in order, and no gap is ever stepped over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_ledger::{OutboxRow, Reader};

use super::sink::{Delivered, Sink, SinkError};
use crate::config;

/// The most bytes of events that a batch holds, but for the last event in it.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A sink and the events that it is given.
pub(super) struct Line<S> {
    sink: S,
    reader: Arc<Mutex<Reader>>,
    batch_events: usize,
    timeout_ms: u64,
}

impl<S: Sink> Line<S> {
    /// A line to a sink, with a reader of its own.
    pub(super) fn new(sink: S, reader: Reader, config: &config::Sink) -> Self {
        Self {
            sink,
            reader: Arc::new(Mutex::new(reader)),
            batch_events: usize::try_from(config.batch_events).unwrap_or(usize::MAX),
            timeout_ms: config.timeout_ms,
        }
    }

    /// Delivers events that follow number `after`, up to `last` at most: one batch.
    pub(super) async fn deliver(&mut self, after: u64, last: u64) -> Delivered {
        let events_max = usize::try_from(last.saturating_sub(after)).unwrap_or(usize::MAX);
        let reader = Arc::clone(&self.reader);
        let events = match read(reader, after, self.batch_events.min(events_max)).await {
            Ok(events) => events,
            Err(failure) => return Delivered::failed(failure),
        };
        let limit = Duration::from_millis(self.timeout_ms);
        tokio::time::timeout(limit, self.sink.deliver(&events))
            .await
            .unwrap_or_else(|_| Delivered::failed(SinkError::Timeout(self.timeout_ms)))
    }
}

async fn read(
    reader: Arc<Mutex<Reader>>,
    after: u64,
    events_max: usize,
) -> Result<Vec<OutboxRow>, SinkError> {
    let read = move || {
        let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.outbox_batch(after, events_max, BATCH_BYTES_MAX)
    };
    let events = tokio::task::spawn_blocking(read)
        .await
        .map_err(|error| SinkError::NoEvents(error.to_string()))?
        .map_err(|error| SinkError::NoEvents(error.to_string()))?;
    let gap = (after + 1..).zip(&events).find(|(expected, event)| event.host_seq != *expected);
    match gap {
        Some((missing, _)) => Err(SinkError::NoEvents(format!("event {missing} is missing"))),
        None if events.is_empty() => Err(SinkError::NoEvents(format!("event {} is missing", after + 1))),
        None => Ok(events),
    }
}
