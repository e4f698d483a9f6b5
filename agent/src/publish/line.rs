//! From the ledger's events to a sink: one batch at a time, in order, and no gap is ever stepped over.
//!
//! A batch that is full has more behind it: that is read while the sink stores the batch. One batch ahead and no more; it
//! is given to the sink once the one before it is stored, and read anew if that was not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_ledger::{OutboxRow, Reader};
use tokio::task::JoinHandle;

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
    ahead: Option<Ahead>,
}

/// Events that are being read before it is their turn.
struct Ahead {
    after: u64,
    events: JoinHandle<Result<Vec<OutboxRow>, SinkError>>,
}

impl<S: Sink> Line<S> {
    /// A line to a sink, with a reader of its own.
    pub(super) fn new(sink: S, reader: Reader, config: &config::Sink) -> Self {
        Self {
            sink,
            reader: Arc::new(Mutex::new(reader)),
            batch_events: usize::try_from(config.batch_events).unwrap_or(usize::MAX),
            timeout_ms: config.timeout_ms,
            ahead: None,
        }
    }

    /// Delivers events that follow number `after`, up to `last` at most: one batch.
    pub(super) async fn deliver(&mut self, after: u64, last: u64) -> Delivered {
        let events = match self.events(after, last).await {
            Ok(events) => events,
            Err(failure) => return Delivered::failed(failure),
        };
        if let Some(next) = events.last().filter(|_| self.is_full(&events)) {
            self.read_ahead(next.host_seq, last);
        }
        let limit = Duration::from_millis(self.timeout_ms);
        tokio::time::timeout(limit, self.sink.deliver(&events))
            .await
            .unwrap_or_else(|_| Delivered::failed(SinkError::Timeout(self.timeout_ms)))
    }

    /// What was read ahead, where it is that; an error of it is not one before its turn.
    async fn events(&mut self, after: u64, last: u64) -> Result<Vec<OutboxRow>, SinkError> {
        let events_max = self.events_max(after, last);
        if let Some(ahead) = self.ahead.take().filter(|ahead| ahead.after == after)
            && let Ok(Ok(mut events)) = ahead.events.await
        {
            events.truncate(events_max);
            return Ok(events);
        }
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || read(&reader, after, events_max));
        read.await.map_err(|error| SinkError::NoEvents(error.to_string()))?
    }

    fn read_ahead(&mut self, after: u64, last: u64) {
        let (reader, events_max) = (Arc::clone(&self.reader), self.events_max(after, last));
        if events_max > 0 {
            let events = tokio::task::spawn_blocking(move || read(&reader, after, events_max));
            self.ahead = Some(Ahead { after, events });
        }
    }

    fn events_max(&self, after: u64, last: u64) -> usize {
        self.batch_events.min(usize::try_from(last.saturating_sub(after)).unwrap_or(usize::MAX))
    }

    fn is_full(&self, events: &[OutboxRow]) -> bool {
        let bytes = || events.iter().map(|event| event.payload.len()).sum::<usize>();
        events.len() >= self.batch_events || bytes() >= BATCH_BYTES_MAX
    }
}

/// The events that follow number `after`: at least one, and none is missing between them.
fn read(reader: &Mutex<Reader>, after: u64, events_max: usize) -> Result<Vec<OutboxRow>, SinkError> {
    let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
    let events = reader.outbox_batch(after, events_max, BATCH_BYTES_MAX)?;
    let gap = (after + 1..).zip(&events).find(|(expected, event)| event.host_seq != *expected);
    match gap {
        Some((missing, _)) => Err(SinkError::NoEvents(format!("event {missing} is missing"))),
        None if events.is_empty() => Err(SinkError::NoEvents(format!("event {} is missing", after + 1))),
        None => Ok(events),
    }
}

#[cfg(test)]
mod tests {
    use dormouse_ledger::{Class, HostName, Ledger, Record, Watermark};

    use super::*;

    const HOUR_NS: i64 = 3_600_000_000_000;

    /// Keeps what it was given, and stores one event of a batch where it is to fail.
    #[derive(Default)]
    struct Given {
        numbers: Vec<Vec<u64>>,
        fails: bool,
    }

    impl Sink for Given {
        async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
            self.numbers.push(events.iter().map(|event| event.host_seq).collect());
            if self.fails {
                return Delivered { stored: 1, failure: Some(SinkError::Unreachable("down".to_owned())) };
            }
            Delivered::all(events)
        }
    }

    fn commit(ledger: &Ledger, hours: std::ops::Range<i64>) {
        for hour in hours {
            let watermark = Watermark { hour_unix_ns: hour * HOUR_NS, at_unix_ns: hour * HOUR_NS };
            ledger.writer().write(Class::Fact, vec![Record::Watermark(watermark)]).expect("it is stored");
        }
    }

    #[tokio::test]
    async fn behind_a_full_batch_the_next_is_read_ahead_and_whatever_fails_comes_again_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let host = HostName { cell: "cell".to_owned(), host: "h1".to_owned() };
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite"), &host).expect("a ledger");
        commit(&ledger, 1..6);
        let config = config::Sink { batch_events: 2, ..config::Sink::default() };
        let mut line = Line::new(Given::default(), ledger.reader().expect("a reader"), &config);
        let ahead = |line: &Line<Given>| line.ahead.as_ref().map(|ahead| ahead.after);
        assert_eq!((line.deliver(0, u64::MAX).await.stored, ahead(&line)), (2, Some(2)));
        line.sink.fails = true;
        assert_eq!((line.deliver(2, u64::MAX).await.stored, ahead(&line)), (1, Some(4)));
        line.sink.fails = false;
        assert_eq!((line.deliver(3, u64::MAX).await.stored, ahead(&line)), (2, Some(5)));
        // It was read that there is nothing yet: what has come since is found all the same.
        let events = tokio::task::spawn_blocking(|| Err(SinkError::NoEvents("5 are all".to_owned())));
        line.ahead = Some(Ahead { after: 5, events });
        commit(&ledger, 6..8);
        assert_eq!((line.deliver(5, 6).await.stored, ahead(&line)), (1, None), "no further than it was told");
        assert_eq!(line.deliver(6, u64::MAX).await.stored, 1);
        assert!(line.deliver(7, u64::MAX).await.failure.is_some(), "there are seven events");
        assert_eq!(line.sink.numbers, [vec![1, 2], vec![3, 4], vec![4, 5], vec![6], vec![7]]);
    }
}
