//! Denials.

use rusqlite::Row;

use super::Reader;
use crate::encode::{row_limit, uint};
use crate::{Denial, LedgerError};

const DENIALS: &str = "SELECT who, method, reason, count, first_unix_ns, last_unix_ns FROM \
     (SELECT * FROM denials ORDER BY id DESC LIMIT ?1) ORDER BY id";

fn denial(row: &Row<'_>) -> rusqlite::Result<Denial> {
    Ok(Denial {
        who: row.get(0)?,
        method: row.get(1)?,
        reason: row.get(2)?,
        count: uint(row, 3)?,
        first_unix_ns: row.get(4)?,
        last_unix_ns: row.get(5)?,
    })
}

impl Reader {
    /// The last `limit` denials, oldest first.
    pub fn denials(&self, limit: usize) -> Result<Vec<Denial>, LedgerError> {
        self.answer(|conn| {
            let mut statement = conn.prepare_cached(DENIALS)?;
            Ok(statement.query_map([row_limit(limit)], denial)?.collect::<Result<_, _>>()?)
        })
    }
}
