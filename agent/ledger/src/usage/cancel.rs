//! Ending a question before its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{LedgerError, Reader};

/// SQLite looks whether a question was cancelled after so many of its instructions: some tens of microseconds.
const INSTRUCTIONS: i32 = 2_000;

/// Cancels the questions that were asked with it, from any thread and for good.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the questions: they fail with [`LedgerError::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails once it was cancelled. Between short statements SQLite itself would not notice.
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        if self.0.load(Ordering::Relaxed) { Err(LedgerError::Cancelled) } else { Ok(()) }
    }
}

impl Reader {
    /// Asks something that ends when it is cancelled, within SQLite or between two of its statements.
    pub fn until<T>(
        &mut self,
        cancel: &Cancel,
        question: impl FnOnce(&Self) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let flag = cancel.clone();
        self.conn.progress_handler(INSTRUCTIONS, Some(move || flag.check().is_err()))?;
        let answer = cancel.check().and_then(|()| question(self));
        self.conn.progress_handler(0, None::<fn() -> bool>)?;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostName, Ledger};

    #[test]
    fn a_statement_without_an_end_ends_when_it_is_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let host = HostName { cell: "c".to_owned(), host: "h".to_owned() };
        let _ledger = Ledger::open(&path, &host).unwrap();
        let (mut reader, cancel) = (Reader::open(&path).unwrap(), Cancel::default());
        let (begun, has_begun) = std::sync::mpsc::channel();
        let error = std::thread::scope(|scope| {
            let cancel = &cancel;
            scope.spawn(move || {
                has_begun.recv().unwrap();
                cancel.cancel();
            });
            let endless = |reader: &Reader| {
                begun.send(()).unwrap();
                let sql =
                    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT count(*) FROM n";
                Ok(reader.conn.query_row(sql, [], |row| row.get::<_, i64>(0))?)
            };
            reader.until(cancel, endless).unwrap_err()
        });
        assert_eq!(error.reason(), "QUERY_CANCELLED");
    }
}
