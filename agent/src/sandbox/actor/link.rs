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
    Anomaly, Client, CloseReason, Connection, Event, EventStream, Incoming, Position, QmpError, Version,
};
use ractor::ActorRef;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Message;
use super::environment::Environment;
use super::survey::survey;
use crate::clock::Clock;
use crate::failpoint;
use crate::process::{CommandLine, CpuGroups, Process};
use crate::sandbox::facts::Survey;
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

/// The events that change what is known of a sandbox, or tell how saving and loading go. Others are QEMU's own affair.
const EVENTS: [&str; 7] =
    ["STOP", "RESUME", "RESET", "SHUTDOWN", "MEMORY_DEVICE_SIZE_CHANGE", "MIGRATION", "JOB_STATUS_CHANGE"];

/// A QEMU that answers.
pub struct Contact {
    client: Client,
    events: EventStream,
    version: Version,
    pub(super) process: Process,
    pub(super) survey: Survey,
}

/// The connection that is kept.
pub(super) struct Link {
    pub(super) number: u64,
    /// Boxed: the channel keeps room for many.
    commands: mpsc::Sender<Box<(Token, Ask)>>,
    client: Client,
}

/// What is asked of QEMU.
pub(super) enum Ask {
    /// Once what was observed before it is written.
    Command(QmpCommand, Option<oneshot::Receiver<()>>),
    /// All that a survey asks. The command line of a process that lives stays what it was.
    Survey(Result<CommandLine, String>),
}

type InFlight = Pin<Box<dyn Future<Output = (Token, Answer, Position)> + Send>>;

/// Connects after a while, once the host answers; takes hold of the process behind the socket, and surveys it.
pub(super) async fn connect(
    mut environment: Environment,
    path: PathBuf,
    terms: Terms,
    after: Duration,
) -> Result<Contact, Refusal> {
    tokio::time::sleep(after).await;
    // Nobody is left to say it only where the start failed, and then everything ends.
    let _ = environment.ready.wait_for(|ready| *ready).await;
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
    let survey =
        survey(&client, &version, peer.pid, command_line, (&environment.schemas, &environment.cpu_groups))
            .await
            .map_err(|error| at_path(&error))?;
    Ok(Contact { client, events, version, process, survey })
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
        environment: &Environment,
        actor: ActorRef<Message>,
    ) -> Self {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let since = environment.clock.now();
        let client = contact.client.clone();
        let keeper = Keeper {
            number,
            asker: Asker {
                client: contact.client,
                version: contact.version,
                process: contact.process,
                schemas: environment.schemas.clone(),
                cpu_groups: environment.cpu_groups.clone(),
            },
            clock: environment.clock.clone(),
            since,
            actor,
            permits: Arc::new(Semaphore::new(FROM_QEMU_MAX)),
            troubles: Troubles::default(),
        };
        tokio::spawn(keeper.run(contact.events, queue));
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

struct Keeper {
    number: u64,
    asker: Asker,
    clock: Clock,
    /// Nothing of this connection can have happened before it.
    since: Stamp,
    actor: ActorRef<Message>,
    permits: Arc<Semaphore>,
    troubles: Troubles,
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

#[derive(Clone)]
struct Asker {
    client: Client,
    version: Version,
    process: Process,
    schemas: super::SchemaCache,
    cpu_groups: CpuGroups,
}

impl Keeper {
    async fn run(mut self, mut events: EventStream, mut queue: mpsc::Receiver<Box<(Token, Ask)>>) {
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
                (token, answer, position) = answer => {
                    in_flight = None;
                    self.take_before(position, &mut events).await;
                    self.hand_on(Input::Answer(token, answer)).await;
                }
                asked = queue.recv(), if idle => match asked {
                    Some(asked) => in_flight = Some(self.asker.clone().put(asked.0, asked.1)),
                    None => return,
                },
                incoming = events.next() => {
                    if !self.take(incoming).await {
                        break;
                    }
                }
            }
        }
        if let Some(answer) = in_flight {
            let (token, answer, _) = answer.await;
            self.hand_on(Input::Answer(token, answer)).await;
        }
        queue.close();
        while let Some(asked) = queue.recv().await {
            let refusal = Refusal::new(Reason::QmpUnreachable, "the QMP connection was lost");
            self.hand_on(Input::Answer(asked.0, Answer::Failed(refusal))).await;
        }
        // An actor that is gone needs not be told.
        let _ = self.actor.cast(Message::LinkClosed(self.number));
    }

    /// Hands on what QEMU sent before a reply.
    async fn take_before(&mut self, position: Position, events: &mut EventStream) {
        while let Some(incoming) = events.next_before(position).await {
            self.take(incoming).await;
        }
    }

    /// Hands on one item. False when the connection is gone.
    async fn take(&mut self, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Event(event) => {
                if EVENTS.contains(&event.name.as_str()) {
                    self.hand_on(Input::Event(self.stamped(event))).await;
                }
            }
            Incoming::Anomaly(anomaly) => {
                if let Some(so_far) = self.troubles.count() {
                    let pid = self.asker.process.pid();
                    tracing::warn!(pid, so_far, %anomaly, "QMP is not as it should be");
                }
                // A bad line may have been an event; a reply that nobody waits for was none.
                if let Anomaly::BadLine(_) = anomaly {
                    self.hand_on(Input::Gap).await;
                }
            }
            Incoming::Gap { missed } => {
                if let Some(so_far) = self.troubles.count() {
                    tracing::warn!(pid = self.asker.process.pid(), so_far, missed, "events were missed");
                }
                self.hand_on(Input::Gap).await;
            }
            Incoming::Closed(_) => return false,
        }
        true
    }

    fn stamped(&self, event: Event) -> QemuEvent {
        let arrival = self.clock.now();
        let at = self.clock.from_qemu(event.timestamp_unix_ns, self.since, arrival);
        QemuEvent { name: event.name, at, detail: event.data }
    }

    async fn hand_on(&self, input: Input) {
        // The semaphore is never closed.
        let Ok(permit) = self.permits.clone().acquire_owned().await else { return };
        // An actor that is gone needs not be told.
        let _ = self.actor.cast(Message::FromQemu(input, permit));
    }
}

impl Asker {
    fn put(self, token: Token, ask: Ask) -> InFlight {
        Box::pin(async move {
            let (answer, position) = match ask {
                Ask::Command(QmpCommand { name, arguments }, unwritten) => {
                    if let Some(unwritten) = unwritten {
                        // Whoever is to write it never loses it; and QEMU does not wait for a disk that hangs.
                        let _ = tokio::time::timeout(WRITTEN_MAX, unwritten).await;
                    }
                    failpoint::reach("before QEMU is told");
                    let (returned, position) = self.client.execute_placed(name, arguments).await;
                    failpoint::reach("QEMU has answered");
                    (returned.map(Answer::Returned), position)
                }
                Ask::Survey(command_line) => (self.survey(command_line).await, Position::default()),
            };
            (token, answer.unwrap_or_else(|error| Answer::Failed(refusal(&error))), position)
        })
    }

    async fn survey(self, command_line: Result<CommandLine, String>) -> Result<Answer, QmpError> {
        let Self { client, version, process, schemas, cpu_groups } = self;
        let survey = survey(&client, &version, process.pid(), command_line, (&schemas, &cpu_groups)).await?;
        Ok(Answer::Surveyed(Box::new(survey), process.identity()))
    }
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
