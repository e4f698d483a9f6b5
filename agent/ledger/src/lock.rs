//! One agent per ledger.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::LedgerError;

/// What the lock file says below the process, once a ledger was opened under it.
const OPENED: &str = "opened";

/// Holds `<ledger>.lock` for as long as it lives. The kernel gives the lock back when the process dies.
pub(crate) struct Lock {
    file: File,
    /// Whether a ledger was opened under this lock file before.
    pub(crate) had_ledger: bool,
}

impl Drop for Lock {
    /// Gives the lock back, which closing the file alone would not do while a child that is being started has a copy of it.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(%error, "the lock is given back when the file is closed everywhere");
        }
    }
}

impl Lock {
    /// Takes the lock, or says which process has it.
    pub(crate) fn take(ledger: &Path) -> Result<Self, LedgerError> {
        let mut lock_path = ledger.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let unwritable = |error: std::io::Error| LedgerError::Unwritable {
            why: format!("{}: {error}", lock_path.display()),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&lock_path).map_err(unwritable)?;
        let taken = file.try_lock();
        let mut said = String::new();
        file.read_to_string(&mut said).map_err(unwritable)?;
        let mut said = said.lines();
        let (holder, had_ledger) = (said.next().unwrap_or_default(), said.next() == Some(OPENED));
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LedgerError::Locked { path: ledger.to_owned(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        let mut lock = Self { file, had_ledger };
        lock.note(if had_ledger { OPENED } else { "" });
        Ok(lock)
    }

    /// Notes that there is a ledger from now on, so that its loss will not pass for a first start.
    pub(crate) fn note_opened(&mut self) {
        self.note(OPENED);
    }

    /// Best effort: a disk too full to take a note must not keep an agent from starting.
    fn note(&mut self, below: &str) {
        let text = format!("{}\n{below}\n", std::process::id());
        let file = &mut self.file;
        let noted =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        if let Err(error) = noted {
            tracing::warn!(%error, "the lock file takes no note");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_was_closed_is_free_though_a_child_has_a_copy_of_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite");
        let lock = Lock::take(&ledger).unwrap();
        // What a child has between its fork and its exec.
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(&ledger), Err(LedgerError::Locked { .. })));
        drop(lock);
        assert!(Lock::take(&ledger).is_ok());
    }
}
