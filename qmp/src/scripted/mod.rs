//! A scripted QEMU, for tests and benches of programs that use this crate.
//!
//! [`ScriptedQemu::start`] answers on a unix socket as QEMU would, from a small stateful [`Model`]: one client at a
//! time, greeting, negotiation, replies, and events with QEMU's own order, delays and throttling. A script takes
//! over where a test wants something else: another reply, a delay, a hang, garbage, a connection cut inside a line.
//!
//! One tokio task serves an instance, and its times are tokio's: thousands fit into one process, and under paused
//! time nothing waits. It never looks at the machine's clock: see [`Model::wall_at_start_unix_ns`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use dormouse_qmp::scripted::{ScriptedQemu, Step};
//! use dormouse_qmp::{Config, Connection, qapi_qmp};
//!
//! let qemu = ScriptedQemu::builder()
//!     .on(|command| match command.name.as_str() {
//!         "stop" => Some(vec![Step::error("GenericError", "not today")]),
//!         _ => None,
//!     })
//!     .start()?;
//! let connection = Connection::connect(qemu.path(), Config::default()).await?;
//! let refusal = connection.client.execute(qapi_qmp::stop {}).await.unwrap_err();
//! assert_eq!(refusal.reason(), "qmp_refused");
//! # Ok(())
//! # }
//! ```

mod machine;
mod model;
mod server;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use crate::event::Event;
use machine::Machine;

pub use model::{Model, Reply, VirtioMem};

/// A command that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Such as `query-status`.
    pub name: String,
    /// Its arguments; `Null` if it has none.
    pub arguments: Value,
}

/// One thing that a script does about a command. Steps are carried out in order; a command without a
/// [`Step::Reply`] or [`Step::Model`] is never answered, while the next ones are.
#[derive(Debug, Clone)]
pub enum Step {
    /// Answers, with the command's id.
    Reply(Reply),
    /// Lets the model carry out and answer the command.
    Model,
    /// Sends an event.
    Event(Event),
    /// Sends bytes as they are: garbage, half a line, somebody else's reply.
    Raw(Vec<u8>),
    /// Does nothing for a while: no replies, no events.
    Delay(Duration),
    /// Does nothing any more, and keeps the connection.
    Hang,
    /// Closes this connection and accepts the next.
    Close,
}

/// How a connection begins.
#[derive(Debug, Clone, Default)]
pub enum Greeting {
    /// With the model's version.
    #[default]
    Normal,
    /// Not at all: accepted, and never spoken to.
    Never,
    /// With these bytes instead.
    Raw(Vec<u8>),
}

/// A running scripted QEMU. Dropping it is SIGKILL, and takes its socket away.
#[derive(Debug)]
pub struct ScriptedQemu {
    path: PathBuf,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What to start; see [`ScriptedQemu::builder`].
#[must_use]
pub struct Builder {
    path: Option<PathBuf>,
    model: Model,
    greeting: Greeting,
    script: Script,
}

type Script = Box<dyn FnMut(&Command) -> Option<Vec<Step>> + Send>;

/// How many of the latest commands are remembered.
const COMMANDS_KEPT: usize = 1024;

impl ScriptedQemu {
    /// Starts the default model on a socket of its own. Needs a tokio runtime.
    pub fn start() -> io::Result<Self> {
        Self::builder().start()
    }

    /// Starts something other than the default.
    pub fn builder() -> Builder {
        Builder {
            path: None,
            model: Model::default(),
            greeting: Greeting::default(),
            script: Box::new(|_| None),
        }
    }

    /// The socket to connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends an event, stamped now. False if nobody is connected: then it is gone.
    pub fn emit(&self, name: &str, data: Value) -> bool {
        let timestamp_unix_ns = self.shared.lock().machine.unix_ns(self.shared.now());
        self.emit_event(Event { name: name.to_owned(), timestamp_unix_ns: Some(timestamp_unix_ns), data })
    }

    /// Sends an event with any timestamp; `None` is sent as -1. False if nobody is connected: then it is gone.
    pub fn emit_event(&self, event: Event) -> bool {
        self.send(Outgoing::Event(event))
    }

