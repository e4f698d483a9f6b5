//! A scripted QEMU as a process of its own.
//!
//! The agent takes the process behind a QMP socket for QEMU: it watches it, ends it, and starts it again from its command
//! line. So what stands in for QEMU has to be a process, and one that can be woken. This is its handle; the process is
//! `scripted_qemu/`, built around [`dormouse_qmp::scripted`].

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dormouse::proto::SandboxSpec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::{Error, Result, paths, process, wait};

const DEADLINE: Duration = Duration::from_secs(20);

/// How a scripted QEMU behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// The version in its greeting.
    pub version: [u32; 3],
    /// How it greets.
    pub greeting: Greets,
    /// What it does otherwise than the model; the first rule that is not used up wins.
    pub rules: Vec<Rule>,
    /// How long saving takes.
    pub save_ms: u64,
    /// How long the guest takes to plug or give back memory.
    pub resize_ms: u64,
    /// Below this the guest gives nothing back.
    pub unplug_floor_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: [10, 0, 2],
            greeting: Greets::Normally,
            rules: Vec::new(),
            save_ms: 0,
            resize_ms: 20,
            unplug_floor_bytes: 0,
        }
    }
}

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greets {
    /// As QEMU does.
    Normally,
    /// Accepted, and never spoken to.
    Never,
    /// With bytes that are no QMP.
    Garbage,
}

/// What is done about a command instead of what the model does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The QMP command.
    pub command: String,
    /// What is done about it, in order.
    pub does: Vec<Does>,
    /// How often; `None` is always.
    pub times: Option<u32>,
}

impl Rule {
    /// Does this every time.
    pub fn always(command: &str, does: impl IntoIterator<Item = Does>) -> Self {
        Self { command: command.to_owned(), does: does.into_iter().collect(), times: None }
    }

    /// Does this the first time.
    pub fn once(command: &str, does: impl IntoIterator<Item = Does>) -> Self {
        Self { times: Some(1), ..Self::always(command, does) }
    }
}

/// One thing done about a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Does {
    /// What the model does, and its reply.
    Model,
    /// Replies with this.
    Return(Value),
    /// Refuses with these words.
    Refuse(String),
    /// Sends these bytes.
    Raw(String),
    /// Is silent for so many milliseconds.
    DelayMs(u64),
    /// Does nothing any more, and keeps the connection.
    Hang,
    /// Closes the connection and accepts the next.
    Close,
}

/// What a running scripted QEMU can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Goes by these rules from now on.
    Rules(Vec<Rule>),
    /// Is in this run state and sends this event, as if another monitor had asked for it.
    Become {
        /// A QAPI `RunState`.
        run_state: String,
        /// The event that goes with it.
        event: String,
    },
    /// Sends these bytes.
    Raw(String),
    /// Closes the connection.
    Disconnect,
    /// Sends this event so many times.
    Storm {
        /// The event.
        event: String,
        /// How often.
        count: u32,
    },
    /// Quits as if another monitor had asked for it.
    Quit,
    /// Answers with the names of the commands that it has taken.
    Commands,
}

