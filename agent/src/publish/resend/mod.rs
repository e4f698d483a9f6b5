//! Sends events again that a fleet's ledger asks for, byte for byte as they were sent before.
//!
//! ```text
//!   `dormouse ledger check --resend` ─▶ ingest ─▶ NATS subject or Redis stream ─▶ Requests
//!                                                                                  │ a run of numbers
//!           sink ◀── batch by batch ◀── ledger's readers ◀── what of it ◀── Answers (pure)
//! ```
//!
//! Nobody waits for this, and it moves no sink's cursor: it has a connection and a reader of its own for each sink. It
//! answers one request after the other, each with so many events at most; what was not answered is asked for again.
//!
//! What it never does: send an event that the sink's cursor has not passed, because that would come out of order; or
//! make up what is no longer kept. Of that the fleet is told by an event of its own (`dev.dormouse.retention.v1`), in the
//! outbox like any other: signed, numbered, and sent again itself where it is asked for.

mod answers;
mod stream;
mod subject;

use std::time::Duration;

use dormouse_ledger::{Class, LedgerError, OutboxStanding, Reader, Record, Writer};
use tokio::sync::watch;

pub use answers::{Answer, Answers, Run};
pub(super) use stream::Stream;
pub(super) use subject::Subject;

use super::line::Line;
use super::sink::{Sink, SinkError};
use crate::clock::Clock;

/// How long a server that cannot be listened to is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// Where requests come from.
pub(super) trait Requests: Send + 'static {
    /// Waits for the next request to this host, connecting first where there is no connection. After an error it may be
    /// called again.
    fn next(&mut self) -> impl Future<Output = Result<Run, SinkError>> + Send;
}

/// What requests to one sink's events are answered with.
pub(super) struct Answering<S> {
    pub(super) sink: String,
    pub(super) line: Line<S>,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) clock: Clock,
    /// Turns true when the agent ends.
    pub(super) stopping: watch::Receiver<bool>,
}

/// Answers requests until the agent ends.
pub(super) async fn run<R: Requests, S: Sink>(mut requests: R, mut answering: Answering<S>) {
    let mut stopping = answering.stopping.clone();
    let work = async {
        let mut answers = Answers::default();
        loop {
            match requests.next().await {
                Ok(asked) => answering.answer(&mut answers, asked).await,
                Err(error) => {
                    let sink = &answering.sink;
                    tracing::debug!(sink, %error, "requests to send again cannot be heard");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
}

impl<S: Sink> Answering<S> {
    async fn answer(&mut self, answers: &mut Answers, asked: Run) {
        // A look at three numbers: no more than a moment.
        let standing = match self.reader.outbox_standing() {
            Ok(standing) => standing,
            Err(error) => return tracing::warn!(%error, "the outbox cannot be read"),
        };
        let now_ns = self.clock.now().boottime_ns;
        let acknowledged_seq = acknowledged(&standing, &self.sink);
        let answer = answers.to(now_ns, asked, standing.retained_after_seq, acknowledged_seq);
        let mut told = None;
        if let Some(Run { first_seq, last_seq }) = answer.gone {
            let (sink, reason) = (&self.sink, "RESEND_NOT_KEPT");
            tracing::warn!(sink, first_seq, last_seq, reason, "events are asked for that are no longer kept");
            told = match self.tell_retention().await {
                Ok(told) => told.filter(|told| *told <= acknowledged_seq),
                Err(error) => {
                    return tracing::warn!(%error, "that cannot be told; it will be asked for again");
                }
            };
        }
        let told = told.and_then(|host_seq| Run::new(host_seq, host_seq));
        for run in answer.again.into_iter().chain(told) {
            self.send(run).await;
        }
    }

    /// Sees to it that there is an event which tells through which number events are gone; its number, if the sink may
    /// have had it before.
    async fn tell_retention(&mut self) -> Result<Option<u64>, LedgerError> {
        let told = self.reader.retention_told()?;
        if told.is_none() {
            let (writer, at_unix_ns) = (self.writer.clone(), self.clock.now().wall_ns);
            let write = move || writer.write(Class::Fact, vec![Record::TellRetention { at_unix_ns }]);
            match tokio::task::spawn_blocking(write).await {
                Ok(written) => _ = written?,
                Err(error) => tracing::error!(%error, "the outbox was not written"),
            }
        }
        Ok(told)
    }

    async fn send(&mut self, run: Run) {
        let (sink, Run { first_seq, last_seq }) = (&self.sink, run);
        tracing::info!(sink, first_seq, last_seq, "events are sent again, because they were asked for");
        let mut after = first_seq - 1;
        while after < last_seq {
            let delivered = self.line.deliver(after, last_seq).await;
            after += delivered.stored as u64;
            if let Some(error) = delivered.failure {
                return tracing::warn!(sink, %error, after, "sending again ended; it will be asked for again");
            }
        }
    }
}

fn acknowledged(standing: &OutboxStanding, sink: &str) -> u64 {
    standing.sinks.iter().find(|it| it.name == sink).map_or(0, |it| it.acknowledged_seq)
}
