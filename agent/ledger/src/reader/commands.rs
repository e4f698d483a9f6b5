//! Commands and their outcomes.

use rusqlite::{Connection, OptionalExtension, Row};

use super::Reader;
use crate::encode::{bad, json, stamp, text};
use crate::rows::OutcomeRow;
use crate::{CommandRow, LedgerError, OutcomeStatus};

macro_rules! command_columns {
    () => {
        "SELECT org, request_id, sandbox, generation, kind, payload, payload_hash, asked_by, deadline_unix_ns, \
         intent_boot, intent_boottime_ns, intent_unix_ns, outcome_status, outcome_reason, outcome_detail, \
         outcome_boot, outcome_boottime_ns, outcome_unix_ns FROM commands"
    };
}

pub(crate) const COMMAND: &str = concat!(command_columns!(), " WHERE org = ?1 AND request_id = ?2");

const UNFINISHED: &str =
    concat!(command_columns!(), " WHERE outcome_status IS NULL ORDER BY intent_unix_ns, org, request_id");

/// Reads the row of a command.
pub(crate) fn command_row(row: &Row<'_>) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        org: row.get(0)?,
        request_id: row.get(1)?,
        sandbox: row.get(2)?,
        generation: row.get(3)?,
        kind: row.get(4)?,
        payload: json(row, 5)?,
        payload_hash: row.get(6)?,
        asked_by: row.get(7)?,
        deadline_unix_ns: row.get(8)?,
        asked_at: stamp(row, 9)?,
        outcome: outcome(row)?,
    })
}

fn outcome(row: &Row<'_>) -> rusqlite::Result<Option<OutcomeRow>> {
    if row.get_ref(12)? == rusqlite::types::ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(OutcomeRow {
        status: OutcomeStatus::parse(text(row, 12)?).ok_or_else(|| bad(12, "no outcome status"))?,
        reason: row.get(13)?,
        detail: json(row, 14)?,
        at: stamp(row, 15)?,
    }))
}

/// The intents without an outcome, oldest first.
pub(super) fn unfinished(conn: &Connection) -> Result<Vec<CommandRow>, LedgerError> {
    let mut statement = conn.prepare_cached(UNFINISHED)?;
    Ok(statement.query_map([], command_row)?.collect::<Result<_, _>>()?)
}

impl Reader {
    /// The command of an org with this request id.
    pub fn command(&self, org: &str, request_id: &str) -> Result<Option<CommandRow>, LedgerError> {
        self.answer(|conn| {
            let mut find = conn.prepare_cached(COMMAND)?;
            Ok(find.query_row((org, request_id), command_row).optional()?)
        })
    }
}
