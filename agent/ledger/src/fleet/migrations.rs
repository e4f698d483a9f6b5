//! The schema of the fleet's ledger, migration by migration.
//!
//! Everything is in a schema of its own, `dormouse`, so that the ledger can live in a database of the platform's.

use tokio_postgres::Client;

use super::FleetError;

/// One step of the schema, and back. One that was released is never edited.
struct Migration {
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

/// Numbered from 1, in order.
const MIGRATIONS: [Migration; 9] = [
    Migration {
        name: "slices",
        up: include_str!("../../fleet-migrations/0001_slices_up.sql"),
        down: include_str!("../../fleet-migrations/0001_slices_down.sql"),
    },
    Migration {
        name: "completeness",
        up: include_str!("../../fleet-migrations/0002_completeness_up.sql"),
        down: include_str!("../../fleet-migrations/0002_completeness_down.sql"),
    },
    Migration {
        name: "credit",
        up: include_str!("../../fleet-migrations/0003_credit_up.sql"),
        down: include_str!("../../fleet-migrations/0003_credit_down.sql"),
    },
    Migration {
        name: "keys",
        up: include_str!("../../fleet-migrations/0004_keys_up.sql"),
        down: include_str!("../../fleet-migrations/0004_keys_down.sql"),
    },
    Migration {
        name: "usage",
        up: include_str!("../../fleet-migrations/0005_usage_up.sql"),
        down: include_str!("../../fleet-migrations/0005_usage_down.sql"),
    },
    Migration {
        name: "chain",
        up: include_str!("../../fleet-migrations/0006_chain_up.sql"),
        down: include_str!("../../fleet-migrations/0006_chain_down.sql"),
    },
    Migration {
        name: "retention",
        up: include_str!("../../fleet-migrations/0007_retention_up.sql"),
        down: include_str!("../../fleet-migrations/0007_retention_down.sql"),
    },
    Migration {
        name: "span",
        up: include_str!("../../fleet-migrations/0008_span_up.sql"),
        down: include_str!("../../fleet-migrations/0008_span_down.sql"),
    },
    Migration {
        name: "place",
        up: include_str!("../../fleet-migrations/0009_place_up.sql"),
        down: include_str!("../../fleet-migrations/0009_place_down.sql"),
    },
];

/// The newest schema version that this program knows.
pub const VERSION: i32 = 9;
const _: () = assert!(MIGRATIONS.len() == 9, "VERSION is the number of migrations");

/// Whoever migrates holds this advisory lock: `DORM` and `FLEE` in ASCII.
const LOCK: i64 = 0x444f_524d_464c_4545;

const PREPARE: &str = "CREATE SCHEMA IF NOT EXISTS dormouse; \
     CREATE TABLE IF NOT EXISTS dormouse.migrations (number integer PRIMARY KEY, name text NOT NULL, \
     up_hash bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// Makes the connection find the ledger's tables, and the operators of btree_gist wherever they are.
pub(super) const SEARCH_PATH: &str = "SET search_path TO dormouse, public";

/// Brings the schema to version `to`, up or down, and returns the version that it had. Going down deletes what the
/// tables held. Each step is a transaction; two who migrate at once do it one after the other.
pub async fn migrate(client: &mut Client, to: i32) -> Result<i32, FleetError> {
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let migrated = migrate_locked(client, to).await;
    let unlocked = client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    let before = migrated?;
    unlocked?;
    Ok(before)
}

async fn migrate_locked(client: &mut Client, to: i32) -> Result<i32, FleetError> {
    client.batch_execute(PREPARE).await?;
    client.batch_execute(SEARCH_PATH).await?;
    let before = version(client).await?;
    if to > VERSION || before > VERSION {
        return Err(FleetError::Newer { found: to.max(before), known: VERSION });
    }
    let within = |from: i32, to: i32| {
        (1..).zip(&MIGRATIONS).filter(move |(number, _)| from < *number && *number <= to)
    };
    for (number, migration) in within(before, to) {
        let tx = client.transaction().await?;
        tx.batch_execute(migration.up).await?;
        let add = "INSERT INTO migrations (number, name, up_hash) VALUES ($1, $2, $3)";
        tx.execute(add, &[&number, &migration.name, &hash(migration)]).await?;
        tx.commit().await?;
        tracing::info!(version = number, "fleet ledger migrated up");
    }
    for (number, migration) in within(to, before).collect::<Vec<_>>().into_iter().rev() {
        let tx = client.transaction().await?;
        tx.batch_execute(migration.down).await?;
        tx.execute("DELETE FROM migrations WHERE number = $1", &[&number]).await?;
        tx.commit().await?;
        tracing::info!(version = number - 1, "fleet ledger migrated down");
    }
    Ok(before)
}

/// The schema's version, once it is known that it came about by the migrations of this program.
async fn version(client: &Client) -> Result<i32, FleetError> {
    let applied = client.query("SELECT number, up_hash FROM migrations ORDER BY number", &[]).await?;
    for ((number, migration), row) in (1..).zip(&MIGRATIONS).zip(&applied) {
        if row.get::<_, i32>(0) != number || row.get::<_, &[u8]>(1) != hash(migration) {
            return Err(FleetError::MigrationChanged { number });
        }
    }
    Ok(applied.last().map_or(0, |row| row.get(0)))
}

/// Refuses a database that has another version than this program's.
pub(super) async fn require_current(client: &Client) -> Result<(), FleetError> {
    let exists = "SELECT to_regclass('dormouse.migrations') IS NOT NULL";
    let found = if client.query_one(exists, &[]).await?.get(0) { version(client).await? } else { 0 };
    match found {
        VERSION => Ok(()),
        found if found > VERSION => Err(FleetError::Newer { found, known: VERSION }),
        found => Err(FleetError::Older { found, known: VERSION }),
    }
}

fn hash(migration: &Migration) -> Vec<u8> {
    blake3::hash(migration.up.as_bytes()).as_bytes().to_vec()
}
