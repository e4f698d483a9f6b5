//! A real `dormouse agent` on folders of its own, and the command line that speaks to it.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{Error, Result, paths, process, wait};

const START_DEADLINE: Duration = Duration::from_secs(20);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Longer than the longest command: a hibernation under emulation on a busy machine.
const CLI_DEADLINE: Duration = Duration::from_mins(3);

/// An agent and its folders. Dropping it kills the agent and leaves the folders and the guests alone.
#[derive(Debug)]
pub struct Agent {
    root: PathBuf,
    sockets: PathBuf,
    child: Child,
    /// The mount namespace that it runs in, by a path; the test's own where there is none.
    namespace: Option<PathBuf>,
}

/// What one run of the command line gave.
#[derive(Debug)]
pub struct Output {
    /// What was asked, for messages.
    pub asked: String,
    /// Standard output: data.
    pub stdout: String,
    /// Standard error: everything else.
    pub stderr: String,
    /// The exit code.
    pub code: i32,
}

impl Agent {
    /// Starts an agent whose state, watched folder, socket, configuration and log are in `root`; returns when it answers.
    pub async fn start(root: &Path) -> Result<Self> {
        Self::start_with(root, "").await
    }

    /// The same, with more lines of configuration (TOML) after the folders.
    pub async fn start_with(root: &Path, more: &str) -> Result<Self> {
        Self::start_apart(root, root, more).await
    }

    /// The same, with watched folder and socket in `sockets`: the path of `root` may be too long for a socket's.
    pub async fn start_apart(root: &Path, sockets: &Path, more: &str) -> Result<Self> {
        let agent = Self::launch(root, sockets, more, None)?;
        agent.answers().await?;
        Ok(agent)
    }

    /// The same, in another mount namespace: that of a systemd, say.
    pub async fn start_within(root: &Path, namespace: &Path, more: &str) -> Result<Self> {
        let mut agent = Self::launch(root, root, more, None)?;
        agent.kill9().await?;
        agent.namespace = Some(namespace.to_owned());
        agent.restart().await?;
        Ok(agent)
    }

    /// The same, but the agent kills itself at the n-th of the places that `dormouse::failpoint` counts; returns at once.
    pub fn start_to_be_killed(root: &Path, place: u64) -> Result<Self> {
        Self::launch(root, root, "", Some(place))
    }

    fn launch(root: &Path, sockets: &Path, more: &str, kill_at: Option<u64>) -> Result<Self> {
        for folder in [state_dir(root), run_dir(sockets)] {
            std::fs::create_dir_all(&folder).map_err(Error::io("creating", &folder))?;
        }
        let path = config_path(root);
        std::fs::write(&path, config(root, sockets) + more).map_err(Error::io("writing", &path))?;
        let child = spawn(root, kill_at, None)?;
        Ok(Self { root: root.to_owned(), sockets: sockets.to_owned(), child, namespace: None })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Where guests put their QMP sockets to be discovered.
    pub fn run_dir(&self) -> PathBuf {
        run_dir(&self.sockets)
    }

    /// Where the ledger is.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.root)
    }

