//! One connection to one QEMU: made in a task, then kept by a task that sends commands and hands on events.
//!
//! QEMU sends an event before the reply to the command that caused it. The order is kept: whatever has
//! arrived before a reply is handed on before it.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dormouse_metering::Stamp;
use dormouse_qmp::{
    Anomaly, Client, CloseReason, Connection, Event, EventStream, Incoming, Position, QmpError, queue,
};
use ractor::ActorRef;
use tokio::sync::{Semaphore, oneshot};

use super::Message;
use super::environment::Environment;
use super::survey::survey;
use crate::failpoint;
use crate::process::{CommandLine, Process};
use crate::sandbox::facts::{QemuVersion, Survey};
use crate::sandbox::machine::{Answer, Input, QemuEvent, QmpCommand, Token};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::terms::Terms;

/// How much of what QEMU sends may wait in the mailbox.
const FROM_QEMU_MAX: usize = 256;

/// How many commands may wait for the connection. The machine has one under way, and a few questions.
const COMMANDS_MAX: usize = 16;

/// How long QEMU is told nothing because what was observed before is not written yet. Past it, an agent that is killed may
/// have to bill less than the guest ran, and flags it.
const WRITTEN_MAX: Duration = Duration::from_millis(250);

const SIZE_EVENT: &str = "MEMORY_DEVICE_SIZE_CHANGE";

/// The events that change what is known of a sandbox, or tell how saving and loading go. Others are QEMU's own affair.
const EVENTS: [&str; 7] =
    ["STOP", "RESUME", "RESET", "SHUTDOWN", SIZE_EVENT, "MIGRATION", "JOB_STATUS_CHANGE"];

/// A QEMU that answers.
pub struct Contact {
    client: Client,
    events: EventStream,
    pub(super) process: Process,
    pub(super) survey: Survey,
    /// Where among the events the survey's sizes came.
    sized: Position,
}

/// The connection that is kept.
pub(super) struct Link {
    pub(super) number: u64,
    /// Boxed: the queue keeps room for some.
    commands: queue::Sender<Box<(Token, Ask)>>,
    client: Client,
}

/// What is asked of QEMU.
pub(super) enum Ask {
    /// Once what was observed before it is written.
    Command(QmpCommand, Option<oneshot::Receiver<()>>),
    /// All that a survey asks. The command line of a process that lives stays what it was.
    Survey(Result<CommandLine, String>),
}

/// Its answer is boxed: the keeper has room for one all the time.
type InFlight = Pin<Box<dyn Future<Output = Box<(Token, Answer, Position)>> + Send>>;

/// Connects after a while, once the host answers; takes hold of the process behind the socket, and surveys it.
pub(super) async fn connect(
    environment: Arc<Environment>,
    path: PathBuf,
    terms: Terms,
    after: Duration,
) -> Result<Contact, Refusal> {
    tokio::time::sleep(after).await;
    // Nobody is left to say it only where the start failed, and then everything ends.
    let _ = environment.ready.clone().wait_for(|ready| *ready).await;
    is_socket(&path).await?;
    let at_path = |error: &QmpError| {
        let told = refusal(error);
        let message = format!("{}: {}", path.display(), told.message);
        Refusal { message, ..told }
    };
    let Connection { client, events, peer, version } =
        Connection::connect(&path, environment.qmp.clone()).await.map_err(|error| at_path(&error))?;
    let process = Process::open(peer.pid).map_err(|error| unreachable(&error))?;
    // Another user's QEMU can be driven and billed without it; it cannot be hibernated.
    let command_line = CommandLine::of(peer.pid).map_err(|error| super::act::with_cause(&error));
    let command_line = command_line.map(|line| terms.applied(line));
    if !process.is_alive() {
        return Err(Refusal::new(Reason::QmpUnreachable, "QEMU ended while it was being connected to"));
    }
    let version = QemuVersion { major: version.major, minor: version.minor, micro: version.micro };
    let (survey, sized) = survey(&client, version, peer.pid, command_line, &environment)
        .await
        .map_err(|error| at_path(&error))?;
    Ok(Contact { client, events, process, survey, sized })
}

/// What lies at a path and is no socket will not become one by being tried again. Nothing there may.
async fn is_socket(path: &Path) -> Result<(), Refusal> {
    let Ok(meta) = tokio::fs::metadata(path).await else { return Ok(()) };
    if meta.file_type().is_socket() {
        return Ok(());
    }
    let message = format!("{} is no socket; give the path that QEMU has in -qmp", path.display());
    Err(Refusal::new(Reason::InvalidQmpPath, message).with("path", path.display()))
}

