//! Several connections that read the ledger as of one moment, so that an audit can use every core.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::Connection;

use crate::{LedgerError, schema};

/// More would wait for memory and disk, and for each other.
const HELPERS_MAX: usize = 7;

/// How often a writer may come in between while the moment is chosen.
const TRIES_MAX: usize = 100;

/// Connections beside `first`, one for each further core, all of which read as of one moment from now on. None where
/// that moment cannot be had; then the audit does without.
pub(super) fn helpers(first: &Connection, path: &Path) -> Result<Vec<Connection>, LedgerError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let open = || schema::open_for_reading(path);
    let Ok(watch) = open() else { return Ok(Vec::new()) };
    let mut all: Vec<Connection> = (1..cores).take(HELPERS_MAX).map_while(|_| open().ok()).collect();
    for _ in 0..TRIES_MAX {
        // The version that a connection sees changes with every commit of another: no change, no commit between.
        let before = data_version(&watch)?;
        begin(first)?;
        all.iter().try_for_each(begin)?;
        if data_version(&watch)? == before {
            return Ok(all);
        }
    }
    all.clear();
    Ok(all)
}

fn data_version(conn: &Connection) -> Result<i64, LedgerError> {
    Ok(conn.query_row("PRAGMA data_version", [], |row| row.get(0))?)
}

/// Reads as of now: a transaction takes its moment with what it reads first.
fn begin(conn: &Connection) -> Result<(), LedgerError> {
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    conn.execute_batch("BEGIN")?;
    conn.query_row("SELECT count(*) FROM host", [], |_| Ok(()))?;
    Ok(())
}

/// Does every job on one of the connections, each as soon as one is free.
pub(super) fn share<J: Sync>(
    jobs: &[J],
    first: &Connection,
    helpers: Vec<Connection>,
    work: impl Fn(&J, &Connection) + Sync,
) {
    let next = AtomicUsize::new(0);
    let take_jobs = |conn: &Connection| {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(job, conn);
        }
    };
    std::thread::scope(|scope| {
        for helper in helpers {
            scope.spawn(move || take_jobs(&helper));
        }
        take_jobs(first);
    });
}
