//! What the demo happens on: a folder of its own, an agent, a guest. Whatever happens, no process outlives it.
//!
//! A demo that is killed without warning cannot clear up after itself: the next one in the same folder does.

use std::fs;
use std::path::{Path, PathBuf};

use dormouse_tests::Error;
use dormouse_tests::agent::Agent;
use dormouse_tests::guest::Guest;

use crate::failure::{Failure, Result};
use crate::folder::{Folder, Root};

/// The sandbox of the demo.
pub(crate) const SANDBOX: &str = "sb-1";

/// The longest name of a socket under the folder.
const LONGEST_SOCKET: &str = "guest/sb-1.console";

/// The folder, the agent and the guest. The order matters: an agent that is in the middle of a wake could still start a
/// QEMU after the guest's were ended, so it goes first.
pub(crate) struct Stage {
    agent: Option<Agent>,
    guest: Option<Guest>,
    folder: Folder,
}

impl Stage {
    /// Takes the folder, and empties it of what an earlier demo has left.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = Folder::take(folder, &[Root { name: "", guests: &[SANDBOX] }], LONGEST_SOCKET)?;
        Ok(Self { agent: None, guest: None, folder })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The ledger's file.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder().join("state").join("ledger.sqlite")
    }

    /// The folder in which sockets have room for their paths.
    pub(crate) fn sockets(&self) -> &Path {
        self.folder.sockets()
    }

    /// Puts the agent on stage.
    pub(crate) async fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Agent::start_apart(self.folder(), self.sockets(), "").await?);
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
}

fn not_there(who: &str) -> Failure {
    Error::Ended { what: who.to_owned(), how: "is not there".to_owned() }.into()
}
