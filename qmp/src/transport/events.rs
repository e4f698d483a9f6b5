//! Receiving events.

use std::sync::Arc;

use super::shared::Shared;
use crate::event::Event;
use crate::queue::Receiver;
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

/// A place in the stream of events of one connection. The default is its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub(super) u64);

/// Receives what comes in, in the order in which QEMU sent it.
#[derive(Debug)]
pub struct EventStream {
    incoming: Receiver<Box<Incoming>>,
    taken: u64,
    shared: Arc<Shared>,
}

impl EventStream {
    pub(super) fn new(incoming: Receiver<Box<Incoming>>, shared: Arc<Shared>) -> Self {
        Self { incoming, taken: 0, shared }
    }

    /// Waits for the next item; after [`Incoming::Closed`] it is returned again and again. Cancel-safe.
    pub async fn next(&mut self) -> Incoming {
        match self.incoming.recv().await {
            Some(incoming) => {
                self.taken += 1;
                *incoming
            }
            None => Incoming::Closed(self.shared.close.get().cloned().unwrap_or(CloseReason::Released)),
        }
    }

    /// The next item that came before `position`, and `None` once all of them are taken. Never waits for QEMU.
    pub async fn next_before(&mut self, position: Position) -> Option<Incoming> {
        if Position(self.taken) < position { Some(self.next().await) } else { None }
    }
}
