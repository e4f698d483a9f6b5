//! Whose word it is: each host's public key, pinned when it is first seen, or noted by the platform before that.
//!
//! What another key has signed is not stored, so whoever can write into the queue but has no host's key can call no hour
//! complete, and no event lost. Nothing here ever changes a key: a host that has a new one is for people to look at.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Transaction;

use super::{Batch, Event, FleetError, Rejection, WhyNot};

const PIN: &str = "INSERT INTO host_keys (source, public_key) \
     SELECT * FROM unnest($1::text[], $2::bytea[]) ON CONFLICT DO NOTHING";
const PINNED: &str = "SELECT source, public_key FROM host_keys WHERE source = ANY($1)";

/// The watermarks and retentions that are not signed by their host's key, by their places in the batch. The first
/// key that a host is ever seen with is its key from then on.
pub(super) async fn foreign(
    tx: &Transaction<'_>,
    batch: &Batch<'_>,
) -> Result<BTreeMap<usize, Rejection>, FleetError> {
    let mut first: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (_, event, key) in signed(batch) {
        first.entry(&event.source).or_insert(key);
    }
    if first.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (sources, keys): (Vec<&str>, Vec<&[u8]>) = first.into_iter().unzip();
    tx.execute(PIN, &[&sources, &keys]).await?;
    let pinned = tx.query(PINNED, &[&sources]).await?;
    let pinned: HashMap<&str, &[u8]> = pinned.iter().map(|row| (row.get(0), row.get(1))).collect();
    let foreign = signed(batch).filter(|(_, event, key)| pinned.get(event.source.as_str()) != Some(key)).map(
        |(place, ..)| {
            let detail = "it is signed by another key than its host was first seen with".to_owned();
            (place, Rejection { why: WhyNot::OtherKey, detail })
        },
    );
    Ok(foreign.collect())
}

/// What hosts have signed for, with the key that did.
fn signed<'a>(batch: &'a Batch<'_>) -> impl Iterator<Item = (usize, &'a Event, &'a [u8])> {
    let signed = |(place, event): &'a (usize, Event)| {
        event.told.seal().map(|seal| (*place, event, seal.public_key.as_slice()))
    };
    batch.events.iter().filter_map(signed)
}
