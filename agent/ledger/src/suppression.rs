//! Why a slice is suppressed: what the command gave as its reason whose suppression is in force there.
//!
//! The cut that begins a suppression names its command; the slices behind it, up to the one that takes it back, are
//! cut by hours, sizes and ticks. So the reason is in the ledger once, in the command, and is looked up.

use dormouse_metering::{BillingState, Boundary, Cause, Change, CommandId, Slice};
use rusqlite::{Connection, OptionalExtension};

use crate::encode::int;
use crate::{LedgerError, Reader, SandboxKey, SandboxRow};

const COMMAND: &str = "SELECT opened_command FROM slices WHERE sandbox_pk = ?1 AND seq < ?2 \
     AND opened_by = 'suppress' ORDER BY seq DESC LIMIT 1";

const REASON: &str = "SELECT payload ->> '$.reason' FROM commands WHERE org = ?1 AND request_id = ?2";

const PK: &str = "SELECT pk FROM sandboxes WHERE org = ?1 AND sandbox = ?2 AND generation = ?3";

impl Reader {
    /// Why a sandbox's time is free, as far as the ledger knows, final or not; `None` where it is not, and empty where
    /// the command that freed it gave no reason.
    pub fn suppressed_for(&self, sandbox: &SandboxRow) -> Result<Option<String>, LedgerError> {
        let SandboxKey { org, sandbox: id, generation } = &sandbox.key;
        let mut open = sandbox.open.clone();
        let mut suppressed = open.as_ref().is_some_and(|open| open.beneath.is_some());
        for observation in &sandbox.pending {
            if let (Change::Suppressed(is_so), Some(open)) = (observation.change, &mut open) {
                suppressed = is_so;
                (open.start.cause, open.start.command) = (observation.cause, observation.command.clone());
            }
        }
        let Some(open) = open.filter(|_| suppressed) else { return Ok(None) };
        self.answer(|conn| {
            let pk = conn.prepare_cached(PK)?.query_row((org, id, generation), |row| row.get(0))?;
            let mut suppression = Suppression::new(conn, pk, org);
            let reason = suppression.reason_at(open.seq, BillingState::Suppressed, &open.start)?;
            Ok(Some(reason.unwrap_or_default()))
        })
    }
}

/// The suppressions of one sandbox, asked for slice after slice.
pub(crate) struct Suppression<'a> {
    conn: &'a Connection,
    pk: i64,
    org: &'a str,
    /// The command of the last suppression that was met, and its reason.
    met: Option<(CommandId, Option<String>)>,
}

impl<'a> Suppression<'a> {
    /// Of a sandbox, before any of its slices.
    pub(crate) fn new(conn: &'a Connection, pk: i64, org: &'a str) -> Self {
        Self { conn, pk, org, met: None }
    }

    /// The reason of a closed slice; `None` where it is not suppressed. Slices are asked for in their order.
    pub(crate) fn reason(&mut self, slice: &Slice) -> Result<Option<String>, LedgerError> {
        self.reason_at(slice.seq, slice.state, &slice.start)
    }

    /// The reason of a slice of which only the start is known.
    pub(crate) fn reason_at(
        &mut self,
        seq: u64,
        state: BillingState,
        start: &Boundary,
    ) -> Result<Option<String>, LedgerError> {
        if let Some(command) = start.command.as_ref().filter(|_| start.cause == Cause::Suppress) {
            self.meet(command.clone())?;
        }
        if state != BillingState::Suppressed {
            return Ok(None);
        }
        if self.met.is_none() {
            let seq = int("seq", seq)?;
            let mut last = self.conn.prepare_cached(COMMAND)?;
            let command: Option<Option<String>> =
                last.query_row((self.pk, seq), |row| row.get(0)).optional()?;
            if let Some(command) = command.flatten() {
                self.meet(CommandId::new(&command))?;
            }
        }
        Ok(self.met.as_ref().and_then(|(_, reason)| reason.clone()))
    }

    fn meet(&mut self, command: CommandId) -> Result<(), LedgerError> {
        let mut find = self.conn.prepare_cached(REASON)?;
        let reason = find.query_row((self.org, command.as_str()), |row| row.get(0)).optional()?.flatten();
        self.met = Some((command, reason));
        Ok(())
    }
}
