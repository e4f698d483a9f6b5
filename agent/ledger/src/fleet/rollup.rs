//! Hourly rollups, kept up in the transaction that stores the slices: running totals by sandbox, state and size of the
//! disk, at the full hours at which slices end them. Reading them is `usage`'s.
//!
//! Whoever adds slices of a sandbox to them holds its source's row, so nobody else writes about the same kinds meanwhile.
//! What is late is added to every later hour as well. What a batch adds is summed up here, in integers, and not by
//! PostgreSQL, which took twice as long for it.

use std::collections::{BTreeMap, HashMap};

use dormouse_metering::BillingState;
use tokio_postgres::{Client, Error, Statement, Transaction};

use super::numeric::Integer;
use super::{FleetError, sql};
use crate::SliceRow;

const HOUR_NS: i64 = 3_600 * 1_000_000_000;

/// When so many kinds are remembered, all are forgotten: they are looked up again.
const KINDS_MAX: usize = 1 << 20;

/// The ids of kinds, which are added where there are none. Lookups that are limited stay lookups, whatever the planner
/// guesses of arrays.
const KINDS: &str = "WITH asked AS MATERIALIZED (SELECT a.sandbox_id, a.state, a.disk_bytes, k.id \
     FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS a (sandbox_id, state, disk_bytes) \
     LEFT JOIN LATERAL (SELECT k.id FROM usage_kinds k WHERE k.sandbox_id = a.sandbox_id \
         AND k.state = a.state AND k.disk_bytes = a.disk_bytes LIMIT 1) k ON true), \
     added AS (INSERT INTO usage_kinds (sandbox_id, state, disk_bytes) \
         SELECT sandbox_id, state, disk_bytes FROM asked WHERE id IS NULL ORDER BY 1, 2, 3 \
         RETURNING sandbox_id, state, disk_bytes, id) \
     SELECT sandbox_id, state, disk_bytes, id FROM asked WHERE id IS NOT NULL UNION ALL SELECT * FROM added";

/// `a` is what the batch adds to a kind from an hour on, until the next of its hours. The hours that are there go up by
/// it; one that is not there yet begins with that and the last before it. Both see what was there before. One that is
/// known to be there is not looked for.
const ADD_HOURS: &str = "WITH a AS MATERIALIZED (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], \
         $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[], $9::numeric[], $10::boolean[]) \
         AS a (kind_id, hour_unix_ns, next_hour_unix_ns, duration_ns, vcpu_milli_ns, base_byte_ns, plugged_byte_ns, \
         requested_byte_ns, greater_byte_ns, is_there)), \
     risen AS (UPDATE usage_hours h SET duration_ns = h.duration_ns + a.duration_ns, \
         vcpu_milli_ns = h.vcpu_milli_ns + a.vcpu_milli_ns, base_byte_ns = h.base_byte_ns + a.base_byte_ns, \
         plugged_byte_ns = h.plugged_byte_ns + a.plugged_byte_ns, \
         requested_byte_ns = h.requested_byte_ns + a.requested_byte_ns, \
         greater_byte_ns = h.greater_byte_ns + a.greater_byte_ns \
         FROM a WHERE h.kind_id = a.kind_id AND h.hour_unix_ns >= a.hour_unix_ns \
         AND (a.next_hour_unix_ns IS NULL OR h.hour_unix_ns < a.next_hour_unix_ns)) \
     INSERT INTO usage_hours (kind_id, hour_unix_ns, duration_ns, vcpu_milli_ns, base_byte_ns, plugged_byte_ns, \
         requested_byte_ns, greater_byte_ns) \
     SELECT a.kind_id, a.hour_unix_ns, \
         coalesce(h.duration_ns, 0) + a.duration_ns, coalesce(h.vcpu_milli_ns, 0) + a.vcpu_milli_ns, \
         coalesce(h.base_byte_ns, 0) + a.base_byte_ns, coalesce(h.plugged_byte_ns, 0) + a.plugged_byte_ns, \
         coalesce(h.requested_byte_ns, 0) + a.requested_byte_ns, coalesce(h.greater_byte_ns, 0) + a.greater_byte_ns \
     FROM a LEFT JOIN LATERAL (SELECT * FROM usage_hours h WHERE h.kind_id = a.kind_id \
         AND h.hour_unix_ns <= a.hour_unix_ns ORDER BY h.hour_unix_ns DESC LIMIT 1) h ON true \
     WHERE NOT a.is_there AND h.hour_unix_ns IS DISTINCT FROM a.hour_unix_ns ORDER BY 1, 2";

