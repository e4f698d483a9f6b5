//! Hourly rollups, kept up in the transaction that stores the slices: running totals by sandbox, state and size of the
//! disk, at the full hours at which slices end them. Reading them is `usage`'s.
//!
//! Whoever adds slices of a sandbox to them holds its source's row, so nobody else writes about the same kinds meanwhile.
//! What is late is added to every later hour as well.

use tokio_postgres::{Client, Error, Statement, Transaction};

/// Lookups that are limited stay lookups: the planner knows nothing of what is staged, and would read all kinds.
const ADD_KINDS: &str = "INSERT INTO usage_kinds (sandbox_id, state, disk_bytes) \
     SELECT s.sandbox_id, s.state, s.disk_bytes \
     FROM (SELECT DISTINCT sandbox_id, state, disk_bytes FROM staged WHERE sandbox_id IS NOT NULL) s \
     LEFT JOIN LATERAL (SELECT true AS known FROM usage_kinds k WHERE k.sandbox_id = s.sandbox_id \
         AND k.state = s.state AND k.disk_bytes = s.disk_bytes LIMIT 1) k ON true \
     WHERE k.known IS NULL ORDER BY 1, 2, 3";

/// What the batch adds to a row `h` of `usage_hours`, or to the last row before a new one.
macro_rules! sums {
    () => {
        "coalesce(h.duration_ns, 0) + a.duration_ns, coalesce(h.vcpu_milli_ns, 0) + a.vcpu_milli_ns, \
         coalesce(h.base_byte_ns, 0) + a.base_byte_ns, coalesce(h.plugged_byte_ns, 0) + a.plugged_byte_ns, \
         coalesce(h.requested_byte_ns, 0) + a.requested_byte_ns, coalesce(h.greater_byte_ns, 0) + a.greater_byte_ns"
    };
}

/// `added` is what the batch adds from an hour on, until the next of its hours. First the hours at which it has slices;
/// then the later ones that are there already.
const ADD_HOURS: &str = concat!(
    "WITH staged_hours AS MATERIALIZED ( \
     SELECT sandbox_id, state, disk_bytes, (start_unix_ns / 3600000000000 + 1) * 3600000000000 AS hour_unix_ns, \
         sum(duration_ns::numeric) AS duration_ns, \
         sum(duration_ns::numeric * vcpus_milli) AS vcpu_milli_ns, \
         sum(duration_ns::numeric * memory_base_bytes) AS base_byte_ns, \
         sum(duration_ns::numeric * memory_plugged_bytes) AS plugged_byte_ns, \
         sum(duration_ns::numeric * memory_requested_bytes) AS requested_byte_ns, \
         sum(duration_ns::numeric * greatest(memory_plugged_bytes, memory_requested_bytes)) AS greater_byte_ns \
     FROM staged WHERE sandbox_id IS NOT NULL GROUP BY 1, 2, 3, 4), \
     added AS MATERIALIZED ( \
     SELECT k.id AS kind_id, s.hour_unix_ns, lead(s.hour_unix_ns) OVER w AS next_hour_unix_ns, \
         sum(s.duration_ns) OVER w AS duration_ns, sum(s.vcpu_milli_ns) OVER w AS vcpu_milli_ns, \
         sum(s.base_byte_ns) OVER w AS base_byte_ns, sum(s.plugged_byte_ns) OVER w AS plugged_byte_ns, \
         sum(s.requested_byte_ns) OVER w AS requested_byte_ns, sum(s.greater_byte_ns) OVER w AS greater_byte_ns \
     FROM staged_hours s CROSS JOIN LATERAL (SELECT id FROM usage_kinds k WHERE k.sandbox_id = s.sandbox_id \
         AND k.state = s.state AND k.disk_bytes = s.disk_bytes LIMIT 1) k \
     WINDOW w AS (PARTITION BY k.id ORDER BY s.hour_unix_ns)) \
     INSERT INTO usage_hours (kind_id, hour_unix_ns, duration_ns, vcpu_milli_ns, base_byte_ns, plugged_byte_ns, \
         requested_byte_ns, greater_byte_ns) \
     SELECT a.kind_id, a.hour_unix_ns, ",
    sums!(),
    " FROM added a LEFT JOIN LATERAL (SELECT * FROM usage_hours h WHERE h.kind_id = a.kind_id \
         AND h.hour_unix_ns <= a.hour_unix_ns ORDER BY h.hour_unix_ns DESC LIMIT 1) h ON true \
     UNION ALL SELECT a.kind_id, h.hour_unix_ns, ",
    sums!(),
    " FROM added a CROSS JOIN LATERAL (SELECT * FROM usage_hours h WHERE h.kind_id = a.kind_id \
         AND h.hour_unix_ns > a.hour_unix_ns \
         AND (a.next_hour_unix_ns IS NULL OR h.hour_unix_ns < a.next_hour_unix_ns) OFFSET 0) h \
     ORDER BY 1, 2 \
     ON CONFLICT (kind_id, hour_unix_ns) DO UPDATE SET duration_ns = EXCLUDED.duration_ns, \
         vcpu_milli_ns = EXCLUDED.vcpu_milli_ns, base_byte_ns = EXCLUDED.base_byte_ns, \
         plugged_byte_ns = EXCLUDED.plugged_byte_ns, requested_byte_ns = EXCLUDED.requested_byte_ns, \
         greater_byte_ns = EXCLUDED.greater_byte_ns"
);

/// Statements, prepared once for each connection.
pub(super) struct Rollup {
    add_kinds: Statement,
    add_hours: Statement,
}

impl Rollup {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self { add_kinds: client.prepare(ADD_KINDS).await?, add_hours: client.prepare(ADD_HOURS).await? })
    }

    /// Adds the slices that are staged to the totals.
    pub(super) async fn add(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        tx.execute(&self.add_kinds, &[]).await?;
        tx.execute(&self.add_hours, &[]).await?;
        Ok(())
    }
}
