//! Receiving events.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::shared::Shared;
use crate::event::Event;
use crate::session::{Anomaly, CloseReason};

/// What comes in besides replies.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// Something happened in QEMU.
    Event(Event),
    /// Something was wrong on the wire, and the session goes on.
    Anomaly(Anomaly),
    /// Here this many events and anomalies were dropped, because the consumer was
    /// [`crate::Config::event_queue_length`] behind. QEMU must be asked for its state.
    Gap {
        /// How many were dropped.
        missed: u64,
    },
    /// The session ended. Nothing comes after this.
    Closed(CloseReason),
}

/// Receives what comes in, in the order in which QEMU sent it.
#[derive(Debug)]
pub struct EventStream {
    incoming: mpsc::Receiver<Incoming>,
    shared: Arc<Shared>,
}

impl EventStream {
    pub(super) fn new(incoming: mpsc::Receiver<Incoming>, shared: Arc<Shared>) -> Self {
        Self { incoming, shared }
    }

    /// Waits for the next item; after [`Incoming::Closed`] it is returned again and again. Cancel-safe.
    pub async fn next(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => incoming,
            None => Incoming::Closed(self.shared.close.get().cloned().unwrap_or(CloseReason::Released)),
        }
    }
}
