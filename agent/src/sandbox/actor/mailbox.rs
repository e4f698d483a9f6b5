//! How a sandbox's actor is reached, and the task that it lives in.
//!
//! ```text
//!   start ──▶ takes one message after the other ──▶ Retired   its life is over; what waits is dropped
//!                              │
//!                              ├──▶ Failed    a message made it panic: its state is gone, and nobody else's
//!                              └──▶           aborted: the host stops
//! ```
//!
//! Not an actor of ractor as the host's and the metering actor: of each of those 5.5 KB are ractor's, most of them room for
//! 32 events of supervision, and there are thousands of sandboxes that supervise nobody.
//!
//! It decides nothing, and never starts an actor again: who has started it is told how it ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use dormouse_qmp::queue::{Receiver, Sender, TrySendError, bounded};
use tokio::task::{AbortHandle, coop};

use super::{Arguments, Message, State};

/// Tells one actor from another of the same sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ActorId(u64);

/// How a sandbox's actor is reached. Cheap to clone.
#[derive(Clone)]
pub struct Address {
    id: ActorId,
    messages: Sender<Box<Message>>,
}

/// How an actor ended by itself.
#[derive(Debug)]
pub enum Ended {
    /// The sandbox's life is over.
    Retired,
    /// It panicked, and said this.
    Failed(String),
}

impl Address {
    /// Which actor it is.
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// Puts a message behind those that wait; hands it back where the actor has ended.
    pub fn cast(&self, message: Message) -> Result<(), Box<Message>> {
        self.messages.try_send(Box::new(message)).map_err(|refused| match refused {
            TrySendError::Full(message) | TrySendError::Closed(message) => message,
        })
    }
}

/// Starts an actor in a task of its own. `tell` is called once it has ended by itself. An error says that it panicked while
/// it started.
pub fn start(
    arguments: Arguments,
    tell: impl FnOnce(ActorId, Ended) + Send + 'static,
) -> Result<(Address, AbortHandle), String> {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let id = ActorId(STARTED.fetch_add(1, Ordering::Relaxed));
    // What enters is bounded: commands by admission, what QEMU sends by permits, answers by what was asked.
    let (messages, mailbox) = bounded(usize::MAX);
    let myself = Address { id, messages };
    let state = caught(|| Box::new(State::begin(arguments, &myself)))?;
    let task = tokio::spawn(live(state, mailbox, myself.clone(), tell));
    Ok((myself, task.abort_handle()))
}

/// The state is boxed: an async function keeps room for its arguments twice.
async fn live(
    mut state: Box<State>,
    mut mailbox: Receiver<Box<Message>>,
    myself: Address,
    tell: impl FnOnce(ActorId, Ended),
) {
    let mut ended = Ended::Retired;
    while !state.is_retired() {
        // It has its own address, so that there is always a next one.
        let Some(message) = mailbox.recv().await else { break };
        if let Err(why) = caught(|| state.take(*message, &myself)) {
            ended = Ended::Failed(why);
            break;
        }
        // However many wait, others have their turn.
        coop::consume_budget().await;
    }
    // Before anybody is told: what comes now is handed back.
    drop(mailbox);
    if let Ended::Retired = ended {
        state.let_go();
    }
    drop(state);
    tell(myself.id, ended);
}

/// What a panic said, where there is one. Whatever it leaves half changed must not be looked at again.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
    })
}
