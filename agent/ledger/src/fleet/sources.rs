//! The short names of sources and sandboxes: numbers, remembered for as long as the connection lasts.
//!
//! They are given out before the transaction that needs them, by statements of their own, so that nobody waits for
//! another's transaction while holding something himself. One that is never used does no harm, and none ever goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use tokio_postgres::Client;

use super::rollup::Added;
use super::sift::Sifted;
use super::{Batch, Event, FleetError, Told};

/// When so many sandboxes are remembered, all are forgotten: they are looked up again.
const SANDBOXES_MAX: usize = 1 << 20;

/// A source seen for the first time is a new host. One whose host was removed does not come back by itself.
const ADD_SOURCES: &str = "WITH new AS (INSERT INTO sources (source) SELECT s FROM unnest($1::text[]) AS s \
     ORDER BY s ON CONFLICT DO NOTHING RETURNING source) \
     INSERT INTO hosts (source) SELECT source FROM new ORDER BY source ON CONFLICT DO NOTHING";
const SOURCE_IDS: &str = "SELECT source, id FROM sources WHERE source = ANY($1)";

const ADD_SANDBOXES: &str = "INSERT INTO sandboxes (source_id, org, sandbox) \
     SELECT * FROM unnest($1::integer[], $2::text[], $3::text[]) ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING";
const SANDBOX_IDS: &str = "SELECT b.source_id, b.org, b.sandbox, b.id FROM sandboxes b \
     JOIN unnest($1::integer[], $2::text[], $3::text[]) AS n (source_id, org, sandbox) \
     USING (source_id, org, sandbox)";

#[derive(Default)]
pub(super) struct Sources {
    ids: HashMap<String, i32>,
    sandboxes: HashMap<i32, HashMap<String, HashMap<String, i64>>>,
    sandboxes_count: usize,
}

/// What stands for the names in an event: of its source, and of its sandbox if it is a slice.
pub(super) type Names = (i32, Option<i64>);

/// Place in the batch, source, sandbox if it is a slice, event.
pub(super) type StagedRow<'a> = (i32, i32, Option<i64>, &'a Event);

/// Events with the numbers that stand for their names.
pub(super) struct Staged<'a> {
    rows: Vec<StagedRow<'a>>,
    ids: &'a HashMap<String, i32>,
}

impl Sources {
    /// The numbers of the names in a batch, of which those are learnt that are not known yet.
    pub(super) async fn learn(
        &mut self,
        client: &Client,
        batch: &Batch<'_>,
    ) -> Result<Vec<Names>, FleetError> {
        let sources: BTreeSet<&str> = batch.events().map(|event| event.source.as_str()).collect();
        let unknown: Vec<&str> =
            sources.into_iter().filter(|source| !self.ids.contains_key(*source)).collect();
        if !unknown.is_empty() {
            client.execute(ADD_SOURCES, &[&unknown]).await?;
            for row in client.query(SOURCE_IDS, &[&unknown]).await? {
                self.ids.insert(row.get(0), row.get(1));
            }
        }
        if self.sandboxes_count > SANDBOXES_MAX {
            self.sandboxes.clear();
            self.sandboxes_count = 0;
        }
        let names = batch.events().map(|event| self.names(event));
        let mut names = names.collect::<Result<Vec<Names>, FleetError>>()?;
        let mut unknown: BTreeSet<(i32, &str, &str)> = BTreeSet::new();
        for (event, (source_id, sandbox_id)) in batch.events().zip(&names) {
            if let (Told::Slice(row), None) = (&event.told, sandbox_id) {
                unknown.insert((*source_id, &row.org, &row.sandbox));
            }
        }
        if unknown.is_empty() {
            return Ok(names);
        }
        let ids: Vec<i32> = unknown.iter().map(|(source_id, _, _)| *source_id).collect();
        let orgs: Vec<&str> = unknown.iter().map(|(_, org, _)| *org).collect();
        let sandboxes: Vec<&str> = unknown.iter().map(|(_, _, sandbox)| *sandbox).collect();
        client.execute(ADD_SANDBOXES, &[&ids, &orgs, &sandboxes]).await?;
        for row in client.query(SANDBOX_IDS, &[&ids, &orgs, &sandboxes]).await? {
            let of_source = self.sandboxes.entry(row.get(0)).or_default();
            of_source.entry(row.get(1)).or_default().insert(row.get(2), row.get(3));
            self.sandboxes_count += 1;
        }
        for (event, (source_id, sandbox_id)) in batch.events().zip(&mut names) {
            *sandbox_id = sandbox_id.or_else(|| self.sandbox_id(*source_id, event));
            if sandbox_id.is_none() && matches!(event.told, Told::Slice(_)) {
                return Err(FleetError::Corrupt { what: format!("sandbox of {} has no number", event.id) });
            }
        }
        Ok(names)
    }

