//! A [`crate::stage::Stage`] as a process of its own: a host's ledger and publisher, which can be killed at any moment.
//!
//! It stands for an agent that has more slices to tell than real sandboxes would make in a day; the process is
//! `staged_host/`. Its folder outlives it, and the next process goes on with it.

use std::path::Path;
use std::process::Stdio;

use dormouse::config::Sink;
use dormouse_ledger::Reader;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::stage::LEDGER;
use crate::{Error, Result, paths};

/// Who a staged host is: what its process is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Its name in the cell `cell`.
    pub name: String,
    /// The sink that its events go to.
    pub sink: Sink,
    /// How many slices it commits at once.
    pub unit_slices: u64,
}

/// What a staged host can be told. It answers each with an empty line, once it is done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Commits so many units of slices.
    Commit(u64),
    /// Commits that the hour which ends then is complete.
    Complete(i64),
    /// Ends the publisher, in order or in the middle of whatever it does.
    StopPublisher {
        /// Whether it may save how far it came.
        in_order: bool,
    },
    /// Opens the ledger anew, and starts the publisher again.
    Publish,
}

/// A staged host, whichever process that is at the moment. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub struct StagedHost {
    identity: Identity,
    folder: TempDir,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl StagedHost {
    /// Starts one in a folder of its own.
    pub fn start(identity: Identity) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(Error::io("making", Path::new("a folder")))?;
        let (child, orders, answers) = spawn(&identity, folder.path())?;
        Ok(Self { identity, folder, child, orders, answers })
    }

    /// Tells it something, and does not wait for it.
    pub async fn tell(&mut self, order: Order) -> Result<()> {
        // An order is plain data: it has a JSON form.
        let line = format!("{}\n", json!(order));
        self.orders.write_all(line.as_bytes()).await.map_err(Error::io("writing to", self.folder.path()))
    }

    /// Waits until one more order is done.
    pub async fn done(&mut self) -> Result<()> {
        let mut answer = String::new();
        let read = self.answers.read_line(&mut answer).await;
        match read.map_err(Error::io("reading from", self.folder.path()))? {
            0 => Err(Error::Ended { what: format!("{:?}", self.identity), how: "by itself".to_owned() }),
            _ => Ok(()),
        }
    }

    /// Kills it without warning.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await.map_err(Error::io("killing", self.folder.path()))
    }

    /// Stands it still, or lets it go on.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Starts the next process, which goes on with what is durable.
    pub fn restart(&mut self) -> Result<()> {
        (self.child, self.orders, self.answers) = spawn(&self.identity, self.folder.path())?;
        Ok(())
    }

    /// Its ledger, as of now.
    pub fn reader(&self) -> Result<Reader> {
        let path = self.folder.path().join(LEDGER);
        Reader::open(&path).map_err(|error| Error::Ended {
            what: format!("{} cannot be read:", path.display()),
            how: error.to_string(),
        })
    }
}

fn spawn(identity: &Identity, folder: &Path) -> Result<(Child, ChildStdin, BufReader<ChildStdout>)> {
    let program = paths::staged_host()?;
    let failed = Error::io("starting", &program);
    let mut child = Command::new(&program)
        .arg(folder)
        .arg(json!(identity).to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(orders), Some(answers)) => Ok((child, orders, BufReader::new(answers))),
        _ => Err(Error::Ended { what: program.display().to_string(), how: "it has no pipes".to_owned() }),
    }
}
