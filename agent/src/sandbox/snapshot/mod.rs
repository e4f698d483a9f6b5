//! Snapshots on disk: what a hibernation leaves and a wake starts from.
//!
//! ```text
//!   <dir>/<org>/<sandbox>/<generation>-<ordinal>.state.tmp    QEMU writes here: a draft
//!                         <generation>-<ordinal>.state        complete (not for `internal`)
//!                         <generation>-<ordinal>.json         its manifest
//! ```
//!
//! A draft becomes a snapshot in this order, and QEMU may quit only after the last step:
//!
//! 1. side by side: every file of RAM is synced (`shared`), and its size, time and inode are noted; the state file
//!    is synced, and its digest taken; the folders above are synced;
//! 2. the manifest is written beside it;
//! 3. the state file is renamed, then the manifest;
//! 4. side by side: the manifest and the folder are synced.
//!
//! So whoever sees a manifest that matches its own digest sees a whole snapshot, and what a crash leaves is a draft
//! ([`SnapshotStore::stale_drafts`]); nothing is woken of which the ledger does not know that all of this was done. What is
//! large, RAM or the state that holds it, begins to be written out before, while QEMU writes the state
//! (`begin_writing_out`): most of it is on the disk by the time of step 1. QEMU itself syncs nothing and checks nothing:
//! a state file that was cut or changed would be loaded and run. That is what the digest is for. RAM files of gigabytes
//! are not digested, which would cost more than the whole hibernation: they are held to size, time of change and inode,
//! so a change that also forges the time goes unseen.
//!
//! Everything here blocks: run it where blocking is allowed. It never speaks to QEMU and knows no ledger.

mod digest;
mod draft;
mod files;
mod manifest;
mod memory;
mod store;
mod verify;

use std::io;
use std::path::PathBuf;
use std::thread::ScopedJoinHandle;

pub(crate) use digest::to_the_end;
pub use draft::{Contents, Draft};
pub(crate) use files::begin_writing_out;
pub use manifest::{Manifest, RamFile, StateFile};
pub use store::{DraftSpec, SnapshotStore, StaleDraft};
pub use verify::{Damage, Damaged, Unread, load_and_verify};

/// Why a snapshot cannot be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// An org or sandbox that is no part of a path.
    #[error("{part:?} cannot be the name of a folder")]
    Name {
        /// The org or sandbox.
        part: String,
    },
    /// The file system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// RAM that is in no file of its own, and that goes with QEMU.
    #[error("RAM at {} is in no plain file: it would not outlive QEMU", path.display())]
    RamNotFile {
        /// The path of the memory backend.
        path: PathBuf,
    },
    /// QEMU said that it had saved, and there is nothing.
    #[error("QEMU has written nothing to {}", path.display())]
    StateEmpty {
        /// The draft of the state file.
        path: PathBuf,
    },
}

/// What a thread has found out.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests;
