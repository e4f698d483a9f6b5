//! A PostgreSQL with the ledger's schema, and connections to it.

use dormouse::database::Database;
use dormouse_ledger::fleet::{Batch, FleetLedger, Ingested, VERSION, migrate};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use tokio_postgres::Client;

pub(crate) struct Scene {
    pub(crate) server: Postgres,
}

impl Scene {
    /// A database with the newest schema.
    pub(crate) async fn new() -> Self {
        let server = Postgres::start(Durability::Volatile).await.unwrap();
        let scene = Self { server };
        migrate(&mut scene.client().await, VERSION).await.unwrap();
        scene
    }

    /// A connection that finds the ledger's tables.
    pub(crate) async fn client(&self) -> Client {
        let client = self.server.connect("postgres").await.unwrap();
        client.batch_execute("SET search_path TO dormouse, public").await.unwrap();
        client
    }

    /// How whoever stores events finds the database.
    pub(crate) fn database(&self) -> Database {
        Database { url: self.server.url("postgres"), ..Database::default() }
    }

    /// The ledger, by a connection of its own.
    pub(crate) async fn ledger(&self) -> FleetLedger {
        FleetLedger::open(self.client().await).await.unwrap()
    }

    /// What a query that answers with one text says.
    pub(crate) async fn says(&self, query: &str) -> String {
        let rows = self.client().await.simple_query(query).await.unwrap();
        let first = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        });
        first.unwrap_or_default()
    }

    /// Everything that storing changes, as one text.
    pub(crate) async fn everything(&self) -> String {
        let mut all = Vec::new();
        for (table, order) in [
            ("slices", "sandbox_id, generation, seq"),
            ("events", "source_id, event_id"),
            ("sources", "id"),
            ("lifecycle", "source_id, event_id"),
            ("watermarks", "source_id, complete_through_unix_ns"),
            ("retentions", "source_id, through_seq"),
            ("credit_accounts", "org"),
            ("fleet_outbox", "id"),
        ] {
            let query = format!("SELECT coalesce(json_agg(t ORDER BY {order}), '[]')::text FROM {table} t");
            all.push(format!("{table}: {}", self.says(&query).await));
        }
        all.join("\n")
    }
}

/// Stores messages in one batch.
pub(crate) async fn store(ledger: &mut FleetLedger, messages: &[Vec<u8>]) -> Ingested {
    ledger.ingest(&Batch::decode(messages)).await.unwrap()
}

pub(crate) fn stored(stored: u64, slices: u64, repeated: u64, quarantined: u64) -> Ingested {
    Ingested { stored, slices, repeated, quarantined }
}
