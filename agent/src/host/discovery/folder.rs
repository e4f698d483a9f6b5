//! What is known of the folder, and what is new in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::examine::{self, Owners, Refused, Rejection, SocketId};
use super::{Discovered, DiscoveryError, RejectedFiles, SandboxFile};
use crate::ids::check_id;

/// What happened to one name in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// It was made, and may not be written yet.
    Created,
    /// It was written, moved here, or its owner or mode were changed.
    Completed,
    /// It was removed or moved away.
    Removed,
}

/// The folder and what was told of it.
pub(super) struct Folder {
    dir: PathBuf,
    owners: Owners,
    known: BTreeMap<String, Known>,
    rejected: RejectedFiles,
}

/// A sandbox that has appeared.
struct Known {
    socket: SocketId,
    file: SandboxFile,
}

impl Folder {
    pub(super) fn open(dir: PathBuf, rejected: RejectedFiles) -> Result<Self, DiscoveryError> {
        let meta = match fs::metadata(&dir) {
            Ok(meta) => meta,
            Err(source) => return Err(DiscoveryError::Folder { dir, source }),
        };
        if meta.mode() & 0o1002 == 0o0002 {
            return Err(DiscoveryError::OthersMayWrite { dir });
        }
        let owners = Owners::of(&meta);
        Ok(Self { dir, owners, known: BTreeMap::new(), rejected })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks at everything that is there, and at everything that was.
    pub(super) fn scan(&mut self) -> Vec<Discovered> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "cannot look for sandboxes");
                return Vec::new();
            }
        };
        let mut names: BTreeSet<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.extend(self.known.keys().map(|sandbox| format!("{sandbox}.qmp").into()));
        self.rejected.forget_gone();
        names
            .iter()
            .filter(|name| Path::new(name).extension() == Some(OsStr::new("qmp")))
            .flat_map(|name| self.look(name, Happening::Completed))
            .collect()
    }

    /// Looks at one name to which something happened. Names other than `*.qmp` and `*.toml` are nobody's.
    pub(super) fn look(&mut self, name: &OsStr, happening: Happening) -> Vec<Discovered> {
        let path = self.dir.join(name);
        let was_in_the_way = happening == Happening::Removed && self.rejected.remove(&path);
        let name_path = Path::new(name);
        let stem = name_path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let id = check_id(stem).map(|()| stem);
        match (name_path.extension().and_then(OsStr::to_str), id) {
            (Some("qmp"), Ok(id)) => self.look_at_sandbox(id, happening == Happening::Removed),
            (Some("qmp"), Err(why)) if happening != Happening::Removed => {
                self.reject((path, Rejection::Name(why))).into_iter().collect()
            }
            // A file that goes away, or that is only begun, says nothing new of a sandbox that is known.
            (Some("toml"), Ok(id))
                if happening == Happening::Completed || (was_in_the_way && !self.known.contains_key(id)) =>
            {
                self.look_at_sandbox(id, false)
            }
            _ => Vec::new(),
        }
    }

    /// Tells what became of a sandbox. A socket that was removed and is there nevertheless is another one,
    /// even if it has the same inode.
    fn look_at_sandbox(&mut self, sandbox: &str, socket_removed: bool) -> Vec<Discovered> {
        let was_there = self.known.contains_key(sandbox);
        if socket_removed {
            self.known.remove(sandbox);
            self.rejected.remove(&self.path(sandbox, "toml"));
        }
        let found = self.compare(sandbox).unwrap_or_else(|refused| self.reject(refused));
        let gone = (was_there && !self.known.contains_key(sandbox)).then(|| self.gone(sandbox));
        gone.into_iter().chain(found).collect()
    }

    /// Compares what is there with what is known, and forgets a socket that is not there any more.
    fn compare(&mut self, sandbox: &str) -> Result<Option<Discovered>, Refused> {
        let path = self.path(sandbox, "qmp");
        let there = examine::socket(&path, self.owners);
        let same = |known: &Known| matches!(&there, Ok(Some(socket)) if *socket == known.socket);
        if !self.known.get(sandbox).is_some_and(same) {
            self.known.remove(sandbox);
        }
        let Some(socket) = there? else {
            return Ok(None);
        };
        self.rejected.remove(&path);
        let file = self.file(sandbox)?;
        self.rejected.remove(&self.path(sandbox, "toml"));
        if self.known.get(sandbox).is_some_and(|known| known.file == file) {
            return Ok(None);
        }
        self.known.insert(sandbox.to_owned(), Known { socket, file: file.clone() });
        Ok(Some(Discovered::Appeared { sandbox: sandbox.to_owned(), path, file }))
    }

    /// What its file says. While the socket is the same, a file that goes away takes nothing back, and the
    /// org stays the same.
    fn file(&self, sandbox: &str) -> Result<SandboxFile, Refused> {
        let path = self.path(sandbox, "toml");
        let said = examine::sandbox_file(&path, self.owners)?;
        let Some(known) = self.known.get(sandbox) else {
            return Ok(said.unwrap_or_default());
        };
        let file = said.unwrap_or_else(|| known.file.clone());
        if file.org == known.file.org {
            return Ok(file);
        }
        let was = known.file.org.clone().unwrap_or_default();
        Err((path, Rejection::OrgChanged { org: file.org.unwrap_or_default(), was }))
    }

    fn path(&self, sandbox: &str, extension: &str) -> PathBuf {
        self.dir.join(format!("{sandbox}.{extension}"))
    }

    fn gone(&self, sandbox: &str) -> Discovered {
        Discovered::Gone { sandbox: sandbox.to_owned(), path: self.path(sandbox, "qmp") }
    }

    fn reject(&self, (path, why): Refused) -> Option<Discovered> {
        self.rejected.insert(&path, &why).then_some(Discovered::Rejected { path, why })
    }
}
