//! The shell of one sandbox: a ractor actor that feeds the machine and carries out what it wants done.
//!
//! Everything that takes time runs in a task of its own and comes back as a message, so that the mailbox is
//! never held up: a destroy gets through while QEMU hangs. What QEMU sends is bounded by permits; beyond them
//! the connection reports a gap and the machine asks again.
//!
//! This decides nothing: see [`super::machine`]. It keeps no slices: see [`crate::metering`].

mod act;
mod disk;
mod environment;
mod link;
mod present;
mod records;
mod resources;
mod start;
mod survey;

use std::collections::HashMap;
use std::future::{Future, ready};
use std::sync::Arc;

use dormouse_metering::Stamp;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::AbortHandle;
use tracing::Span;

use super::command::{Command, Outcome};
use super::machine::{Core, Input, Recovered, Sandbox, Token};
use super::refusal::Refusal;
use super::snapshot::Draft;
use super::view::Shown;
use crate::host_memory::Promise;
use crate::process::{Launched, Process, ProcessIdentity, Watch};
pub use environment::{Environment, SchemaCache, WatchList};
pub(crate) use records::Attachment;

/// What a command's caller is told, once it is durable.
#[derive(Clone, Debug)]
pub struct Answered {
    /// How it came out.
    pub result: Result<Outcome, Refusal>,
    /// True when an earlier request with the same id had stored this.
    pub replayed: bool,
}

impl From<Refusal> for Answered {
    fn from(refusal: Refusal) -> Self {
        Self { result: Err(refusal), replayed: false }
    }
}

/// What a sandbox actor is told.
pub enum Message {
    /// Carry out a command and answer when its outcome is durable. What the first step says is said in the caller's span.
    Execute(Command, oneshot::Sender<Answered>, Span),
    /// Something happened.
    Input(Input),
    /// QEMU sent something. The permit bounds how much of it may wait.
    FromQemu(Box<Input>, OwnedSemaphorePermit),
    /// QEMU was started, or not.
    Launched(Token, Result<Box<Launched>, Refusal>),
    /// It is the sandbox's turn to be saved, and there is a place for it, or not.
    Prepared(Token, Result<Draft, Refusal>),
    /// QMP answers, or not.
    Connected(Token, Box<Result<link::Contact, Refusal>>),
    /// This connection is gone.
    LinkClosed(u64),
    /// This process is gone.
    Exited(ProcessIdentity),
}

/// A sandbox actor.
pub struct SandboxActor;

/// What a sandbox actor starts with.
pub struct Arguments {
    /// What it shares with the rest of the agent.
    pub environment: Arc<Environment>,
    /// Where it begins.
    pub origin: Origin,
    /// Where its view is published.
    pub view: Shown,
}

/// Where a sandbox actor begins.
pub enum Origin {
    /// A sandbox that is to be attached.
    New(Box<Core>),
    /// A sandbox that the ledger knows, and the process that it had.
    Ledger(Box<Recovered>, Option<Process>),
}

/// What a sandbox actor keeps beside the machine. What only a command under way has is boxed: there are thousands of idle ones.
pub struct State {
    machine: Sandbox,
    environment: Arc<Environment>,
    view: Shown,
    presented: present::Presented,
    link: Option<link::Link>,
    links_made: u64,
    /// QEMU's process, of whose end it is told.
    process: Option<Watch>,
    /// A process that has exited, of which the machine has yet to take note.
    gone: Option<ProcessIdentity>,
    /// The QEMU that this actor has started.
    launched: Option<Box<Launched>>,
    waiting: HashMap<String, Vec<oneshot::Sender<Answered>>>,
    draft: Option<Box<Draft>>,
    /// The turn to be saved that a command waits for or has, under its request id.
    turn: Option<Box<(String, disk::Turn)>>,
    /// The digest of a snapshot that a command has begun to take, under its request id.
    digest: Option<Box<(String, disk::Digest)>>,
    /// The host's memory that a command was promised, under its request id.
    promised: Option<Box<(String, Promise)>>,
    /// What the metering actor was last told of whether QEMU can be asked.
    sight: Option<crate::metering::accounts::Sight>,
    attempt: Option<AbortHandle>,
    /// An observation that has to be in the ledger's file before QEMU is told anything more.
    unwritten: Option<oneshot::Receiver<()>>,
    /// How long the host had slept at the last step, in nanoseconds.
    slept_ns: u64,
}

const _: () =
    assert!(size_of::<State>() <= 2_176, "there are thousands of idle ones: box what few of them have");

/// No host sleeps for less, and the two clocks that tell it are read one after the other.
const SLEPT_NS_MIN: u64 = 1_000_000;

