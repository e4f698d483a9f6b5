//! Files, with what was being done to them in the error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek};

use super::SnapshotError;
use crate::failpoint;

/// Guest memory and command lines are nobody else's business.
const MODE: u32 = 0o600;

/// How much is read and digested at a time.
const BLOCK_BYTES: usize = 64 * 1024;

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

/// Writes a whole file and syncs it.
pub(super) fn write_synced(path: &Path, text: &str) -> Result<(), SnapshotError> {
    failpoint::reach("before a manifest is written");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(failed("create", path))?;
    file.write_all(text.as_bytes()).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("sync", path))
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

/// The BLAKE3 of every byte, in hexadecimal digits: how manifests of version 1 have it.
pub(super) fn digest_of_all(file: &File) -> io::Result<String> {
    Ok(blake3::Hasher::new().update_reader(file)?.finalize().to_hex().to_string())
}

/// The BLAKE3 of all blocks that are not zeros alone, each behind its offset, in hexadecimal digits.
///
/// With the length beside it, it says as much as a digest of every byte; but holes, which most of a `mapped-ram` file is,
/// are not read. Zeros have the same digest whether a copy has made a hole of them or not.
pub(super) fn digest(file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut at_bytes = 0;
    while let Some(data_bytes) = data_from(file, at_bytes)? {
        at_bytes = data_bytes - data_bytes % BLOCK_BYTES as u64;
        let read = read_at(file, &mut block, at_bytes)?;
        if block[..read].iter().any(|byte| *byte != 0) {
            hasher.update(&at_bytes.to_le_bytes()).update(&block[..read]);
        }
        at_bytes += BLOCK_BYTES as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Where there is something to read, from here on.
fn data_from(file: &File, at_bytes: u64) -> io::Result<Option<u64>> {
    let at = i64::try_from(at_bytes).map_err(io::Error::other)?;
    match lseek(file, at, Whence::SeekData) {
        Ok(data) => Ok(Some(data.unsigned_abs())),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Fills the block, but for the last of a file.
fn read_at(file: &File, block: &mut [u8], at_bytes: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < block.len() {
        match file.read_at(&mut block[read..], at_bytes + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
