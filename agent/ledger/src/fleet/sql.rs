//! The statements that storing a batch consists of.

use tokio_postgres::{Client, Error, Statement};

use super::{chain, staging, straight};

/// Of the connection: what is sorted is sorted in memory, and who hangs in the middle of a transaction holds the locks
/// of its sources for a minute at most. Nothing is compiled: what sifts a batch is estimated to cost anything, and
/// compiling it took longer than a sink waits on a busy machine, again for every attempt.
pub(super) const SETTINGS: &str = "SET work_mem = '64MB'; SET temp_buffers = '64MB'; SET jit = off; \
     SET idle_in_transaction_session_timeout = '1min'";

/// A batch is small and the ledger is not, whatever the planner guesses of arrays and of a table without statistics.
pub(super) const BY_INDEX: &str = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; \
     SET LOCAL enable_seqscan = off";
/// For what joins within the batch.
pub(super) const AS_BEFORE: &str = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; \
     SET LOCAL enable_seqscan = on";

/// Statements, prepared once for each connection.
pub(super) struct Statements {
    pub(super) look_at_sources: Statement,
    pub(super) copies: straight::Copies,
    pub(super) stage: Statement,
    pub(super) lock_sources: Statement,
    pub(super) are_numbers_known: Statement,
    pub(super) lock_accounts: Statement,
    pub(super) store_events: Statement,
    pub(super) store_slices: Statement,
    pub(super) store_prepaid_slices: Statement,
    pub(super) add_numbers: Statement,
    pub(super) join_chain: Statement,
    pub(super) store_lifecycle: Statement,
    pub(super) store_watermark: Statement,
    pub(super) store_retention: Statement,
}

/// `$1` the sources' ids, `$2` the numbers of each that are to be stored.
const LOOK_AT_SOURCES: &str = "SELECT o.id, h.id, o.received && n.numbers::int8multirange \
     FROM sources o JOIN unnest($1::integer[], $2::text[]) AS n (source_id, numbers) ON n.source_id = o.id \
     LEFT JOIN hosts h ON h.source = o.source ORDER BY o.id";

const LOCK_SOURCES: &str = "SELECT FROM sources WHERE id = ANY($1) ORDER BY id FOR UPDATE";

/// `$1` the sources' ids, `$2` the numbers of each that were stored.
const ARE_NUMBERS_KNOWN: &str = "SELECT EXISTS (SELECT FROM sources o \
     JOIN unnest($1::integer[], $2::text[]) AS n (source_id, numbers) ON n.source_id = o.id \
     WHERE o.received && n.numbers::int8multirange)";

const LOCK_ACCOUNTS: &str = "SELECT 1 FROM credit_accounts WHERE org = ANY($1) ORDER BY org FOR UPDATE";

const STORE_EVENTS: &str = "INSERT INTO events (source_id, event_id, host_seq, payload_hash) \
     SELECT source_id, event_id, host_seq, payload_hash FROM staged ORDER BY source_id, event_id";

/// `$1` the sources' ids, `$2` their hosts' ids or NULL. In the order in which they were staged: sorted already.
macro_rules! store_slices {
    () => {
        "INSERT INTO slices (sandbox_id, generation, seq, org, host_id, api_key_id, state, reason, \
         start_unix_ns, end_unix_ns, duration_ns, memory_base_bytes, memory_plugged_bytes, \
         memory_requested_bytes, vcpus_milli, disk_bytes, opened_by, closed_by, command_id, \
         opened_by_command_id, uncertainty_ns) \
         SELECT s.sandbox_id, s.generation, s.seq, s.org, h.host_id, s.api_key_id, s.state, s.reason, \
         s.start_unix_ns, s.end_unix_ns, s.duration_ns, s.memory_base_bytes, s.memory_plugged_bytes, \
         s.memory_requested_bytes, s.vcpus_milli, s.disk_bytes, s.opened_by, s.closed_by, s.command_id, \
         s.opened_by_command_id, s.uncertainty_ns \
         FROM staged s LEFT JOIN unnest($1::integer[], $2::bigint[]) AS h (source_id, host_id) \
         ON h.source_id = s.source_id \
         WHERE s.sandbox_id IS NOT NULL"
    };
}

