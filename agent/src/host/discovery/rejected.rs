//! What lies in the watched folder and is not taken as a sandbox, for whoever looks for it there.
//!
//! It decides nothing: what is rejected, and why, is in `examine`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Rejection;

/// A socket or a file that is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedFile {
    /// Where it is.
    pub path: PathBuf,
    /// The stable code of what is wrong with it.
    pub reason: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to do about it.
    pub next: &'static str,
}

/// All that is not taken, by path. Cheap to clone; at most as many as the folder has files.
#[derive(Clone, Debug, Default)]
pub struct RejectedFiles(Arc<Mutex<BTreeMap<PathBuf, RejectedFile>>>);

impl RejectedFiles {
    /// What is not taken at this moment, by path.
    pub fn list(&self) -> Vec<RejectedFile> {
        self.lock().values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether this is news.
    pub(super) fn insert(&self, path: &Path, why: &Rejection) -> bool {
        let (reason, message, next) = (why.reason(), why.to_string(), why.next());
        let rejected = RejectedFile { path: path.to_owned(), reason, message, next };
        let told = self.lock().insert(path.to_owned(), rejected.clone());
        told != Some(rejected)
    }

    /// Whether it was there.
    pub(super) fn remove(&self, path: &Path) -> bool {
        self.lock().remove(path).is_some()
    }

    /// Forgets what is not in the folder any more.
    pub(super) fn forget_gone(&self) {
        self.lock().retain(|path, _| path.symlink_metadata().is_ok());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, RejectedFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