/// A sandbox run by a scripted QEMU, whichever process that is at the moment.
#[derive(Debug)]
pub struct Scripted {
    marker: String,
    qmp: PathBuf,
    control: PathBuf,
    spec: SandboxSpec,
    /// Waits for the first process, so that it leaves no zombie. An agent waits for what it starts by itself.
    _first: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Starts one that listens on `<run_dir>/<id>.qmp`; returns when it can be told something.
    pub async fn start(options: &Options, id: &str, run_dir: &Path, work_dir: &Path) -> Result<Self> {
        let marker = format!("guest={id}-{}", process::nonce());
        let qmp = run_dir.join(format!("{id}.qmp"));
        let control = work_dir.join(format!("{id}.control"));
        let program = paths::scripted_qemu()?;
        let script = json!({ "qmp": qmp, "control": control, "options": options }).to_string();
        let mut child = Command::new(&program)
            .args(["-name", &marker, "-append", &script])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::io("starting", &program))?;
        let first = tokio::spawn(async move {
            // However it ended.
            let _ = child.wait().await;
        });
        let scripted = Self { marker, qmp, control, spec: SandboxSpec::default(), _first: Some(first) };
        wait::until("the scripted QEMU to be ready", DEADLINE, async || {
            scripted.order(&Order::Commands).await
        })
        .await?;
        Ok(scripted)
    }

    /// One that an agent is to create, which gives it this QMP socket.
    pub fn to_create(options: &Options, id: &str, qmp: &Path, work_dir: &Path) -> Result<Self> {
        let marker = format!("guest={id}-{}", process::nonce());
        let control = work_dir.join(format!("{id}.control"));
        let script = json!({ "qmp": qmp, "control": control, "options": options }).to_string();
        let spec = SandboxSpec {
            qemu: paths::scripted_qemu()?.display().to_string(),
            memory_bytes: 256 << 20,
            kernel: "/none".to_owned(),
            append: script,
            extra_arguments: vec!["-name".to_owned(), marker.clone()],
            ..SandboxSpec::default()
        };
        Ok(Self { marker, qmp: qmp.to_owned(), control, spec, _first: None })
    }

    /// What it is to be created by; empty where it was started by itself.
    pub fn spec(&self) -> &SandboxSpec {
        &self.spec
    }

    /// The same as a file for `dormouse create`.
    pub fn spec_toml(&self) -> String {
        let SandboxSpec { qemu, kernel, append, extra_arguments, .. } = &self.spec;
        format!(
            "memory = \"256MiB\"\nqemu = {}\nkernel = {}\nappend = {}\nextra_arguments = {}\n",
            json!(qemu),
            json!(kernel),
            json!(append),
            json!(extra_arguments)
        )
    }

    /// Its QMP socket.
    pub fn qmp(&self) -> &Path {
        &self.qmp
    }

    /// Tells it something; returns what it answers.
    pub async fn order(&self, order: &Order) -> Result<Value> {
        let failed = |what: &str| Error::io(what, &self.control);
        let stream = UnixStream::connect(&self.control).await.map_err(failed("connecting to"))?;
        let mut stream = BufReader::new(stream);
        // An order is plain data: it has a JSON form.
        let line = format!("{}\n", json!(order));
        stream.write_all(line.as_bytes()).await.map_err(failed("writing to"))?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await.map_err(failed("reading"))?;
        serde_json::from_str(&answer)
            .map_err(|_| Error::Nonsense { from: "the scripted QEMU".to_owned(), answer })
    }

    /// What the next process of this sandbox goes by, from its start: the one that a wake starts.
    pub fn wakes_with(&self, rules: &[Rule]) -> Result<()> {
        let path = self.control.with_extension("rules");
        std::fs::write(&path, json!(rules).to_string()).map_err(Error::io("writing", &path))
    }

    /// How often it was asked this.
    pub async fn times_asked(&self, command: &str) -> Result<usize> {
        let commands = self.order(&Order::Commands).await?;
        let commands = commands.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(commands.iter().filter(|asked| **asked == command).count())
    }

    /// Waits until it was asked this.
    pub async fn asked(&self, command: &str) -> Result<()> {
        wait::until(&format!("QEMU to be asked {command}"), DEADLINE, async || {
            let times = self.times_asked(command).await.map_err(|error| error.to_string())?;
            wait::unless(times > 0, || "it was not".to_owned())
        })
        .await
    }

    /// Its processes: one, or none while it is hibernated or gone.
    pub fn pids(&self) -> Vec<Pid> {
        process::with_argument(&self.marker)
    }

    /// Kills it without warning and waits until it is gone.
    pub async fn kill9(&self) -> Result<()> {
        process::kill_with_argument(&self.marker);
        self.gone().await
    }

    /// Stands it still: its sockets accept, and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits until it is gone.
    pub async fn gone(&self) -> Result<()> {
        wait::until("the scripted QEMU to be gone", DEADLINE, async || {
            let pids = self.pids();
            wait::unless(pids.is_empty(), || format!("{pids:?} still run"))
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            // It may have ended by itself in between.
            let _ = kill(pid, signal);
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        process::kill_with_argument(&self.marker);
    }
}
