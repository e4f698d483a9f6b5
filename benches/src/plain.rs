//! Plain rusqlite, doing what a ledger's writer does to the tables of slices and no more: the same columns, keys and
//! indexes, the same pragmas and the same rows, made beforehand; no triggers, no checks, no thoughts.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::Error;

/// Each of one kind of rows, a tuple of values in the order of its statement's parameters.
pub(crate) type Values = Vec<Value>;

/// What one unit of a ledger leaves behind: an event, a slice, and the open slice of its sandbox.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) event: Values,
    pub(crate) slice: Values,
    pub(crate) open: Values,
}

const TABLES: &str = "
CREATE TABLE sandboxes (
    pk INTEGER PRIMARY KEY, org TEXT NOT NULL, sandbox TEXT NOT NULL, generation INTEGER NOT NULL,
    plan TEXT NOT NULL, lifecycle TEXT NOT NULL, created_unix_ns INTEGER NOT NULL, ended_unix_ns INTEGER,
    open_seq INTEGER, open_state TEXT, open_fault TEXT, open_vcpus_milli INTEGER, open_memory_base_bytes INTEGER,
    open_memory_plugged_bytes INTEGER, open_memory_requested_bytes INTEGER, open_disk_bytes INTEGER,
    open_start_unix_ns INTEGER, open_start_uncertainty_ns INTEGER, open_opened_by TEXT, open_opened_command TEXT,
    open_boot BLOB, open_start_boottime_ns INTEGER,
    UNIQUE (org, sandbox, generation), UNIQUE (sandbox, generation)
) STRICT;
CREATE UNIQUE INDEX sandboxes_live ON sandboxes (org, sandbox) WHERE ended_unix_ns IS NULL;
CREATE TABLE slices (
    sandbox_pk INTEGER NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, fault TEXT, vcpus_milli INTEGER NOT NULL,
    memory_base_bytes INTEGER NOT NULL, memory_plugged_bytes INTEGER NOT NULL,
    memory_requested_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
    start_unix_ns INTEGER NOT NULL, start_uncertainty_ns INTEGER NOT NULL, opened_by TEXT NOT NULL,
    opened_command TEXT, end_unix_ns INTEGER NOT NULL, end_uncertainty_ns INTEGER NOT NULL, closed_by TEXT NOT NULL,
    closed_command TEXT, host_seq INTEGER NOT NULL,
    PRIMARY KEY (sandbox_pk, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
    host_seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, org TEXT, sandbox TEXT,
    event_unix_ns INTEGER NOT NULL, payload BLOB NOT NULL, payload_hash BLOB NOT NULL, prev_hash BLOB NOT NULL
) STRICT;";

const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864; \
     PRAGMA wal_autocheckpoint = 4096; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;";

const SANDBOXES: &str =
    "SELECT pk, org, sandbox, generation, plan, lifecycle, created_unix_ns FROM sandboxes";
const SANDBOX: &str = "INSERT INTO sandboxes (pk, org, sandbox, generation, plan, lifecycle, created_unix_ns) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// In the order of the outbox, from an event on. The open slice behind a slice is taken from the next one.
const SLICES: &str = "SELECT x.sandbox_pk, x.seq, x.state, x.fault, x.vcpus_milli, x.memory_base_bytes, \
     x.memory_plugged_bytes, x.memory_requested_bytes, x.disk_bytes, x.duration_ns, x.start_unix_ns, \
     x.start_uncertainty_ns, x.opened_by, x.opened_command, x.end_unix_ns, x.end_uncertainty_ns, x.closed_by, \
     x.closed_command, x.host_seq FROM slices x WHERE x.host_seq > ?1 ORDER BY x.host_seq";
const SLICE: &str = "INSERT INTO slices (sandbox_pk, seq, state, fault, vcpus_milli, memory_base_bytes, \
     memory_plugged_bytes, memory_requested_bytes, disk_bytes, duration_ns, start_unix_ns, start_uncertainty_ns, \
     opened_by, opened_command, end_unix_ns, end_uncertainty_ns, closed_by, closed_command, host_seq) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";

const EVENTS: &str = "SELECT host_seq, event_id, type, org, sandbox, event_unix_ns, payload, payload_hash, prev_hash \
     FROM outbox WHERE host_seq > ?1 ORDER BY host_seq";
const EVENT: &str = "INSERT INTO outbox (host_seq, event_id, type, org, sandbox, event_unix_ns, payload, \
     payload_hash, prev_hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

const OPEN: &str = "UPDATE sandboxes SET open_seq = ?2, open_state = ?3, open_fault = ?4, open_vcpus_milli = ?5, \
     open_memory_base_bytes = ?6, open_memory_plugged_bytes = ?7, open_memory_requested_bytes = ?8, \
     open_disk_bytes = ?9, open_start_unix_ns = ?10, open_start_uncertainty_ns = ?11, open_opened_by = ?12, \
     open_opened_command = ?13, open_boot = ?14, open_start_boottime_ns = ?15 WHERE pk = ?1";

fn select(conn: &Connection, sql: &str, after: Option<i64>) -> Result<Vec<Values>, Error> {
    let mut statement = conn.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement
        .query_map(params_from_iter(after), |row| (0..columns).map(|column| row.get(column)).collect())?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What a ledger holds after an event, unit by unit.
pub(crate) fn rows_after(ledger: &Path, host_seq: i64) -> Result<Vec<Rows>, Error> {
    let conn = Connection::open(ledger)?;
    let (events, slices) = (select(&conn, EVENTS, Some(host_seq))?, select(&conn, SLICES, Some(host_seq))?);
    assert_eq!(events.len(), slices.len(), "every event tells a slice");
    let rows = events.into_iter().zip(slices).map(|(event, slice)| {
        let open = open_behind(&slice);
        Rows { event, slice, open }
    });
    Ok(rows.collect())
}

/// The open slice behind a closed one, as large as the ledger's.
fn open_behind(slice: &[Value]) -> Values {
    let mut open: Values = slice[..9].to_vec();
    if let Value::Integer(seq) = &mut open[1] {
        *seq += 1;
    }
    open.extend_from_slice(&slice[14..18]);
    open.extend([Value::Blob(vec![7; 16]), slice[14].clone()]);
    open
}

/// A plain database.
pub(crate) struct Plain {
    conn: Connection,
}

impl Plain {
    /// A new database that knows the sandboxes of a ledger.
    pub(crate) fn create(path: &Path, ledger: &Path) -> Result<Self, Error> {
        let conn = Connection::open(path)?;
        conn.execute_batch(PRAGMAS)?;
        conn.execute_batch(TABLES)?;
        let sandboxes = select(&Connection::open(ledger)?, SANDBOXES, None)?;
        let tx = conn.unchecked_transaction()?;
        for sandbox in sandboxes {
            tx.prepare_cached(SANDBOX)?.execute(params_from_iter(sandbox))?;
        }
        tx.commit()?;
        Ok(Self { conn })
    }

    /// Writes rows, so many units in each transaction.
    pub(crate) fn write(&self, rows: &[Rows], units: usize) -> Result<(), Error> {
        self.transactions(rows, units, |conn, unit| {
            conn.prepare_cached(EVENT)?.execute(params_from_iter(&unit.event))?;
            conn.prepare_cached(SLICE)?.execute(params_from_iter(&unit.slice))?;
            conn.prepare_cached(OPEN)?.execute(params_from_iter(&unit.open))?;
            Ok(())
        })
    }

    fn transactions(
        &self,
        rows: &[Rows],
        units: usize,
        write: impl Fn(&Connection, &Rows) -> rusqlite::Result<()>,
    ) -> Result<(), Error> {
        for some in rows.chunks(units) {
            self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            for unit in some {
                write(&self.conn, unit)?;
            }
            self.conn.prepare_cached("COMMIT")?.execute([])?;
        }
        Ok(())
    }
}