impl Link {
    /// Keeps a connection in a task of its own until it closes or the link is dropped.
    pub(super) fn keep(
        number: u64,
        contact: Contact,
        environment: &Arc<Environment>,
        actor: ActorRef<Message>,
    ) -> Self {
        let (commands, queue) = queue::bounded(COMMANDS_MAX);
        let since = environment.clock.now();
        let client = contact.client.clone();
        let keeper = Keeper {
            number,
            client: contact.client,
            version: contact.survey.version,
            process: contact.process,
            environment: Arc::clone(environment),
            since,
            actor,
            permits: Arc::new(Semaphore::new(FROM_QEMU_MAX)),
            troubles: Troubles::default(),
            events: contact.events,
            sized: contact.sized,
            queue,
        };
        tokio::spawn(Box::new(keeper).run());
        Self { number, commands, client }
    }

    /// For what is done beside the machine's own commands.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Sends a command. False when too many wait, or the connection is gone.
    pub(super) fn ask(&self, token: Token, ask: Ask) -> bool {
        self.commands.try_send(Box::new((token, ask))).is_ok()
    }
}

/// Kept for as long as the connection, of which there are thousands: what it has to do now and then is boxed.
struct Keeper {
    number: u64,
    client: Client,
    version: QemuVersion,
    process: Process,
    environment: Arc<Environment>,
    /// Nothing of this connection can have happened before it.
    since: Stamp,
    actor: ActorRef<Message>,
    permits: Arc<Semaphore>,
    troubles: Troubles,
    events: EventStream,
    sized: Position,
    queue: queue::Receiver<Box<(Token, Ask)>>,
}

/// What one item that QEMU sent comes to.
enum Taken {
    Nothing,
    HandOn(Box<Input>),
    /// The connection is gone.
    Over,
}

/// What a QEMU has sent that it should not have, or more of than could be taken. It may send any number of them, and the log
/// of the host is everybody's: it is told of the first, the second, the fourth and so on.
#[derive(Default)]
struct Troubles(u64);

impl Troubles {
    /// Counts one more; how many there are by now, where that is to be told.
    fn count(&mut self) -> Option<u64> {
        self.0 = self.0.saturating_add(1);
        self.0.is_power_of_two().then_some(self.0)
    }
}

impl Keeper {
    /// Boxed: an async function keeps room for its arguments twice.
    async fn run(mut self: Box<Self>) {
        Box::pin(self.hand_on_early()).await;
        let mut in_flight: Option<InFlight> = None;
        loop {
            let idle = in_flight.is_none();
            let answer = async {
                match in_flight.as_mut() {
                    Some(answer) => answer.await,
                    None => std::future::pending().await,
                }
            };
            // A storm of events comes last: it holds back neither a command nor the end of a connection that was given up.
            tokio::select! {
                biased;
                answered = answer => {
                    in_flight = None;
                    Box::pin(self.answered(answered)).await;
                }
                asked = self.queue.recv(), if idle => match asked {
                    Some(asked) => in_flight = Some(self.put(*asked)),
                    None => return,
                },
                incoming = self.events.next() => match self.take(incoming) {
                    Taken::Over => break,
                    taken => self.hand_on(taken).await,
                }
            }
        }
        if let Some(answer) = in_flight {
            let (token, answer, _) = *answer.await;
            self.hand_on(Taken::HandOn(Box::new(Input::Answer(token, answer)))).await;
        }
        self.queue.close();
        while let Some(asked) = self.queue.recv().await {
            let refusal = Refusal::new(Reason::QmpUnreachable, "the QMP connection was lost");
            let answer = Input::Answer(asked.0, Answer::Failed(refusal));
            self.hand_on(Taken::HandOn(Box::new(answer))).await;
        }
        // An actor that is gone needs not be told.
        let _ = self.actor.cast(Message::LinkClosed(self.number));
    }

    /// Hands on what QEMU sent before it was surveyed whole. A size among it is older than the one that the survey found, and
    /// could not be told from one that is newer: nothing of this connection is placed before its survey.
    async fn hand_on_early(&mut self) {
        while let Some(incoming) = self.events.next_before(self.sized).await {
            if !matches!(&incoming, Incoming::Event(event) if event.name == SIZE_EVENT) {
                let early = self.take(incoming);
                self.hand_on(early).await;
            }
        }
    }

    /// Hands on an answer, behind what QEMU sent before it.
    async fn answered(&mut self, answered: Box<(Token, Answer, Position)>) {
        let (token, answer, position) = *answered;
        let answer = Box::new(Input::Answer(token, answer));
        while let Some(incoming) = self.events.next_before(position).await {
            let before = self.take(incoming);
            self.hand_on(before).await;
        }
        self.hand_on(Taken::HandOn(answer)).await;
    }