impl Actor for SandboxActor {
    type Msg = Message;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Message>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { environment, origin, view } = arguments;
        let (now, slept_ns) = (environment.clock.now(), environment.clock.slept_ns());
        let (machine, actions, process) = match origin {
            Origin::New(core) => (Sandbox::new(*core), Vec::new(), None),
            Origin::Ledger(recovered, process) => {
                let (machine, actions) = Sandbox::recover_from(*recovered, now, process.is_some());
                (machine, actions, process)
            }
        };
        let presented = present::Presented::of(&view.get());
        let mut state = State {
            machine,
            environment,
            view,
            presented,
            link: None,
            links_made: 0,
            process: None,
            gone: None,
            launched: None,
            waiting: HashMap::new(),
            draft: None,
            turn: None,
            digest: None,
            promised: None,
            sight: None,
            attempt: None,
            unwritten: None,
            slept_ns,
        };
        if let Some(process) = process {
            state.hold(process, &myself);
        }
        state.carry_out(actions, now, &myself);
        Ok(state)
    }

    /// Nothing here waits, so that the future holds no message: an actor keeps room for its largest future all its life.
    fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        state.take(message, &myself);
        ready(Ok(()))
    }

    /// It supervises nobody, and its loop keeps no room for what it would be told if it did.
    fn handle_supervisor_evt(
        &self,
        _: ActorRef<Message>,
        _: SupervisionEvent,
        _: &mut State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        ready(Ok(()))
    }

    async fn post_stop(&self, _: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.release();
        if let Some(identity) = state.gone.take() {
            state.environment.watch_list.remove(identity);
        }
        Ok(())
    }
}

impl State {
    fn take(&mut self, message: Message, myself: &ActorRef<Message>) {
        match message {
            Message::Execute(command, reply, span) => {
                let _entered = span.enter();
                self.waiting.entry(command.request_id.clone()).or_default().push(reply);
                self.feed(Input::Command(command), myself);
            }
            Message::Input(input) => self.feed(input, myself),
            Message::FromQemu(input, _) => self.feed(*input, myself),
            Message::Launched(token, launched) => self.launched(token, launched, myself),
            Message::Prepared(token, prepared) => disk::prepared(self, token, prepared, myself),
            Message::Connected(token, contact) => self.connected(token, *contact, myself),
            Message::LinkClosed(number) => {
                if self.link.as_ref().is_some_and(|link| link.number == number) {
                    self.link = None;
                    self.feed(Input::Disconnected, myself);
                    self.forget_gone();
                }
            }
            Message::Exited(identity) => {
                if self.process.take_if(|watch| watch.process().identity() == identity).is_some() {
                    if let Some(launched) = self.launched.take() {
                        self.feed(Input::LastWords(launched.log_tail()), myself);
                    }
                    self.gone = Some(identity);
                    self.feed(Input::Exited, myself);
                    self.forget_gone();
                }
            }
        }
    }

    fn feed(&mut self, input: Input, myself: &ActorRef<Message>) {
        let now = self.environment.clock.now();
        tracing::trace!(sandbox = %self.machine.core().key, ?input, "step");
        let before_ns = std::mem::replace(&mut self.slept_ns, self.environment.clock.slept_ns());
        let slept_ns = self.slept_ns.saturating_sub(before_ns);
        let mut actions = Vec::new();
        if slept_ns >= SLEPT_NS_MIN {
            actions = self.machine.step(now, Input::Slept(slept_ns));
        }
        actions.extend(self.machine.step(now, input));
        self.carry_out(actions, now, myself);
    }

    fn carry_out(&mut self, actions: Vec<super::machine::Action>, now: Stamp, myself: &ActorRef<Message>) {
        // Before anybody is answered: who has an answer sees the sandbox that it speaks of.
        self.present();
        for action in actions {
            self.act(action, now, myself);
        }
        self.tell_sight();
    }

    /// Tells the metering actor when QEMU is lost or found. It comes after what was observed in the same step.
    fn tell_sight(&mut self) {
        let Some((sight, heard)) = self.machine.core().sight() else { return };
        if self.sight != Some(sight) {
            self.sight = Some(sight);
            self.tell_metering(crate::metering::Message::Sight(self.ledger_key(), sight, heard));
        }
    }

    /// Forgets a process that has exited, once the machine has: what QEMU said at the last may still be on its way, and
    /// a proof of life must not get ahead of the news that the process is gone.
    fn forget_gone(&mut self) {
        if let Some(identity) = self.gone.take_if(|identity| self.machine.core().process != Some(*identity)) {
            self.environment.watch_list.remove(identity);
        }
    }

    /// Takes hold of QEMU's process, so that its end is known at once.
    fn hold(&mut self, process: Process, myself: &ActorRef<Message>) {
        self.release();
        self.environment.watch_list.add(&self.machine.core().key, &process);
        let (identity, myself) = (process.identity(), myself.clone());
        self.process = Some(self.environment.ends.watch(process, move || {
            // An actor that is gone needs not be told.
            let _ = myself.cast(Message::Exited(identity));
        }));
    }

    fn release(&mut self) {
        if let Some(watch) = self.process.take() {
            self.environment.watch_list.remove(watch.process().identity());
        }
    }
}
