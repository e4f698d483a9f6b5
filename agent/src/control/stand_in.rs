//! A host for tests: it answers as it is told and remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dormouse_ledger::{Denial, HostName, Ledger};
use dormouse_metering::{BillingState, BootId, Shape};
use tempfile::TempDir;
use tokio::sync::{Semaphore, broadcast, oneshot};
use tokio::task::JoinHandle;

use super::{Entrance, Host, Serving, serve};
use crate::clock::Clock;
use crate::config::{Config, Control, FileMode};
use crate::host::{EndOrphan, Executed, Orphan, RejectedFiles, not_found};
use crate::sandbox::command::{Command, CommandResult, Outcome, SandboxKey};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::view::{ConnectionView, SandboxView, WatchEvent, WatchKind};

/// What the wall clock says in every test, in nanoseconds since the Unix epoch.
pub(crate) const NOW_UNIX_NS: i64 = 1_000_000_000;

#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) commands: Arc<Mutex<Vec<Command>>>,
    answers: Arc<Mutex<VecDeque<Result<Executed, Refusal>>>>,
    pub(crate) changes: broadcast::Sender<WatchEvent>,
    /// A command waits for one of these.
    pub(crate) released: Arc<Semaphore>,
}

impl StandIn {
    pub(crate) fn new() -> Self {
        let (changes, _) = broadcast::channel(4);
        let released = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { commands: Arc::default(), answers: Arc::default(), changes, released }
    }

    /// The next command gets this answer.
    pub(crate) fn answers(&self, answer: Result<CommandResult, Refusal>) {
        let executed = answer.map(|result| Executed {
            outcome: Outcome { result, message: "as it was told".to_owned() },
            sandbox: view("sb1"),
            replayed: false,
        });
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(executed);
    }

    pub(crate) fn last_command(&self) -> Command {
        self.commands.lock().unwrap().last().cloned().expect("a command")
    }
}

impl Host for StandIn {
    async fn execute(&self, command: Command) -> Result<Executed, Refusal> {
        self.commands.lock().unwrap().push(command);
        let _released = self.released.acquire().await.expect("never closed");
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Err(Refusal::new(Reason::Bug, "the test told no answer")))
    }

    async fn list(&self, org: Option<&str>) -> Result<Vec<SandboxView>, Refusal> {
        Ok(["sb1", "sb2"]
            .map(view)
            .into_iter()
            .filter(|view| org.is_none_or(|org| org == view.key.org))
            .collect())
    }

    async fn get(&self, key: &SandboxKey) -> Result<SandboxView, Refusal> {
        let known = ["sb1", "sb2"].map(view).into_iter().find(|view| view.key == *key);
        known.ok_or_else(|| not_found(key))
    }

    fn watch(&self) -> broadcast::Receiver<WatchEvent> {
        self.changes.subscribe()
    }

    async fn orphans(&self) -> Result<Vec<Orphan>, Refusal> {
        Ok(Vec::new())
    }

    fn rejected(&self) -> RejectedFiles {
        RejectedFiles::default()
    }

    async fn end_orphan(&self, order: EndOrphan) -> Result<Orphan, Refusal> {
        Err(Refusal::new(Reason::OrphanNotFound, format!("no process {} is an orphan", order.pid)))
    }
}

/// A running sandbox of org `default`.
pub(crate) fn view(sandbox: &str) -> SandboxView {
    SandboxView {
        key: SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() },
        generation: 17,
        plan: "default".to_owned(),
        state: Some(BillingState::Running),
        suppressed: None,
        connection: ConnectionView::Connected,
        shape: Shape {
            vcpus_milli: 2_000,
            memory_base_bytes: 256 << 20,
            memory_plugged_bytes: 1 << 30,
            memory_requested_bytes: 1 << 30,
            disk_bytes: 20 << 30,
        },
        memory_max_bytes: 3 << 30,
        memory_block_bytes: 2 << 20,
        qmp_path: "/run/sb.qmp".to_owned(),
        pid: Some(4711),
        qemu_version: "10.0.2".to_owned(),
        tags: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        operation: None,
        hibernation_method: None,
        disks: Vec::new(),
    }
}

/// A change of a sandbox.
pub(crate) fn change(sandbox: &str, kind: WatchKind) -> WatchEvent {
    WatchEvent { kind, unix_ns: 7, sandbox: view(sandbox), cause: "scale", message: String::new() }
}

/// The service over a stand-in, on a socket in a folder of its own.
pub(crate) struct Agent {
    pub(crate) host: StandIn,
    pub(crate) socket: PathBuf,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) state_dir: PathBuf,
    /// The ledger of denials, apart from the one that questions are asked of.
    pub(crate) denied: Ledger,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
    _folder: TempDir,
}

impl Agent {
    pub(crate) async fn start() -> Self {
        Self::start_with(Control::default()).await
    }

    /// The same, with other callers.
    pub(crate) async fn start_with(control: Control) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (socket, state_dir) = (folder.path().join("control.sock"), folder.path().to_owned());
        let host = StandIn::new();
        let (state, socket_mode) = (state_dir.clone(), FileMode(0o600));
        let config =
            Config { state_dir: state, socket: socket.clone(), socket_mode, control, ..Config::default() };
        let (clock, _) = Clock::simulated(BootId([1; 16]), NOW_UNIX_NS);
        let name = HostName { cell: "c".to_owned(), host: "h".to_owned() };
        let denied = Ledger::open(&folder.path().join("denied.sqlite"), &name).expect("a ledger");
        let entrance = Entrance::open(&config).await.expect("an entrance");
        let address = entrance.address();
        let serving = Serving {
            host: host.clone(),
            config: Arc::new(config),
            clock,
            ledger: denied.writer(),
            metrics: Arc::default(),
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let served = tokio::spawn(serve(entrance, serving, shutdown));
        Self { host, socket, address, state_dir, denied, stop, served, _folder: folder }
    }

    /// Shuts the service down and waits until it is.
    pub(crate) async fn stop(self) {
        self.stop.send(()).expect("a running service");
        self.served.await.expect("no panic").expect("no transport error");
    }

    /// Shuts the service down, and reads what it has denied.
    pub(crate) async fn denials(self) -> Vec<Denial> {
        let Self { denied, stop, served, _folder, .. } = self;
        stop.send(()).expect("a running service");
        served.await.expect("no panic").expect("no transport error");
        let reader = denied.reader().expect("a reader");
        // Closing the ledger makes durable what waits.
        drop(denied);
        reader.denials(usize::MAX).expect("denials")
    }
}
