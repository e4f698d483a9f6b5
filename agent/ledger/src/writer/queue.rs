//! What waits for the writer, and what callers may know of its health.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::{Class, Health, OnEvents, Refused, Unit};
use crate::LedgerError;

const INTENTS_MAX: usize = 1024;
const FACTS_MAX: usize = 65_536;

/// For how long asides alone are kept back. A command's outcome comes right behind what was seen of it.
const KEPT_BACK: Duration = Duration::from_millis(1);

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
    asides: usize,
    /// Whether the writer waits, and nobody has woken it yet. To wake nobody costs as much as to wake somebody.
    awaited: bool,
    stopped: bool,
    health: Health,
}

impl Inner {
    fn take(&mut self, units_max: usize) -> Vec<Unit> {
        let count = self.units.len().min(units_max);
        let taken: Vec<Unit> = self.units.drain(..count).collect();
        let count = |class| taken.iter().filter(|unit| unit.class == class).count();
        self.intents -= count(Class::Intent);
        self.asides -= count(Class::Aside);
        taken
    }

    /// Whether the writer goes on waiting, as it says.
    fn awaits(&mut self, waits: bool) -> bool {
        self.awaited = waits;
        waits
    }

    /// Whether what is there may wait for what comes behind it.
    fn may_wait(&self, units_max: usize) -> bool {
        !self.stopped && self.units.len() == self.asides && self.asides < units_max
    }

    fn refusal(&self, class: Class) -> Option<LedgerError> {
        let waiting = match class {
            Class::Intent => self.intents,
            Class::Fact | Class::Note | Class::Aside => self.units.len() - self.intents,
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
        let (units, health) = (VecDeque::new(), Health::Writable);
        let inner = Inner { units, intents: 0, asides: 0, awaited: false, stopped: false, health };
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
        // Who keeps back an aside has been woken by the first, and has nothing to do about the next.
        let wakes = inner.awaited && (unit.class != Class::Aside || inner.units.is_empty());
        inner.awaited &= !wakes;
        inner.intents += usize::from(unit.class == Class::Intent);
        inner.asides += usize::from(unit.class == Class::Aside);
        inner.units.push_back(unit);
        // Who is woken wants the lock at once.
        drop(inner);
        if wakes {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for units, where they are asides alone a moment longer for others, and takes those that are there. `None` once
    /// the queue is stopped and empty.
    pub(super) fn wait(&self, units_max: usize) -> Option<Vec<Unit>> {
        let idle = |inner: &mut Inner| inner.awaits(inner.units.is_empty() && !inner.stopped);
        let inner = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let kept_back = |inner: &mut Inner| inner.awaits(inner.may_wait(units_max));
        let kept = self.changed.wait_timeout_while(inner, KEPT_BACK, kept_back);
        let (mut inner, _) = kept.unwrap_or_else(PoisonError::into_inner);
        inner.awaited = false;
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
            inner.asides += usize::from(fact.class == Class::Aside);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(classes: &[Class]) -> Queue {
        let queue = Queue::new();
        for class in classes {
            queue.push(Unit { class: *class, records: Vec::new(), done: Box::new(drop) }).unwrap();
        }
        queue
    }

    #[test]
    fn asides_alone_wait_for_what_comes_behind_them_and_nothing_else_does() {
        use Class::{Aside, Fact, Intent, Note};
        for waiting in [&[Aside][..], &[Aside, Aside]] {
            let queue = queue_of(waiting);
            assert!(queue.lock().may_wait(3), "{waiting:?}");
            assert!(!queue.lock().may_wait(waiting.len()), "as many as are taken at once");
            queue.stop();
            assert!(!queue.lock().may_wait(3), "{waiting:?}");
        }
        for urgent in [&[Note][..], &[Aside, Fact], &[Fact, Aside], &[Aside, Intent, Aside], &[Aside, Note]] {
            assert!(!queue_of(urgent).lock().may_wait(9), "{urgent:?}");
        }
    }

    #[test]
    fn an_aside_is_taken_though_nothing_comes_behind_it_and_in_its_order() {
        use Class::{Aside, Fact};
        assert_eq!(queue_of(&[Aside]).wait(9).unwrap().len(), 1);
        let queue = queue_of(&[Aside, Fact, Aside]);
        let taken: Vec<Class> = queue.wait(2).unwrap().iter().map(|unit| unit.class).collect();
        assert_eq!(taken, [Aside, Fact]);
        assert!(queue.lock().may_wait(9));
        let back = queue.wait(9).unwrap();
        assert_eq!(queue.lock().asides, 0);
        assert!(queue.back_off(back, "the disk is full").is_empty());
        let inner = queue.lock();
        assert_eq!((inner.asides, inner.units.len()), (1, 1));
    }
}
