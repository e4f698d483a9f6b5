//! The chain between a host's events: each carries the hash of the one before it.
//!
//! ```text
//!   events of a batch ──▶ runs of numbers; links within a run are looked at here
//!   a run ──▶ meets the end of a stored run at the number before it, or behind it: that link is looked at, the end goes
//!         └─▶ meets none: its own end is kept, until its neighbour comes
//! ```
//!
//! So it costs a batch a statement, however many slices are in it, and the table of ends stays as small as the holes are
//! few. A link that does not hold is kept for people and said: whoever could forge it cannot forge the signed root that
//! follows.

use tokio_postgres::{Error, Transaction};

use super::Event;

const GENESIS: [u8; 32] = [0; 32];

/// `$1` to `$5` are runs, `$6` and `$7` the links that do not hold within them. An end is met by one run at the most.
pub(super) const JOIN: &str = "WITH runs AS (SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bytea[], \
         $4::bigint[], $5::bytea[]) AS r (source_id, first_seq, prev_hash, last_seq, hash)), \
     met AS (DELETE FROM chain_ends e USING runs r WHERE e.source_id = r.source_id \
         AND (e.host_seq = r.first_seq - 1 AND NOT e.is_first OR e.host_seq = r.last_seq + 1 AND e.is_first) \
         RETURNING e.*, r.prev_hash, r.hash AS last_hash), \
     ends AS (INSERT INTO chain_ends \
         SELECT source_id, first_seq, true, prev_hash FROM runs r WHERE prev_hash IS NOT NULL AND first_seq > 1 \
             AND NOT EXISTS (SELECT FROM met m WHERE m.source_id = r.source_id AND m.host_seq = r.first_seq - 1) \
         UNION ALL SELECT source_id, last_seq, false, hash FROM runs r \
             WHERE NOT EXISTS (SELECT FROM met m WHERE m.source_id = r.source_id AND m.host_seq = r.last_seq + 1)) \
     INSERT INTO broken_links (source_id, host_seq) \
     SELECT source_id, host_seq + 1 FROM met WHERE NOT is_first AND hash <> prev_hash \
     UNION SELECT source_id, host_seq FROM met WHERE is_first AND hash <> last_hash \
     UNION SELECT * FROM unnest($6::integer[], $7::bigint[]) \
     ON CONFLICT DO NOTHING RETURNING source_id, host_seq";

/// Events of one source whose numbers follow each other.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    source_id: i32,
    first_seq: i64,
    /// What the first says that the one before it hashes to.
    prev_hash: Option<[u8; 32]>,
    last_seq: i64,
    hash: [u8; 32],
}

/// The runs of a batch, and the links between them that do not hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    runs: Vec<Run>,
    broken: Vec<(i32, i64)>,
}

impl Chain {
    /// Of events that are stored together, each with its source. No number is there twice.
    pub(super) fn of<'a>(events: impl Iterator<Item = (i32, &'a Event)>) -> Self {
        let mut sorted: Vec<(i32, i64, &Event)> =
            events.map(|(source_id, event)| (source_id, event.host_seq, event)).collect();
        sorted.sort_unstable_by_key(|(source_id, host_seq, _)| (*source_id, *host_seq));
        let mut chain = Self::default();
        for (source_id, host_seq, event) in sorted {
            let prev_hash = event.prev_hash;
            let says_otherwise = |hash: [u8; 32]| prev_hash.is_some_and(|says| says != hash);
            match chain.runs.last_mut() {
                Some(run) if (run.source_id, run.last_seq + 1) == (source_id, host_seq) => {
                    if says_otherwise(run.hash) {
                        chain.broken.push((source_id, host_seq));
                    }
                    (run.last_seq, run.hash) = (host_seq, event.payload_hash);
                }
                _ => {
                    if host_seq == 1 && says_otherwise(GENESIS) {
                        chain.broken.push((source_id, host_seq));
                    }
                    let (last_seq, hash) = (host_seq, event.payload_hash);
                    chain.runs.push(Run { source_id, first_seq: host_seq, prev_hash, last_seq, hash });
                }
            }
        }
        chain
    }

    /// Joins the runs to what is stored. Needs the sources' locks. The links that were found not to hold, by source and
    /// the number of the event that says otherwise.
    pub(super) async fn join(
        &self,
        tx: &Transaction<'_>,
        statement: &tokio_postgres::Statement,
    ) -> Result<Vec<(i32, i64)>, Error> {
        let of = |run: &Run| (run.source_id, (run.first_seq, run.last_seq));
        let (source_ids, (first, last)): (Vec<i32>, (Vec<i64>, Vec<i64>)) = self.runs.iter().map(of).unzip();
        let prev_hashes: Vec<Option<&[u8]>> =
            self.runs.iter().map(|run| run.prev_hash.as_ref().map(<[u8; 32]>::as_slice)).collect();
        let hashes: Vec<&[u8]> = self.runs.iter().map(|run| run.hash.as_slice()).collect();
        let (broken_ids, broken): (Vec<i32>, Vec<i64>) = self.broken.iter().copied().unzip();
        let rows = tx
            .query(statement, &[&source_ids, &first, &prev_hashes, &last, &hashes, &broken_ids, &broken])
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lifecycle, Told};
    use super::*;

    fn event(host_seq: i64, says: u8, hash: u8) -> Event {
        let told = Told::Lifecycle(Lifecycle {
            org: String::new(),
            sandbox: String::new(),
            generation: 1,
            kind: String::new(),
            unix_ns: 0,
            json: String::new(),
        });
        Event {
            source: String::new(),
            id: String::new(),
            host_seq,
            payload_hash: [hash; 32],
            prev_hash: Some([says; 32]),
            api_key: None,
            told,
        }
    }

    #[test]
    fn events_in_any_order_are_runs_and_a_link_within_one_that_does_not_hold_is_named() {
        let events = [event(3, 9, 3), event(1, 0, 1), event(2, 1, 2), event(6, 5, 6), event(7, 6, 7)];
        let other = [event(1, 5, 1)];
        let of = |id: i32| move |event| (id, event);
        let chain = Chain::of(events.iter().map(of(1)).chain(other.iter().map(of(2))));
        let run = |source_id, first_seq, says: u8, last_seq, hash: u8| {
            let (prev_hash, hash) = (Some([says; 32]), [hash; 32]);
            Run { source_id, first_seq, prev_hash, last_seq, hash }
        };
        let runs = vec![run(1, 1, 0, 3, 3), run(1, 6, 5, 7, 7), run(2, 1, 5, 1, 1)];
        assert_eq!(chain, Chain { runs, broken: vec![(1, 3), (2, 1)] });
    }
}
