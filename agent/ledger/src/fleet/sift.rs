//! What of a staged batch is stored already, and what contradicts what is stored.
//!
//! What is stored stays stored, so that what it finds stays true. What it does not find may be stored by another before
//! the batch is: then a constraint or a number says so, and the batch is sifted anew.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Transaction;

use super::batch::other_payload;
use super::{Batch, FleetError, Rejection, WhyNot, sql};

/// What is stored already, and what contradicts that: all as of one moment. Another may store the same meanwhile, and
/// whoever looked for its key before that, and for its time behind it, would take a repetition for an overlap.
const FIND: &str = "SELECT place, host_seq, found FROM (SELECT s.place, s.host_seq, CASE \
         WHEN e.payload_hash = s.payload_hash THEN 'repeated' \
         WHEN e.payload_hash IS NOT NULL THEN 'other payload' \
         WHEN o.received @> s.host_seq THEN 'reused' \
         WHEN EXISTS (SELECT FROM slices x WHERE x.sandbox_id = s.sandbox_id \
             AND x.start_unix_ns >= s.start_unix_ns / 3600000000000 * 3600000000000 \
             AND x.start_unix_ns < s.end_unix_ns AND x.end_unix_ns > s.start_unix_ns \
             AND x.start_unix_ns < x.end_unix_ns AND s.start_unix_ns < s.end_unix_ns) \
             THEN 'overlaps' END AS found \
     FROM staged s JOIN sources o ON o.id = s.source_id \
     LEFT JOIN events e ON e.source_id = s.source_id AND e.event_id = s.event_id) looked WHERE found IS NOT NULL";

const TAKE: &str = "DELETE FROM staged WHERE place = ANY($1)";

/// Those within the batch that overlap, each with one that was sent before it.
const OVERLAPPING_PAIRS: &str = "SELECT s.place, b.place FROM staged s JOIN staged b \
     ON b.sandbox_id = s.sandbox_id AND b.place < s.place \
     AND int8range(b.start_unix_ns, b.end_unix_ns) && int8range(s.start_unix_ns, s.end_unix_ns) \
     ORDER BY s.place";

/// What was taken out of the staging table, by its place in the batch.
#[derive(Default)]
pub(super) struct Sifted {
    /// Stored already, byte for byte.
    pub(super) repeated: BTreeSet<usize>,
    /// Not to be stored.
    pub(super) rejected: BTreeMap<usize, Rejection>,
}

impl Sifted {
    pub(super) fn contains(&self, place: usize) -> bool {
        self.repeated.contains(&place) || self.rejected.contains_key(&place)
    }

    fn reject(&mut self, place: usize, why: WhyNot, detail: &str) {
        self.rejected.insert(place, Rejection { why, detail: detail.to_owned() });
    }
}

/// Takes out of the staging table what is stored already, and what contradicts it.
pub(super) async fn sift(
    tx: &Transaction<'_>,
    batch: &Batch<'_>,
    sifted: &mut Sifted,
) -> Result<(), FleetError> {
    const OVERLAPS: &str = "a stored slice of the sandbox has this time, or part of it";
    tx.batch_execute(sql::BY_INDEX).await?;
    let mut taken: Vec<i32> = Vec::new();
    for row in tx.query(FIND, &[]).await? {
        taken.push(row.get(0));
        let place = place(row.get(0));
        match row.get(2) {
            "repeated" => _ = sifted.repeated.insert(place),
            "other payload" => _ = sifted.rejected.insert(place, other_payload()),
            "reused" => {
                let detail = format!("number {} is that of another event", row.get::<_, i64>(1));
                sifted.reject(place, WhyNot::NumberReused, &detail);
            }
            _ => sifted.reject(place, WhyNot::Overlap, OVERLAPS),
        }
    }
    tx.execute(TAKE, &[&taken]).await?;
    tx.batch_execute(sql::AS_BEFORE).await?;
    let mut later: Vec<i32> = Vec::new();
    for row in tx.query(OVERLAPPING_PAIRS, &[]).await? {
        if !sifted.rejected.contains_key(&place(row.get(1))) {
            sifted.reject(place(row.get(0)), WhyNot::Overlap, OVERLAPS);
            later.push(row.get(0));
        }
    }
    tx.execute(TAKE, &[&later]).await?;
    tracing::debug!(
        events = batch.events.len(),
        repeated = sifted.repeated.len(),
        rejected = sifted.rejected.len(),
        "a batch was sifted"
    );
    Ok(())
}

/// A place was a `usize` before it was staged.
fn place(staged: i32) -> usize {
    usize::try_from(staged).unwrap_or_default()
}
