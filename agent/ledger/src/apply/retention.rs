//! Which events need not be kept any longer, and the word that they are not.
//!
//! What is gone cannot be made again: an event carries the hash of the one before it, and lifecycle events are nowhere but
//! in the outbox. So whoever asks for it is told, by an event like any other.

use rusqlite::OptionalExtension;

use super::Apply;
use crate::LedgerError;
use crate::encode::{int, uint};
use crate::outbox::Draft;
use crate::statement::NotKept;

/// The most events that one unit lets go: metering waits no longer for it than for a batch of slices.
pub(crate) const RETAIN_EVENTS_MAX: u64 = 2048;

/// The first event that must stay: the first that a sink lacks, or that is not old enough, or the last of all.
const KEEP_FROM: &str = "WITH candidates AS (SELECT host_seq, event_unix_ns FROM outbox ORDER BY host_seq LIMIT ?2) \
     SELECT min(coalesce((SELECT min(host_seq) FROM candidates WHERE event_unix_ns >= ?1), \
                         (SELECT max(host_seq) + 1 FROM candidates)), \
                (SELECT min(acknowledged_seq) + 1 FROM sinks), \
                (SELECT max(host_seq) FROM outbox))";

const MOVE_START: &str = "UPDATE outbox_start SET through_seq = ?1, moved_unix_ns = ?2, \
     hash = (SELECT payload_hash FROM outbox WHERE host_seq = ?1) WHERE through_seq < ?1";
const LET_GO: &str = "DELETE FROM outbox WHERE host_seq <= ?1";

const NOT_KEPT: &str = "SELECT through_seq, coalesce(moved_unix_ns, ?1) FROM outbox_start \
     WHERE through_seq > 0 AND NOT EXISTS (SELECT 1 FROM outbox WHERE event_id = 'retention:' || through_seq)";

impl Apply<'_> {
    /// Lets go of events from before a moment that every sink has, [`RETAIN_EVENTS_MAX`] at the most.
    pub(super) fn retain(&self, before_unix_ns: i64, at_unix_ns: i64) -> Result<(), LedgerError> {
        let limit = int("limit", RETAIN_EVENTS_MAX)?;
        let mut keep_from = self.conn.prepare_cached(KEEP_FROM)?;
        // No event or no sink: nothing may go.
        let keep_from = keep_from.query_row((before_unix_ns, limit), |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(|_| uint(row, 0)))
        });
        let Some(keep_from) = keep_from.optional()?.flatten().transpose()? else { return Ok(()) };
        let through = int("through_seq", keep_from.saturating_sub(1))?;
        if self.conn.prepare_cached(MOVE_START)?.execute((through, at_unix_ns))? > 0 {
            self.conn.prepare_cached(LET_GO)?.execute([through])?;
        }
        Ok(())
    }

    /// Tells through which number events are no longer kept.
    pub(super) fn tell_retention(&mut self, at_unix_ns: i64) -> Result<(), LedgerError> {
        let mut not_kept = self.conn.prepare_cached(NOT_KEPT)?;
        let not_kept = not_kept.query_row([at_unix_ns], |row| {
            Ok(NotKept { through_seq: uint(row, 0)?, since_unix_ns: row.get(1)? })
        });
        let Some(not_kept) = not_kept.optional()? else { return Ok(()) };
        Draft::retention(not_kept, at_unix_ns, self.host, self.key, *self.head)?
            .append(self.conn, self.host, self.head)
    }
}
