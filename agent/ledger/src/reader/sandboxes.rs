//! Sandboxes, and what an agent needs to go on where the last one stopped.

use dormouse_metering::{BootId, Observation, Stamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Reader, commands};
use crate::encode::{self, open_columns, text, uint};
use crate::standing::Standing;
use crate::{Anchor, CommandRow, LedgerError, SandboxKey, SandboxRow};

/// Which sandboxes. What is `None` matches all.
#[derive(Clone, Debug, Default)]
pub struct SandboxFilter {
    /// Of this org.
    pub org: Option<String>,
    /// With this id.
    pub sandbox: Option<String>,
    /// Of this generation.
    pub generation: Option<i64>,
    /// Only those whose life has not ended.
    pub live_only: bool,
}

/// What an agent needs to go on where the last one stopped.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Every sandbox whose life has not ended, with its open slice and what is pending.
    pub sandboxes: Vec<SandboxRow>,
    /// The intents without an outcome, oldest first.
    pub unfinished: Vec<CommandRow>,
    /// The stamp through which everything open was verified.
    pub proof: Option<Stamp>,
    /// The last anchor.
    pub anchor: Option<Anchor>,
    /// The steps of the wall clock in its boot, oldest first: when each was noticed, by the clock as it was from then on.
    pub steps: Vec<Stamp>,
    /// The number of the outbox's last event; 0 when there is none.
    pub host_seq: u64,
}

const SANDBOXES: &str = concat!(
    "SELECT s.pk, s.org, s.sandbox, s.generation, s.plan, a.attachment, s.lifecycle, s.created_unix_ns, \
     s.ended_unix_ns, ",
    open_columns!(),
    ", a.unheard_boot, a.unheard_boottime_ns, a.unheard_unix_ns, s.standing_hash, a.plugged_by_device \
     FROM sandboxes s LEFT JOIN attachments a ON a.sandbox_pk = s.pk \
     WHERE (?1 IS NULL OR s.org = ?1) AND (?2 IS NULL OR s.sandbox = ?2) AND (?3 IS NULL OR s.generation = ?3) \
     AND (NOT ?4 OR s.ended_unix_ns IS NULL) ORDER BY s.org, s.sandbox, s.generation"
);

/// The first of the three columns behind those of the open slice.
const UNHEARD: usize = 24;

/// Behind them.
const STANDING: usize = 27;

/// The last column.
const PLUGGED: usize = 28;

const PENDING: &str = "SELECT observation FROM pending WHERE sandbox_pk = ?1 ORDER BY ord";

const PROOF: &str = "SELECT boot, boottime_ns, wall_ns FROM proof_of_life";

const ANCHOR: &str = "SELECT boot, boottime_ns, wall_ns, stepped_ns FROM anchors ORDER BY id DESC LIMIT 1";

const STEPS: &str = "SELECT boot, boottime_ns, wall_ns FROM anchors WHERE stepped_ns <> 0 \
     AND boot = (SELECT boot FROM anchors ORDER BY id DESC LIMIT 1) ORDER BY id";

const HOST_SEQ: &str = "SELECT coalesce(max(host_seq), 0) FROM outbox";

/// Across orgs, because event ids do not name the org.
const LATEST_GENERATION: &str = "SELECT max(generation) FROM sandboxes WHERE sandbox = ?1";

fn sandbox_row(row: &Row<'_>) -> rusqlite::Result<(i64, SandboxRow)> {
    let sandbox = SandboxRow {
        key: SandboxKey { org: row.get(1)?, sandbox: row.get(2)?, generation: row.get(3)? },
        plan: row.get(4)?,
        attachment: encode::json(row, 5)?,
        lifecycle: row.get(6)?,
        created_unix_ns: row.get(7)?,
        ended_unix_ns: row.get(8)?,
        open: encode::open_slice(row, 9)?,
        unheard: if row.get_ref(UNHEARD)? == ValueRef::Null {
            None
        } else {
            Some(encode::stamp(row, UNHEARD)?)
        },
        plugged_by_device: if row.get_ref(PLUGGED)? == ValueRef::Null {
            None
        } else {
            Some(encode::json(row, PLUGGED)?)
        },
        pending: Vec::new(),
    };
    Ok((row.get(0)?, sandbox))
}

