//! Slices that became final, the slice that stays open behind them, and what is pending.

use std::collections::HashMap;

use blake3::Hash;
use dormouse_metering::{CommandId, Observation, OpenSlice, Slice};
use rusqlite::{OptionalExtension, params};

use super::Apply;
use crate::encode::{self, int, slice_columns};
use crate::outbox::Draft;
use crate::standing::Standing;
use crate::suppression::Suppression;
use crate::usage::rollups::roll_up;
use crate::{LedgerError, SandboxKey, SliceBatch};

/// What is looked up of a life before its first batch is applied, and then remembered; what is pending of it as well.
const LIFE: &str = "SELECT s.pk, s.plan, (SELECT coalesce(max(seq), 0) FROM slices WHERE sandbox_pk = s.pk) \
     FROM sandboxes s WHERE s.org = ?1 AND s.sandbox = ?2 AND s.generation = ?3";

const STORED: &str =
    concat!("SELECT ", slice_columns!(), " FROM slices x WHERE x.sandbox_pk = ?1 AND x.seq = ?2");

/// Refused, this and [`OPEN`] end the transaction, as their triggers do: so that a statement could be undone by itself, SQLite
/// would copy each page that it touches.
const CLOSE: &str = "INSERT OR ROLLBACK INTO slices (sandbox_pk, seq, state, fault, vcpus_milli, memory_base_bytes, \
     memory_plugged_bytes, memory_requested_bytes, disk_bytes, start_unix_ns, start_uncertainty_ns, opened_by, \
     opened_command, duration_ns, end_unix_ns, end_uncertainty_ns, closed_by, closed_command, host_seq) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";

const OPEN: &str = "UPDATE OR ROLLBACK sandboxes SET open_seq = ?2, open_state = ?3, open_fault = ?4, open_vcpus_milli = ?5, \
     open_memory_base_bytes = ?6, open_memory_plugged_bytes = ?7, open_memory_requested_bytes = ?8, \
     open_disk_bytes = ?9, open_start_unix_ns = ?10, open_start_uncertainty_ns = ?11, open_opened_by = ?12, \
     open_opened_command = ?13, open_boot = ?14, open_start_boottime_ns = ?15, standing_hash = ?16, open_beneath = ?17 \
     WHERE pk = ?1";

/// The end is that of the last slice; a life without any ends as it began.
const END: &str = "UPDATE sandboxes SET open_seq = NULL, open_state = NULL, open_fault = NULL, \
     open_vcpus_milli = NULL, open_memory_base_bytes = NULL, open_memory_plugged_bytes = NULL, \
     open_memory_requested_bytes = NULL, open_disk_bytes = NULL, open_start_unix_ns = NULL, \
     open_start_uncertainty_ns = NULL, open_opened_by = NULL, open_opened_command = NULL, open_boot = NULL, \
     open_start_boottime_ns = NULL, open_beneath = NULL, standing_hash = NULL, ended_unix_ns = coalesce((SELECT end_unix_ns FROM slices \
     WHERE sandbox_pk = ?1 ORDER BY seq DESC LIMIT 1), created_unix_ns) WHERE pk = ?1";

/// Of a life that has not begun.
const NOT_OPEN: &str = "UPDATE sandboxes SET standing_hash = ?2 WHERE pk = ?1";

const STORED_PENDING: &str = "SELECT ord, observation FROM pending WHERE sandbox_pk = ?1 ORDER BY ord";

/// Row by row: to delete them at once, SQLite would collect them in a temporary table first, even where there are none.
const FORGET_PENDING: &str = "DELETE FROM pending WHERE sandbox_pk = ?1 AND ord = ?2";
const PENDING: &str = "INSERT INTO pending (sandbox_pk, ord, observation) VALUES (?1, ?2, ?3)";

/// So many lives are remembered: each has a page of the slices' table in the cache, too.
const LIVES_MAX: usize = 4096;

/// What was found of lives, by an earlier batch: it is looked up once, not for each slice. In an open transaction it says what
/// there will be after that; who undoes a part of it forgets all of this.
#[derive(Default)]
pub(crate) struct Lives(HashMap<SandboxKey, Life>);

impl Lives {
    /// What is there may be something else.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    /// The same, of one life.
    pub(super) fn forget_one(&mut self, key: &SandboxKey) {
        self.0.remove(key);
    }

