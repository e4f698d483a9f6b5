//! Files, with what was being done to them in the error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Whence, lseek};

use super::SnapshotError;
use crate::failpoint;

/// Guest memory and command lines are nobody else's business.
const MODE: u32 = 0o600;

/// How much is read at a time.
const BLOCK_BYTES: usize = 64 * 1024;

/// How much is digested at a time. BLAKE3 is a tree over chunks of 1 KiB: runs that begin and end with one of its larger
/// branches are digested many chunks at once, and others are not.
const RUN_BYTES: usize = 1024 * 1024;

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

/// The BLAKE3 of every byte, in hexadecimal digits: how manifests of version 1 have it. An error where nobody wants it any
/// more.
pub(super) fn digest_of_all(file: &File, wanted: &dyn Fn() -> bool) -> io::Result<String> {
    let wanted = Wanted { file, wanted };
    Ok(blake3::Hasher::new().update_reader(wanted)?.finalize().to_hex().to_string())
}

/// Of a digest that is wanted however long it takes.
pub(crate) fn to_the_end() -> bool {
    true
}

/// A file that can be read for as long as somebody wants to know what is in it.
struct Wanted<'a> {
    file: &'a File,
    wanted: &'a dyn Fn() -> bool,
}

impl Wanted<'_> {
    fn check(&self) -> io::Result<()> {
        if (self.wanted)() { Ok(()) } else { Err(io::Error::other("nobody waits for its digest")) }
    }
}

impl Read for Wanted<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.file.read(bytes)
    }
}

/// The BLAKE3 of all blocks that are not zeros alone, each behind its offset, in hexadecimal digits.
///
/// With the length beside it, it says as much as a digest of every byte; but holes, which most of a `mapped-ram` file is,
/// are not read. Zeros have the same digest whether a copy has made a hole of them or not. An error where nobody wants it
/// any more.
pub(super) fn digest(file: &File, wanted: &dyn Fn() -> bool) -> io::Result<String> {
    let wanted = Wanted { file, wanted };
    let mut hasher = blake3::Hasher::new();
    // What is to be digested and was not yet, from the beginning on.
    let mut run = vec![0; RUN_BYTES + OFFSET_BYTES + BLOCK_BYTES];
    let mut filled = 0;
    let mut at_bytes = 0;
    while let Some(data_bytes) = data_from(file, at_bytes)? {
        wanted.check()?;
        at_bytes = data_bytes - data_bytes % BLOCK_BYTES as u64;
        let (offset, block) = run[filled..].split_at_mut(OFFSET_BYTES);
        let read = read_at(file, &mut block[..BLOCK_BYTES], at_bytes)?;
        if block[..read].iter().any(|byte| *byte != 0) {
            offset.copy_from_slice(&at_bytes.to_le_bytes());
            filled += OFFSET_BYTES + read;
        }
        if filled >= RUN_BYTES {
            hasher.update(&run[..RUN_BYTES]);
            run.copy_within(RUN_BYTES..filled, 0);
            filled -= RUN_BYTES;
        }
        at_bytes += BLOCK_BYTES as u64;
    }
    Ok(hasher.update(&run[..filled]).finalize().to_hex().to_string())
}

/// How long an offset is.
const OFFSET_BYTES: usize = size_of::<u64>();

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
