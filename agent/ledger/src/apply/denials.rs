//! Denials: who was refused what.

use rusqlite::params;

use super::Apply;
use crate::encode::int;
use crate::{Denial, LedgerError};

const DENIAL: &str = "INSERT INTO denials (who, method, reason, count, first_unix_ns, last_unix_ns) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

impl Apply<'_> {
    pub(super) fn denial(&self, denial: &Denial) -> Result<(), LedgerError> {
        let Denial { who, method, reason, count, first_unix_ns, last_unix_ns } = denial;
        let count = int("count", *count)?;
        self.conn.prepare_cached(DENIAL)?.execute(params![
            who,
            method,
            reason,
            count,
            first_unix_ns,
            last_unix_ns
        ])?;
        Ok(())
    }
}
