//! The writer's thread: everything that waits goes into one transaction.
//!
//! A unit that is refused must leave nothing behind. Nearly none is, and a savepoint around each would copy every
//! page that the unit touches: so the transaction is tried without them, and once more with them when a unit was
//! refused after it had changed something. What a trigger of the slices, the open slices or the events refuses ends the
//! transaction, which is then tried without that unit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::queue::Queue;
use super::{Class, Committed, Done, Unit};
use crate::apply::{Apply, Lives};
use crate::host_key::HostKey;
use crate::outbox::Head;
use crate::{HostName, LedgerError};

/// The most units in one transaction: it bounds how long the first of them waits for the last.
const BATCH_UNITS_MAX: usize = 512;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Large enough that a disk on which it succeeds takes a transaction, too.
const PROBE: &str = "INSERT INTO write_probe (id, filler) VALUES (1, zeroblob(65536)) \
                     ON CONFLICT (id) DO UPDATE SET filler = excluded.filler";
const FORGET_PROBE: &str = "DELETE FROM write_probe";

pub(super) struct Committer {
    conn: Connection,
    host: HostName,
    key: HostKey,
    /// The last event that is durable.
    head: Head,
    lives: Lives,
    queue: Arc<Queue>,
    /// Whether a commit waits for the disk, as the connection is set now.
    waits_for_disk: bool,
}

/// The transaction is gone, and with it what was applied so far.
struct Failed {
    /// The unit that broke it, where it was one.
    unit: Option<usize>,
    error: LedgerError,
}

/// How the units of a transaction are kept apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// Not at all. Ends at the first unit that would have to be undone.
    Hoping,
    /// By a savepoint around each.
    Savepoints,
}

type Answer = Result<Committed, LedgerError>;
type Answers = Vec<Answer>;

impl Committer {
    pub(super) fn new(
        conn: Connection,
        host: HostName,
        key: HostKey,
        queue: Arc<Queue>,
    ) -> Result<Self, LedgerError> {
        let head = Head::read(&conn)?;
        Ok(Self { conn, host, key, head, lives: Lives::default(), queue, waits_for_disk: true })
    }

    /// Commits what comes until the queue is stopped and empty.
    pub(super) fn run(mut self) {
        while let Some(units) = self.queue.wait(BATCH_UNITS_MAX) {
            let mut attempt = self.attempt(units);
            let mut delay = RETRY_FIRST;
            while let Err(why) = attempt {
                let stopped = self.queue.pause(delay);
                delay = (delay * 2).min(RETRY_MAX);
                let facts = self.queue.take(BATCH_UNITS_MAX);
                attempt = if facts.is_empty() { self.probe() } else { self.attempt(facts) };
                if stopped && attempt.is_err() {
                    return self.give_up(&why);
                }
            }
            self.queue.recovered();
        }
    }

    /// The agent stops while the disk takes nothing. What waits is lost with the process, and recovery will find
    /// from QEMU what it can; the callers are told.
    fn give_up(&self, why: &str) {
        for unit in self.queue.take(usize::MAX) {
            tracing::error!(why, "a fact was not made durable before the ledger was closed");
            answer(unit.done, Err(LedgerError::Unwritable { why: why.to_owned() }));
        }
    }

    /// Commits the units, or says why it cannot be done now: then the intents are refused, and the facts are
    /// back in the queue. Callers are told in the order of their units, whichever of them was refused.
    fn attempt(&mut self, mut units: Vec<Unit>) -> Result<(), String> {
        let mut places: Vec<usize> = (0..units.len()).collect();
        let mut refused: Vec<(usize, Unit, Answer)> = Vec::new();
        loop {
            match self.transaction(&units) {
                Ok(answers) => {
                    // Before the callers are told: what they ask for next must not be refused.
                    self.queue.recovered();
                    let committed = places.into_iter().zip(units).zip(answers);
                    refused.extend(committed.map(|((place, unit), result)| (place, unit, result)));
                    tell(refused);
                    return Ok(());
                }
                Err(Failed { error, .. }) if error.is_environmental() => {
                    tell(refused);
                    return Err(self.back_off(units, &error));
                }
                Err(Failed { unit: Some(index), error }) => {
                    refused.push((places.remove(index), units.remove(index), Err(error)));
                }
                Err(Failed { unit: None, error }) => {
                    let corrupt = || Err(LedgerError::corrupt(error.to_string()));
                    refused
                        .extend(places.into_iter().zip(units).map(|(place, unit)| (place, unit, corrupt())));
                    tell(refused);
                    return Ok(());
                }
            }
        }
    }

    fn back_off(&self, units: Vec<Unit>, error: &LedgerError) -> String {
        let why = match error {
            LedgerError::Unwritable { why } => why.clone(),
            other => other.to_string(),
        };
        let (facts, mut intents): (Vec<_>, Vec<_>) =
            units.into_iter().partition(|unit| unit.class != Class::Intent);
        tracing::warn!(why, facts = facts.len(), "the ledger cannot be written");
        intents.extend(self.queue.back_off(facts, &why));
        for unit in intents {
            answer(unit.done, Err(LedgerError::Unwritable { why: why.clone() }));
        }
        why
    }

    /// One transaction for all the units. Its answers hold only because the commit at its end succeeded.
    fn transaction(&mut self, units: &[Unit]) -> Result<Answers, Failed> {
        let broken = |error| Failed { unit: None, error };
        self.wait_for_disk(units.iter().any(|unit| !unit.class.is_note())).map_err(broken)?;
        let answers = match self.try_transaction(units, Apart::Hoping)? {
            Some(answers) => Some(answers),
            None => self.try_transaction(units, Apart::Savepoints)?,
        };
        answers.ok_or_else(|| broken(LedgerError::rejected("a unit could not be undone by itself")))
    }

