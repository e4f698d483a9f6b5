//! PostgreSQL: straight into the fleet's ledger, without a queue between. A batch is one transaction of the same code that
//! `dormouse ledger ingest` stores with, and counts as stored once that is committed.
//!
//! What the ledger does not believe goes to its quarantine and counts as stored here: it would be no other the next time.

use dormouse_ledger::OutboxRow;
use dormouse_ledger::fleet::{Batch, FleetError, FleetLedger};

use super::access::{self, Credentials};
use super::sink::{Delivered, Sink, SinkError};
use crate::config;
use crate::database::{Database, OpenError};

/// The fleet's ledger.
pub(super) struct Postgres {
    config: config::Sink,
    ledger: Option<FleetLedger>,
}

impl Postgres {
    /// The sink of a host's events; connects when there are some.
    pub(super) fn new(config: config::Sink) -> Self {
        Self { config, ledger: None }
    }

    async fn open(&self) -> Result<FleetLedger, SinkError> {
        let login = match access::credentials(&self.config)? {
            Credentials::Password(user, password) => Some((user, password)),
            Credentials::None | Credentials::Token(_) => None,
        };
        let database = Database { url: self.config.url.clone(), login, files: access::files(&self.config) };
        Ok(database.open().await?)
    }
}

impl Sink for Postgres {
    async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
        // Whatever goes wrong before it is put back: the connection ends, and an unfinished transaction with it.
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => match self.open().await {
                Ok(ledger) => ledger,
                Err(failure) => return Delivered::failed(failure),
            },
        };
        let payloads: Vec<&[u8]> = events.iter().map(|event| &event.payload[..]).collect();
        match ledger.ingest(&Batch::decode(&payloads)).await {
            Ok(ingested) => {
                if ingested.quarantined > 0 {
                    let (sink, quarantined) = (&self.config.name, ingested.quarantined);
                    tracing::error!(sink, quarantined, "the fleet's ledger keeps events apart");
                }
                self.ledger = Some(ledger);
                Delivered::all(events)
            }
            Err(error) => Delivered::failed(OpenError::Ledger(error).into()),
        }
    }
}

impl From<OpenError> for SinkError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Unreachable(why) => Self::Unreachable(why),
            OpenError::Ledger(error) if error.is_disconnected() => Self::Unreachable(error.to_string()),
            OpenError::Ledger(error @ (FleetError::Older { .. } | FleetError::Newer { .. })) => {
                Self::Misconfigured(error.to_string())
            }
            OpenError::Ledger(error) => Self::Refused(error.to_string()),
        }
    }
}
