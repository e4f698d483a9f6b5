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
//! make up what is no longer kept. That is told in the log, as `RESEND_NOT_KEPT`.

mod answers;
mod stream;
mod subject;

use std::time::Duration;

use dormouse_ledger::{OutboxStanding, Reader};
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
        let (sink, now_ns) = (&self.sink, self.clock.now().boottime_ns);
        let acknowledged_seq = acknowledged(&standing, sink);
        let answer = answers.to(now_ns, asked, standing.retained_after_seq, acknowledged_seq);
        if let Some(Run { first_seq, last_seq }) = answer.gone {
            let reason = "RESEND_NOT_KEPT";
            tracing::warn!(sink, first_seq, last_seq, reason, "events are asked for that are no longer kept");
        }
        let Some(Run { first_seq, last_seq }) = answer.again else { return };
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