    /// Whether the next commit ends only when all that was committed, notes before it included, is on the disk.
    fn wait_for_disk(&mut self, waits: bool) -> Result<(), LedgerError> {
        if self.waits_for_disk != waits {
            self.conn.pragma_update(None, "synchronous", if waits { "FULL" } else { "NORMAL" })?;
            self.waits_for_disk = waits;
        }
        Ok(())
    }

    /// `None`: nothing was written, because a unit has to be undone by itself.
    fn try_transaction(&mut self, units: &[Unit], apart: Apart) -> Result<Option<Answers>, Failed> {
        let mut head = self.head;
        let applied = self.apply_all(units, &mut head, apart).and_then(|answers| {
            if answers.is_some() {
                self.execute("COMMIT").map_err(|error| Failed { unit: None, error })?;
            }
            Ok(answers)
        });
        if let Ok(Some(_)) = applied {
            let has_new = head.host_seq != self.head.host_seq;
            self.head = head;
            if has_new {
                self.queue.tell_events(head.host_seq);
            }
        } else {
            self.lives.forget();
            // Some failures end the transaction by themselves.
            if !self.conn.is_autocommit()
                && let Err(error) = self.execute("ROLLBACK")
            {
                tracing::error!(%error, "a failed transaction could not be rolled back");
            }
        }
        applied
    }

    fn apply_all(
        &mut self,
        units: &[Unit],
        head: &mut Head,
        apart: Apart,
    ) -> Result<Option<Answers>, Failed> {
        self.execute("BEGIN IMMEDIATE").map_err(|error| Failed { unit: None, error })?;
        let mut answers = Vec::with_capacity(units.len());
        for (index, unit) in units.iter().enumerate() {
            let failed = |error| Failed { unit: Some(index), error };
            let (head_before, changes_before) = (*head, self.conn.total_changes());
            if apart == Apart::Savepoints {
                self.execute("SAVEPOINT unit").map_err(failed)?;
            }
            let Self { conn, host, key, lives, .. } = &mut *self;
            let result = Apply { conn, host, key, head, lives }.unit(&unit.records);
            match result {
                Err(error) if error.is_environmental() || self.conn.is_autocommit() => {
                    return Err(failed(error));
                }
                Ok(Committed::Applied { .. }) => {}
                Ok(Committed::Repeat(_)) | Err(_) => {
                    if apart == Apart::Savepoints {
                        self.lives.forget();
                        self.execute("ROLLBACK TO unit").map_err(failed)?;
                    } else if self.conn.total_changes() != changes_before {
                        return Ok(None);
                    }
                    *head = head_before;
                }
            }
            if apart == Apart::Savepoints {
                self.execute("RELEASE unit").map_err(failed)?;
            }
            answers.push(result);
        }
        Ok(Some(answers))
    }

    fn execute(&self, sql: &'static str) -> Result<(), LedgerError> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// Whether the disk takes writes again, learned by writing.
    fn probe(&self) -> Result<(), String> {
        match self.execute(PROBE).and_then(|()| self.execute(FORGET_PROBE)) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.back_off(Vec::new(), &error)),
        }
    }
}

impl Unit {
    /// A fact that the ledger refuses is a mistake of this program, or damage to the file: neither may go unseen.
    fn report(&self, result: &Result<Committed, LedgerError>) {
        if let (Class::Fact | Class::Note | Class::Aside, Err(error)) = (self.class, result) {
            tracing::error!(%error, reason = error.reason(), records = ?self.records, "the ledger refused a fact");
        }
    }
}

/// Tells callers what became of their units, each of which has its place among them.
fn tell(mut answered: Vec<(usize, Unit, Answer)>) {
    answered.sort_by_key(|(place, ..)| *place);
    for (_, unit, result) in answered {
        unit.report(&result);
        answer(unit.done, result);
    }
}

/// A callback that panics must not take the writer with it.
fn answer(done: Done, result: Result<Committed, LedgerError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a callback of the ledger panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{Record, schema};

    /// Commits units of these classes together, and says how SQLite then waited for the disk: 1 not, 2 until synced.
    fn synchronous_after(classes: &[Class]) -> i64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let host = HostName { cell: "cell".into(), host: "host".into() };
        let conn = schema::open_for_writing(&path, &host).unwrap();
        let key = HostKey::open(folder.path()).unwrap();
        let mut committer = Committer::new(conn, host, key, Arc::new(Queue::new())).unwrap();
        let done = Arc::new(Mutex::new(0));
        let unit = |class: &Class| {
            let done = Arc::clone(&done);
            let told: Done = Box::new(move |result| {
                result.unwrap();
                *done.lock().unwrap() += 1;
            });
            Unit { class: *class, records: Vec::<Record>::new(), done: told }
        };
        committer.attempt(classes.iter().map(unit).collect()).unwrap();
        assert_eq!(*done.lock().unwrap(), classes.len());
        committer.conn.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn only_notes_among_themselves_do_not_wait_for_the_disk() {
        use Class::{Aside, Fact, Intent, Note};
        assert_eq!(synchronous_after(&[Note, Aside]), 1);
        for classes in [&[Fact][..], &[Intent], &[Note, Fact], &[Intent, Note], &[Aside, Fact]] {
            assert_eq!(synchronous_after(classes), 2, "{classes:?}");
        }
    }
}
