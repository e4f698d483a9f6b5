//! Where events go.

#![allow(clippy::doc_markdown, reason = "what explains a key goes into the example as it is written here")]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::section::section;

section! {
    /// What becomes of events.
    Outbox {
        /// How long an event is kept after it took place, once every sink has it. Without sinks all are kept.
        retention_ms: u64 = 604_800_000,
    }
    sections {}
}

section! {
    /// A sink: somewhere that every event is sent to, in order, until the sink says that it has stored it.
    Sink {
        /// The sink's name, unique on this host. Its place in the outbox is kept under it.
        name: String = "fleet".to_owned(),
        /// `nats` (JetStream), `redis` (a stream), `http` (CloudEvents in batches) or `postgres` (the fleet's ledger itself).
        kind: SinkKind = SinkKind::Nats,
        /// Where it is, without credentials: nats://HOST:PORT, redis://HOST:PORT/DB or http://HOST/PATH; with TLS
        /// tls://, rediss:// or https://. For PostgreSQL postgresql://HOST/DB?sslmode=verify-full.
        url: String = "nats://127.0.0.1:4222".to_owned(),
        /// The stream. Not set: `DORMOUSE` for nats, which is created where there is none, `dormouse:events` for redis
        /// (`events:CELL` where it is flat).
        stream: Option<String> = None,
        /// `cloudevents`, or, for redis, `flat`: created, usage_tick, scaled, hibernated, woke and stopped, each with
        /// id, type, sandbox_id, org_id, plan, worker_id, cell_id, payload and timestamp. What is changed of `[billing]` or
        /// of the prices holds for events that come after. A fleet's ledger reads CloudEvents alone.
        form: SinkForm = SinkForm::Cloudevents,
        /// What a GiB of memory costs for an hour in `cost_cents` of a flat usage_tick, in millionths of a cent.
        memory_gib_hour_microcents: u64 = 0,
        /// What a vCPU costs for an hour, in millionths of a cent.
        vcpu_hour_microcents: u64 = 0,
        /// What a GiB of disk above `billing.free_disk_bytes` costs for an hour, in millionths of a cent.
        disk_gib_hour_microcents: u64 = 0,
        /// The environment variables that hold the user's name and password, or a token (nats, http).
        user_env: Option<String> = None,
        /// See `user_env`.
        password_env: Option<String> = None,
        /// See `user_env`.
        token_env: Option<String> = None,
        /// The authorities that the server's certificate is checked against, in PEM. Not set: those of the system.
        ca_file: Option<PathBuf> = None,
        /// The certificate, with its chain, and the key that the agent shows, in PEM.
        cert_file: Option<PathBuf> = None,
        /// See `cert_file`.
        key_file: Option<PathBuf> = None,
        /// How long the sink may take to store a batch.
        timeout_ms: u64 = 10_000,
        /// The most events in a batch. Memory holds four batches of a sink, of 4 MiB at the most each, and one event.
        batch_events: u64 = 2_000,
        /// How long to wait after a failure, at first.
        backoff_min_ms: u64 = 100,
        /// How long to wait after many failures.
        backoff_max_ms: u64 = 30_000,
    }
    sections {}
}

/// What a sink is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkForm {
    /// Events, byte for byte as they were frozen.
    Cloudevents,
    /// What a sandbox platform's consumers know, made of them.
    Flat,
}

/// What a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkKind {
    /// NATS `JetStream`.
    Nats,
    /// A Redis stream.
    Redis,
    /// Batches of CloudEvents by HTTP.
    Http,
    /// The fleet's ledger, without a queue between.
    Postgres,
}

impl SinkKind {
    /// The schemes of its URLs: plain, and with TLS.
    pub const fn schemes(self) -> [&'static str; 2] {
        match self {
            Self::Nats => ["nats", "tls"],
            Self::Redis => ["redis", "rediss"],
            Self::Http => ["http", "https"],
            Self::Postgres => ["postgresql", "postgres"],
        }
    }
}