    /// Sends bytes as they are. False if nobody is connected.
    pub fn send_raw(&self, bytes: impl Into<Vec<u8>>) -> bool {
        self.send(Outgoing::Raw(bytes.into()))
    }

    /// Closes the present connection, once everything before is sent. The next client is accepted.
    pub fn disconnect(&self) -> bool {
        self.send(Outgoing::Close)
    }

    /// How long ago it was started, which is what its event timestamps go by.
    pub fn uptime(&self) -> Duration {
        self.shared.now()
    }

    /// Looks at the model, or changes it. Do not call it from a script.
    pub fn with_model<T>(&self, act: impl FnOnce(&mut Model) -> T) -> T {
        let result = act(&mut self.shared.lock().machine.model);
        self.shared.changed.notify_one();
        result
    }

    /// The latest commands that arrived after negotiation, oldest first; 1024 at most.
    pub fn commands(&self) -> Vec<Command> {
        self.shared.lock().commands.iter().cloned().collect()
    }

    fn send(&self, outgoing: Outgoing) -> bool {
        let mut state = self.shared.lock();
        if state.connected {
            state.outbox.push(outgoing);
            self.shared.changed.notify_one();
        }
        state.connected
    }
}

impl Drop for ScriptedQemu {
    fn drop(&mut self) {
        self.task.abort();
        // Gone already is as good as gone now.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Builder {
    /// Listens here instead of on a path of its own.
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Begins with this model.
    pub fn model(mut self, model: Model) -> Self {
        self.model = model;
        self
    }

    /// Begins connections in this way.
    pub fn greeting(mut self, greeting: Greeting) -> Self {
        self.greeting = greeting;
        self
    }

    /// Asks this script about every command, `qmp_capabilities` included; on `None` the model answers.
    pub fn on(mut self, script: impl FnMut(&Command) -> Option<Vec<Step>> + Send + 'static) -> Self {
        self.script = Box::new(script);
        self
    }

    /// Starts listening. Needs a tokio runtime.
    pub fn start(self) -> io::Result<ScriptedQemu> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let path = self.path.unwrap_or_else(|| {
            let number = STARTED.fetch_add(1, Ordering::Relaxed);
            std::env::temp_dir().join(format!("scripted-qemu-{}-{number}.sock", std::process::id()))
        });
        let listener = UnixListener::bind(&path)?;
        let state = State {
            machine: Machine::new(self.model),
            script: self.script,
            commands: VecDeque::new(),
            outbox: Vec::new(),
            connected: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            greeting: self.greeting,
            started_at: Instant::now(),
        });
        let task = tokio::spawn(server::serve(listener, Arc::clone(&shared)));
        Ok(ScriptedQemu { path, shared, task })
    }
}

impl Step {
    /// Answers with success.
    pub fn returns(value: Value) -> Self {
        Self::Reply(Reply::Return(value))
    }

    /// Answers with an error.
    pub fn error(class: &str, desc: &str) -> Self {
        Self::Reply(Reply::error(class, desc))
    }
}

/// What the handle and the task share.
struct Shared {
    state: Mutex<State>,
    /// The handle put something into the outbox, or changed the model.
    changed: Notify,
    greeting: Greeting,
    started_at: Instant,
}

struct State {
    machine: Machine,
    script: Script,
    commands: VecDeque<Command>,
    outbox: Vec<Outgoing>,
    /// Whether a client has negotiated.
    connected: bool,
}

enum Outgoing {
    Event(Event),
    Raw(Vec<u8>),
    Close,
}

impl Shared {
    /// A script that panics fails its own test; the lock is of use to the others all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started_at.elapsed()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("greeting", &self.greeting).finish_non_exhaustive()
    }
}

/// Writes an event as QEMU does.
fn encode_event(event: &Event) -> Vec<u8> {
    let (seconds, microseconds) = match event.timestamp_unix_ns {
        Some(unix_ns) => (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000 / 1_000),
        None => (-1, -1),
    };
    let mut line = json!({
        "timestamp": { "seconds": seconds, "microseconds": microseconds },
        "event": event.name,
    });
    if !event.data.is_null() {
        line["data"] = event.data.clone();
    }
    encode_line(&line)
}

fn encode_line(line: &Value) -> Vec<u8> {
    format!("{line}\r\n").into_bytes()
}