    /// The agent's gRPC socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.sockets)
    }

    /// The agent's process, while it runs.
    pub fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    /// Kills the agent without warning, as a power cut would, and waits until it is gone.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await.map_err(Error::io("killing the agent of", &self.root))
    }

    /// Kills the agent without warning, and does not wait: commands under way see it go.
    pub fn signal_kill(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(pid, Signal::SIGKILL)
            .map_err(|errno| Error::io("killing the agent of", &self.root)(errno.into()))
    }

    /// Asks the agent to end, and returns how it did.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(pid) = self.pid() {
            kill(pid, Signal::SIGTERM)
                .map_err(|errno| Error::io("stopping the agent of", &self.root)(errno.into()))?;
        }
        let ended = tokio::time::timeout(STOP_DEADLINE, self.child.wait()).await;
        ended
            .map_err(|_| Error::Deadline {
                what: "the agent to end after SIGTERM".to_owned(),
                after: STOP_DEADLINE,
                last: process::tail(&log_path(&self.root)),
            })?
            .map_err(Error::io("waiting for the agent of", &self.root))
    }

    /// Starts the agent again on what the last one left; returns when it answers.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = spawn(&self.root, None, self.namespace.as_deref())?;
        self.answers().await
    }

    /// Stops the agent, and starts it with these lines of configuration after the folders.
    pub async fn reconfigure(&mut self, more: &str) -> Result<()> {
        self.stop().await?;
        let path = config_path(&self.root);
        std::fs::write(&path, config(&self.root, &self.sockets) + more)
            .map_err(Error::io("writing", &path))?;
        self.restart().await
    }

    /// Runs a second agent beside this one, on the same ledger and a socket of its own, until it gives up.
    pub async fn rival(&self) -> Result<Output> {
        let path = self.root.join("rival.toml");
        let text = config(&self.root, &self.sockets).replace("agent.sock", "rival.sock");
        std::fs::write(&path, text).map_err(Error::io("writing", &path))?;
        run(&["agent".as_ref(), "--config".as_ref(), path.as_os_str()], &self.root).await
    }

    /// Everything that the agent has logged.
    pub fn log(&self) -> String {
        // An agent that has logged nothing has no log.
        std::fs::read_to_string(log_path(&self.root)).unwrap_or_default()
    }

    /// Runs `dormouse <arguments> --socket <socket>` to its end, whatever that is.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.socket();
        let arguments = arguments.iter().map(AsRef::as_ref);
        let arguments: Vec<&OsStr> = arguments.chain(["--socket".as_ref(), socket.as_os_str()]).collect();
        run(&arguments, &self.root).await
    }

    /// `dormouse <arguments> --socket <socket>`, for the caller to run.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(paths::dormouse()?);
        command.args(arguments).arg("--socket").arg(self.socket()).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs `dormouse <arguments> --json`, which must succeed, and returns what it printed.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.cli(&[arguments, &["--json"]].concat()).await?.succeeded()?.json()
    }

    async fn answers(&self) -> Result<()> {
        let answered = wait::until("the agent to answer", START_DEADLINE, async || {
            self.cli(&["ls"]).await?.succeeded().map(drop)
        });
        answered.await.map_err(|error| {
            let printed = process::tail(&log_path(&self.root));
            Error::Ended { what: "the agent did not start:".to_owned(), how: format!("{error}\n{printed}") }
        })
    }
}

impl Output {
    /// This output, or an error that shows all of it where the exit code is not 0.
    pub fn succeeded(self) -> Result<Self> {
        if self.code == 0 {
            return Ok(self);
        }
        let how = format!("ended with {}: {}{}", self.code, self.stderr, self.stdout);
        Err(Error::Ended { what: format!("`{}`", self.asked), how })
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .map_err(|_| Error::Nonsense { from: format!("`{}`", self.asked), answer: self.stdout.clone() })
    }
}

async fn run(arguments: &[&OsStr], root: &Path) -> Result<Output> {
    let program = paths::dormouse()?;
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let asked = format!("dormouse {}", words.join(" "));
    let output = tokio::time::timeout(CLI_DEADLINE, command.output()).await;
    let output = output
        .map_err(|_| Error::Deadline {
            what: format!("`{asked}` to end"),
            after: CLI_DEADLINE,
            last: process::tail(&log_path(root)),
        })?
        .map_err(Error::io("running", &program))?;
    Ok(Output {
        asked,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        // A signal ends a program without a code.
        code: output.status.code().unwrap_or(-1),
    })
}

fn spawn(root: &Path, kill_at: Option<u64>, namespace: Option<&Path>) -> Result<Child> {
    let program = paths::dormouse()?;
    // It becomes the agent: the process is the same.
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--mount={}", namespace.display())).arg(&program);
            command
        }
        None => Command::new(&program),
    };
    let log_path = log_path(root);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(Error::io("opening", &log_path))?;
    command
        .envs(kill_at.map(|place| ("DORMOUSE_KILL_AT", place.to_string())))
        .arg("agent")
        .arg("--config")
        .arg(config_path(root))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(Error::io("opening", &log_path))?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::io("starting", &program))
}

/// The whole configuration of a test's agent; all that it leaves out is the default.
fn config(root: &Path, sockets: &Path) -> String {
    let quoted = |path: PathBuf| Value::String(path.display().to_string());
    format!(
        "state_dir = {}\nrun_dir = {}\nsocket = {}\n",
        quoted(state_dir(root)),
        quoted(run_dir(sockets)),
        quoted(socket(sockets)),
    )
}

fn config_path(root: &Path) -> PathBuf {
    root.join("dormouse.toml")
}

fn log_path(root: &Path) -> PathBuf {
    root.join("agent.log")
}

fn run_dir(root: &Path) -> PathBuf {
    root.join("run")
}

fn socket(root: &Path) -> PathBuf {
    root.join("agent.sock")
}

fn state_dir(root: &Path) -> PathBuf {
    root.join("state")
}