    fn remember(&mut self, key: SandboxKey, life: Life) {
        if self.0.len() >= LIVES_MAX {
            self.forget();
        }
        self.0.insert(key, life);
    }
}

/// What a batch finds of its life.
struct Life {
    /// Its key in the file.
    pk: i64,
    /// Its plan as it is now: events that are committed now carry it.
    plan: String,
    /// The number of its last closed slice.
    last: i64,
    /// What is pending.
    pending: Vec<Stored>,
}

/// An observation that is pending, as it lies in the file.
struct Stored {
    ord: i64,
    /// What it says; `None` where that cannot be read.
    observation: Option<Observation>,
    json: String,
}

impl Apply<'_> {
    pub(super) fn slices(&mut self, batch: &SliceBatch) -> Result<(), LedgerError> {
        let (key, mut life) = match self.lives.0.remove_entry(&batch.key) {
            Some(known) => known,
            None => (batch.key.clone(), self.life(&batch.key)?),
        };
        self.batch(batch, &mut life)?;
        if !batch.ended {
            self.lives.remember(key, life);
        }
        Ok(())
    }

    fn batch(&mut self, batch: &SliceBatch, life: &mut Life) -> Result<(), LedgerError> {
        let Life { pk, ref plan, last, ref pending } = *life;
        let mut standing = Standing::behind(batch.open.as_ref());
        let pending = in_json(&batch.pending, pending)?;
        for json in &pending {
            standing.pending(json);
        }
        for slice in &batch.slices {
            let seq = int("seq", slice.seq)?;
            if seq <= last {
                self.same_slice(pk, seq, &batch.key, slice)?;
            } else {
                self.close((pk, seq), (&batch.key, plan), slice)?;
                life.last = seq;
            }
        }
        if batch.ended {
            if batch.open.is_some() || !batch.pending.is_empty() {
                return Err(LedgerError::rejected(
                    "a life that has ended has nothing open and nothing pending",
                ));
            }
            self.conn.prepare_cached(END)?.execute([pk])?;
        } else if let Some(open) = &batch.open {
            self.open(pk, open, standing.hash())?;
        } else if last > 0 || !batch.slices.is_empty() {
            return Err(LedgerError::rejected("a life that has begun is open or ended"));
        } else {
            self.conn.prepare_cached(NOT_OPEN)?.execute((pk, standing.hash().as_bytes()))?;
        }
        self.replace_pending(life, batch.pending.iter().zip(pending))
    }

    fn stored_pending(&self, pk: i64) -> Result<Vec<Stored>, LedgerError> {
        let mut find = self.conn.prepare_cached(STORED_PENDING)?;
        let stored = find.query_map([pk], |row| {
            Ok(Stored { ord: row.get(0)?, observation: encode::observation(row, 1).ok(), json: row.get(1)? })
        })?;
        Ok(stored.collect::<Result<_, _>>()?)
    }

    /// Writes what is pending now in the place of what was. Nearly always some at the beginning have become final and
    /// others have come at the end: what stays is not written again.
    fn replace_pending<'a>(
        &self,
        life: &mut Life,
        now: impl Iterator<Item = (&'a Observation, String)>,
    ) -> Result<(), LedgerError> {
        let (pk, mut now) = (life.pk, now.peekable());
        let is_first = |was: &Stored| now.peek().is_some_and(|(_, json)| *json == was.json);
        let gone = life.pending.iter().position(is_first).unwrap_or(life.pending.len());
        let is_next = |was: &&Stored| now.next_if(|(_, json)| *json == was.json).is_some();
        let kept = gone + life.pending[gone..].iter().take_while(is_next).count();
        let changed = life.pending.drain(kept..).collect::<Vec<_>>();
        for was in life.pending.drain(..gone).chain(changed) {
            self.conn.prepare_cached(FORGET_PENDING)?.execute((pk, was.ord))?;
        }
        let next = life.pending.last().map_or(0, |last| last.ord + 1);
        for (ord, (observation, json)) in (next..).zip(now) {
            self.conn.prepare_cached(PENDING)?.execute((pk, ord, &json))?;
            life.pending.push(Stored { ord, observation: Some(observation.clone()), json });
        }
        life.pending.shrink_to(life.pending.len() * 2);
        Ok(())
    }

    fn life(&self, key: &SandboxKey) -> Result<Life, LedgerError> {
        let mut find = self.conn.prepare_cached(LIFE)?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Life { pk: row.get(0)?, plan: row.get(1)?, last: row.get(2)?, pending: Vec::new() })
        };
        let found = find.query_row((&key.org, &key.sandbox, key.generation), row).optional()?;
        let life = found.ok_or_else(|| LedgerError::UnknownSandbox(key.clone()))?;
        Ok(Life { pending: self.stored_pending(life.pk)?, ..life })
    }

    /// A slice that is told again must be the slice that is stored.
    fn same_slice(&self, pk: i64, seq: i64, key: &SandboxKey, slice: &Slice) -> Result<(), LedgerError> {
        let mut stored = self.conn.prepare_cached(STORED)?;
        let stored = stored.query_row((pk, seq), |row| encode::slice(row, 0)).optional()?;
        if stored.as_ref() == Some(slice) {
            Ok(())
        } else {
            Err(LedgerError::Conflict { what: format!("slice {seq} of sandbox {key}") })
        }
    }

    fn close(
        &mut self,
        (pk, seq): (i64, i64),
        (key, plan): (&SandboxKey, &str),
        slice: &Slice,
    ) -> Result<(), LedgerError> {
        let reason = Suppression::new(self.conn, pk, &key.org).reason(slice)?;
        Draft::slice((key, plan), slice, reason)?.append(self.conn, self.host, self.head)?;
        self.conn.prepare_cached(CLOSE)?.execute(params![
            pk,
            seq,
            slice.state.name(),
            slice.state.fault().map(dormouse_metering::Fault::as_str),
            slice.shape.vcpus_milli,
            int("memory_base_bytes", slice.shape.memory_base_bytes)?,
            int("memory_plugged_bytes", slice.shape.memory_plugged_bytes)?,
            int("memory_requested_bytes", slice.shape.memory_requested_bytes)?,
            int("disk_bytes", slice.shape.disk_bytes)?,
            slice.start.unix_ns,
            int("start_uncertainty_ns", slice.start.uncertainty_ns)?,
            slice.start.cause.as_str(),
            slice.start.command.as_ref().map(CommandId::as_str),
            int("duration_ns", slice.duration_ns)?,
            slice.end.unix_ns,
            int("end_uncertainty_ns", slice.end.uncertainty_ns)?,
            slice.end.cause.as_str(),
            slice.end.command.as_ref().map(CommandId::as_str),
            int("host_seq", self.head.host_seq)?,
        ])?;
        roll_up(self.conn, pk, slice)
    }

    fn open(&self, pk: i64, open: &OpenSlice, standing: Hash) -> Result<(), LedgerError> {
        self.conn.prepare_cached(OPEN)?.execute(params![
            pk,
            int("seq", open.seq)?,
            open.state.name(),
            open.state.fault().map(dormouse_metering::Fault::as_str),
            open.shape.vcpus_milli,
            int("memory_base_bytes", open.shape.memory_base_bytes)?,
            int("memory_plugged_bytes", open.shape.memory_plugged_bytes)?,
            int("memory_requested_bytes", open.shape.memory_requested_bytes)?,
            int("disk_bytes", open.shape.disk_bytes)?,
            open.start.unix_ns,
            int("start_uncertainty_ns", open.start.uncertainty_ns)?,
            open.start.cause.as_str(),
            open.start.command.as_ref().map(CommandId::as_str),
            open.boot.0,
            int("start_boottime_ns", open.start_boottime_ns)?,
            standing.as_bytes(),
            open.beneath.map(|state| state.to_string()),
        ])?;
        Ok(())
    }
}

/// What is pending now, as it is written. What was so before has been written, and what it says is not put into words again.
fn in_json(now: &[Observation], was: &[Stored]) -> Result<Vec<String>, LedgerError> {
    let mut was = was;
    let json = now.iter().map(|observation| {
        match was.iter().position(|stored| stored.observation.as_ref() == Some(observation)) {
            Some(place) => {
                let json = was[place].json.clone();
                was = &was[place + 1..];
                Ok(json)
            }
            None => encode::observation_to_json(observation),
        }
    });
    json.collect()
}
