//! Where the sinks stand, and which events need not be kept any longer.

use rusqlite::OptionalExtension;

use super::Apply;
use crate::encode::{int, uint};
use crate::{LedgerError, SinkNames, SinkProgress, SinkTerms};

/// The most events that one unit lets go: metering waits no longer for it than for a batch of slices.
pub(crate) const RETAIN_EVENTS_MAX: u64 = 2048;

const KNOWN: &str = "SELECT name FROM sinks";
const FORGET: &str = "DELETE FROM sinks WHERE name = ?1";

/// A new sink gets everything that is still there.
const CONFIGURE: &str = "INSERT INTO sinks (name, acknowledged_seq, since_unix_ns) \
     SELECT ?1, through_seq, ?2 FROM outbox_start WHERE true ON CONFLICT (name) DO NOTHING";

const PROGRESS: &str = "UPDATE sinks SET acknowledged_seq = ?2, error = ?4, \
     since_unix_ns = CASE WHEN acknowledged_seq < ?2 THEN ?3 ELSE since_unix_ns END, \
     error_unix_ns = CASE WHEN ?4 IS NULL THEN NULL ELSE ?3 END WHERE name = ?1";

const TERMS: &str = "SELECT terms FROM sink_terms WHERE sink = ?1 ORDER BY from_seq DESC LIMIT 1";

/// Terms by which there is no event yet give way.
const AGREE: &str = "INSERT INTO sink_terms (sink, from_seq, terms) VALUES (?1, ?2, ?3) \
     ON CONFLICT (sink, from_seq) DO UPDATE SET terms = excluded.terms";

/// The first event that must stay: the first that a sink lacks, or that is not old enough, or the last of all.
const KEEP_FROM: &str = "WITH candidates AS (SELECT host_seq, event_unix_ns FROM outbox ORDER BY host_seq LIMIT ?2) \
     SELECT min(coalesce((SELECT min(host_seq) FROM candidates WHERE event_unix_ns >= ?1), \
                         (SELECT max(host_seq) + 1 FROM candidates)), \
                (SELECT min(acknowledged_seq) + 1 FROM sinks), \
                (SELECT max(host_seq) FROM outbox))";

const MOVE_START: &str = "UPDATE outbox_start SET through_seq = ?1, \
     hash = (SELECT payload_hash FROM outbox WHERE host_seq = ?1) WHERE through_seq < ?1";
const LET_GO: &str = "DELETE FROM outbox WHERE host_seq <= ?1";

impl Apply<'_> {
    /// The sinks that there are from now on. One that is gone is waited for no longer.
    pub(super) fn sinks(&self, sinks: &SinkNames) -> Result<(), LedgerError> {
        let mut known = self.conn.prepare_cached(KNOWN)?;
        let known: Vec<String> = known.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for gone in known.iter().filter(|name| !sinks.names.contains(name)) {
            tracing::warn!(sink = gone, "the sink is no longer configured: nothing is kept for it");
            self.conn.prepare_cached(FORGET)?.execute([gone])?;
        }
        for name in &sinks.names {
            self.conn.prepare_cached(CONFIGURE)?.execute((name, sinks.at_unix_ns))?;
        }
        Ok(())
    }

    pub(super) fn sink_progress(&self, progress: &SinkProgress) -> Result<(), LedgerError> {
        let acknowledged = int("acknowledged_seq", progress.acknowledged_seq)?;
        let SinkProgress { sink, at_unix_ns, error, .. } = progress;
        let changed = self.conn.prepare_cached(PROGRESS)?.execute((sink, acknowledged, at_unix_ns, error))?;
        if changed == 0 {
            return Err(LedgerError::rejected(format!("the ledger has no sink {sink}")));
        }
        Ok(())
    }

    /// From the next event on a sink is told by these terms; from the first, where it had none.
    pub(super) fn sink_terms(&self, agreed: &SinkTerms) -> Result<(), LedgerError> {
        let terms = agreed.terms.to_string();
        let mut last = self.conn.prepare_cached(TERMS)?;
        let last: Option<String> = last.query_row([&agreed.sink], |row| row.get(0)).optional()?;
        let from_seq = match last {
            Some(last) if last == terms => return Ok(()),
            Some(_) => int("from_seq", self.head.host_seq + 1)?,
            None => 1,
        };
        self.conn.prepare_cached(AGREE)?.execute((&agreed.sink, from_seq, terms))?;
        Ok(())
    }

    /// Lets go of events from before a moment that every sink has, [`RETAIN_EVENTS_MAX`] at the most.
    pub(super) fn retain(&self, before_unix_ns: i64) -> Result<(), LedgerError> {
        let limit = int("limit", RETAIN_EVENTS_MAX)?;
        let mut keep_from = self.conn.prepare_cached(KEEP_FROM)?;
        // No event or no sink: nothing may go.
        let keep_from = keep_from.query_row((before_unix_ns, limit), |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(|_| uint(row, 0)))
        });
        let Some(keep_from) = keep_from.optional()?.flatten().transpose()? else { return Ok(()) };
        let through = int("through_seq", keep_from.saturating_sub(1))?;
        if self.conn.prepare_cached(MOVE_START)?.execute([through])? > 0 {
            self.conn.prepare_cached(LET_GO)?.execute([through])?;
        }
        Ok(())
    }
}
