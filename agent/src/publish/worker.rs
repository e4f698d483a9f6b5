//! The shell around a [`Cursor`]: reads batches from the ledger, hands them to the sink, saves what was acknowledged.

use std::time::Duration;

use dormouse_ledger::{Class, Reader, Record, SinkProgress, Writer};
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use tokio::sync::{mpsc, watch};

use super::cursor::{Action, Backoff, Cursor, Input, Standing};
use super::line::Line;
use super::sink::{Delivered, Sink};
use crate::clock::Clock;
use crate::config;

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

impl<S: Sink> Worker<S> {
    /// Delivers events until the agent ends.
    pub(super) async fn run(self, standing: Standing) {
        let Self { config, sink, reader, writer, clock, mut head, mut stopping } = self;
        let millis = |ms: u64| ms.saturating_mul(1_000_000);
        let backoff =
            Backoff { min_ns: millis(config.backoff_min_ms), max_ns: millis(config.backoff_max_ms) };
        let mut cursor = Cursor::new(backoff, standing, *head.borrow_and_update());
        let mut idle = Some(Line::new(sink, reader, &config));
        let mut under_way: OptionFuture<BoxFuture<'static, (Line<S>, Delivered)>> = None.into();
        let (done, mut saved) = mpsc::unbounded_channel();
        let store = Store { sink: config.name, writer, clock: clock.clone(), done };
        let mut input = Input::Time;
        loop {
            let failing = cursor.is_failing();
            for action in cursor.step(clock.now().boottime_ns, input) {
                match action {
                    Action::Deliver { after } => {
                        let batch = idle.take().map(|mut line| async move {
                            let delivered = line.deliver(after, u64::MAX).await;
                            (line, delivered)
                        });
                        under_way = batch.map(FutureExt::boxed).into();
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