/// A sandbox in one state with one size of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Kind {
    sandbox_id: i64,
    state: &'static str,
    disk_bytes: i64,
}

/// What slices amount to, in the order of the columns: duration, and vCPUs, base, plugged, requested and the greater of
/// the two, each by its duration.
type Sums = [i128; 6];

/// What a batch adds to the rollups: of each kind what its slices amount to, by the hour that ends behind them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Added(BTreeMap<Kind, BTreeMap<i64, Sums>>);

impl Added {
    /// Adds a slice of a sandbox, which was found to be one that can be added up when its event was read.
    pub(super) fn slice(&mut self, sandbox_id: i64, row: &SliceRow) -> Result<(), FleetError> {
        let state = BillingState::ALL.iter().map(|state| state.name()).find(|name| *name == row.state);
        let (Some(state), Ok(disk_bytes)) = (state, i64::try_from(row.disk_bytes)) else {
            return Err(not_to_be_added(row));
        };
        let hours = self.0.entry(Kind { sandbox_id, state, disk_bytes }).or_default();
        let sums = hours.entry((row.start_unix_ns / HOUR_NS + 1) * HOUR_NS).or_default();
        let duration_ns = i128::from(row.duration_ns);
        let (plugged, requested) = (row.memory_plugged_bytes, row.memory_requested_bytes);
        let of_bytes = |bytes: u64| duration_ns * i128::from(bytes);
        let slice = [
            duration_ns,
            duration_ns * i128::from(row.vcpus_milli),
            of_bytes(row.memory_base_bytes),
            of_bytes(plugged),
            of_bytes(requested),
            of_bytes(plugged.max(requested)),
        ];
        for (sum, of_slice) in sums.iter_mut().zip(slice) {
            *sum = sum.checked_add(of_slice).ok_or_else(|| not_to_be_added(row))?;
        }
        Ok(())
    }

    /// From each hour on, until the next: kind, hour, next hour, and all that is added up to there.
    fn by_hours(&self) -> impl Iterator<Item = (&Kind, i64, Option<i64>, Sums)> {
        self.0.iter().flat_map(|(kind, hours)| {
            let next = hours.keys().skip(1).copied().map(Some).chain([None]);
            hours.iter().zip(next).scan(Sums::default(), move |total, ((hour, sums), next)| {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                Some((kind, *hour, next, *total))
            })
        })
    }
}

fn not_to_be_added(row: &SliceRow) -> FleetError {
    let SliceRow { sandbox, generation, seq, .. } = row;
    FleetError::Corrupt { what: format!("slice {sandbox}:{generation}:{seq} cannot be added to the rollups") }
}

/// Statements, prepared once for each connection, and what is known to be committed: no kind ever goes, and no rollup.
pub(super) struct Rollup {
    kinds_statement: Statement,
    add_hours: Statement,
    kinds: HashMap<Kind, Known>,
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: i64,
    /// An hour at which it has a rollup: the last that was added to.
    hour_unix_ns: Option<i64>,
}

/// What is known once the transaction is committed.
pub(super) struct Learnt(HashMap<Kind, Known>);

