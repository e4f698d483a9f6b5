//! Keeping what is not stored, byte for byte, with the reason; and saying so.

use std::collections::BTreeMap;

use tokio_postgres::Transaction;

use super::sift::Sifted;
use super::{Batch, FleetError};

/// The same bytes for the same reason are kept once, and counted.
const KEEP: &str = "INSERT INTO quarantine (reason, detail, source, event_id, payload, payload_hash) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (payload_hash, reason) \
     DO UPDATE SET times = quarantine.times + 1, last_seen = now()";

/// Keeps what a batch holds that is not stored, and returns how many messages that are.
pub(super) async fn keep(
    tx: &Transaction<'_>,
    batch: &Batch<'_>,
    sifted: &Sifted,
) -> Result<u64, FleetError> {
    let read = batch.events.iter().filter_map(|(place, event)| {
        sifted.rejected.get(place).map(|rejection| (*place, Some(event), rejection))
    });
    let unread = batch.rejected.iter().map(|(place, event, rejection)| (*place, event.as_ref(), rejection));
    // In the order of their hashes: another may keep the same at the same time.
    let hash = |place: usize| *blake3::hash(&batch.messages[place]).as_bytes();
    let hashed =
        read.chain(unread).map(|(place, event, rejection)| ((hash(place), place), (event, rejection)));
    let sorted: BTreeMap<_, _> = hashed.collect();
    for ((hash, place), (event, rejection)) in &sorted {
        let (source, id) = (event.map(|event| &event.source), event.map(|event| &event.id));
        let reason = rejection.why.as_str();
        tracing::error!(reason, source, id, detail = rejection.detail, "an event went to the quarantine");
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&reason, &rejection.detail, &source, &id, &&*batch.messages[*place], &hash.as_slice()];
        tx.execute(KEEP, &values).await?;
    }
    Ok(sorted.len() as u64)
}