/// The sandboxes that match, each with its key in the file. All of it is damaged where what is open or pending of one
/// does not have its hash.
pub(crate) fn matching(
    conn: &Connection,
    filter: &SandboxFilter,
) -> Result<Vec<(i64, SandboxRow)>, LedgerError> {
    matching_or(conn, filter, |key| {
        Err(LedgerError::corrupt(format!("what is open or pending of sandbox {key} is not what was written")))
    })
}

/// The same; what is to be done about one whose open slice or pending observations do not have their hash is up to the
/// caller.
pub(crate) fn matching_or(
    conn: &Connection,
    filter: &SandboxFilter,
    mut changed: impl FnMut(&SandboxKey) -> Result<(), LedgerError>,
) -> Result<Vec<(i64, SandboxRow)>, LedgerError> {
    let mut statement = conn.prepare_cached(SANDBOXES)?;
    let matches = (&filter.org, &filter.sandbox, filter.generation, filter.live_only);
    let mut rows = statement.query(matches)?;
    let mut pending = conn.prepare_cached(PENDING)?;
    let mut sandboxes = Vec::new();
    while let Some(row) = rows.next()? {
        let (pk, mut sandbox) = sandbox_row(row)?;
        if sandbox.ended_unix_ns.is_none() {
            let mut standing = Standing::behind(sandbox.open.as_ref());
            let observations = pending.query_map([pk], |row| {
                standing.pending(text(row, 0)?);
                encode::observation(row, 0)
            })?;
            sandbox.pending = observations.collect::<Result<_, _>>()?;
            let stored: Option<[u8; 32]> = row.get(STANDING)?;
            if stored.is_some_and(|stored| stored != *standing.hash().as_bytes()) {
                changed(&sandbox.key)?;
            }
        }
        sandboxes.push((pk, sandbox));
    }
    Ok(sandboxes)
}

/// What is pending of the sandbox with this key in the file, in order.
pub(crate) fn pending(conn: &Connection, pk: i64) -> Result<Vec<Observation>, LedgerError> {
    let mut pending = conn.prepare_cached(PENDING)?;
    Ok(pending.query_map([pk], |row| encode::observation(row, 0))?.collect::<Result<_, _>>()?)
}

fn anchor(row: &Row<'_>) -> rusqlite::Result<Anchor> {
    Ok(Anchor {
        boot: BootId(row.get(0)?),
        boottime_ns: uint(row, 1)?,
        wall_ns: row.get(2)?,
        stepped_ns: row.get(3)?,
    })
}

fn steps(conn: &Connection) -> rusqlite::Result<Vec<Stamp>> {
    conn.prepare_cached(STEPS)?.query_map([], |row| encode::stamp(row, 0))?.collect()
}

impl Reader {
    /// The sandboxes that match, by org, id and generation.
    pub fn sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<SandboxRow>, LedgerError> {
        self.answer(|conn| Ok(matching(conn, filter)?.into_iter().map(|(_, sandbox)| sandbox).collect()))
    }

    /// What an agent needs to go on where the last one stopped, all as of one moment.
    pub fn recovery(&self) -> Result<Recovery, LedgerError> {
        self.answer(|conn| {
            let live = SandboxFilter { live_only: true, ..SandboxFilter::default() };
            Ok(Recovery {
                sandboxes: matching(conn, &live)?.into_iter().map(|(_, sandbox)| sandbox).collect(),
                unfinished: commands::unfinished(conn)?,
                proof: conn.query_row(PROOF, [], |row| encode::stamp(row, 0)).optional()?,
                anchor: conn.query_row(ANCHOR, [], anchor).optional()?,
                steps: steps(conn)?,
                host_seq: conn.query_row(HOST_SEQ, [], |row| uint(row, 0))?,
            })
        })
    }

    /// The stamp through which everything open was verified.
    pub fn proof_of_life(&self) -> Result<Option<Stamp>, LedgerError> {
        self.answer(|conn| Ok(conn.query_row(PROOF, [], |row| encode::stamp(row, 0)).optional()?))
    }

    /// The generation for a sandbox that is seen at `wall_ns`: that time, or, where a generation is as late
    /// already (the clock was set back, or another org's sandbox has the same id), the one after it.
    pub fn next_generation(&self, sandbox: &str, wall_ns: i64) -> Result<i64, LedgerError> {
        self.answer(|conn| {
            let latest: Option<i64> =
                conn.prepare_cached(LATEST_GENERATION)?.query_row([sandbox], |row| row.get(0))?;
            Ok(latest.map_or(wall_ns, |latest| wall_ns.max(latest.saturating_add(1))).max(1))
        })
    }
}
