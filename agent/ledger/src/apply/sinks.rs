//! Where the sinks stand.

use rusqlite::OptionalExtension;

use super::Apply;
use crate::encode::int;
use crate::{LedgerError, SinkNames, SinkProgress, SinkTerms};

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
}
