//! Files, with what was being done to them in the error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::SnapshotError;
use crate::failpoint;

/// Guest memory and command lines are nobody else's business.
const MODE: u32 = 0o600;

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { doing, path: path.to_owned(), source }
}

/// Opens a file of the store to read. Nothing in it is a symbolic link, and nothing is waited for.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Makes an empty file that was not there.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

/// Writes a whole file. It is not durable yet.
pub(super) fn write(path: &Path, text: &str) -> Result<File, SnapshotError> {
    failpoint::reach("before a manifest is written");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(failed("create", path))?;
    file.write_all(text.as_bytes()).map_err(failed("write", path))?;
    Ok(file)
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    failpoint::reach("before a snapshot's file is renamed");
    fs::rename(from, to).map_err(failed("rename", from))
}

/// Makes durable which names are in a folder.
pub(super) fn sync_folder(path: &Path) -> Result<(), SnapshotError> {
    failpoint::reach("before a snapshot's folder is synced");
    let folder = File::open(path).map_err(failed("open", path))?;
    folder.sync_all().map_err(failed("sync", path))
}

/// Removes a file. That it is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Begins to write a file out that is still being written or mapped, and waits for none of it: whoever syncs it has less to
/// wait for then. That alone tells of what the disk refuses: a sync of our own here would be told of it, and nobody else
/// after.
pub(crate) fn begin_writing_out(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the call takes a descriptor, which is open, and integers, and touches no memory of ours.
    Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) })?;
    Ok(())
}
