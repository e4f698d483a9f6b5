//! Ending a question before its answer.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{LedgerError, Reader};

/// SQLite looks whether a question was cancelled after so many of its instructions: some tens of microseconds.
const INSTRUCTIONS: i32 = 2_000;

/// Cancels the questions that were asked with it, from any thread and for good.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<Standing>>);

/// What ends the question that is being answered elsewhere.
type End = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Standing {
    cancelled: bool,
    end: Option<End>,
}

impl Cancel {
    /// Ends the questions: they fail with [`LedgerError::Cancelled`].
    pub fn cancel(&self) {
        let end = {
            let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            standing.cancelled = true;
            standing.end.take()
        };
        if let Some(end) = end {
            end();
        }
    }

    /// Fails once it was cancelled. Between short statements SQLite itself would not notice.
    pub(crate) fn check(&self) -> Result<(), LedgerError> {
        let cancelled = self.0.lock().unwrap_or_else(PoisonError::into_inner).cancelled;
        if cancelled { Err(LedgerError::Cancelled) } else { Ok(()) }
    }

    /// Asks something that is answered elsewhere, where `end` ends it. Beside the answer: whether `end` was called. It
    /// may take its effect even after the answer is here, but it is never called once this has returned.
    pub(crate) fn ending<T>(
        &self,
        end: impl FnOnce() + Send + 'static,
        question: impl FnOnce() -> Result<T, LedgerError>,
    ) -> (Result<T, LedgerError>, bool) {
        {
            let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if standing.cancelled {
                return (Err(LedgerError::Cancelled), false);
            }
            standing.end = Some(Box::new(end));
        }
        let answer = question();
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).end.take();
        (answer, left.is_none())
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
