//! What a sink is to the publisher.

use std::future::Future;

use dormouse_ledger::{LedgerError, OutboxRow};

/// Stores events somewhere else.
///
/// A sink may be given events that it has stored before: with the same ids and bytes, after a failure or a crash.
pub(super) trait Sink: Send + 'static {
    /// Delivers events in their order, connecting first where there is no connection. When the future is dropped before
    /// its end, nothing that was sent by it may still reach the sink behind events of a later call.
    fn deliver(&mut self, events: &[OutboxRow]) -> impl Future<Output = Delivered> + Send;
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Delivered {
    /// How many events, from the first, the sink has said that it stored.
    pub(super) stored: usize,
    /// Why not all of them.
    pub(super) failure: Option<SinkError>,
}

impl Delivered {
    /// All of them.
    pub(super) fn all(events: &[OutboxRow]) -> Self {
        Self { stored: events.len(), failure: None }
    }

    /// None that is known.
    pub(super) fn failed(failure: SinkError) -> Self {
        Self { stored: 0, failure: Some(failure) }
    }
}

/// Why a sink did not store what it was given. Every one of them is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum SinkError {
    /// `SINK_UNREACHABLE`: there is no connection, or it was lost.
    #[error("the sink cannot be reached: {0} [SINK_UNREACHABLE]")]
    Unreachable(String),
    /// `SINK_TIMEOUT`: the sink did not answer in time.
    #[error("the sink did not store a batch within {0} ms [SINK_TIMEOUT]")]
    Timeout(u64),
    /// `SINK_REFUSED`: the sink answered that it does not store an event.
    #[error("the sink refused: {0} [SINK_REFUSED]")]
    Refused(String),
    /// `SINK_MISCONFIGURED`: a credential or a certificate that the configuration names is not there or not right.
    #[error("the sink is not configured right: {0} [SINK_MISCONFIGURED]")]
    Misconfigured(String),
    /// `SINK_NO_EVENTS`: the ledger cannot be read, or an event is missing from it.
    #[error("the events cannot be read: {0} [SINK_NO_EVENTS]")]
    NoEvents(String),
}

impl From<LedgerError> for SinkError {
    fn from(error: LedgerError) -> Self {
        Self::NoEvents(error.to_string())
    }
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        text
    })
}
