//! Where what the agent starts has its sockets, memory and logs, and who starts it.

use std::path::{Path, PathBuf};

use super::command::SandboxKey;
use super::refusal::{Reason, Refusal};
use crate::process::{Instance, Marker};

/// `sun_path` holds 108 bytes, the last one zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where what the agent starts has its sockets, memory and logs, and who starts it.
#[derive(Clone, Debug)]
pub struct Launching {
    /// The agent's state folder: by it what was started is found again.
    pub agent: PathBuf,
    /// Folder of the QMP sockets of sandboxes that the agent creates: `<org>/<sandbox>.qmp`.
    pub sockets_dir: PathBuf,
    /// Folder of the files of their memory: `<org>/<sandbox>/`.
    pub memory_dir: PathBuf,
    /// Folder of what QEMU writes: `<org>.<sandbox>.log`.
    pub log_dir: PathBuf,
    /// The QEMU program of a sandbox whose spec names none.
    pub qemu: String,
    /// Whose systemd starts QEMU; `None` is the agent itself.
    pub instance: Option<Instance>,
}

impl Launching {
    /// The QMP socket of a sandbox that is created, or why it can have none.
    pub fn qmp_path(&self, key: &SandboxKey) -> Result<PathBuf, Refusal> {
        let path = self.sockets_dir.join(&key.org).join(format!("{}.qmp", key.sandbox));
        if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(path);
        }
        let message = format!(
            "the socket {} would be longer than the {SOCKET_PATH_BYTES_MAX} bytes that there are: take shorter \
             ids, or a shorter launch.sockets_dir",
            path.display()
        );
        Err(Refusal::new(Reason::InvalidId, message).with("field", "sandbox"))
    }

    /// The folder of a sandbox's memory.
    pub fn memory_of(&self, key: &SandboxKey) -> PathBuf {
        self.memory_dir.join(&key.org).join(&key.sandbox)
    }

    /// What its QEMU writes.
    pub fn log_of(&self, key: &SandboxKey) -> PathBuf {
        self.log_dir.join(format!("{}.{}.log", key.org, key.sandbox))
    }

    /// What a QEMU is started for.
    pub fn marker(&self, key: &SandboxKey, request_id: &str) -> Marker {
        Marker {
            agent: self.agent.clone(),
            org: key.org.clone(),
            sandbox: key.sandbox.clone(),
            request_id: request_id.to_owned(),
        }
    }
}

/// The state folder as it is called whatever path leads to it.
pub fn canonical(state_dir: &Path) -> PathBuf {
    state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned())
}
