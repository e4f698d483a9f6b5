//! One agent per ledger.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::LedgerError;

/// Holds `<ledger>.lock` for as long as it lives. The kernel gives the lock back when the process dies.
pub(crate) struct Lock {
    _file: File,
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
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LedgerError::Locked { path: ledger.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        // The number is there for the message alone: a disk too full to take it must not keep an agent from starting.
        let _ = note_holder(&mut file);
        Ok(Self { _file: file })
    }
}

fn note_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("another agent (process {})", text.trim()),
        _ => "another agent".to_owned(),
    }
}
