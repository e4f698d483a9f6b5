//! Events in the flat envelope of sandbox platforms, for consumers that already read such a stream: made of what the
//! ledger has frozen when they are sent, and the same bytes whenever they are sent again.
//!
//! ```text
//!   slice event ──┬──▶ usage_tick: what the life amounts to behind the slice − what it did before it, each floored
//!                 └──▶ stopped, behind the last slice of a life that has ended
//!   outcome of attach or create, scale, hibernate, wake ──▶ created, scaled, hibernated, woke
//!   anything else ──▶ nothing
//! ```
//!
//! No remainder is kept anywhere: what lies before a slice is read from the ledger, where it never changes
//! ([`Reader::totals_before`]). The [`terms`] by which it is counted are in the ledger, too, each from a number on.

mod envelope;
mod prices;
mod terms;
#[cfg(test)]
mod tests;
mod tick;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dormouse_ledger::usage::LifeTotals;
use dormouse_ledger::{
    HostName, LIFECYCLE_EVENT, LedgerError, OutboxRow, Reader, SLICE_EVENT, SandboxKey, SliceRow,
};
use serde_json::{Value, json};

use super::sink::SinkError;
use envelope::{Told, Worker};
use terms::Agreed;

pub(super) use terms::agree;

/// Makes flat events of those of one host's ledger.
pub(super) struct Flat {
    shared: Arc<Shared>,
}

struct Shared {
    reader: Mutex<Reader>,
    worker: Worker,
    agreed: Agreed,
}

impl Flat {
    /// For a sink whose terms are agreed, with a reader of its own.
    pub(super) fn new(reader: Reader, host: &HostName, sink: &str) -> Result<Self, LedgerError> {
        let agreed = Agreed::read(&reader, sink)?;
        let worker = Worker { cell_id: host.cell.clone(), worker_id: host.host.clone() };
        Ok(Self { shared: Arc::new(Shared { reader: Mutex::new(reader), worker, agreed }) })
    }

    /// The flat events of a batch, in its order: none, one or two of each event.
    pub(super) async fn entries(&self, events: &[OutboxRow]) -> Result<Vec<Vec<u8>>, SinkError> {
        let (shared, events) = (Arc::clone(&self.shared), events.to_vec());
        tokio::task::spawn_blocking(move || shared.entries(&events))
            .await
            .map_err(|error| SinkError::NoEvents(error.to_string()))?
    }
}

impl Shared {
    fn entries(&self, events: &[OutboxRow]) -> Result<Vec<Vec<u8>>, SinkError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut entries, mut lives) = (Vec::with_capacity(events.len()), Lives::default());
        for event in events {
            if event.event_type == SLICE_EVENT {
                let told = Told::read(event)?;
                let slice: SliceRow = told.data()?;
                let life = lives.of(&reader, &slice)?;
                let before = life.totals.clone();
                life.totals.add(&slice)?;
                let terms = self.agreed.at(event.host_seq)?;
                if let Some(tick) = tick::of(&slice, &before, &life.totals, terms)? {
                    entries.push(self.worker.entry(&told, "usage_tick", &told.id, &json!(tick))?);
                }
                if life.last_seq == Some(slice.seq) {
                    let payload = json!({"reason": slice.closed_by, "command_id": slice.command_id});
                    let id = format!("{}:stopped", told.id);
                    entries.push(self.worker.entry(&told, "stopped", &id, &payload)?);
                }
            } else if event.event_type == LIFECYCLE_EVENT {
                let told = Told::read(event)?;
                if let Some((name, payload)) = changed(&reader, &told.data()?)? {
                    entries.push(self.worker.entry(&told, name, &told.id, &payload)?);
                }
            }
        }
        Ok(entries)
    }
}

fn key(org: &str, sandbox: &str, generation: i64) -> SandboxKey {
    SandboxKey { org: org.to_owned(), sandbox: sandbox.to_owned(), generation }
}

/// The lives of a batch: each is read once, however many slices of it are in the batch.
#[derive(Default)]
struct Lives(HashMap<SandboxKey, Life>);

/// A life, as far as it was told.
#[derive(Default)]
struct Life {
    /// The number of the next slice.
    next_seq: u64,
    /// What the slices before it amount to.
    totals: LifeTotals,
    /// The last slice, where the life has ended.
    last_seq: Option<u64>,
}

impl Lives {
    /// The life of a slice, with what lies before the slice. The caller adds it.
    fn of(&mut self, reader: &Reader, slice: &SliceRow) -> Result<&mut Life, SinkError> {
        let key = key(&slice.org, &slice.sandbox, slice.generation);
        let life = self.0.entry(key.clone()).or_default();
        if life.next_seq != slice.seq {
            life.totals = reader.totals_before(&key, slice.seq)?;
            life.last_seq = reader.last_slice(&key)?;
        }
        life.next_seq = slice.seq + 1;
        Ok(life)
    }
}

/// What a command that was carried out is called, with its payload. One that changed nothing, or failed, is not told,
/// and neither is an attach of what was attached before.
fn changed(reader: &Reader, event: &Value) -> Result<Option<(&'static str, Value)>, SinkError> {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let Some(outcome) = event["detail"].get("outcome") else { return Ok(None) };
    let result = &outcome["result"]["result"];
    if !matches!(result.as_str(), Some("done" | "partial")) {
        return Ok(None);
    }
    let name = match text("kind") {
        "attach" | "create" => {
            let key = key(text("org"), text("sandbox"), event["generation"].as_i64().unwrap_or_default());
            if reader.began_by(&key)?.as_deref() != event["command_id"].as_str() {
                return Ok(None);
            }
            "created"
        }
        "scale" => "scaled",
        "hibernate" => "hibernated",
        "wake" => "woke",
        _ => return Ok(None),
    };
    let payload = json!({"command_id": event["command_id"], "result": result, "message": outcome["message"]});
    Ok(Some((name, payload)))
}