    fn names(&self, event: &Event) -> Result<Names, FleetError> {
        let source_id = id_of(&self.ids, &event.source)?;
        Ok((source_id, self.sandbox_id(source_id, event)))
    }

    fn sandbox_id(&self, source_id: i32, event: &Event) -> Option<i64> {
        let Told::Slice(row) = &event.told else { return None };
        self.sandboxes.get(&source_id)?.get(&row.org)?.get(&row.sandbox).copied()
    }

    /// The rows of a batch with the numbers of its names.
    pub(super) fn stage<'a>(
        &'a self,
        batch: &'a Batch<'_>,
        names: &[Names],
    ) -> Result<Staged<'a>, FleetError> {
        let mut rows = Vec::with_capacity(batch.events.len());
        for ((place, event), (source_id, sandbox_id)) in batch.events.iter().zip(names) {
            let place = i32::try_from(*place)
                .map_err(|_| FleetError::Corrupt { what: "a batch is too large".to_owned() })?;
            rows.push((place, *source_id, *sandbox_id, event));
        }
        // As they are stored: neighbours in the indexes come together, and whoever else stores the same is met in one order.
        rows.sort_unstable_by_key(|(place, _, sandbox_id, event)| {
            (*sandbox_id, start_unix_ns(event), *place)
        });
        Ok(Staged { rows, ids: &self.ids })
    }
}

fn start_unix_ns(event: &Event) -> Option<i64> {
    match &event.told {
        Told::Slice(row) => Some(row.start_unix_ns),
        _ => None,
    }
}

fn id_of(ids: &HashMap<String, i32>, source: &str) -> Result<i32, FleetError> {
    let missing = || FleetError::Corrupt { what: format!("source {source} has no number") };
    ids.get(source).copied().ok_or_else(missing)
}

impl Staged<'_> {
    pub(super) fn source_id(&self, source: &str) -> Result<i32, FleetError> {
        id_of(self.ids, source)
    }

    /// What was not taken out.
    pub(super) fn kept(&self, sifted: &Sifted) -> impl Iterator<Item = &StagedRow<'_>> {
        // Places are those of a batch in memory.
        let is_out = |place: i32| usize::try_from(place).is_ok_and(|place| sifted.contains(place));
        self.rows.iter().filter(move |(place, ..)| !is_out(*place))
    }

    /// What the slices amount to that were not taken out.
    pub(super) fn added(&self, sifted: &Sifted) -> Result<Added, FleetError> {
        let mut added = Added::default();
        for (_, _, sandbox_id, event) in self.kept(sifted) {
            if let (Some(sandbox_id), Told::Slice(row)) = (sandbox_id, &event.told) {
                added.slice(*sandbox_id, row)?;
            }
        }
        Ok(added)
    }

    /// Of each source the event numbers that were not taken out, as PostgreSQL writes a multirange.
    pub(super) fn numbers(&self, sifted: &Sifted) -> (Vec<i32>, Vec<String>) {
        let mut by_source: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for (_, source_id, _, event) in self.kept(sifted) {
            by_source.entry(*source_id).or_default().push(event.host_seq);
        }
        by_source.into_iter().map(|(source_id, numbers)| (source_id, multirange(numbers))).unzip()
    }
}

fn multirange(mut numbers: Vec<i64>) -> String {
    numbers.sort_unstable();
    let mut text = String::from("{");
    for run in numbers.chunk_by(|one, next| *next == *one + 1) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let comma = if text.len() > 1 { "," } else { "" };
        // Writing into a String cannot fail.
        let _ = write!(text, "{comma}[{first},{last}]");
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_runs() {
        assert_eq!(multirange(vec![5, 1, 2, 3, 9, 8]), "{[1,3],[5,5],[8,9]}");
        assert_eq!(multirange(Vec::new()), "{}");
    }
}