const STORE_SLICES: &str = store_slices!();

/// The same, and the credit of prepaid orgs goes down by what was stored. Whoever comes to zero is halted, once.
const STORE_PREPAID_SLICES: &str = concat!(
    "WITH stored AS (",
    store_slices!(),
    " RETURNING org, state, duration_ns, memory_base_bytes, memory_plugged_bytes, vcpus_milli, disk_bytes), \
     debits AS (SELECT a.org, sum(s.duration_ns::numeric * ( \
         CASE WHEN p.memory THEN a.per_memory_byte_ns * (s.memory_base_bytes::numeric + s.memory_plugged_bytes) \
             ELSE 0 END \
         + CASE WHEN p.vcpu THEN a.per_vcpu_milli_ns * s.vcpus_milli ELSE 0 END \
         + CASE WHEN p.disk THEN a.per_disk_byte_ns * s.disk_bytes ELSE 0 END)) AS amount \
         FROM stored s JOIN credit_accounts a ON a.org = s.org JOIN billed_states p ON p.state = s.state \
         GROUP BY a.org), \
     debited AS (UPDATE credit_accounts a SET balance = a.balance - d.amount FROM debits d \
         WHERE a.org = d.org AND d.amount > 0 RETURNING a.org, a.balance, d.amount), \
     halted AS (INSERT INTO fleet_outbox (type, org, data) \
         SELECT 'dev.dormouse.credit.halt.v1', org, json_build_object('org', org, 'balance', balance::text) \
         FROM debited WHERE balance <= 0 AND balance + amount > 0) \
     SELECT count(*) FROM stored"
);

/// `$1` the sources' ids, `$2` the numbers of each that were stored.
const ADD_NUMBERS: &str = "UPDATE sources o SET received = o.received + n.numbers::int8multirange \
     FROM unnest($1::integer[], $2::text[]) AS n (source_id, numbers) WHERE o.id = n.source_id";

const STORE_LIFECYCLE: &str = "INSERT INTO lifecycle (source_id, event_id, org, sandbox, generation, kind, \
     unix_ns, data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::json)";

/// A host may say more than once that an hour is complete, or that events are gone: the first word stays.
const STORE_WATERMARK: &str = "INSERT INTO watermarks (source_id, host_seq, chain_hash, public_key, signature, \
     complete_through_unix_ns) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
const STORE_RETENTION: &str = "INSERT INTO retentions (source_id, host_seq, chain_hash, public_key, signature, \
     through_seq, since_unix_ns) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            look_at_sources: client.prepare(LOOK_AT_SOURCES).await?,
            copies: straight::Copies {
                events: client.prepare(straight::COPY_EVENTS).await?,
                slices: client.prepare(straight::COPY_SLICES).await?,
            },
            stage: client.prepare(staging::COPY).await?,
            lock_sources: client.prepare(LOCK_SOURCES).await?,
            are_numbers_known: client.prepare(ARE_NUMBERS_KNOWN).await?,
            lock_accounts: client.prepare(LOCK_ACCOUNTS).await?,
            store_events: client.prepare(STORE_EVENTS).await?,
            store_slices: client.prepare(STORE_SLICES).await?,
            store_prepaid_slices: client.prepare(STORE_PREPAID_SLICES).await?,
            add_numbers: client.prepare(ADD_NUMBERS).await?,
            join_chain: client.prepare(chain::JOIN).await?,
            store_lifecycle: client.prepare(STORE_LIFECYCLE).await?,
            store_watermark: client.prepare(STORE_WATERMARK).await?,
            store_retention: client.prepare(STORE_RETENTION).await?,
        })
    }
}
