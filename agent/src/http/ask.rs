//! Asking the ledger: on a thread that may block, with a reader of its own, and no longer than somebody waits.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dormouse_ledger::usage::Cancel;
use dormouse_ledger::{LedgerError, Reader};
use tokio::sync::Semaphore;

use super::problem::{Problem, Reason};

/// Questions that are worked on at once; the others wait.
const AT_ONCE: usize = 8;

/// Readers of one ledger, kept open between questions.
pub(super) struct Readers {
    ledger: PathBuf,
    seats: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Reader>>>,
}

/// Cancels a question when nobody waits for it any longer.
struct WhenGone(Cancel);

impl Drop for WhenGone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Readers {
    pub(super) fn new(ledger: PathBuf) -> Self {
        Self { ledger, seats: Arc::new(Semaphore::new(AT_ONCE)), idle: Arc::default() }
    }

    /// Asks something. Dropping the future cancels the question within the ledger.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Reader, &Cancel) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let lost = |what: String| Problem::new(Reason::Bug, format!("the question was lost: {what}"));
        let seat = Arc::clone(&self.seats).acquire_owned().await.map_err(|error| lost(error.to_string()))?;
        let (ledger, idle, cancel) = (self.ledger.clone(), Arc::clone(&self.idle), Cancel::default());
        let _when_gone = WhenGone(cancel.clone());
        let answer = tokio::task::spawn_blocking(move || {
            // The seat is taken until the question has really ended.
            let _seat = seat;
            let reader = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut reader = reader.map_or_else(|| Reader::open(&ledger), Ok)?;
            let answer = question(&mut reader, &cancel);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            answer
        });
        Ok(answer.await.map_err(|error| lost(error.to_string()))??)
    }
}