    /// What one item comes to.
    fn take(&mut self, incoming: Incoming) -> Taken {
        match incoming {
            Incoming::Event(event) if EVENTS.contains(&event.name.as_str()) => {
                Taken::HandOn(Box::new(Input::Event(self.stamped(event))))
            }
            Incoming::Event(_) => Taken::Nothing,
            Incoming::Anomaly(anomaly) => {
                if let Some(so_far) = self.troubles.count() {
                    let pid = self.process.pid();
                    tracing::warn!(pid, so_far, %anomaly, "QMP is not as it should be");
                }
                match anomaly {
                    // It may have been an event; a reply that nobody waits for was none.
                    Anomaly::BadLine(_) => Taken::HandOn(Box::new(Input::Gap)),
                    _ => Taken::Nothing,
                }
            }
            Incoming::Gap { missed } => {
                if let Some(so_far) = self.troubles.count() {
                    tracing::warn!(pid = self.process.pid(), so_far, missed, "events were missed");
                }
                Taken::HandOn(Box::new(Input::Gap))
            }
            Incoming::Closed(_) => Taken::Over,
        }
    }

    fn stamped(&self, event: Event) -> QemuEvent {
        let clock = &self.environment.clock;
        let at = clock.from_qemu(event.timestamp_unix_ns, self.since, clock.now());
        QemuEvent { name: event.name, at, detail: event.data }
    }

    async fn hand_on(&self, taken: Taken) {
        let Taken::HandOn(input) = taken else { return };
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            // Boxed: a connection keeps room for whatever it may ever wait for.
            Err(_) => match Box::pin(Arc::clone(&self.permits).acquire_owned()).await {
                Ok(permit) => permit,
                // The semaphore is never closed.
                Err(_) => return,
            },
        };
        // An actor that is gone needs not be told.
        let _ = self.actor.cast(Message::FromQemu(input, permit));
    }

    /// Asks QEMU, in a future of its own.
    fn put(&self, (token, ask): (Token, Ask)) -> InFlight {
        let client = self.client.clone();
        match ask {
            Ask::Command(command, unwritten) => Box::pin(async move {
                let (answer, position) = told(&client, command, unwritten).await;
                Box::new((token, answered(answer), position))
            }),
            Ask::Survey(command_line) => {
                let (environment, process, version) =
                    (Arc::clone(&self.environment), self.process.clone(), self.version);
                Box::pin(async move {
                    let pid = process.pid();
                    let survey = survey(&client, version, pid, command_line, &environment).await;
                    let sized = survey.as_ref().map_or(Position::default(), |(_, sized)| *sized);
                    let answer =
                        survey.map(|(survey, _)| Answer::Surveyed(Box::new(survey), process.identity()));
                    Box::new((token, answered(answer), sized))
                })
            }
        }
    }
}

async fn told(
    client: &Client,
    QmpCommand { name, arguments }: QmpCommand,
    unwritten: Option<oneshot::Receiver<()>>,
) -> (Result<Answer, QmpError>, Position) {
    if let Some(unwritten) = unwritten {
        // Whoever is to write it never loses it; and QEMU does not wait for a disk that hangs.
        let _ = tokio::time::timeout(WRITTEN_MAX, unwritten).await;
    }
    failpoint::reach("before QEMU is told");
    let (returned, position) = client.execute_placed(name, arguments).await;
    failpoint::reach("QEMU has answered");
    (returned.map(Answer::Returned), position)
}

fn answered(answer: Result<Answer, QmpError>) -> Answer {
    answer.unwrap_or_else(|error| Answer::Failed(refusal(&error)))
}

/// What a failure of QMP means to whoever asked for a command.
fn refusal(error: &QmpError) -> Refusal {
    let reason = match error {
        QmpError::Connect { .. } => Reason::QmpUnreachable,
        QmpError::Closed { close: CloseReason::Busy, .. } => Reason::QmpBusy,
        QmpError::Closed { close: CloseReason::NotQmp, .. } => Reason::QmpNotSpoken,
        error if error.may_have_happened() => Reason::OutcomeUnknown,
        QmpError::Closed { .. } | QmpError::NotSent { .. } | QmpError::QueueFull { .. } => {
            Reason::QmpUnreachable
        }
        _ => Reason::QemuFailed,
    };
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        message = format!("{message}: {source}");
    }
    Refusal::new(reason, message).with("qmp_reason", error.reason())
}

fn unreachable(error: &dyn std::error::Error) -> Refusal {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Refusal::new(Reason::QmpUnreachable, format!("the process behind the socket: {error}{cause}"))
}
