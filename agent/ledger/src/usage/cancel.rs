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
