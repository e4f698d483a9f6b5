//! Finds sandboxes: a folder in which each QEMU puts its socket `<sandbox>.qmp`.
//!
//! Beside a socket may lie `<sandbox>.toml`, which says whose the sandbox is and how it is to be driven
//! ([`SandboxFile`]). It is read
//! when the socket appears, so it has to be complete by then: write it first, or rename it into place.
//!
//! The folder is watched before it is scanned, and scanned again when the kernel's queue overflowed: what
//! is there is never missed, but may be told twice. This module connects to nothing; that the peer of a
//! socket is whom its file's owner suggests is for whoever connects.

mod examine;
mod file;
mod folder;
mod rejected;

use std::io;
use std::path::{Path, PathBuf};

use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;

pub use examine::Rejection;
pub use file::SandboxFile;
pub use rejected::{RejectedFile, RejectedFiles};

use folder::{Folder, Happening};

/// What is found and not yet taken. Beyond it the kernel's queue fills, and after that a scan tells.
const FOUND_WAITING_MAX: usize = 256;

/// Room for some hundred events with names of full length.
const BUFFER_BYTES: usize = 64 * 1024;

/// What was found in the folder.
#[derive(Debug)]
pub enum Discovered {
    /// A sandbox's socket is there: at the start, new, made again by another QEMU, or with a file that
    /// says something else about it. May be told again of a socket that is the same.
    Appeared {
        /// The sandbox's id, which is the name of its socket.
        sandbox: String,
        /// The socket.
        path: PathBuf,
        /// What its file says; all empty where it has none.
        file: SandboxFile,
    },
    /// The socket of a sandbox that had appeared is no longer there.
    Gone {
        /// The sandbox's id.
        sandbox: String,
        /// Where the socket was.
        path: PathBuf,
    },
    /// Something looks like a sandbox and is not taken as one. Told once, until the reason changes.
    Rejected {
        /// The socket or the file.
        path: PathBuf,
        /// What is wrong with it.
        why: Rejection,
    },
}

/// Why a folder is not watched.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// It cannot be read, or is no folder.
    #[error("cannot watch {} for sandboxes", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Anybody on the host could put sockets in place of those that are there.
    #[error("{} may be written by everybody; take that away (chmod o-w) or set its sticky bit", dir.display())]
    OthersMayWrite {
        /// The folder.
        dir: PathBuf,
    },
}

/// Watches `dir`, and tells first what is there already. Must be called within a tokio runtime.
///
/// `rejected` holds what is not taken for as long as it is there. The watch ends when the receiver is dropped. The stream ends when the folder itself goes away, which is
/// logged: start anew once it is back.
pub fn start(dir: &Path, rejected: RejectedFiles) -> Result<mpsc::Receiver<Discovered>, DiscoveryError> {
    let failed = |source| DiscoveryError::Folder { dir: dir.to_owned(), source };
    let folder = Folder::open(dir.to_owned(), rejected)?;
    let inotify = Inotify::init().map_err(failed)?;
    let watched = WatchMask::CREATE
        | WatchMask::ATTRIB
        | WatchMask::CLOSE_WRITE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(dir, watched).map_err(failed)?;
    let events = inotify.into_event_stream(vec![0; BUFFER_BYTES]).map_err(failed)?;
    let (tell, found) = mpsc::channel(FOUND_WAITING_MAX);
    tokio::spawn(watch(folder, events, tell));
    Ok(found)
}

async fn watch(mut folder: Folder, mut events: EventStream<Vec<u8>>, tell: mpsc::Sender<Discovered>) {
    let mut found = folder.scan();
    loop {
        for one in found {
            if tell.send(one).await.is_err() {
                return;
            }
        }
        let event = tokio::select! {
            () = tell.closed() => return,
            event = events.next() => event,
        };
        let Some(Ok(event)) = event else {
            tracing::error!(dir = %folder.dir().display(), ?event, "sandboxes are no longer discovered");
            return;
        };
        if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
            tracing::error!(dir = %folder.dir().display(), "the folder of the sandboxes went away");
            return;
        }
        found = if event.mask.contains(EventMask::Q_OVERFLOW) {
            folder.scan()
        } else {
            event.name.map_or_else(Vec::new, |name| folder.look(&name, happening(event.mask)))
        };
    }
}

fn happening(mask: EventMask) -> Happening {
    if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
        Happening::Removed
    } else if mask.contains(EventMask::CREATE) {
        Happening::Created
    } else {
        Happening::Completed
    }
}

#[cfg(test)]
mod tests;