impl Rollup {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let (kinds_statement, add_hours) = (client.prepare(KINDS).await?, client.prepare(ADD_HOURS).await?);
        Ok(Self { kinds_statement, add_hours, kinds: HashMap::new() })
    }

    /// Adds to the totals. What it returns is to be remembered once the transaction is committed.
    pub(super) async fn add(&self, tx: &Transaction<'_>, added: &Added) -> Result<Learnt, FleetError> {
        let mut learnt = self.learn(tx, added).await?;
        let (mut ids, mut hours, mut next_hours, mut are_there) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut columns: [Vec<Integer>; 6] = Default::default();
        for (kind, hour, next_hour, sums) in added.by_hours() {
            let known = self.kinds.get(kind).or_else(|| learnt.0.get(kind)).copied();
            let known =
                known.ok_or_else(|| FleetError::Corrupt { what: format!("{kind:?} has no number") })?;
            let is_there = known.hour_unix_ns == Some(hour);
            if !is_there && next_hour.is_none() {
                learnt.0.insert(*kind, Known { hour_unix_ns: Some(hour), ..known });
            }
            ids.push(known.id);
            hours.push(hour);
            next_hours.push(next_hour);
            are_there.push(is_there);
            columns.iter_mut().zip(sums).for_each(|(column, sum)| column.push(Integer(sum)));
        }
        let [duration, vcpu, base, plugged, requested, greater] = &columns;
        tx.batch_execute(sql::BY_INDEX).await?;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 10] =
            [&ids, &hours, &next_hours, duration, vcpu, base, plugged, requested, greater, &are_there];
        tx.execute(&self.add_hours, &values).await?;
        tx.batch_execute(sql::AS_BEFORE).await?;
        Ok(learnt)
    }

    /// What was learnt in a transaction that is committed.
    pub(super) fn remember(&mut self, Learnt(kinds): Learnt) {
        if self.kinds.len() > KINDS_MAX {
            self.kinds.clear();
        }
        self.kinds.extend(kinds);
    }

    async fn learn(&self, tx: &Transaction<'_>, added: &Added) -> Result<Learnt, Error> {
        let unknown: Vec<&Kind> = added.0.keys().filter(|kind| !self.kinds.contains_key(*kind)).collect();
        if unknown.is_empty() {
            return Ok(Learnt(HashMap::new()));
        }
        let sandboxes: Vec<i64> = unknown.iter().map(|kind| kind.sandbox_id).collect();
        let states: Vec<&str> = unknown.iter().map(|kind| kind.state).collect();
        let disks: Vec<i64> = unknown.iter().map(|kind| kind.disk_bytes).collect();
        let rows = tx.query(&self.kinds_statement, &[&sandboxes, &states, &disks]).await?;
        let ids: HashMap<(i64, &str, i64), i64> =
            rows.iter().map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3))).collect();
        let known = |kind: &Kind| {
            let id = *ids.get(&(kind.sandbox_id, kind.state, kind.disk_bytes))?;
            Some((*kind, Known { id, hour_unix_ns: None }))
        };
        Ok(Learnt(unknown.into_iter().filter_map(known).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_adds_holds_from_its_hour_on_and_grows_with_each_hour_of_the_batch() {
        let row = |hour: i64, state: &str| SliceRow {
            org: "org".to_owned(),
            sandbox: "sb".to_owned(),
            generation: 1,
            seq: 1,
            state: state.to_owned(),
            reason: None,
            start_unix_ns: hour * HOUR_NS + 5,
            end_unix_ns: Some(hour * HOUR_NS + 15),
            duration_ns: 10,
            memory_base_bytes: 100,
            memory_plugged_bytes: 7,
            memory_requested_bytes: 9,
            vcpus_milli: 2_000,
            disk_bytes: 5,
            opened_by: "tick".to_owned(),
            closed_by: Some("tick".to_owned()),
            command_id: None,
            opened_by_command_id: None,
            uncertainty_ns: 0,
            is_final: true,
        };
        let mut added = Added::default();
        for row in [row(7, "running"), row(3, "running"), row(3, "running"), row(3, "paused")] {
            added.slice(1, &row).expect("a slice that can be added");
        }
        let kind = |state| Kind { sandbox_id: 1, state, disk_bytes: 5 };
        let of = |slices: i128| [10, 20_000, 1_000, 70, 90, 90].map(|one| one * slices);
        let all: Vec<_> = added.by_hours().collect();
        let (paused, running) = (kind("paused"), kind("running"));
        let expected = [
            (&paused, 4 * HOUR_NS, None, of(1)),
            (&running, 4 * HOUR_NS, Some(8 * HOUR_NS), of(2)),
            (&running, 8 * HOUR_NS, None, of(3)),
        ];
        assert_eq!(all, expected);
        assert!(added.slice(1, &row(0, "unheard of")).is_err(), "what no rollup has a place for is said");
    }
}
