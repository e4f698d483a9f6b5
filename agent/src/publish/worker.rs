//! The shell around a [`Cursor`]: reads batches from the ledger, hands them to the sink, saves what was acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dormouse_ledger::{Class, OutboxRow, Reader, Record, SinkProgress, Writer};
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use tokio::sync::{mpsc, watch};

use super::cursor::{Action, Backoff, Cursor, Input, Standing};
use super::sink::{Delivered, Sink, SinkError};
use crate::clock::Clock;
use crate::config;

/// The most bytes of events that a batch holds, but for the last event in it.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long the agent waits for the last save when it ends. Without it, events are sent again.
const LAST_SAVE: Duration = Duration::from_secs(1);

/// What a worker works with.
pub(super) struct Worker<S> {
    pub(super) config: config::Sink,
    pub(super) sink: S,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) clock: Clock,
    /// The last durable event.
    pub(super) head: watch::Receiver<u64>,
    /// Turns true when the agent ends.
    pub(super) stopping: watch::Receiver<bool>,
}

/// A sink and the ledger's events: one batch at a time goes from one to the other.
struct Line<S> {
    sink: S,
    reader: Arc<Mutex<Reader>>,
    batch_events: usize,
    timeout_ms: u64,
}

impl<S: Sink> Worker<S> {
    /// Delivers events until the agent ends.
    pub(super) async fn run(self, standing: Standing) {
        let Self { config, sink, reader, writer, clock, mut head, mut stopping } = self;
        let millis = |ms: u64| ms.saturating_mul(1_000_000);
        let backoff =
            Backoff { min_ns: millis(config.backoff_min_ms), max_ns: millis(config.backoff_max_ms) };
        let mut cursor = Cursor::new(backoff, standing, *head.borrow_and_update());
        let mut idle = Some(Line {
            sink,
            reader: Arc::new(Mutex::new(reader)),
            batch_events: usize::try_from(config.batch_events).unwrap_or(usize::MAX),
            timeout_ms: config.timeout_ms,
        });
        let mut under_way: OptionFuture<BoxFuture<'static, (Line<S>, Delivered)>> = None.into();
        let (done, mut saved) = mpsc::unbounded_channel();
        let store = Store { sink: config.name, writer, clock: clock.clone(), done };
        let mut input = Input::Time;
        loop {
            let failing = cursor.is_failing();
            for action in cursor.step(clock.now().boottime_ns, input) {
                match action {
                    Action::Deliver { after } => {
                        under_way = idle.take().map(|line| line.deliver(after).boxed()).into();
                    }
                    Action::Save(standing) => store.save(standing),
                }
            }
            store.log(failing, cursor.standing());
            input = tokio::select! {
                Some((line, delivered)) = &mut under_way => {
                    (idle, under_way) = (Some(line), None.into());
                    outcome(delivered)
                }
                Some(()) = saved.recv() => Input::Saved,
                Ok(()) = head.changed() => Input::Head(*head.borrow_and_update()),
                () = wait(&cursor, &clock) => Input::Time,
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
        }
        if let Some(standing) = cursor.unsaved() {
            store.save(standing.clone());
            // A ledger that takes nothing now has said so elsewhere.
            let _ = tokio::time::timeout(LAST_SAVE, saved.recv()).await;
        }
    }
}

/// Until the cursor is to be told the time.
async fn wait(cursor: &Cursor, clock: &Clock) {
    match cursor.wake_at_ns() {
        Some(at_ns) => {
            let wait_ns = at_ns.saturating_sub(clock.now().boottime_ns);
            tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
        }
        None => std::future::pending().await,
    }
}

fn outcome(delivered: Delivered) -> Input {
    // Without a random number the wait is the least.
    let random = getrandom::u64().unwrap_or_default();
    let failure = delivered.failure.map(|error| error.to_string());
    Input::Delivered { stored: delivered.stored as u64, failure, random }
}

impl<S: Sink> Line<S> {
    async fn deliver(mut self, after: u64) -> (Self, Delivered) {
        let events = match read(Arc::clone(&self.reader), after, self.batch_events).await {
            Ok(events) => events,
            Err(failure) => return (self, Delivered::failed(failure)),
        };
        let limit = Duration::from_millis(self.timeout_ms);
        let delivered = tokio::time::timeout(limit, self.sink.deliver(&events))
            .await
            .unwrap_or_else(|_| Delivered::failed(SinkError::Timeout(self.timeout_ms)));
        (self, delivered)
    }
}

/// The events that follow number `after`. No gap is ever stepped over.
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

/// Where the standing of one sink is kept.
struct Store {
    sink: String,
    writer: Writer,
    clock: Clock,
    done: mpsc::UnboundedSender<()>,
}

impl Store {
    fn save(&self, standing: Standing) {
        let progress = SinkProgress {
            sink: self.sink.clone(),
            acknowledged_seq: standing.acknowledged_seq,
            at_unix_ns: self.clock.now().wall_ns,
            error: standing.error,
        };
        let done = self.done.clone();
        // What could not be saved is saved with the next progress; the worker that waited may be gone.
        let answer = Box::new(move |_| {
            let _ = done.send(());
        });
        if let Err(refused) = self.writer.submit(Class::Fact, vec![Record::SinkProgress(progress)], answer) {
            refused.answer();
        }
    }

    /// Says once when a sink begins to fail and when it is over.
    fn log(&self, was_failing: bool, standing: &Standing) {
        let Standing { acknowledged_seq, error } = standing;
        match error {
            Some(error) if !was_failing => {
                tracing::warn!(sink = self.sink, acknowledged_seq, error, "events wait for a sink");
            }
            None if was_failing => {
                tracing::info!(sink = self.sink, acknowledged_seq, "the sink takes events again");
            }
            _ => {}
        }
    }
}
