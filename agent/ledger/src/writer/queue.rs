//! What waits for the writer, and what callers may know of its health.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::{Class, Health, OnEvents, Refused, Unit};
use crate::LedgerError;

const INTENTS_MAX: usize = 1024;
const FACTS_MAX: usize = 65_536;

pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Signalled when a unit came or the queue was stopped.
    changed: Condvar,
    /// Told of new events.
    on_events: OnceLock<OnEvents>,
}

struct Inner {
    units: VecDeque<Unit>,
    intents: usize,
    stopped: bool,
    health: Health,
}

impl Inner {
    fn take(&mut self, units_max: usize) -> Vec<Unit> {
        let count = self.units.len().min(units_max);
        let taken: Vec<Unit> = self.units.drain(..count).collect();
        self.intents -= taken.iter().filter(|unit| unit.class == Class::Intent).count();
        taken
    }

    fn refusal(&self, class: Class) -> Option<LedgerError> {
        let waiting = match class {
            Class::Intent => self.intents,
            Class::Fact | Class::Note => self.units.len() - self.intents,
        };
        let waiting_max = if class == Class::Intent { INTENTS_MAX } else { FACTS_MAX };
        match &self.health {
            _ if self.stopped => Some(LedgerError::Closed),
            _ if waiting >= waiting_max => Some(LedgerError::QueueFull { waiting }),
            Health::Unwritable { why, .. } if class == Class::Intent => {
                Some(LedgerError::Unwritable { why: why.clone() })
            }
            _ => None,
        }
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        let inner = Inner { units: VecDeque::new(), intents: 0, stopped: false, health: Health::Writable };
        Self { inner: Mutex::new(inner), changed: Condvar::new(), on_events: OnceLock::new() }
    }

    /// Every change under the lock is complete when it is released, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, unit: Unit) -> Result<(), Box<Refused>> {
        let mut inner = self.lock();
        if let Some(error) = inner.refusal(unit.class) {
            return Err(Box::new(Refused { error, records: unit.records, done: unit.done }));
        }
        inner.intents += usize::from(unit.class == Class::Intent);
        inner.units.push_back(unit);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits for units and takes those that are there. `None` once the queue is stopped and empty.
    pub(super) fn wait(&self, units_max: usize) -> Option<Vec<Unit>> {
        let idle = |inner: &mut Inner| inner.units.is_empty() && !inner.stopped;
        let mut inner = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let taken = inner.take(units_max);
        (!taken.is_empty()).then_some(taken)
    }

    /// Takes what is there, perhaps nothing.
    pub(super) fn take(&self, units_max: usize) -> Vec<Unit> {
        self.lock().take(units_max)
    }

    /// Puts facts back at the front, notes why they could not be written, and hands out the queued intents:
    /// they are refused.
    pub(super) fn back_off(&self, facts: Vec<Unit>, why: &str) -> Vec<Unit> {
        let mut inner = self.lock();
        for fact in facts.into_iter().rev() {
            inner.units.push_front(fact);
        }
        let (intents, facts): (VecDeque<_>, VecDeque<_>) =
            inner.units.drain(..).partition(|unit| unit.class == Class::Intent);
        inner.units = facts;
        inner.intents = 0;
        let attempts = match inner.health {
            Health::Writable => 1,
            Health::Unwritable { attempts, .. } => attempts.saturating_add(1),
        };
        inner.health = Health::Unwritable { why: why.to_owned(), attempts, facts_waiting: 0 };
        intents.into()
    }

    /// Waits, unless and until the queue is stopped. Whether it is.
    pub(super) fn pause(&self, delay: Duration) -> bool {
        let inner = self.lock();
        let waited = self.changed.wait_timeout_while(inner, delay, |inner| !inner.stopped);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    pub(super) fn recovered(&self) {
        if std::mem::replace(&mut self.lock().health, Health::Writable) != Health::Writable {
            tracing::info!("the ledger takes writes again");
        }
    }

    pub(super) fn listen(&self, listener: OnEvents) -> bool {
        self.on_events.set(listener).is_ok()
    }

    /// Events through this number are durable.
    pub(super) fn tell_events(&self, host_seq: u64) {
        if let Some(listener) = self.on_events.get() {
            listener(host_seq);
        }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_one();
    }

    pub(super) fn health(&self) -> Health {
        let inner = self.lock();
        match &inner.health {
            Health::Writable => Health::Writable,
            Health::Unwritable { why, attempts, .. } => Health::Unwritable {
                why: why.clone(),
                attempts: *attempts,
                facts_waiting: inner.units.len() - inner.intents,
            },
        }
    }
}
