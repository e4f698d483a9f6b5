//! The file and its schema.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::{HostName, LedgerError};

/// Numbered from 1, in order. A migration that was released is never edited.
const MIGRATIONS: [&str; 12] = [
    include_str!("../migrations/0001_ledger.sql"),
    include_str!("../migrations/0002_standing.sql"),
    include_str!("../migrations/0003_denials.sql"),
    include_str!("../migrations/0004_sinks.sql"),
    include_str!("../migrations/0005_usage.sql"),
    include_str!("../migrations/0006_beneath.sql"),
    include_str!("../migrations/0007_terms.sql"),
    include_str!("../migrations/0008_devices.sql"),
    include_str!("../migrations/0009_retention.sql"),
    include_str!("../migrations/0010_rollups.sql"),
    include_str!("../migrations/0011_least.sql"),
    include_str!("../migrations/0012_checks.sql"),
];

/// The newest schema version that this program knows.
pub(crate) const VERSION: i64 = 12;
const _: () = assert!(MIGRATIONS.len() == 12, "VERSION is the number of migrations");

/// `DORM`, in the file's header: what tells a ledger from any other SQLite file.
const APPLICATION_ID: i32 = 0x444f_524d;

/// The least size of a database that holds anything.
const HEADER_BYTES: u64 = 512;

/// How long one writer waits for another to finish, before the ledger counts as unwritable.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// The same, for a change that a person asked for beside the agent.
const EDITOR_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// After how many pages of 4 KiB the log is carried over into the file.
const CHECKPOINT_PAGES: i64 = 4096;

/// Each open sandbox has a page of its own that every slice touches: a thousand of them fit, and the kernel has the others.
/// Whatever fits is kept for good, and on a host of idle sandboxes that is rows which nobody reads again.
const CACHE_KIB: i64 = 4 << 10;

const STATEMENTS_CACHED: usize = 64;

/// Opens the agent's own connection, brings the schema up to date and checks whose ledger it is.
pub(crate) fn open_for_writing(path: &Path, host: &HostName) -> Result<Connection, LedgerError> {
    // SQLite takes so short a file for an empty database.
    if path.metadata().is_ok_and(|file| (1..HEADER_BYTES).contains(&file.len())) {
        return Err(LedgerError::corrupt("the file is shorter than its header"));
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags)?;
    configure(&conn)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(LedgerError::Unwritable { why: format!("the journal mode stays {mode}") });
    }
    // FULL: a commit returns only when the write-ahead log is on the disk.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "recursive_triggers", true)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // What savepoints and statements may have to undo is kept in memory, not in files beside the ledger.
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    migrate(&mut conn)?;
    check_what_is_live(&conn)?;
    claim(&conn, host)?;
    Ok(conn)
}

/// Opens a connection for small changes beside the agent's. It waits longer than the agent's writer does, and makes
/// each change durable before it returns.
pub(crate) fn open_for_editing(path: &Path) -> Result<Connection, LedgerError> {
    if !path.exists() {
        return Err(LedgerError::Missing { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    configure(&conn)?;
    check_readable(&conn)?;
    conn.busy_timeout(EDITOR_BUSY_TIMEOUT)?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    Ok(conn)
}

/// Opens a connection that only reads.
pub(crate) fn open_for_reading(path: &Path) -> Result<Connection, LedgerError> {
    if !path.exists() {
        return Err(LedgerError::Missing { path: path.to_owned() });
    }
    let unreadable = |error: LedgerError| match error {
        LedgerError::Unwritable { why } => LedgerError::Unreadable { path: path.to_owned(), why },
        other => other,
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)
        .map_err(LedgerError::from)
        .and_then(|conn| check_readable(&conn).map(|()| conn))
        .or_else(|error| if needs_no_log(&error, path) { open_immutable(path) } else { Err(error) })
        .map_err(unreadable)?;
    configure(&conn).map_err(unreadable)?;
    Ok(conn)
}

/// On a read-only file system SQLite cannot make the index of a write-ahead log. It needs none where no log was
/// left behind: the file alone is the whole ledger then, and nobody can be changing it.
fn needs_no_log(error: &LedgerError, path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    error.is_environmental() && std::fs::metadata(log).map_or(true, |log| log.len() == 0)
}

fn open_immutable(path: &Path) -> Result<Connection, LedgerError> {
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?;
    check_readable(&conn)?;
    Ok(conn)
}

fn check_readable(conn: &Connection) -> Result<(), LedgerError> {
    match version(conn)? {
        VERSION => Ok(()),
        found if found > VERSION => Err(LedgerError::Newer { found, known: VERSION }),
        found => Err(LedgerError::Older { found, known: VERSION }),
    }
}

fn configure(conn: &Connection) -> Result<(), LedgerError> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Without it SQLite looks at bound values while planning, and plans anew for each new value.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// The schema version of a ledger; 0 for an empty file. Any other file is refused.
fn version(conn: &Connection) -> Result<i64, LedgerError> {
    let application_id: i32 = conn.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application_id != APPLICATION_ID && objects > 0 {
        return Err(LedgerError::corrupt("the file is an SQLite database, but not a ledger"));
    }
    Ok(conn.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

fn migrate(conn: &mut Connection) -> Result<(), LedgerError> {
    let found = version(conn)?;
    if found > VERSION {
        return Err(LedgerError::Newer { found, known: VERSION });
    }
    for (number, sql) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
        let tx = conn.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", number)?;
        tx.commit()?;
        tracing::info!(version = number, "ledger migrated");
    }
    Ok(())
}

/// Checks the tables that the agent starts from. They stay small however long the history is; all of it is
/// checked by the audit. That a file was cut short SQLite finds itself, by the page count in its header.
fn check_what_is_live(conn: &Connection) -> Result<(), LedgerError> {
    for check in
        ["PRAGMA quick_check(sandboxes)", "PRAGMA quick_check(pending)", "PRAGMA quick_check(attachments)"]
    {
        let verdict: String = conn.query_row(check, [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(LedgerError::corrupt(verdict));
        }
    }
    Ok(())
}

/// Makes the ledger this host's, or refuses another host's: one outbox is the record of one host.
fn claim(conn: &Connection, host: &HostName) -> Result<(), LedgerError> {
    conn.execute("INSERT OR IGNORE INTO host (id, cell, host) VALUES (1, ?1, ?2)", (&host.cell, &host.host))?;
    let found = owner(conn)?;
    if found == *host {
        Ok(())
    } else {
        Err(LedgerError::OtherHost { found: found.source(), given: host.source() })
    }
}

/// The host that the ledger belongs to.
pub(crate) fn owner(conn: &Connection) -> Result<HostName, LedgerError> {
    let row = |row: &rusqlite::Row<'_>| Ok(HostName { cell: row.get(0)?, host: row.get(1)? });
    Ok(conn.query_row("SELECT cell, host FROM host WHERE id = 1", [], row)?)
}
