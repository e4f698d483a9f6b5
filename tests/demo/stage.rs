//! What the demo happens on: a folder of its own, an agent, a guest. Whatever happens, no process outlives it.
//!
//! A demo that is killed without warning cannot clear up after itself: the next one in the same folder does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dormouse_tests::agent::Agent;
use dormouse_tests::guest::Guest;
use dormouse_tests::{Error, process};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::failure::{Failure, Result};

/// The sandbox of the demo.
pub(crate) const SANDBOX: &str = "sb-1";

/// The kernel accepts no longer path for a unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The longest name of a socket under the folder.
const LONGEST_SOCKET: &str = "guest/sb-1.console";
/// What tells a folder of a demo from any other.
const CONFIG: &str = "dormouse.toml";

/// The folder, the agent and the guest. The order matters: an agent that is in the middle of a wake could still start a
/// QEMU after the guest's were ended, so it goes first.
pub(crate) struct Stage {
    agent: Option<Agent>,
    guest: Option<Guest>,
    folder: PathBuf,
    /// Where the sockets are, if the folder's own path is too long for them.
    sockets: Option<TempDir>,
    /// Held for as long as the folder is in use.
    _lock: Flock<File>,
}

impl Stage {
    /// Takes the folder, and empties it of what an earlier demo has left.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("creating", folder))?;
        let folder = folder.canonicalize().map_err(Error::io("finding", folder))?;
        let opened = File::open(&folder).map_err(Error::io("opening", &folder))?;
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock)
            .map_err(|_| Failure::Busy(folder.clone()))?;
        let mut stage = Self { agent: None, guest: None, folder, sockets: None, _lock: lock };
        stage.sweep()?;
        if stage.folder.join(LONGEST_SOCKET).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let place = tempfile::Builder::new().prefix("dormouse-demo-").tempdir();
            stage.sockets = Some(place.map_err(Error::io("creating a folder in", &std::env::temp_dir()))?);
        }
        Ok(stage)
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("state").join("ledger.sqlite")
    }

    /// The folder in which sockets have room for their paths.
    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.as_ref().map_or(&self.folder, TempDir::path)
    }

    /// Puts the agent on stage.
    pub(crate) async fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start_apart(&self.folder, self.sockets(), "").await?);
        Ok(())
    }

    /// Puts the guest on stage.
    pub(crate) fn enter(&mut self, guest: Guest) {
        self.guest = Some(guest);
    }

    /// The agent, once it was started.
    pub(crate) fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().ok_or_else(|| not_there("the agent"))
    }

    /// The guest, once it was booted.
    pub(crate) fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().ok_or_else(|| not_there("the guest"))
    }

    /// The folder of the guest's own files: gigabytes, which nobody wants to keep.
    pub(crate) fn guest_folder(&self) -> PathBuf {
        self.sockets().join("guest")
    }

    /// Ends every process and deletes the guest's own files.
    pub(crate) async fn clear(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // One that is gone already is as good.
            let _ = agent.kill9().await;
        }
        self.guest = None;
        // Nothing of it is left to whom it might matter that this fails.
        let _ = fs::remove_dir_all(self.guest_folder());
    }

    /// Ends the processes of a demo that was killed in this folder, and deletes its files.
    fn sweep(&self) -> Result<()> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("reading", &self.folder))?;
        let entries: Vec<_> = entries.filter_map(std::result::Result::ok).collect();
        let config = self.folder.join(CONFIG);
        if !entries.is_empty() && !config.exists() {
            return Err(Failure::NotOurs(self.folder.clone()));
        }
        process::kill_with_argument(&config.display().to_string());
        let qmp = self.folder.join("run").join(format!("{SANDBOX}.qmp"));
        process::kill_with_argument(&format!("unix:{},server=on,wait=off", qmp.display()));
        for path in entries.iter().map(fs::DirEntry::path).filter(|path| *path != config) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("deleting", &path))?;
        }
        Ok(())
    }
}

fn not_there(who: &str) -> Failure {
    Error::Ended { what: who.to_owned(), how: "is not there".to_owned() }.into()
}
