//! The one writer of the ledger.
//!
//! ```text
//!              submit                    take                  commit
//!   callers ------------> queue of units ------> one thread ------------> SQLite, one transaction for all that waits
//!      ^                       ^                     |
//!      |                       |  facts, in order    |  the disk is full, read-only, failing or busy
//!      |                       +---------------------+
//!      +----- done(Ok: durable | Err: nothing of the unit was written) -----+
//! ```
//!
//! A unit is applied whole or not at all, whatever becomes of the others in its transaction. An *intent* is
//! refusable: while the ledger cannot be written it fails at once. A *fact* has happened already: it is tried
//! again, in order, until it is durable. A *note* is a fact that nobody waits for and that no event tells: notes alone
//! are committed without waiting for the disk. They survive the agent's death at once, and the host's from the next
//! other unit on, a proof of life at the latest: what happened after that proof is lost with the host anyway. An *aside* is
//! a note that waits a moment for what comes behind it, and is committed with that.

mod commit;
mod queue;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::host_key::HostKey;
use crate::{CommandRow, HostName, LedgerError, Record};
use commit::Committer;
use queue::Queue;

/// Whether a unit may be refused, and what it must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Something that is to happen, and will not if it cannot be made durable.
    Intent,
    /// Something that did happen.
    Fact,
    /// Something that did happen, that nobody is told of before something else is durable.
    Note,
    /// A note that may be lost with the agent for a millisecond, because nobody waits until it is written.
    Aside,
}

/// A unit is durable, or was already.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// Every record of the unit is durable.
    Applied {
        /// The number of the outbox's last event, once the unit was applied.
        host_seq: u64,
    },
    /// The unit holds an intent whose request id is known, with the same payload. Nothing of the unit was applied.
    Repeat(Box<CommandRow>),
}

/// Called once with what became of a unit, on the writer's thread: it must not block.
pub type Done = Box<dyn FnOnce(Result<Committed, LedgerError>) + Send>;

/// Called with the number of the last durable event, after each commit that brought new ones, on the writer's thread: it
/// must not block.
pub type OnEvents = Box<dyn Fn(u64) + Send + Sync>;

/// Whether the ledger takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The last commit succeeded.
    Writable,
    /// The last commit failed for want of the disk. Intents are refused; facts wait and are tried again.
    Unwritable {
        /// What SQLite said at the last attempt.
        why: String,
        /// How often it was tried since the first failure.
        attempts: u32,
        /// How many units of facts wait.
        facts_waiting: usize,
    },
}

impl Class {
    /// Whether nobody is told of it before something else is durable.
    const fn is_note(self) -> bool {
        matches!(self, Self::Note | Self::Aside)
    }
}

/// One unit on its way to the ledger.
struct Unit {
    class: Class,
    records: Vec<Record>,
    done: Done,
}

/// A unit that was not taken, handed back whole.
pub struct Refused {
    /// Why.
    pub error: LedgerError,
    /// The unit.
    pub records: Vec<Record>,
    /// Its callback, not called.
    pub done: Done,
}

impl Refused {
    /// Calls the unit's callback with the reason.
    pub fn answer(self) {
        (self.done)(Err(self.error));
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused")
            .field("error", &self.error)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// Hands units to the ledger's writer thread. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    queue: Arc<Queue>,
}

impl Writer {
    /// Queues a unit and returns at once. `done` is called when the unit is durable or has failed.
    ///
    /// A unit comes back when the queue is full ([`LedgerError::QueueFull`]; 1,024 units of intents, 65,536 of
    /// facts), when it is an intent and the ledger cannot be written ([`LedgerError::Unwritable`]), and when
    /// the ledger is closed ([`LedgerError::Closed`]). So that a long outage of the disk does not fill the
    /// queue, send a proof of life only after the one before it was answered.
    pub fn submit(&self, class: Class, records: Vec<Record>, done: Done) -> Result<(), Box<Refused>> {
        self.queue.push(Unit { class, records, done })
    }

    /// Writes a unit and waits until it is durable or has failed. Not for asynchronous callers.
    pub fn write(&self, class: Class, records: Vec<Record>) -> Result<Committed, LedgerError> {
        let (answer, answered) = mpsc::channel();
        // The receiver below waits for as long as the callback exists.
        let done = Box::new(move |result| drop(answer.send(result)));
        self.submit(class, records, done).map_err(|refused| refused.error)?;
        answered.recv().unwrap_or(Err(LedgerError::Closed))
    }

    /// Has the one listener told of new events from now on. `false`: there is one already, and it stays.
    pub fn listen(&self, listener: OnEvents) -> bool {
        self.queue.listen(listener)
    }

    /// Whether the ledger takes writes.
    pub fn health(&self) -> Health {
        self.queue.health()
    }

    /// Lets the writer finish what is queued and end. What comes later is refused.
    pub(crate) fn stop(&self) {
        self.queue.stop();
    }

    /// Starts the writer's thread on a connection of its own.
    pub(crate) fn start(
        conn: Connection,
        host: HostName,
        key: HostKey,
    ) -> Result<(Self, JoinHandle<()>), LedgerError> {
        let queue = Arc::new(Queue::new());
        let committer = Committer::new(conn, host, key, Arc::clone(&queue))?;
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| LedgerError::Unwritable { why: format!("no thread for the writer: {error}") })?;
        Ok((Self { queue }, thread))
    }
}
