//! Asking the ledger: on a thread that may block, with a connection of its own, and no longer than somebody waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_ledger::LedgerError;
use dormouse_ledger::usage::{Cancel, UsageLedger};
use tokio::sync::Semaphore;

use super::problem::{Problem, Reason};
use crate::address::LedgerAddress;

/// Questions that are worked on at once; the others wait.
const AT_ONCE: usize = 8;

/// Connections to one ledger, kept open between questions.
pub(super) struct Readers {
    ledger: LedgerAddress,
    seats: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Box<dyn UsageLedger>>>>,
}

/// Cancels a question when nobody waits for it any longer.
struct WhenGone(Cancel);

impl Drop for WhenGone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Readers {
    pub(super) fn new(ledger: LedgerAddress) -> Self {
        Self { ledger, seats: Arc::new(Semaphore::new(AT_ONCE)), idle: Arc::default() }
    }

    /// Asks something. Dropping the future cancels the question within the ledger.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn UsageLedger, &Cancel) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, Problem> {
        let lost = |what: String| Problem::new(Reason::Bug, format!("the question was lost: {what}"));
        let seat = Arc::clone(&self.seats).acquire_owned().await.map_err(|error| lost(error.to_string()))?;
        let (ledger, idle, cancel) = (self.ledger.clone(), Arc::clone(&self.idle), Cancel::default());
        let _when_gone = WhenGone(cancel.clone());
        let answer = tokio::task::spawn_blocking(move || {
            // The seat is taken until the question has really ended.
            let _seat = seat;
            let mut asked = match idle_of(&idle).pop().filter(|ledger| !ledger.is_spent()) {
                Some(ledger) => ledger,
                None => ledger.open()?,
            };
            let answer = question(asked.as_mut(), &cancel);
            if !asked.is_spent() {
                idle_of(&idle).push(asked);
            }
            answer
        });
        Ok(answer.await.map_err(|error| lost(error.to_string()))??)
    }
}

fn idle_of(idle: &Mutex<Vec<Box<dyn UsageLedger>>>) -> MutexGuard<'_, Vec<Box<dyn UsageLedger>>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
