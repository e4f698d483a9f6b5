//! Ledgers of many slices, loaded in minutes: the first life is told as agents tell it, with the rollups that the
//! product makes of it, and its rows are copied for all the others in one transaction of the store. The slices of a
//! copy lie side by side, which favours a statement that reads all of them.

use rusqlite::Connection;
use tokio_postgres::Client;

use crate::Error;

/// What all lives have had: the same slices, up to a quarter of an hour long, of which none crosses an hour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) slices_each: u32,
    pub(crate) slice_seconds: i64,
}

const SECONDS_90_DAYS: i64 = 90 * 86_400;

impl Span {
    /// So many slices of each life, within 90 days. With 10,800 and 108,000 it is 90 days exactly.
    pub(crate) fn of(slices_each: u32) -> Self {
        let fits =
            |seconds: &i64| 3_600 % seconds == 0 && seconds * i64::from(slices_each) <= SECONDS_90_DAYS;
        Self { slices_each, slice_seconds: (1..=900).rev().find(fits).unwrap_or(1) }
    }
}

/// Copies what the first sandbox of a host's ledger has to all that have nothing yet. Nobody else has it open.
pub(crate) fn copy_in_sqlite(conn: &Connection) -> Result<(), Error> {
    // Nothing here outlives a power cut. That the copies tile was checked with the first.
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144;")?;
    let tile: String =
        conn.query_row("SELECT sql FROM sqlite_schema WHERE name = 'slices_tile'", [], |row| row.get(0))?;
    conn.execute_batch("BEGIN; DROP TRIGGER slices_tile;")?;
    let columns = |table: &str, which: &str| -> Result<String, Error> {
        let sql = format!("SELECT group_concat(name, ', ') FROM pragma_table_info('{table}') WHERE {which}");
        Ok(conn.query_row(&sql, [], |row| row.get(0))?)
    };
    let open = columns("sandboxes", "name LIKE 'open%'")?;
    let mut copies = Vec::new();
    for table in ["slices", "usage_rollups"] {
        let rest = columns(table, "name <> 'sandbox_pk'")?;
        copies.push(format!(
            "INSERT INTO {table} (sandbox_pk, {rest}) SELECT ?1, {rest} FROM {table} WHERE sandbox_pk = 1"
        ));
    }
    copies.push(format!(
        "UPDATE sandboxes SET ({open}) = (SELECT {open} FROM sandboxes WHERE pk = 1) WHERE pk = ?1"
    ));
    let sandboxes: i64 = conn.query_row("SELECT max(pk) FROM sandboxes", [], |row| row.get(0))?;
    for sql in copies {
        let mut copy = conn.prepare(&sql)?;
        (2..=sandboxes).try_for_each(|pk| copy.execute([pk]).map(|_| ()))?;
    }
    conn.execute_batch(&format!("{tile}; COMMIT; PRAGMA journal_mode = WAL;"))?;
    Ok(())
}

/// The same in a fleet's ledger. The constraints against overlaps are left out: nothing that asks looks at them, and
/// they are most of the time that storing takes.
pub(crate) async fn copy_in_postgres(client: &Client, sandboxes: usize) -> Result<(), Error> {
    client.batch_execute("SET search_path TO dormouse, public; SET synchronous_commit = off").await?;
    client
        .batch_execute(
            "DO $$ DECLARE p text; BEGIN \
               FOR p IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'slices'::regclass LOOP \
                 EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', p, split_part(p, '.', -1) || '_no_overlap'); \
               END LOOP; END $$",
        )
        .await?;
    let slices = columns(client, "slices", "sandbox_id").await?;
    let hours = columns(client, "usage_hours", "kind_id").await?;
    let last = i64::try_from(sandboxes)?;
    let copy = format!(
        "INSERT INTO sandboxes (source_id, org, sandbox) \
             SELECT b.source_id, b.org, 'sb-' || n FROM sandboxes b, generate_series(1, {last} - 1) AS n; \
         INSERT INTO slices (sandbox_id, {slices}) SELECT b.copy, {slices} \
             FROM (SELECT id AS copy FROM sandboxes) b, slices x WHERE copy > sandbox_id ORDER BY start_unix_ns; \
         INSERT INTO usage_kinds (sandbox_id, state, disk_bytes) SELECT b.id, k.state, k.disk_bytes \
             FROM sandboxes b, usage_kinds k WHERE b.id > k.sandbox_id ORDER BY 1; \
         INSERT INTO usage_hours (kind_id, {hours}) SELECT k.id, {hours} FROM usage_kinds k, usage_hours h \
             WHERE k.id > h.kind_id ORDER BY h.hour_unix_ns, 1;"
    );
    client.batch_execute(&copy).await?;
    client.batch_execute("VACUUM ANALYZE").await?;
    Ok(())
}

/// The columns of a table, but one, and but those that PostgreSQL makes of others.
pub(crate) async fn columns(client: &Client, table: &str, but: &str) -> Result<String, Error> {
    let sql = format!(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{table}'::regclass \
         AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> '{but}'"
    );
    Ok(client.query_one(&sql, &[]).await?.get(0))
}
