//! Opening the ledger.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use crate::host_key::HostKey;
use crate::lock::Lock;
use crate::{HostName, LedgerError, Reader, Writer, schema};

/// The ledger of this host, held by this process alone until it is dropped.
///
/// Dropping it waits until everything queued is durable; if the disk takes nothing then, the callers are told.
pub struct Ledger {
    path: PathBuf,
    writer: Writer,
    thread: Option<JoinHandle<()>>,
    _lock: Lock,
}

impl Ledger {
    /// Opens the ledger at `path` or creates it, brings its schema up to date and starts its writer.
    ///
    /// Beside it lies the host's key, made at the first opening. The folder must exist. The ledger is refused while another agent has it (`LEDGER_LOCKED`), when a newer
    /// version wrote it (`LEDGER_NEWER`), when it is another host's (`LEDGER_OTHER_HOST`), when it was there
    /// before and is gone or empty (`LEDGER_LOST`), and when what the agent starts from is damaged
    /// (`LEDGER_CORRUPT`); the whole of it is checked by [`Reader::audit`].
    pub fn open(path: &Path, host: &HostName) -> Result<Self, LedgerError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(LedgerError::NoFolder { folder: folder.to_owned() });
        }
        let mut lock = Lock::take(path)?;
        let is_empty = path.metadata().map_or(true, |file| file.len() == 0);
        if is_empty && lock.had_ledger {
            return Err(LedgerError::Lost { path: path.to_owned() });
        }
        let conn = schema::open_for_writing(path, host)?;
        let key = HostKey::open(folder)?;
        lock.note_opened();
        let (writer, thread) = Writer::start(conn, host.clone(), key)?;
        Ok(Self { path: path.to_owned(), writer, thread: Some(thread), _lock: lock })
    }

    /// The ledger's writer. Any number of clones may be used, from any thread.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// A new reader, with a connection of its own.
    pub fn reader(&self) -> Result<Reader, LedgerError> {
        Reader::open(&self.path)
    }

    /// Copies the ledger, as it is at this moment, to a new file, while it is being written. The copy appears
    /// under its name once it is whole and on the disk.
    pub fn backup(&self, copy: &Path) -> Result<(), LedgerError> {
        Self::backup_of(&self.path, copy)
    }

    /// [`Ledger::backup`] of the ledger at `path`, whoever holds it.
    pub fn backup_of(path: &Path, copy: &Path) -> Result<(), LedgerError> {
        backup(path, copy)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.writer.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the ledger's writer panicked");
        }
    }
}

fn backup(path: &Path, copy: &Path) -> Result<(), LedgerError> {
    let failed =
        |error: std::io::Error| LedgerError::Unwritable { why: format!("{}: {error}", copy.display()) };
    if copy.exists() {
        return Err(LedgerError::Conflict { what: format!("file named {}", copy.display()) });
    }
    let mut partial = copy.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_file(&partial).map_err(failed)?;
    }
    let from = schema::open_for_reading(path)?;
    let mut to = Connection::open(&partial)?;
    // In one step: the source is read as of one moment, and writers need not wait for it.
    Backup::new(&from, &mut to)?.step(-1)?;
    to.close().map_err(|(_, error)| error)?;
    File::open(&partial).and_then(|file| file.sync_all()).map_err(failed)?;
    fs::rename(&partial, copy).map_err(failed)?;
    let folder = copy.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
