//! Hours of this host that are complete.

use super::Apply;
use crate::encode::int;
use crate::outbox::Draft;
use crate::{LedgerError, Watermark};

const LAST: &str = "SELECT max(hour_unix_ns) FROM watermarks";
const REACHED: &str = "INSERT INTO watermarks (hour_unix_ns, host_seq) VALUES (?1, ?2)";

impl Apply<'_> {
    /// A watermark that was told before, or is behind one that was, changes nothing.
    pub(super) fn watermark(&mut self, watermark: &Watermark) -> Result<(), LedgerError> {
        let hour_unix_ns = watermark.hour_unix_ns;
        let last: Option<i64> = self.conn.prepare_cached(LAST)?.query_row([], |row| row.get(0))?;
        if last.is_some_and(|last| last >= hour_unix_ns) {
            return Ok(());
        }
        Draft::watermark(watermark, self.host, self.key, *self.head)?
            .append(self.conn, self.host, self.head)?;
        let host_seq = int("host_seq", self.head.host_seq)?;
        self.conn.prepare_cached(REACHED)?.execute((hour_unix_ns, host_seq))?;
        Ok(())
    }
}
