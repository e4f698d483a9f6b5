//! The folder of a demo: taken by one at a time, and cleared of what a demo that was killed has left in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dormouse_tests::{Error, process};
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use crate::failure::{Failure, Result};

/// The kernel accepts no longer path for a unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// What tells a folder of a demo from any other: the configuration of an agent.
const CONFIG: &str = "dormouse.toml";

/// An agent's part of the folder, and the guests that may run beside it.
pub(crate) struct Root {
    /// Its name in the folder; the folder itself if empty.
    pub(crate) name: &'static str,
    /// The guests in its watched folder.
    pub(crate) guests: &'static [&'static str],
}

/// The folder, for as long as it is in use.
pub(crate) struct Folder {
    path: PathBuf,
    /// Where the sockets are, if the folder's own path is too long for them.
    sockets: Option<TempDir>,
    _lock: Flock<File>,
}

impl Folder {
    /// Takes the folder, and empties it of what an earlier demo has left. `longest` is the longest name of a socket in it.
    pub(crate) fn take(folder: &Path, roots: &[Root], longest: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("creating", folder))?;
        let path = folder.canonicalize().map_err(Error::io("finding", folder))?;
        let opened = File::open(&path).map_err(Error::io("opening", &path))?;
        let lock =
            Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|_| Failure::Busy(path.clone()))?;
        let mut taken = Self { path, sockets: None, _lock: lock };
        taken.sweep(roots)?;
        if taken.path.join(longest).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let place = tempfile::Builder::new().prefix("dormouse-demo-").tempdir();
            taken.sockets = Some(place.map_err(Error::io("creating a folder in", &std::env::temp_dir()))?);
        }
        Ok(taken)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder in which sockets have room for their paths.
    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.as_ref().map_or(&self.path, TempDir::path)
    }

    /// Ends the processes of a demo that was killed in this folder, and deletes its files.
    fn sweep(&self, roots: &[Root]) -> Result<()> {
        let entries = fs::read_dir(&self.path).map_err(Error::io("reading", &self.path))?;
        let entries: Vec<_> = entries.filter_map(std::result::Result::ok).collect();
        let configs: Vec<PathBuf> = roots.iter().map(|root| self.path.join(root.name).join(CONFIG)).collect();
        if !entries.is_empty() && !configs.iter().any(|config| config.exists()) {
            return Err(Failure::NotOurs(self.path.clone()));
        }
        for (root, config) in roots.iter().zip(&configs) {
            process::kill_with_argument(&config.display().to_string());
            for guest in root.guests {
                let qmp = self.path.join(root.name).join("run").join(format!("{guest}.qmp"));
                process::kill_with_argument(&format!("unix:{},server=on,wait=off", qmp.display()));
            }
        }
        // What makes it a demo's goes last, with the folders that may hold it.
        let (last, first): (Vec<PathBuf>, Vec<PathBuf>) = entries
            .iter()
            .map(fs::DirEntry::path)
            .partition(|path| configs.iter().any(|config| config.starts_with(path)));
        for path in first.into_iter().chain(last.into_iter().filter(|path| path.is_dir())) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("deleting", &path))?;
        }
        Ok(())
    }
}
